"""Views of an image: the clean one, its deterministic neighbours for test-time averaging, augmented ones.

An augmented view is a random part of the image, resized to the crop and, every other time,
mirrored (the augmentation of Szegedy 2015, as in ImageNet training). What is random is told by the seed, the view's number and the
image's sha256 alone: neither the order of images nor a generator's state has a say.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.images import INTERPOLATIONS, Pixels, Preprocessing, opened, preprocess, resized

SCALE = (0.35, 1.0)
"""Share of an image's area that an augmented view shows, from and to."""

RATIO = (3 / 4, 4 / 3)
"""Width over height of that part, from and to, drawn on a logarithmic scale."""

AUGMENTATION = f"resized crop of {SCALE[0]:g} to {SCALE[1]:g} of the area, mirrored or not"

TTA = {"flip": 2, "five_crop": 5, "ten_crop": 10}
"""How many views a clean vector is the mean of."""

_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class Views:
    """Which views are made of an image.

    clean: whether the centre crop is, or what `tta`, a key of TTA, has in its place; augmented:
    numbers of the augmented ones, from 1; seed: theirs.
    """

    clean: bool = True
    tta: str | None = None
    augmented: tuple[int, ...] = ()
    seed: int = 0

    @property
    def deterministic(self) -> int:
        """How many come before the augmented ones."""
        return TTA.get(self.tta or "", 1) if self.clean else 0

    def __len__(self) -> int:
        return self.deterministic + len(self.augmented)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "augmented": list(self.augmented)}


CLEAN = Views()


def render(content: bytes, sha256: str, recipe: Preprocessing, views: Views) -> Pixels:
    """(V, crop, crop, 3) uint8: the views of an encoded image. Raises ImageError as `preprocess` does.

    sha256: of the image's bytes, in hex.
    """
    if views == CLEAN:
        return preprocess(content, recipe)[None]
    image = opened(content)
    parts = [*(_deterministic(image, recipe, views.tta) if views.clean else ())]
    parts += [_augmented(image, recipe, sha256, number, views.seed) for number in views.augmented]
    return np.stack([np.asarray(part) for part in parts])


def _deterministic(
    image: Image.Image, recipe: Preprocessing, tta: str | None
) -> Iterator[Image.Image]:
    """The centre crop first, then the corners; then all of them mirrored."""
    whole, crop = resized(image, recipe), recipe.crop
    right, bottom = whole.width - crop, whole.height - crop
    corners = [(round(right / 2), round(bottom / 2))]
    if tta in ("five_crop", "ten_crop"):
        corners += [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    parts = [whole.crop((left, top, left + crop, top + crop)) for left, top in corners]
    yield from parts
    if tta in ("flip", "ten_crop"):
        yield from (part.transpose(_MIRROR) for part in parts)


def _augmented(
    image: Image.Image, recipe: Preprocessing, sha256: str, number: int, seed: int
) -> Image.Image:
    area, ratio, across, down, mirror = _drawn(sha256, number, seed)
    share = SCALE[0] + area * (SCALE[1] - SCALE[0])
    shape = math.exp(math.log(RATIO[0]) + ratio * (math.log(RATIO[1]) - math.log(RATIO[0])))
    pixels = share * image.width * image.height
    width = min(image.width, max(1, round(math.sqrt(pixels * shape))))
    height = min(image.height, max(1, round(math.sqrt(pixels / shape))))
    left, top = int(across * (image.width - width + 1)), int(down * (image.height - height + 1))
    size, box = (recipe.crop, recipe.crop), (left, top, left + width, top + height)
    part = image.resize(size, INTERPOLATIONS[recipe.interpolation], box=box)
    return part.transpose(_MIRROR) if mirror < 1 / 2 else part


def _drawn(sha256: str, number: int, seed: int) -> tuple[float, float, float, float, float]:
    """Five numbers in [0, 1)."""
    digest = hashlib.sha256(f"{seed} {number} {sha256}".encode()).digest()
    words = [int.from_bytes(digest[at : at + 6], "big") for at in range(0, 30, 6)]
    first, second, third, fourth, fifth = (word / 2**48 for word in words)
    return first, second, third, fourth, fifth
