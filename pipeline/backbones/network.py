"""A pretrained torch module as a network whose layers can be tapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline import frozen
from pipeline.architectures import exported, tapped
from pipeline.architectures.restored import Normalised
from pipeline.backbones import weights
from pipeline.frozen import Vectors
from pipeline.images import Pixels, Preprocessing
from pipeline.taps import Layer, Tap

AT_ONCE = 16
"""Images a pass."""


def linear_or_none(classifier: object) -> torch.nn.Module | None:
    """A library's classifier, where it is of a kind that can be used by itself."""
    return classifier if isinstance(classifier, torch.nn.Linear) else None


@dataclass(frozen=True)
class TorchNetwork:
    """See `pipeline.backbones.source.Network`.

    module: (N, 3, H, W) float32, normalised -> (N, D) float32, in eval mode; its submodules are
    the layers.
    """

    module: torch.nn.Module

    def layers(self, recipe: Preprocessing) -> list[Layer]:
        """See `Network`."""
        return tapped.layers(self.module, recipe.crop)

    def embed(self, images: Pixels, recipe: Preprocessing, taps: Sequence[Tap]) -> list[Vectors]:
        """See `Network`; by torch, in float32."""
        whole = Normalised(tapped.Tapped(self.module, taps), recipe).eval()
        parts = [images[start : start + AT_ONCE] for start in range(0, len(images), AT_ONCE)]
        with torch.inference_mode():
            made = [whole.each(torch.from_numpy(part.copy())) for part in parts]
        return [
            np.concatenate([one[number].numpy() for one in made]) for number in range(len(taps))
        ]

    def run(self, images: torch.Tensor, tap: Tap) -> Vectors:
        """(N, 3, H, W) float32, normalised -> (N, D) float32; of a tensor that the maker's code made."""
        with torch.inference_mode():
            (made,) = tapped.Tapped(self.module, [tap]).eval()(images)
        vectors: Vectors = made.numpy()
        return vectors

    def write_onnx(self, taps: Sequence[Tap], recipe: Preprocessing, path: Path) -> None:
        """See `Network`; by torch's exporter."""
        whole = Normalised(tapped.Tapped(self.module, taps), recipe).eval()
        exported.export(whole, frozen.probe_pixels(recipe), path, outputs=len(taps))

    def digest(self) -> str:
        """See `Network`."""
        return weights.digest(self.module.state_dict())
