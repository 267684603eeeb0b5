"""Both ends of a user's ONNX graph: what it takes in, where it is tapped; and what both mean in numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from pipeline import taps
from pipeline.architectures.tapped import GEM_LEAST, GEM_POWER
from pipeline.frozen import Vectors
from pipeline.images import Pixels, Preprocessing
from pipeline.taps import TOKENS, VECTOR

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
}

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Taken:
    """What an ONNX file takes in: images as one of TYPES, (N, 3, H, W) or (N, H, W, 3).

    name: of the input; batch: how many images at once, and side: pixels of H and of W; None: any.
    """

    name: str
    dtype: str
    channels_last: bool
    side: int | None
    batch: int | None

    @property
    def normalised(self) -> bool:
        """Whether the pixels have to be normalised before."""
        return self.dtype != "uint8"


@dataclass(frozen=True)
class Spot:
    """A tensor of the graph and how its positions become one vector. shape: without N."""

    tensor: str
    shape: tuple[int, ...]
    pooling: str

    @property
    def axes(self) -> tuple[int, ...]:
        """Those over which a pooling goes, N being axis 0; none for a vector."""
        if len(self.shape) == VECTOR or self.pooling in ("flatten", "cls"):
            return ()
        channels = 1 + taps.channel_axis(self.shape)
        return tuple(axis for axis in range(1, 1 + len(self.shape)) if axis != channels)

    @property
    def skipped(self) -> int:
        """Tokens before those that are pooled."""
        of_patches = self.pooling == "patch_mean" and len(self.shape) == TOKENS
        return taps.prefix_tokens(self.shape[0]) if of_patches else 0

    @property
    def dim(self) -> int:
        """Length of the vector."""
        if self.pooling == "flatten" or len(self.shape) == VECTOR:
            return int(np.prod(self.shape))
        return self.shape[taps.channel_axis(self.shape)]


def given_to(images: Pixels, recipe: Preprocessing, taken: Taken) -> Values:
    """(N, H, W, 3) uint8 as a file takes it in, in the arithmetic of `restored.Normalised`.

    float32 also where the file takes float16.
    """
    values: Values = images
    if taken.normalised:
        mean, std = (np.array(given, np.float32) for given in (recipe.mean, recipe.std))
        values = (images.astype(np.float32) / np.float32(255) - mean) / std
    return values if taken.channels_last else np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def pooled(made: Values, spot: Spot) -> Vectors:
    """A tensor's values, (N, ...), as (N, D) float32."""
    values = made.astype(np.float32)
    if spot.pooling == "cls":
        return values[:, 0]
    if not spot.axes:
        return values.reshape(len(values), -1)
    values = values[:, spot.skipped :] if spot.skipped else values
    if spot.pooling == "max":
        vectors: Vectors = values.max(axis=spot.axes)
        return vectors
    if spot.pooling == "gem":  # Radenovic 2018, with the power that it ends near
        powers = np.maximum(values, np.float32(GEM_LEAST)) ** np.float32(GEM_POWER)
        roots: Vectors = powers.mean(axis=spot.axes) ** np.float32(1 / GEM_POWER)
        return roots
    means: Vectors = values.mean(axis=spot.axes)
    return means
