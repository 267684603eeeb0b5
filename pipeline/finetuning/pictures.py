"""Images for training and for scoring: decoded once where memory admits, augmented by torchvision.

What is random of an image is told by the seed, the epoch and its sha256: neither workers nor the
order have a say. The order is told by the seed and the epoch.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from pipeline import files
from pipeline.errors import ImageError, InputError
from pipeline.finetuning.memory import Room
from pipeline.finetuning.network import drawing
from pipeline.images import Pixels, Preprocessing, opened, resized
from pipeline.images.views import SCALE, Views, render

FILLED = 256
"""Images decoded before memory is looked at again."""

_CPU = torch.device("cpu")

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Listed:
    """Labelled images of one split. path: relative to the root; sha256: hex; y: (N,) class of each."""

    path: Sequence[str]
    sha256: Sequence[str]
    y: Codes

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class Decoded:
    """Pixels of images, by place; kept once made while there is room. root: what paths are relative to.

    make: encoded bytes and their sha256 -> (..., 3) uint8; room: of all images of the run; full: no
    more of these are kept.
    """

    root: Path
    listed: Listed
    make: Callable[[bytes, str], Pixels]
    room: Room
    kept: dict[int, Pixels] = field(default_factory=dict)
    full: bool = False

    def __getitem__(self, place: int) -> Pixels:
        if place in self.kept:
            return self.kept[place]
        pixels = self._read(place)
        if not self.full and self.room.take(pixels.nbytes):
            self.kept[place] = pixels
        else:  # of a large set the rest is not decoded beforehand for nothing
            self.full = True
        return pixels

    def fill(self, threads: int) -> None:
        """Decode as many as are kept, so that processes forked later share them."""
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self.listed), FILLED):
                if not self.full:
                    some = range(start, min(start + FILLED, len(self.listed)))
                    list(pool.map(self.__getitem__, some))

    def _read(self, place: int) -> Pixels:
        path, sha256 = self.listed.path[place], self.listed.sha256[place]
        try:
            with files.open_plain(self.root / path) as file:
                content = file.read()
            if files.sha256_of_bytes(content) != sha256:
                raise ImageError("changed", "its bytes are not those that were prepared")
            return self.make(content, sha256)
        except ImageError as error:
            raise InputError(
                f"{path} cannot be trained on ({error}); mend it, then run 'dvc repro -f prepare'"
            ) from None


def to_learn(
    root: Path, listed: Listed, recipe: Preprocessing, augment: str, room: Room
) -> Decoded:
    """Training images before augmentation: resized, and cut as when scored where no part is drawn."""
    if augment in ("none", "flip"):
        return to_score(root, listed, recipe, Views(), room, one=True)

    def make(content: bytes, _: str) -> Pixels:
        return np.asarray(resized(opened(content), recipe))

    return Decoded(root, listed, make, room)


def to_score(
    root: Path,
    listed: Listed,
    recipe: Preprocessing,
    views: Views,
    room: Room,
    *,
    one: bool = False,
) -> Decoded:
    """Images as the frozen backbone sees them: (V, H, W, 3) each, or with `one` (H, W, 3)."""

    def make(content: bytes, sha256: str) -> Pixels:
        made = render(content, sha256, recipe, views)
        return made[0] if one else made

    return Decoded(root, listed, make, room)


def augmentation(augment: str, recipe: Preprocessing) -> v2.Transform:
    """(3, H, W) uint8 -> (3, crop, crop) uint8, by torchvision.

    flip: mirrored or not; crop: a part resized as well (Szegedy 2015); trivial: and TrivialAugment
    (Müller 2021), one distortion of a random strength.
    """
    interpolation = InterpolationMode(recipe.interpolation)
    if interpolation == InterpolationMode.LANCZOS:  # which torchvision has for Pillow images alone
        interpolation = InterpolationMode.BICUBIC
    size = (recipe.crop, recipe.crop)
    part = v2.RandomResizedCrop(size, scale=SCALE, interpolation=interpolation, antialias=True)
    steps = {
        "none": [],
        "flip": [v2.RandomHorizontalFlip()],
        "crop": [part, v2.RandomHorizontalFlip()],
        "trivial": [part, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
    }[augment]
    return v2.Compose(steps or [v2.Identity()])


class Augmented(Dataset[Any]):
    """Training images of one epoch: place -> pixels (crop, crop, 3) uint8 and class."""

    def __init__(self, decoded: Decoded, transform: v2.Transform, seed: int, epoch: int) -> None:
        self.decoded, self.transform = decoded, transform
        self.seed, self.epoch = seed, epoch

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        listed = self.decoded.listed
        pixels = torch.from_numpy(self.decoded[place].copy()).permute(2, 0, 1)
        with drawing(seeded(self.seed, self.epoch, listed.sha256[place]), _CPU):
            made = self.transform(pixels)
        return made.permute(1, 2, 0).contiguous(), int(listed.y[place])


class Plain(Dataset[Any]):
    """Images to score: place -> pixels (V, H, W, 3) uint8 and class."""

    def __init__(self, decoded: Decoded) -> None:
        self.decoded = decoded

    def __len__(self) -> int:
        return len(self.decoded.listed)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.decoded[place].copy()), int(self.decoded.listed.y[place])


def seeded(*parts: object) -> int:
    """A seed that the parts alone tell."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def order(count: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    """Places of the images of each step of an epoch: full steps alone, or one of all where they are fewer."""
    generator = torch.Generator().manual_seed(seeded(seed, epoch))
    places = torch.randperm(count, generator=generator).tolist()
    full = count // size
    return [places[at * size : (at + 1) * size] for at in range(full)] or [places]


def steps(
    dataset: Dataset[Any], places: Sequence[Sequence[int]], workers: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of pixels (N, ..., 3) uint8 and classes (N,), of these places. workers: processes, 0 for none."""
    loader = DataLoader(
        dataset,
        batch_sampler=list(places),  # type: ignore[arg-type]  # any iterable of lists
        num_workers=workers,
        pin_memory=workers > 0 and torch.cuda.is_available(),
        multiprocessing_context="fork" if workers else None,
    )
    yield from loader
