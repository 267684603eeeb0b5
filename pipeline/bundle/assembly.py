"""The graphs of a bundle: a head's alone, and the whole, from images to what is said of them."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx

from pipeline.architectures import graphs
from pipeline.bundle import graph
from pipeline.bundle.expressions import said_of
from pipeline.bundle.graph import EMBEDDING, IMAGES, LABEL, PROBABILITIES
from pipeline.bundle.nodes import Nodes
from pipeline.frozen import FrozenBackbone
from pipeline.images.views import TTA


def head(
    classifier: Any, temperature: float | None, *, dim: int, dtype: str, like: onnx.ModelProto
) -> onnx.ModelProto:
    """`embedding` (N, D) float32 -> `label` (N,) int64, `probabilities` (N, K) if there are any.

    dtype: what it reckons in, `float32` or `float64`; like: see `graph.model_of`. Raises
    Inexpressible.
    """
    nodes = Nodes(graphs.opset(like), dtype, "head", (EMBEDDING, LABEL, PROBABILITIES))
    x = EMBEDDING if dtype == "float32" else nodes.cast(EMBEDDING, dtype)
    label, probabilities = said_of(nodes, classifier, x, temperature)
    nodes.add("Identity", label, into=LABEL)
    outputs = [graph.value(LABEL, "int64", ["N"])]
    if probabilities is not None:
        nodes.cast(probabilities, "float32", into=PROBABILITIES)
        classes = len(classifier.classes_)
        outputs.append(graph.value(PROBABILITIES, "float32", ["N", classes]))
    made = graph.model_of(like, nodes, [graph.value(EMBEDDING, "float32", ["N", dim])], outputs)
    graphs.prune(made.graph, [output.name for output in outputs])
    return made


def whole(
    backbone: FrozenBackbone,
    frozen: onnx.ModelProto,
    layers: Sequence[str],
    said: onnx.ModelProto,
    record: Mapping[str, Any],
) -> bytes:
    """The bundle: `images` -> label, probabilities, embedding; equal models give equal bytes.

    frozen: see `graph.load`; layers: that the head sees; said: see `head`; record: of the metadata. Raises
    Inexpressible where it is too large.
    """
    numbers = [[layer.tap.name for layer in backbone.layers].index(name) for name in layers]
    body = onnx.ModelProto.FromString(graphs.part(frozen, numbers)).graph
    vectors, tta = [output.name for output in body.output], backbone.fields.get("tta")
    ours = graphs.every_name(said.graph) | ({IMAGES} if tta else set())
    names = _without_clash(body, ours)
    taken = {*graphs.every_name(body), *ours, IMAGES}
    nodes = Nodes(graphs.opset(frozen), "float32", "join", taken)
    crop, before = backbone.preprocessing.crop, list[onnx.NodeProto]()
    sides = [crop, crop, 3]
    if tta:
        _rename_batch(body)
        one_by_one = nodes.constant(np.array([-1, *sides], np.int64), "sides")
        nodes.add("Reshape", IMAGES, one_by_one, into=names[IMAGES])
        before, nodes.nodes = nodes.nodes, []
    dims = [backbone.dims[number] for number in numbers]
    made = [names.get(name, name) for name in vectors]
    if tta:
        made = [_mean(nodes, name, dim, TTA[tta]) for name, dim in zip(made, dims, strict=True)]
    _embedding(nodes, made, backbone.storage)
    images = graph.value(IMAGES, "uint8", ["N", *([TTA[tta]] if tta else []), *sides])
    outputs = [*said.graph.output, graph.value(EMBEDDING, "float32", ["N", sum(dims)])]
    model = graph.model_of(frozen, nodes, [images], outputs)
    _put_together(model.graph, before, body, said.graph)
    graph.describe(model, record)
    return graph.content_of(model)


def _without_clash(body: onnx.GraphProto, ours: set[str]) -> dict[str, str]:
    """Rename what is called as something of ours; returns the new names by the old."""
    taken = graphs.every_name(body)
    names = {name: graphs.fresh(f"{name}.own", taken | ours) for name in sorted(taken & ours)}
    graphs.rename(body, names)
    for told in body.value_info:
        told.name = names.get(told.name, told.name)
    return names


def _rename_batch(body: onnx.GraphProto) -> None:
    """Of views there are more than images: what is told of shapes must not call both N."""
    for told in body.value_info:
        for side in told.type.tensor_type.shape.dim:
            if side.HasField("dim_param"):
                side.dim_param = f"views.{side.dim_param}"


def _mean(nodes: Nodes, vectors: str, dim: int, views: int) -> str:
    """(N * V, D) -> (N, D): one view after another, as `pipeline.outputs.separated` adds them up."""
    apart = nodes.add("Reshape", vectors, nodes.constant(np.array([-1, views, dim], np.int64)))
    parts = [
        nodes.add("Gather", apart, nodes.constant(np.array(number, np.int64)), axis=1)
        for number in range(views)
    ]
    total = reduce(lambda left, right: nodes.add("Add", left, right), parts)
    return nodes.add("Div", total, nodes.real(float(views)))


def _embedding(nodes: Nodes, vectors: list[str], storage: str) -> None:
    """From the layers' vectors to what the head sees, as cached and as `features.gather` joins."""
    if storage != "float32":
        vectors = [nodes.cast(nodes.cast(name, storage), "float32") for name in vectors]
    if len(vectors) > 1:
        vectors = [nodes.add("Concat", *(_unit(nodes, name) for name in vectors), axis=1)]
    nodes.add("Identity", vectors[0], into=EMBEDDING)


def _unit(nodes: Nodes, vectors: str) -> str:
    """Each row divided by its L2 norm, reckoned in float64; a row of zeros stays."""
    wide = nodes.cast(vectors, "float64")
    norm = nodes.add("Sqrt", nodes.total(nodes.add("Mul", wide, wide)))
    zero, one = (nodes.constant(np.array(number)) for number in (0.0, 1.0))
    norm = nodes.add("Where", nodes.add("Equal", norm, zero), one, norm)
    return nodes.cast(nodes.add("Div", wide, norm), "float32")


def _put_together(
    into: onnx.GraphProto,
    before: Sequence[onnx.NodeProto],
    body: onnx.GraphProto,
    head: onnx.GraphProto,
) -> None:
    """Between the nodes before it and those behind it, which are there, the backbone; then the head."""
    behind = [onnx.NodeProto.FromString(node.SerializeToString()) for node in into.node]
    del into.node[:]
    for part in (before, body.node, behind, head.node):
        into.node.extend(part)
    for other in (body, head):
        into.initializer.extend(other.initializer)
    into.value_info.extend(body.value_info)
