"""A user's ONNX graph as a network: its tensors are the layers, proven to be of one image each.

Everything is compared with the file as it came, run by onnxruntime as it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pipeline.architectures import grafted, graphs
from pipeline.architectures.grafted import Spot, Taken, Values
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
        return [grafted.pooled(found[spot.tensor], spot) for spot in spots]

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
        """(N, H, W, 3) uint8 -> a tensor a name, in as many passes as it needs."""
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
        made = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            missing = (self.taken.batch or len(part)) - len(part)
            full = np.concatenate([part, *[part[-1:]] * missing])
            given = grafted.given_to(full, recipe, self.taken)
            made.append([np.asarray(one) for one in session.run(None, {self.taken.name: given})])
        return made


def session_of(model: onnx.ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    """A session on the CPU whose outputs are these tensors of a model."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.ClearField("output")
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is told by what is raised
    return onnxruntime.InferenceSession(
        shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
