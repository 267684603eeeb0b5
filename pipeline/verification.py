"""A frozen backbone against its origin on a user's own images, step by step and as a whole.

The origin is the maker's own: Pillow's RGB, the transform that belongs to the weights, the network as its
library computes it, and its classifier.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image

from pipeline import backbones, frozen, images, runtimes
from pipeline.backbones.network import TorchNetwork
from pipeline.backbones.source import Locate, Pretrained
from pipeline.errors import ImageError, InputError
from pipeline.frozen import TOLERANCE, FrozenBackbone, Vectors
from pipeline.images import Pixels, Preprocessing
from pipeline.params import BackboneParams
from pipeline.runtimes import Runtime
from pipeline.verdicts import Step, Verified

AT_ONCE = 16
"""Images at a time."""

ROUNDING = 0.51
"""Levels of 0..255 that rounding to whole ones may take, beside what float32 does."""

_OPAQUE = ("1", "L", "P", "RGB", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits without alpha."""

Photos = Iterable[tuple[str, bytes]]


@dataclass(frozen=True)
class _Both:
    """Origin and frozen file, loaded."""

    pretrained: Pretrained
    backbone: FrozenBackbone
    runtime: Runtime

    @property
    def recipe(self) -> Preprocessing:
        return self.backbone.preprocessing


def verify(
    name: str, entry: BackboneParams, folder: Path, photos: Photos, *, locate: Locate
) -> Verified:
    """Compare on encoded images, (name, bytes). folder: of the frozen backbone.

    Raises what the source raises where the original weights are not at hand, IntegrityError where
    the folder is damaged, and InputError where no image can be decoded.
    """
    backbone = frozen.load(folder)
    pretrained = backbones.check(name, entry).load(entry, f"params.yaml: backbones.{name}", locate)
    layers = range(len(backbone.layers))
    both = _Both(pretrained, backbone, runtimes.load(backbone, device="cpu", layers=layers))
    decode = Step("decode", "levels")
    resize = Step("resize and crop", "levels")
    network = Step("network", "of RMS")
    storage = Step(f"stored as {backbone.storage}", "of RMS")
    failed = list[tuple[str, str]]()
    ours, theirs = list[Vectors](), list[Vectors]()
    for batch in _batches(_decoded(photos, both, decode, resize, failed)):
        made, origin = _vectors(both, batch, network, storage)
        ours.append(made)
        theirs.append(origin)
    if not ours:
        image, reason = failed[0] if failed else ("", "none was given")
        raise InputError(f"no image to compare on: {image}: {reason}; give photos")
    compared = pretrained.transform is not None
    steps = (decode, resize, network, storage) if compared else (network, storage)
    return _summary(both, steps, failed, ours, theirs)


@dataclass(frozen=True)
class _Seen:
    """An image in both ways. crop: ours, (crop, crop, 3) uint8; given: the maker's tensor."""

    name: str
    crop: Pixels
    given: torch.Tensor | None


def _decoded(
    photos: Photos, both: _Both, decode: Step, resize: Step, failed: list[tuple[str, str]]
) -> Iterator[_Seen]:
    for name, content in photos:
        try:
            crop = images.preprocess(content, both.recipe)
            given = None
            if both.pretrained.transform is not None:
                given = _compared(name, content, crop, both, decode, resize)
            yield _Seen(name, crop, given)
        except ImageError as error:
            failed.append(
                (name, f"{error.reason} ({error.detail})" if error.detail else error.reason)
            )


def _compared(
    name: str, content: bytes, crop: Pixels, both: _Both, decode: Step, resize: Step
) -> torch.Tensor:
    """The maker's own tensor of an image, after the steps to it were compared with ours."""
    transform = both.pretrained.transform
    mine = images.opened(content)
    theirs, by_rule = None, True
    with suppress(Exception):  # what we read and Pillow's plain way does not
        opened = Image.open(io.BytesIO(content))
        theirs, by_rule = opened.convert("RGB"), _has_rule(opened)
    decode.see(name, _pixel_difference(mine, theirs), most=0, by_rule=by_rule)
    levels = _levels(transform(mine), both.recipe)  # type: ignore[misc]
    same = levels.shape == crop.shape
    resize.see(name, _most(levels - crop.astype(np.float64)) if same else np.inf, most=ROUNDING)
    tensor: torch.Tensor = transform(mine if theirs is None else theirs)  # type: ignore[misc]
    return tensor


