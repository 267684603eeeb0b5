"""A user's ONNX graph as a network: its tensors are the layers, proven to be of one image each.

Everything is compared with the file as it came, run by onnxruntime as it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from pipeline.architectures import ends, grafted, graphs
from pipeline.architectures.ends import Spot, Taken, Values
from pipeline.frozen import Vectors
from pipeline.images import Pixels, Preprocessing
from pipeline.taps import DEFAULT, PENULTIMATE, Layer, Tap

AT_ONCE = 16
"""Images a pass where a file takes any number."""


@dataclass(frozen=True)
class OnnxNetwork:
    """See `pipeline.backbones.source.Network`.

    model: as it came; spots: of `penultimate`, where it can be had, the last; broken: tensors
    that can only be had of the original's number of images, each with the reason.
    """

    model: onnx.ModelProto
    taken: Taken
    spots: dict[str, Spot]
    broken: dict[str, str]

    def layers(self, recipe: Preprocessing) -> list[Layer]:  # noqa: ARG002 - they were tried with it
        """See `Network`."""
        return [
            Layer(name, (spot.dim,) if name == PENULTIMATE else spot.shape)
            for name, spot in self.spots.items()
        ]

    def embed(self, images: Pixels, recipe: Preprocessing, taps: Sequence[Tap]) -> list[Vectors]:
        """See `Network`; by onnxruntime from the file as it came, the rest by numpy."""
        spots = self._spots(taps)
        names = sorted({spot.tensor for spot in spots})
        original = Original(self.model, self.taken, names)
        found = dict(zip(names, original.run(images, recipe), strict=True))
        return [ends.pooled(found[spot.tensor], spot) for spot in spots]

    def write_onnx(self, taps: Sequence[Tap], recipe: Preprocessing, path: Path) -> None:
        """See `Network`; the file's own nodes, and ours before and behind them."""
        made = grafted.graft(self.model, self.taken, recipe, self._spots(taps))
        path.write_bytes(made.SerializeToString(deterministic=True))

    def digest(self) -> str:
        """See `Network`; of all tensors and nodes in the file."""
        return graphs.digest(self.model)

    def _spots(self, taps: Sequence[Tap]) -> list[Spot]:
        found = []
        for tap in taps:
            spot = self.spots[tap.layer]
            pooling = spot.pooling if tap.pooling == DEFAULT else tap.pooling
            found.append(Spot(spot.tensor, spot.shape, pooling))
        return found


@dataclass(frozen=True)
class Original:
    """A model that gives some of its tensors, and what it takes in."""

    model: onnx.ModelProto
    taken: Taken
    names: Sequence[str]

    def run(self, images: Pixels, recipe: Preprocessing) -> list[Values]:
        """(N, H, W, 3) uint8 -> a float32 tensor a name, in as many passes as it needs."""
        step = self.taken.batch or AT_ONCE
        made = self.passes(images, recipe, step)
        rows = [min(step, len(images) - start) for start in range(0, len(images), step)]
        return [
            np.concatenate([values[:count] for values, count in zip(parts, rows, strict=True)])
            for parts in zip(*made, strict=True)
        ]

    def passes(self, images: Pixels, recipe: Preprocessing, step: int) -> list[list[Values]]:
        """What comes out of each pass of `step` images; it is filled up where that is too few."""
        session = session_of(self.model, self.names)
        made = list[list[Values]]()
        for start in range(0, len(images), step):
            part = images[start : start + step]
            missing = (self.taken.batch or len(part)) - len(part)
            full = np.concatenate([part, *[part[-1:]] * missing])
            given = ends.given_to(full, recipe, self.taken)
            made.append(session.run(None, {session.get_inputs()[0].name: given}))
        return made


def session_of(
    model: onnx.ModelProto, names: Sequence[str], *, in_float32: bool = True
) -> onnxruntime.InferenceSession:
    """A session on the CPU for the part of a model that these tensors need; they are its outputs.

    in_float32: short floats are cast within, at both ends. onnxruntime computes them as float32
    where it has no shorter kernel, and leaves out a rounding between two casts.
    """
    part = onnx.ModelProto()
    part.CopyFrom(model)
    given = _in_float32(part.graph, names) if in_float32 else list(names)
    graphs.prune(part.graph, given)
    part.graph.ClearField("output")
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in given)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is told by what is raised
    return onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _in_float32(graph: onnx.GraphProto, names: Sequence[str]) -> list[str]:
    """Add casts behind tensors, and before an input in float16; returns what stands for the first."""
    taken = graphs.every_name(graph)
    made = [graphs.fresh(f"{name}.float32", taken) for name in names]
    casts = []
    for one in graph.input:
        if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
            own, one.name = one.name, graphs.fresh(f"{one.name}.given", taken)
            one.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            casts.append(helper.make_node("Cast", [one.name], [own], to=onnx.TensorProto.FLOAT16))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    behind = [
        helper.make_node("Cast", [name], [cast], to=onnx.TensorProto.FLOAT)
        for name, cast in zip(names, made, strict=True)
    ]
    graph.ClearField("node")
    graph.node.extend([*casts, *nodes, *behind])
    return made
