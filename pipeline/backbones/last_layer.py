"""The classifier of an ONNX graph: the last matrix product before an output."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from pipeline.architectures import graphs
from pipeline.architectures.exported import GRAPH, output_name
from pipeline.architectures.grafted import IMAGES

if TYPE_CHECKING:
    import torch

THROUGH = {
    "Add", "Cast", "DequantizeLinear", "Div", "Dropout", "Flatten", "Identity", "LogSoftmax",
    "Mul", "QuantizeLinear", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Sub", "Unsqueeze",
}  # fmt: skip
"""Operators that may follow a classifier, each with one operand that images change."""


@dataclass(frozen=True)
class Classifier:
    """What it takes in, and the module that it is, where it is a plain one."""

    takes: str
    module: "torch.nn.Linear | None"


def find(graph: onnx.GraphProto) -> Classifier | None:
    """The classifier of the first output that has one; None where no output has.

    What freezing wrote has lost its own.
    """
    if is_frozen(graph):
        return None
    constant = graphs.constants(graph)
    maker = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        passed: list[onnx.NodeProto] = []
        node = maker.get(output.name)
        while node is not None:
            moving = [name for name in node.input if name and name not in constant]
            if len(moving) != 1:
                break
            if node.op_type in _LINEAR:
                return Classifier(moving[0], _linear(graph, node, passed))
            if node.op_type not in THROUGH:
                break
            passed.append(node)
            node = maker.get(moving[0])
    return None


def is_frozen(graph: onnx.GraphProto) -> bool:
    """Whether it is that of a file which freezing wrote."""
    names = [one.name for one in (*graph.input, *graph.output)]
    return graph.name == GRAPH and names[:2] == [IMAGES, output_name(0)]


def _linear(
    graph: onnx.GraphProto, node: onnx.NodeProto, passed: list[onnx.NodeProto]
) -> "torch.nn.Linear | None":
    import torch

    parts = _LINEAR[node.op_type](graph, node, passed)
    if parts is None or parts[0].ndim != 2:
        return None
    weight, bias = parts
    made = torch.nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    if bias.size not in (1, weight.shape[0]):
        return None
    made.weight.copy_(torch.from_numpy(weight.astype(np.float32)))
    made.bias.copy_(torch.from_numpy(np.broadcast_to(bias, weight.shape[:1]).astype(np.float32)))
    return made


Parts = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def _gemm(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    passed: list[onnx.NodeProto],  # noqa: ARG001
) -> Parts | None:
    weight = graphs.value(graph, node.input[1])
    bias = graphs.value(graph, node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if weight is None or bias is None or graphs.attribute(node, "transA", 0):
        return None
    weight = weight if graphs.attribute(node, "transB", 0) else weight.T
    alpha, beta = graphs.attribute(node, "alpha", 1.0), graphs.attribute(node, "beta", 1.0)
    return weight * alpha, bias.reshape(-1) * beta


def _matmul(
    graph: onnx.GraphProto, node: onnx.NodeProto, passed: list[onnx.NodeProto]
) -> Parts | None:
    weight = graphs.value(graph, node.input[1])
    if weight is None:
        return None
    bias = None
    if passed and passed[-1].op_type == "Add":
        values = [graphs.value(graph, name) for name in passed[-1].input]
        bias = next((one for one in values if one is not None), None)
    return weight.T, np.zeros(1) if bias is None else bias.reshape(-1)


_LINEAR: dict[str, Callable[..., Parts | None]] = {"Gemm": _gemm, "MatMul": _matmul}