def _has_rule(image: Image.Image) -> bool:
    """Whether docs/images.md has a rule for such a file that Pillow's plain way does not have."""
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    one = not getattr(image, "is_animated", False)
    opaque = image.mode in _OPAQUE and "transparency" not in image.info
    whole = image.format != "TIFF" and (image.format != "BMP" or image.mode == "RGB")
    return not (upright and one and opaque and whole)


def _pixel_difference(mine: Image.Image, theirs: Image.Image | None) -> float:
    if theirs is None or mine.size != theirs.size:
        return float(np.inf)
    return _most(np.asarray(mine).astype(np.int16) - np.asarray(theirs).astype(np.int16))


def _most(difference: npt.NDArray[Any]) -> float:
    return float(np.abs(difference).max(initial=0))


def _levels(tensor: torch.Tensor, recipe: Preprocessing) -> npt.NDArray[np.float64]:
    """A normalised tensor (3, H, W) as pixels (H, W, 3) in 0..255."""
    values = tensor.permute(1, 2, 0).numpy().astype(np.float64)
    levels: npt.NDArray[np.float64] = (values * np.array(recipe.std) + np.array(recipe.mean)) * 255
    return levels


def _batches(seen: Iterator[_Seen]) -> Iterator[list[_Seen]]:
    batch = list[_Seen]()
    for one in seen:
        batch.append(one)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _vectors(
    both: _Both, batch: list[_Seen], network: Step, storage: Step
) -> tuple[Vectors, Vectors]:
    """Stored vectors of the first layer, and the origin's from its own tensors; (N, D) each."""
    crops = np.stack([one.crop for one in batch])
    origin = both.pretrained.network.embed(crops, both.recipe, both.backbone.taps)
    ends = np.cumsum([layer.dim for layer in both.backbone.layers])
    frozen_ones = np.split(both.runtime.embed(crops), ends[:-1], axis=1)
    _, most = TOLERANCE[str(both.backbone.fields["precision"])]
    for tap, then, now in zip(both.backbone.taps, origin, frozen_ones, strict=True):
        at = "" if len(origin) == 1 else f" at {tap.name}"
        _see(network, [one.name + at for one in batch], then, now, most)
    stored = frozen_ones[0].astype(both.backbone.storage).astype(np.float32)
    _, coarse = TOLERANCE["float16" if both.backbone.storage == "float16" else "float32"]
    _see(storage, [one.name for one in batch], frozen_ones[0], stored, coarse)
    return stored, _from_tensors(both, batch, origin[0])


def _see(step: Step, names: Sequence[str], then: Vectors, now: Vectors, most: float) -> None:
    rms = float(np.sqrt((then.astype(np.float64) ** 2).mean())) or 1.0
    for name, difference in zip(names, np.abs(now - then).max(axis=1) / rms, strict=True):
        step.see(name, float(difference), most=most)


def _from_tensors(both: _Both, batch: list[_Seen], otherwise: Vectors) -> Vectors:
    """What the origin makes of the maker's own tensors; of our crops where it has no transform."""
    network, tap = both.pretrained.network, both.backbone.taps[0]
    given = [one.given for one in batch if one.given is not None]
    if not given or not isinstance(network, TorchNetwork):
        return otherwise
    return network.run(torch.stack(given), tap)


def _summary(
    both: _Both,
    steps: tuple[Step, ...],
    failed: list[tuple[str, str]],
    ours: list[Vectors],
    theirs: list[Vectors],
) -> Verified:
    made, origin = np.concatenate(ours), np.concatenate(theirs)
    return Verified(
        images=len(made),
        failed=tuple(failed),
        steps=steps,
        whole=frozen.drift(made, origin),
        max_abs=float(np.abs(made - origin).max()),
        top1=_agreeing(both, made, origin),
        own_recipe=both.pretrained.transform is None,
        tta=both.backbone.fields.get("tta"),
    )


def _agreeing(both: _Both, made: Vectors, origin: Vectors) -> int | None:
    """Of how many images the original classifier says the same; it takes the penultimate layer."""
    classifier: Callable[[torch.Tensor], torch.Tensor] | None = both.pretrained.classifier
    if classifier is None or both.backbone.taps[0].layer != "penultimate":
        return None
    with torch.inference_mode():
        first, second = (classifier(torch.from_numpy(each)).argmax(1) for each in (made, origin))
    return int((first == second).sum())
