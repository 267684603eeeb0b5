"""A user's ONNX graph with our ends: `images` uint8 (N, H, W, 3) in, `embeddings` (N, D) out.

Between the two nothing is changed but names that would stand twice, and what no output needs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.architectures import batched, graphs
from pipeline.architectures.ends import TYPES, Spot, Taken, Values
from pipeline.architectures.exported import output_name, strip
from pipeline.architectures.tapped import GEM_LEAST, GEM_POWER
from pipeline.images import Preprocessing

IMAGES = "images"

LEAST_IR = 4
"""From it on a tensor that is not among the inputs is constant."""

_CLIP_TAKES_INPUTS, _REDUCE_TAKES_AXES = 11, 18
"""The opsets in which attributes of these operators became inputs."""

Step = tuple[str, list[str], dict[str, Any]]
"""Kind of a node, what it takes in beside the value that goes through, attributes."""


def graft(
    model: onnx.ModelProto, taken: Taken, recipe: Preprocessing, spots: Sequence[Spot]
) -> onnx.ModelProto:
    """The model file of some spots; equal models give equal bytes."""
    made = batched.with_free_n(model, taken.name, taken.batch)
    graph, body = made.graph, _Nodes(graphs.opset(made))
    own = {name: name for name in graphs.every_name(graph)}
    reserved = {IMAGES, *(output_name(number) for number in range(len(spots)))}
    for name in sorted(reserved & own.keys()):
        own[name] = graphs.fresh(f"{name}.own", {*own, *own.values()})
    if not taken.normalised and taken.channels_last:
        own[taken.name] = IMAGES
    graphs.rename(graph, own)
    body.taken = {*own.values(), *reserved}
    given = own[taken.name]
    before = body.before(given, taken, recipe)
    after = [
        body.after(own[spot.tensor], spot, output_name(number)) for number, spot in enumerate(spots)
    ]
    kept = [*before, *graph.node, *(node for part in after for node in part)]
    _replace(graph, kept, recipe.crop, [spot.dim for spot in spots])
    graph.initializer.extend(body.initializers)
    graphs.prune(graph, [output.name for output in graph.output])
    made.ir_version = max(made.ir_version, LEAST_IR)
    strip(made)
    graphs.check(made)
    return made


def _replace(
    graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], crop: int, dims: Sequence[int]
) -> None:
    """Give a graph our nodes, input and outputs."""
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for field in ("node", "input", "output"):
        graph.ClearField(field)
    graph.node.extend(copied)
    shape = ["N", crop, crop, 3]
    graph.input.append(helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape))
    for number, dim in enumerate(dims):
        name = output_name(number)
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", dim]))


class _Nodes:
    """Nodes that are added to a graph of an opset, and the constants that they read."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.taken: set[str] = set()
        self.initializers: list[TensorProto] = []

    def before(self, given: str, taken: Taken, recipe: Preprocessing) -> list[onnx.NodeProto]:
        """`images` -> what the graph takes in; none where that is the same."""
        if given == IMAGES:
            return []
        steps: list[Step] = []
        axes = (1, 1, 1, 3) if taken.channels_last else (1, 3, 1, 1)
        if not taken.channels_last:
            steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
        if taken.normalised:
            parts = {
                "mean": np.array(recipe.mean, np.float32),
                "std": np.array(recipe.std, np.float32),
            }
            mean, std = (self._constant(name, value.reshape(axes)) for name, value in parts.items())
            most = self._constant("most", np.array(255, np.float32))
            steps += [
                ("Cast", [], {"to": TensorProto.FLOAT}),
                ("Div", [most], {}),
                ("Sub", [mean], {}),
                ("Div", [std], {}),
            ]
            if taken.dtype != "float32":
                steps.append(("Cast", [], {"to": TYPES[taken.dtype]}))
        return self._chain(IMAGES, steps, given)

    def after(self, tensor: str, spot: Spot, output: str) -> list[onnx.NodeProto]:
        """A tensor -> an output."""
        steps: list[Step] = [
            ("Cast", [], {"to": TensorProto.FLOAT})  # which runtimes leave out where it is none
        ]
        if spot.pooling == "cls":
            steps.append(("Gather", [self._constant("first", np.array(0, np.int64))], {"axis": 1}))
        elif not spot.axes:
            steps.append(("Flatten", [], {"axis": 1}))
        else:
            if spot.skipped:
                kept = np.arange(spot.skipped, spot.shape[0], dtype=np.int64)
                steps.append(("Gather", [self._constant("patches", kept)], {"axis": 1}))
            steps += self._over(spot)
        return self._chain(tensor, steps, output)

    def _over(self, spot: Spot) -> list[Step]:
        """Steps from positions to one vector."""
        if spot.pooling == "max":
            return [self._reduce("ReduceMax", spot.axes)]
        mean = self._reduce("ReduceMean", spot.axes)
        if spot.pooling != "gem":
            return [mean]
        power, root = (
            self._constant(name, np.array(value, np.float32))
            for name, value in (("power", GEM_POWER), ("root", 1 / GEM_POWER))
        )
        if self.opset >= _CLIP_TAKES_INPUTS:
            clip: Step = ("Clip", [self._constant("least", np.array(GEM_LEAST, np.float32))], {})
        else:
            clip = ("Clip", [], {"min": GEM_LEAST})
        return [clip, ("Pow", [power], {}), mean, ("Pow", [root], {})]

    def _reduce(self, kind: str, axes: Sequence[int]) -> Step:
        if self.opset >= _REDUCE_TAKES_AXES:
            return kind, [self._constant("axes", np.array(axes, np.int64))], {"keepdims": 0}
        return kind, [], {"keepdims": 0, "axes": list(axes)}

    def _chain(self, first: str, steps: list[Step], last: str) -> list[onnx.NodeProto]:
        nodes, name = [], first
        for number, (kind, more, attributes) in enumerate(steps):
            made = last if number == len(steps) - 1 else self._name(f"{last}.{number}")
            nodes.append(helper.make_node(kind, [name, *more], [made], **attributes))
            name = made
        return nodes

    def _constant(self, name: str, values: Values) -> str:
        name = self._name(f"constant.{name}")
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def _name(self, name: str) -> str:
        found = graphs.fresh(name, self.taken)
        self.taken.add(found)
        return found
