"""Frozen models of torchvision beside torchvision itself: its transforms, its forward pass, a hook.

The weights are random, the batch normalisation calibrated on images: uncalibrated, such networks
map all images to nearly one vector, and any two of them would agree.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from pipeline import files, frozen
from pipeline.backbones import freezing
from pipeline.images import decode, preprocess
from pipeline.params import BackboneParams
from tests.contracts import load

PLAIN = (
    "alpha.png",
    "grey.jpg",
    "large.jpg",
    "palette.png",
    "progressive.jpg",
    "rgb.jpg",
    "rgb.png",
)
"""Images of the probe that Pillow opens as we do, but for what alpha is composed on."""

DIMS = {
    "alexnet": 4096,
    "vgg16": 4096,
    "vgg19": 4096,
    "resnet18": 512,
    "resnet50": 2048,
    "inception_v3": 2048,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "mobilenet_v3_large": 1280,
    "efficientnet_b0": 1280,
    "convnext_tiny": 768,
    "vit_b_16": 768,
    "swin_t": 768,
}
FAST = ("resnet18", "mobilenet_v2")
SHORT = ("resnet18", "mobilenet_v3_small", "convnext_tiny")


@dataclass(frozen=True)
class Reference:
    """A file of weights, and what torchvision makes of the images with them."""

    weights: Path
    vectors: np.ndarray


def opened(name: str) -> Image.Image:
    image = Image.open(frozen.PROBE / name)
    if image.mode == "RGBA" or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def reference(name: str, folder: Path) -> Reference:
    old = {"transform_input": True, "aux_logits": True, "init_weights": True}
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, **(old if name == "inception_v3" else {})).eval()
    transform = models.get_model_weights(name).IMAGENET1K_V1.transforms()
    images = torch.stack([transform(opened(each)) for each in PLAIN])
    calibrated(model, transform)
    path = folder / f"{name}.pth"
    torch.save(model.state_dict(), path)
    seen: list[torch.Tensor] = []
    last = [part for part in model.modules() if isinstance(part, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.inference_mode():
        model(images)
    return Reference(path, seen[0].numpy().copy())


def calibrated(model: torch.nn.Module, transform) -> None:
    """The statistics of BatchNorm are those of the whole probe, somehow opened."""
    paths = sorted(frozen.PROBE.iterdir())
    pictures = [Image.fromarray(decode(path.read_bytes())) for path in paths]
    images = torch.stack([transform(picture) for picture in pictures])
    layers = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
        layer.train()
    with torch.no_grad():
        model(images)
    model.eval()


def embedded(name: str, made: Reference, folder: Path, **keys) -> tuple[np.ndarray, float]:
    """What the frozen backbone makes of the same images, and how far it drifts."""
    given = BackboneParams(
        source="torchvision",
        model=name,
        weights=f"file:{made.weights}",
        sha256=files.sha256_of(made.weights),
        **keys,
    )
    drift = freezing.freeze("b", given, folder, locate=Path)
    backbone = frozen.load(folder)
    recipe = backbone.preprocessing
    pixels = np.stack([preprocess((frozen.PROBE / each).read_bytes(), recipe) for each in PLAIN])
    assert backbone.dim == DIMS[name]
    return load(backbone, 2).embed(pixels), drift.relative


def cosines(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """The lowest as they are, and without what all images share."""

    def lowest(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a.astype(np.float64), b.astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(((a * b).sum(axis=1) / norms).min())

    return lowest(ours, theirs), lowest(ours - ours.mean(axis=0), theirs - theirs.mean(axis=0))


def tell(*said: object) -> None:
    """Figures for whoever runs this with -s."""
    print(*said, flush=True)


def check(name: str, runtime: str, folder: Path) -> None:
    made = reference(name, folder)
    spread = made.vectors - made.vectors.mean(axis=0)
    apart = np.linalg.norm(spread, axis=1).min() / np.linalg.norm(made.vectors, axis=1).max()
    assert apart > 1e-4  # far above what float32 rounds to
    ours, drift = embedded(name, made, folder / runtime, runtime=runtime)
    whole, centred = cosines(ours, made.vectors)
    tell(
        f"{name} {runtime}: cosine {whole:.9f}, centred {centred:.9f}, "
        f"drift {drift:.1e}, images apart {apart:.1e}"
    )
    assert whole >= 0.9999
    assert centred >= 0.999


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize("name", FAST)
def test_torchvision__frozen__is_what_torchvision_itself_makes(tmp_path, name, runtime):
    check(name, runtime, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
@pytest.mark.parametrize("name", sorted(set(DIMS) - set(FAST)))
def test_torchvision__frozen_slowly__is_what_torchvision_itself_makes(tmp_path, name, runtime):
    check(name, runtime, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", SHORT)
def test_torchvision__short_floats__point_as_torchvisions_vectors_do(
    tmp_path, monkeypatch, name, precision
):
    """Whatever freeze would say of their drift, which hangs on the weights."""
    least, most = frozen.TOLERANCE[precision]
    monkeypatch.setitem(frozen.TOLERANCE, precision, (least, np.inf))
    made = reference(name, tmp_path)
    keys = {"runtime": "torch", "precision": precision}
    ours, drift = embedded(name, made, tmp_path / precision, **keys)
    whole, centred = cosines(ours, made.vectors)
    tell(
        f"{name} {precision}: cosine {whole:.6f}, centred {centred:.6f}, drift {drift:.1e} "
        f"({'within' if drift <= most else 'beyond'} {most:g})"
    )
    assert whole >= least
    assert drift > 0


def test_preprocess__plain_images__are_torchvisions_own_transform():
    """Pixel for pixel, so that what follows compares networks alone."""
    transform = models.get_model_weights("resnet18").IMAGENET1K_V1.transforms()
    recipe = frozen.Preprocessing(256, 224, "bilinear", tuple(transform.mean), tuple(transform.std))
    mean, std = (np.array(each, np.float32) for each in (transform.mean, transform.std))
    for each in PLAIN:
        ours = preprocess((frozen.PROBE / each).read_bytes(), recipe).astype(np.float32) / 255
        theirs = transform(opened(each)).permute(1, 2, 0).numpy()
        np.testing.assert_allclose((ours - mean) / std, theirs, atol=1e-6, err_msg=each)
