"""Backbones with random weights, frozen as `headstart` would: speed does not hang on the values."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline import architectures, files, frozen
from pipeline.architectures import restored
from pipeline.architectures.restored import Normalised
from pipeline.frozen import FrozenBackbone
from pipeline.images import Preprocessing

SEED = 0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Subject:
    """A backbone to measure. crop: of an image, in pixels."""

    title: str
    source: str
    model: str
    crop: int
    runtime: str = "torch"
    precision: str = "float32"

    @property
    def name(self) -> str:
        """Of its folder and files."""
        return f"{self.model}_{self.runtime}_{self.precision}"


FULL = (
    Subject("ResNet-50", "torchvision", "resnet50", 224),
    Subject("ViT-B/16", "timm", "vit_base_patch16_224", 224),
    Subject("EfficientNet-Lite0", "timm", "tf_efficientnet_lite0", 224),
)
QUICK = (Subject("a tiny ResNet", "timm", "test_resnet", 160),)


def freeze(subjects: Sequence[Subject], folder: Path, *, threads: int) -> None:
    """Freeze each below `folder`, under its name; some at a time, since a CPU's halves are slow."""
    modules: dict[str, torch.nn.Module] = {}
    for subject in subjects:
        if subject.model not in modules:
            torch.manual_seed(SEED)
            modules[subject.model] = architectures.build(_build(subject))
    with ThreadPoolExecutor(threads) as pool:
        torch_ones = [subject for subject in subjects if subject.runtime == "torch"]
        list(pool.map(lambda one: _freeze(modules[one.model], one, folder), torch_ones))
    for subject in subjects:
        if subject.runtime == "onnx":
            _freeze(modules[subject.model], subject, folder)


def _recipe(subject: Subject) -> Preprocessing:
    return Preprocessing(subject.crop * 8 // 7, subject.crop, "bilinear", MEAN, STD)


def _build(subject: Subject) -> dict[str, Any]:
    return {
        "source": subject.source,
        "architecture": subject.model,
        "preprocessing": _recipe(subject).as_dict(),
        "package": f"{subject.source} {metadata.version(subject.source)}",
    }


def _freeze(module: torch.nn.Module, subject: Subject, folder: Path) -> None:
    recipe = _recipe(subject)
    fields = {
        **_build(subject),
        "weights_sha256": f"random, seed {SEED}",
        "layer": "penultimate",
        "pooling": "default",
        "runtime": subject.runtime,
        "precision": subject.precision,
        "storage": "float32",
        "pixel_probe": frozen.pixel_probe(recipe),
    }
    place = folder / subject.name
    place.mkdir(parents=True)
    file = restored.MODEL if subject.runtime == "torch" else "model.onnx"
    record = FrozenBackbone(place, subject.name, file, "", 0, "random", "none needed", fields)
    dim = _write(module, record, recipe)
    frozen.write(replace(record, dim=dim, layers=(), file_sha256=files.sha256_of(record.model)))


def _write(module: torch.nn.Module, record: FrozenBackbone, recipe: Preprocessing) -> int:
    """Write the model file; the length of a vector."""
    if record.file == restored.MODEL:
        return restored.write(module, record).shape[1]
    from pipeline.architectures import exported  # onnx is not everywhere

    probe = frozen.probe_pixels(recipe)
    whole = Normalised(module, recipe).eval()
    exported.export(whole, probe, record.model)
    with torch.inference_mode():
        return int(whole(torch.from_numpy(probe[:2].copy())).shape[1])
