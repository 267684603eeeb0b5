"""ONNX models of ours: made with the versions of a frozen one, checked, turned into bytes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from pipeline.architectures import graphs
from pipeline.bundle.nodes import Inexpressible, Nodes
from pipeline.frozen import FrozenBackbone

IMAGES, EMBEDDING, LABEL, PROBABILITIES = "images", "embedding", "label", "probabilities"

LARGEST = 2**31 - 2**20
"""Bytes of the numbers in an ONNX file: with all the rest it is one message of protobuf."""

GRAPH = "bundle"

KINDS = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def load(backbone: FrozenBackbone) -> onnx.ModelProto:
    """The frozen model. Raises Inexpressible where it has none in ONNX's own operators."""
    if not backbone.file.endswith(".onnx"):
        runtime = backbone.fields["runtime"]
        raise Inexpressible(f"its runtime is {runtime}, and {backbone.file} is no ONNX graph")
    model = onnx.load(backbone.model, load_external_data=False)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    domains = {node.domain for node in graphs.messages(model, onnx.NodeProto)} - {"", "ai.onnx"}
    if domains:
        raise Inexpressible(f"its file has operators of {', '.join(sorted(domains))}")
    return model


def value(name: str, kind: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output. kind: a key of KINDS."""
    return helper.make_tensor_value_info(name, KINDS[kind], list(shape))


def model_of(
    like: onnx.ModelProto,
    nodes: Nodes,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """A model of these nodes. like: has the versions that it is to have."""
    graph = helper.make_graph(nodes.nodes, GRAPH, inputs, outputs, nodes.initializers)
    version = helper.make_opsetid("", graphs.opset(like))
    return helper.make_model(graph, opset_imports=[version], ir_version=like.ir_version)


def describe(model: onnx.ModelProto, record: Mapping[str, Any]) -> None:
    """Put a record into the metadata: texts as they are, all else as compact sorted JSON."""
    for key, said in sorted(record.items()):
        text = said if isinstance(said, str) else _compact(said)
        model.metadata_props.add(key=key, value=text)


def _compact(said: Any) -> str:
    return json.dumps(
        said, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def content_of(model: onnx.ModelProto) -> bytes:
    """Its bytes, once onnx has checked it. Raises Inexpressible where an ONNX file can't hold it."""
    size = sum(len(one.raw_data) for one in graphs.messages(model, onnx.TensorProto))
    if size > LARGEST:
        raise Inexpressible(f"it would have {size / 2**30:.1f} GiB, and an ONNX file holds 2")
    graphs.check(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
