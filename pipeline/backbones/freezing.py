"""Freezing: a pretrained network -> one file that a runtime takes, and its record."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import backbones, files, frozen, taps
from pipeline.architectures import exported, restored
from pipeline.backbones import onnx_model, weights
from pipeline.backbones.network import TorchNetwork
from pipeline.backbones.source import Locate, Pretrained
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.frozen import Drift, FrozenBackbone, Vectors
from pipeline.images.views import AUGMENTATION, Views
from pipeline.outputs import FrozenLayer
from pipeline.params import BackboneParams
from pipeline.taps import Layer, Tap

MOST_OUTPUTS = 200
"""Layers times views: what the attributes of one HDF5 file can name."""


def freeze(name: str, entry: BackboneParams, folder: Path, *, locate: Locate) -> Drift:
    """Write the model file for the entry's runtime and backbone.json into `folder`.

    Returns how far that file is from the network itself, which is float32. Raises IntegrityError
    where the two differ on the probe beyond tolerance, and what the source raises.
    """
    at = f"params.yaml: backbones.{name}"
    pretrained = backbones.check(name, entry).load(entry, at, locate)
    recipe = pretrained.preprocessing
    wanted = taps.resolve(entry.layers, entry.pooling, layers_of(pretrained, at), at)
    if len(wanted) * (entry.views + 1) > MOST_OUTPUTS:
        raise ConfigurationError(
            f"{at}: {len(wanted)} layers in {entry.views + 1} views are more than {MOST_OUTPUTS} "
            "vectors an image; name fewer layers, or lower views"
        )
    expected = pretrained.network.embed(frozen.probe_pixels(recipe), recipe, wanted)
    _check_vectors(expected, wanted, at)
    with files.replacing(folder) as beside:
        beside.mkdir()
        layers = [
            FrozenLayer(tap, made.shape[1]) for tap, made in zip(wanted, expected, strict=True)
        ]
        record = _record(name, entry, pretrained, beside, layers)
        made, jointly = _WRITE[entry.runtime](pretrained, record, at)
        drift = _drift(made, expected, entry, at)
        frozen.write(_joined(record, jointly))
    return drift


def layers_of(pretrained: Pretrained, at: str) -> list[Layer]:
    """What can be tapped. Raises ConfigurationError where the network does not take such images."""
    crop = pretrained.preprocessing.crop
    try:
        return pretrained.network.layers(pretrained.preprocessing)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConfigurationError(
            f"{at}.preprocessing: the network does not take images of {crop} x {crop} pixels "
            f"({reason}); write the crop that it was made for"
        ) from None


def _check_vectors(made: Sequence[Vectors], wanted: Sequence[Tap], at: str) -> None:
    for vectors, tap in zip(made, wanted, strict=True):
        if vectors.ndim != 2:
            shape = tuple(vectors.shape[1:])
            raise ConfigurationError(
                f"{at}.layers: {tap.name!r} gives {shape} of an image, not one vector; "
                f"write {taps.POOLED}, or a layer and its pooling"
            )
        if not np.isfinite(vectors).all():
            raise IntegrityError(
                f"{at}: the network makes NaN or infinity of the probe at {tap.name!r}; "
                "other weights, or another layer"
            )


def _record(
    name: str,
    entry: BackboneParams,
    pretrained: Pretrained,
    folder: Path,
    layers: list[FrozenLayer],
) -> FrozenBackbone:
    """The record, but for the digest of a file that is not there yet."""
    recipe = pretrained.preprocessing
    fields: dict[str, Any] = {
        "source": entry.source,
        "architecture": pretrained.architecture,
        "package": pretrained.package,
        "weights_sha256": pretrained.network.digest(),
        "preprocessing": recipe.as_dict(),
        **layers[0].fields,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "storage": entry.storage,
        "pixel_probe": frozen.pixel_probe(recipe, Views(tta=entry.tta)),
    }
    if entry.tta:
        fields["tta"] = entry.tta
    return FrozenBackbone(
        folder=folder,
        name=name,
        file=exported.MODEL if entry.runtime == "onnx" else restored.MODEL,
        file_sha256="",
        dim=layers[0].dim,
        weights=weights.stated(entry),
        licence=pretrained.licence,
        fields=fields,
        layers=tuple(layers),
        views=tuple(_view(number + 1, entry, pretrained) for number in range(entry.views)),
        pooling=entry.pooling,
    )


def _view(number: int, entry: BackboneParams, pretrained: Pretrained) -> dict[str, Any]:
    """What is another of an augmented view."""
    views = Views(clean=False, augmented=(number,), seed=entry.seed)
    return {
        "view": {"number": number, "seed": entry.seed, "augmentation": AUGMENTATION},
        "pixel_probe": frozen.pixel_probe(pretrained.preprocessing, views),
    }


Written = tuple[list[Vectors], list[tuple[str, ...]]]
"""What a model file makes of the probe, a layer; and of each layer, with which others it is made."""


def _write_onnx(pretrained: Pretrained, record: FrozenBackbone, at: str) -> Written:
    recipe = record.preprocessing
    try:
        pretrained.network.write_onnx(record.taps, recipe, record.model)
    except exported.InexpressibleError as error:
        raise ConfigurationError(
            f"{at}.runtime: onnx does not do for it ({error}); write runtime: torch"
        ) from None
    probe = frozen.probe_pixels(recipe)
    made = onnx_model.run(record.model, probe)
    return made, onnx_model.jointly(record.model, [tap.name for tap in record.taps], probe, made)


def _write_torch(pretrained: Pretrained, record: FrozenBackbone, at: str) -> Written:
    if not isinstance(pretrained.network, TorchNetwork):
        raise ConfigurationError(f"{at}.runtime: torch does not run an ONNX file; write onnx")
    made = restored.write(pretrained.network.module, record)
    ends = np.cumsum([layer.dim for layer in record.layers])
    return np.split(made, ends[:-1], axis=1), [()] * len(record.layers)


_WRITE = {"onnx": _write_onnx, "torch": _write_torch}


def _joined(record: FrozenBackbone, jointly: list[tuple[str, ...]]) -> FrozenBackbone:
    """The record of a file that is there."""
    if changed := [
        layer.tap.name for layer, names in zip(record.layers, jointly, strict=True) if names
    ]:
        print(
            f"headstart: {record.name}: onnxruntime computes {', '.join(changed)} with other bits "
            "beside these layers than alone, so their fingerprints name them all, and such layers "
            "are embedded anew; a block's end instead of a tensor within it avoids that",
            file=sys.stderr,
        )
    layers = tuple(
        replace(layer, jointly=names) for layer, names in zip(record.layers, jointly, strict=True)
    )
    return replace(
        record,
        file_sha256=files.sha256_of(record.model),
        fields={**record.fields, **layers[0].fields},
        layers=layers,
    )


def _drift(
    measured: list[Vectors], expected: list[Vectors], entry: BackboneParams, at: str
) -> Drift:
    """The largest of all layers."""
    names = [f", {layer}" if entry.layers[1:] else "" for layer in entry.layers]
    what = (
        "ONNX against its origin"
        if entry.runtime == "onnx"
        else f"{entry.precision} against float32"
    )
    try:
        drifts = [
            frozen.check_drift(made, origin, precision=entry.precision, what=f"{at}: {what}{layer}")
            for made, origin, layer in zip(measured, expected, names, strict=True)
        ]
    except IntegrityError as error:
        if entry.precision == "float32":
            other = "; write runtime: torch" if entry.runtime == "onnx" else ""
            raise IntegrityError(f"{error}{other}") from None
        raise ConfigurationError(
            f"{error}: too coarse for this network; write precision: float32"
        ) from None
    return Drift(min(one.cosine for one in drifts), max(one.relative for one in drifts))


def measured(drift: Drift) -> dict[str, float]:
    """The figures for artifacts/runs/."""
    return asdict(drift)
