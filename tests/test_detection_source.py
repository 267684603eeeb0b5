"""The trunks of torchvision's detection models, beside torchvision's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from pipeline import architectures, backbones, files, frozen, runtimes
from pipeline.architectures import detection as trunks
from pipeline.backbones import SOURCES, calibration, detection, freezing
from pipeline.errors import ConfigurationError, InputError
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams
from tests.contracts import load

AT = "params.yaml: backbones.b"
SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
RECIPE = Preprocessing(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LEVELS = {"mobilenet_v3_large": 3, "resnet50": 5}


def calibrated_state(name: str) -> dict:
    """A detector's weights as a COCO file has them: frozen batch normalisation, without counters."""
    torch.manual_seed(0)
    whole = models.get_model(name, weights=None, weights_backbone=None)
    calibration.calibrate(trunks.Trunk(whole), RECIPE)
    if name.endswith("_v2"):
        return whole.state_dict()
    state = whole.state_dict()
    return {key: tensor for key, tensor in state.items() if "num_batches_tracked" not in key}


def of_torchvision(name: str, state: dict) -> torch.nn.Module:
    """What torchvision itself makes of its tag, with this state instead of a download."""
    tag = models.get_model_weights(name).COCO_V1
    tag.get_state_dict = lambda **_: state
    try:
        return models.get_model(name, weights=tag).eval()
    finally:
        del tag.get_state_dict


def expected(name: str, state: dict, images: np.ndarray) -> np.ndarray:
    """The levels of its backbone, averaged, by torchvision alone."""
    whole = of_torchvision(name, state)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (RECIPE.mean, RECIPE.std))
    with torch.inference_mode():
        levels = whole.backbone((pixels - mean) / std)
        return torch.cat([level.mean((2, 3)) for level in levels.values()], 1).numpy()


def frozen_as(runtime: str, name: str, path: Path, folder: Path) -> frozen.FrozenBackbone:
    given = BackboneParams(
        source="torchvision",
        model=name,
        weights=f"file:{path}",
        sha256=files.sha256_of(path),
        runtime=runtime,
    )
    freezing.freeze("b", given, folder / runtime, locate=Path)
    assert backbones.already_frozen(given, folder / runtime) is not None
    return frozen.load(folder / runtime)


def alike(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Cosine, and cosine without what all images share."""
    for a, b in ((ours, theirs), (ours - theirs.mean(0), theirs - theirs.mean(0))):
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() >= 0.9999


def check(name: str, folder: Path, *of: str) -> None:
    state = calibrated_state(name)
    path = folder / "coco.pth"
    torch.save(state, path)
    images = frozen.probe_pixels(RECIPE)[::3].copy()
    theirs = expected(name, state, images)
    assert np.linalg.norm(theirs - theirs.mean(0)) > 0.05 * np.linalg.norm(theirs)
    dim = 256 * next(count for body, count in LEVELS.items() if body in name)
    for runtime in of:
        backbone = frozen_as(runtime, name, path, folder)
        assert backbone.preprocessing == RECIPE
        assert backbone.dim == dim
        alike(load(backbone, 2).embed(images), theirs)


def test_detector__frozen__is_torchvisions_backbone_averaged(tmp_path):
    check(SMALL, tmp_path, "torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", detection.models())
def test_detector__each_on_both_runtimes__is_torchvisions_backbone_averaged(tmp_path, name):
    check(name, tmp_path, *runtimes.RUNTIMES)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_detector__architecture__is_what_torchvision_builds_for_its_weights(name):
    """Without their weights: frozen or not, and the epsilon."""
    bare = models.get_model(name, weights=None, weights_backbone=None).state_dict()
    theirs = dict(of_torchvision(name, bare).backbone.named_modules())
    fields = {"source": "torchvision", "architecture": name, "package": ""}
    ours = architectures.build({**fields, "preprocessing": {"crop": 224}})
    found = {key: part for key, part in ours.named_modules() if key}
    assert found.keys() == theirs.keys() - {""}
    for key, part in found.items():
        assert type(part) is type(theirs[key])
        assert getattr(part, "eps", None) == getattr(theirs[key], "eps", None)


def test_detector__layers__are_named_as_torchvision_names_them(tmp_path):
    given = BackboneParams(source="random", model=f"torchvision/{SMALL}")
    network = SOURCES["random"].load(given, AT, Path).network
    layers = {layer.name: layer.shape for layer in network.layers(RECIPE)}
    assert layers["fpn.layer_blocks.0"] == (256, 7, 7)
    assert layers["body.16"] == (960, 7, 7)
    assert layers["penultimate"] == (768,)


def test_detector__tag__is_downloaded_whole_and_its_trunk_taken(tmp_path, monkeypatch):
    state = calibrated_state(SMALL)
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    served = plain.rename(tmp_path / f"{SMALL}-{files.sha256_of(plain)[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    tag = models.get_model_weights(SMALL).COCO_V1
    monkeypatch.setattr(type(tag), "url", served.as_uri(), raising=False)
    given = BackboneParams(source="torchvision", model=SMALL)
    source = backbones.check("b", given)
    assert source.find(given, AT, Path).download == served.as_uri()
    kept = source.load(given, AT, Path).network.module.state_dict()
    assert all(torch.equal(tensor, state[f"backbone.{key}"]) for key, tensor in kept.items())
    assert source.find(given, AT, Path).file is not None


def test_detector__file_of_a_classifier__is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(models.mobilenet_v3_large().state_dict(), path)
    given = BackboneParams(
        source="torchvision", model=SMALL, weights=f"file:{path}", sha256=files.sha256_of(path)
    )
    with pytest.raises(InputError, match="made for another architecture") as error:
        SOURCES["torchvision"].load(given, AT, Path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "fasterrcnn_resnet50_fpm"}, "did you mean 'fasterrcnn_resnet50_fpn'"),
        ({"model": "ssd300_vgg16"}, "unknown model 'ssd300_vgg16'"),
        ({"model": SMALL, "weights": "COCO_V2"}, "did you mean 'COCO_V1'"),
        ({"model": "keypointrcnn_resnet50_fpn", "weights": "COCO_LEGACY"}, "unknown tag"),
    ],
)
def test_detector__wrong_name__is_one_line(keys, words):
    with pytest.raises(ConfigurationError) as error:
        backbones.check("b", BackboneParams(source="torchvision", **keys))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
