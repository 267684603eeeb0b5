"""An ONNX graph made for a fixed number of images, as one for any number.

A trial, not a proof: `pipeline.backbones.graph` compares what comes out with the original.
"""

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.architectures import graphs

_EXPAND = 8
"""The first opset with the operator."""


def with_free_n(model: onnx.ModelProto, given: str, batch: int | None) -> onnx.ModelProto:
    """A copy whose input `given` has a first axis N.

    batch: what that axis is in the original, None: free already, and nothing else is changed.
    Where it is fixed, so may constants be that were worked out from it: shapes of Reshape, and
    constants, as a class token, that stand beside an image's values.
    """
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    for one in graph.input:
        if one.name == given:
            one.type.tensor_type.shape.dim[0].dim_param = "N"
    graph.ClearField("value_info")
    for one in graph.output:
        one.type.tensor_type.ClearField("shape")
    if batch is not None:
        _free_reshapes(graph, batch)
        if batch == 1:
            _free_strides(graph)
        if graphs.opset(freed) >= _EXPAND:
            _widen(graph, batch)
    return freed


def _free_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """A Reshape whose shape is all numbers has its first worked out, in which N is a factor."""
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape":
            continue
        shape = graphs.value(graph, node.input[1])
        if shape is None or shape.ndim != 1 or not len(shape) or shape[0] in (-1, 0):
            continue
        first = -1 if -1 not in shape else 0 if shape[0] == batch else None
        if first is None:
            continue
        name = _fresh(graph, f"{node.output[0]}.shape.{number}")
        free = np.array([first, *shape[1:]], np.int64)
        _add(graph, name, free)
        node.input[1] = name


def _free_strides(graph: onnx.GraphProto) -> None:
    """What picks one value after the other of a flat tensor is a Reshape.

    So torch's exporter writes some averages of maps whose channels lie last in memory.
    """
    flat = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Reshape"}
    for number, node in enumerate(graph.node):
        if node.op_type != "Gather" or node.input[0] not in flat:
            continue
        picked = graphs.value(graph, node.input[1])
        if picked is None or picked.ndim <= 1 or len(picked) != 1:
            continue
        if graphs.attribute(node, "axis", 0) == 0 and np.array_equal(
            picked.reshape(-1), np.arange(picked.size)
        ):
            name = _fresh(graph, f"{node.output[0]}.strides.{number}")
            _add(graph, name, np.array([-1, *picked.shape[1:]], np.int64))
            node.op_type, node.input[:] = "Reshape", [flat[node.input[0]], name]
            node.ClearField("attribute")


def _widen(graph: onnx.GraphProto, batch: int) -> None:
    """Constants that are joined with images' values along another axis are given an N."""
    constant = graphs.constants(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        moving = [name for name in node.input if name not in constant]
        if node.op_type == "Concat" and moving and graphs.attribute(node, "axis", 0) != 0:
            for place, name in enumerate(node.input):
                fixed = graphs.value(graph, name) if name in constant else None
                if fixed is not None and fixed.ndim > 1 and fixed.shape[0] == batch == 1:
                    wider = _fresh(graph, f"{node.output[0]}.{place}")
                    nodes += _expanded(graph, name, wider, moving[0], fixed.ndim)
                    node.input[place] = wider
        nodes.append(node)
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copied)


def _expanded(
    graph: onnx.GraphProto, name: str, wider: str, like: str, axes: int
) -> list[onnx.NodeProto]:
    """Nodes that repeat a tensor along its first axis as often as `like` has rows."""
    of = {key: f"{wider}.{key}" for key in ("all", "zero", "n", "ones", "shape")}
    _add(graph, of["zero"], np.zeros(1, np.int64))
    _add(graph, of["ones"], np.ones(axes - 1, np.int64))
    return [
        helper.make_node("Shape", [like], [of["all"]]),
        helper.make_node("Gather", [of["all"], of["zero"]], [of["n"]], axis=0),
        helper.make_node("Concat", [of["n"], of["ones"]], [of["shape"]], axis=0),
        helper.make_node("Expand", [name, of["shape"]], [wider]),
    ]


def _add(graph: onnx.GraphProto, name: str, values: np.ndarray[Any, Any]) -> None:
    graph.initializer.append(numpy_helper.from_array(values, name))


def _fresh(graph: onnx.GraphProto, name: str) -> str:
    return graphs.fresh(name, graphs.every_name(graph))
