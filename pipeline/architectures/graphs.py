"""An ONNX graph, read and cut: what its nodes read, what is constant in it, what tensors need."""

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Values = npt.NDArray[Any]

_BY_CHANCE = ("RandomNormal", "RandomUniform")
"""Operators that take nothing in and are no constants all the same."""


def messages(message: Any, kind: type[Any]) -> Iterator[Any]:
    """Every protobuf message of a kind within one, those of graphs within graphs included."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                if isinstance(inner, kind):
                    yield inner
                if not isinstance(inner, onnx.TensorProto):  # which would be copied
                    yield from messages(inner, kind)


def check(model: onnx.ModelProto) -> None:
    """Onnx's own check. An output without a shape, which runtimes work out, is no fault.

    Raises what it raises.
    """
    shaped = onnx.ModelProto()
    shaped.CopyFrom(model)
    for graph in messages(shaped, onnx.GraphProto):
        for output in graph.output:
            if output.type.HasField("tensor_type"):
                output.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(shaped)


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that a model uses."""
    return max(
        (one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1
    )


def made(graph: onnx.GraphProto) -> list[str]:
    """Names of the tensors that its nodes make, in the order of execution."""
    return [name for node in graph.node for name in node.output if name]


def reads(node: onnx.NodeProto) -> set[str]:
    """Names of what a node takes in, those that graphs within it take from outside included."""
    names = set(node.input)
    for graph in messages(node, onnx.GraphProto):
        names |= {output.name for output in graph.output}
        names |= {name for inner in graph.node for name in inner.input}
    return names - {""}


def every_name(graph: onnx.GraphProto) -> set[str]:
    """All names of tensors in it."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in messages(graph, onnx.NodeProto):
        names |= {*node.input, *node.output}
    return names


def fresh(name: str, taken: Collection[str]) -> str:
    """The name, or the name and a number where it is taken."""
    number, found = 0, name
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    return found


def constants(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that no image changes."""
    found = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if reads(node) <= found and node.op_type not in _BY_CHANCE:
            found.update(node.output)
    return found


def value(graph: onnx.GraphProto, name: str) -> Values | None:
    """A constant's value, where it is written down: an initializer's or a Constant node's."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    for node in graph.node:
        if name in node.output and node.op_type == "Constant":
            given = onnx.helper.get_attribute_value(node.attribute[0])
            is_tensor = isinstance(given, onnx.TensorProto)
            return np.asarray(numpy_helper.to_array(given) if is_tensor else given)
    return None


_NUMBERS = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE,
    onnx.TensorProto.BFLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8,
)  # fmt: skip


def numbers(graph: onnx.GraphProto) -> int:
    """How many floats, and integers of eight bits, are written down in it."""
    tensors = messages(graph, onnx.TensorProto)
    return sum(math.prod(one.dims) for one in tensors if one.data_type in _NUMBERS)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, or the default where the node has none of that name."""
    found = [one for one in node.attribute if one.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else default


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, wherever they stand; a name is never used twice in a graph."""
    for node in messages(graph, onnx.NodeProto):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for inner in (graph, *messages(graph, onnx.GraphProto)):
        for one in (*inner.input, *inner.output, *inner.initializer):
            one.name = names.get(one.name, one.name)


def prune(graph: onnx.GraphProto, wanted: Iterable[str]) -> None:
    """Delete the nodes and initializers that the wanted tensors do not need, and what is told of them.

    Shapes that are told of tensors which stay are kept: onnxruntime fuses by them, and what it
    fuses has other bits.
    """
    needed = set(wanted)
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= reads(node)
            kept.append(node)
    kept = [_copy(node) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(kept)
    _keep(graph.initializer, needed)
    _keep(graph.value_info, {name for node in graph.node for name in node.output})
    graph.ClearField("quantization_annotation")


def part(model: onnx.ModelProto, outputs: Sequence[int]) -> bytes:
    """The model with these of its outputs, by number, and what they need, also in graphs within."""
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    kept.graph.ClearField("output")
    kept.graph.output.extend(model.graph.output[number] for number in outputs)
    prune(kept.graph, [output.name for output in kept.graph.output])
    content: bytes = kept.SerializeToString(deterministic=True)
    return content


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _keep(named: Any, needed: Collection[str]) -> None:
    for number in reversed(range(len(named))):
        if named[number].name not in needed:
            del named[number]


def digest(model: onnx.ModelProto) -> str:
    """Hex sha256 over the initializers, sorted by name, and the graph's structure.

    How a tensor is encoded, notes, and names of nodes and of the producer are no part of it.
    """
    total = hashlib.sha256()
    versions = sorted((one.domain, one.version) for one in model.opset_import)
    total.update(repr(versions).encode())
    _add_graph(total, model.graph)
    return total.hexdigest()


def _add_graph(total: Any, graph: onnx.GraphProto) -> None:
    for tensor in sorted(graph.initializer, key=lambda one: one.name):
        _add_tensor(total, tensor)
    for one in (*graph.input, *graph.output):
        total.update(
            f"{one.name} {one.type.SerializeToString(deterministic=True).hex()}\n".encode()
        )
    for node in graph.node:
        said = (node.domain, node.op_type, list(node.input), list(node.output))
        total.update(f"{said}\n".encode())
        for given in sorted(node.attribute, key=lambda one: one.name):
            _add_attribute(total, given)


def _add_attribute(total: Any, given: onnx.AttributeProto) -> None:
    total.update(f"{given.name} {given.type}\n".encode())
    content = onnx.helper.get_attribute_value(given)
    for one in content if isinstance(content, list) else [content]:
        if isinstance(one, onnx.GraphProto):
            _add_graph(total, one)
        elif isinstance(one, onnx.TensorProto):
            _add_tensor(total, one)
        else:
            total.update(f"{one!r}\n".encode())


def _add_tensor(total: Any, tensor: onnx.TensorProto) -> None:
    total.update(f"{tensor.name} {tensor.data_type} {tuple(tensor.dims)}\n".encode())
    values = numpy_helper.to_array(tensor)
    total.update(repr(values.tolist()).encode() if values.dtype == object else values.tobytes())
