"""Source `torchvision`: its real loading code, on weights that the tests make."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from pipeline import architectures, files
from pipeline.backbones import torchvision
from pipeline.errors import ConfigurationError, InputError
from pipeline.params import BackboneParams

AT = "params.yaml: backbones.b"
MODEL = "mobilenet_v3_small"


def entry(**keys) -> BackboneParams:
    return BackboneParams(source="torchvision", **{"model": MODEL, **keys})


@pytest.fixture(scope="module")
def state() -> dict:
    torch.manual_seed(0)
    return models.get_model(MODEL, weights=None).state_dict()


def reference(state) -> torch.nn.Module:
    """An independent way to the penultimate layer: a hook on the last Linear's input."""
    model = models.get_model(MODEL, weights=None).eval()
    model.load_state_dict(state)
    return model


def penultimate(model, images):
    seen = []
    model.classifier[3].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(images)
    return seen[0]


def test_torchvision__weights_file__gives_the_penultimate_layer(state, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    given = entry(weights=f"file:{path}", sha256=files.sha256_of(path))
    pretrained = torchvision.SOURCE.load(given, AT, Path)
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        ours, theirs = pretrained.network.module(images), penultimate(reference(state), images)
    assert ours.shape == (2, 1024)
    assert np.array_equal(ours.numpy(), theirs.numpy())
    assert (pretrained.preprocessing.resize, pretrained.preprocessing.crop) == (256, 224)
    assert pretrained.preprocessing.interpolation == "bilinear"


def test_torchvision__tag__is_loaded_by_torchs_own_download_code(state, tmp_path, monkeypatch):
    """A file in torch's cache under the tag's name, its hash in the name, as a download leaves it."""
    plain = tmp_path / "plain.pth"
    torch.save(state, plain)
    name = f"{MODEL}-{files.sha256_of(plain)[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    tag = models.get_model_weights(MODEL).IMAGENET1K_V1
    served = tmp_path / name
    plain.rename(served)
    monkeypatch.setattr(type(tag), "url", served.as_uri(), raising=False)
    pretrained = torchvision.SOURCE.load(entry(weights="IMAGENET1K_V1"), AT, Path)
    assert (tmp_path / "home" / "hub" / "checkpoints" / name).exists()
    kept = pretrained.network.module.state_dict()
    assert all(torch.equal(kept[key], state[key]) for key in kept)


def test_torchvision__download_with_a_wrong_hash__is_refused_in_one_line(
    state, tmp_path, monkeypatch
):
    served = tmp_path / f"{MODEL}-00000000.pth"
    torch.save(state, served)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    tag = models.get_model_weights(MODEL).IMAGENET1K_V1
    monkeypatch.setattr(type(tag), "url", served.as_uri(), raising=False)
    with pytest.raises(InputError, match="file:PATH") as caught:
        torchvision.SOURCE.load(entry(), AT, Path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "resnet81"}, "did you mean 'resnet18'"),
        ({"model": None}, "model is missing"),
        ({"weights": "IMAGENET1K_V9"}, "did you mean 'IMAGENET1K_V1'"),
    ],
)
def test_torchvision__wrong_name__is_one_line_with_the_near_miss(keys, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        torchvision.SOURCE.check(entry(**keys), AT)
    assert "\n" not in str(caught.value)


def test_torchvision__model_without_a_last_linear__is_refused(tmp_path):
    path = tmp_path / "squeeze.pth"
    torch.save(models.get_model("squeezenet1_1", weights=None).state_dict(), path)
    given = entry(model="squeezenet1_1", weights=f"file:{path}", sha256=files.sha256_of(path))
    with pytest.raises(ConfigurationError, match="no Linear"):
        torchvision.SOURCE.load(given, AT, Path)


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("alexnet", 4096), ("vit_b_16", 768)])
def test_torchvision__penultimate__has_the_documented_width(name, dim):
    model = models.get_model(name, weights=None).eval()
    architectures.torchvision_without_classifier(model, AT)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 224, 224)).shape == (1, dim)


def test_torchvision__model_without_a_last_linear__gives_its_pooled_features(tmp_path):
    """SqueezeNet's classifier is a convolution: what it takes in, averaged."""
    torch.manual_seed(0)
    whole = models.get_model("squeezenet1_1", weights=None).eval()
    path = tmp_path / "squeeze.pth"
    torch.save(whole.state_dict(), path)
    given = entry(model="squeezenet1_1", weights=f"file:{path}", sha256=files.sha256_of(path))
    pretrained = torchvision.SOURCE.load(given, AT, Path)
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected = whole.features(images).mean(dim=(2, 3))
        torch.testing.assert_close(pretrained.network.module(images), expected)
    assert pretrained.classifier is None
    rebuilt = architectures.build({"source": "torchvision", "architecture": "squeezenet1_1"})
    assert rebuilt.state_dict().keys() == pretrained.network.module.state_dict().keys()


@pytest.mark.parametrize("model", ["vit_h_14", "regnet_y_128gf"])
def test_torchvision__model_without_the_default_tag__takes_the_one_not_trained_further(model):
    torchvision.SOURCE.check(entry(model=model), AT)
    url = torchvision.SOURCE.find(entry(model=model), AT, Path).download
    assert url == models.get_model_weights(model).IMAGENET1K_SWAG_LINEAR_V1.url
    with pytest.raises(ConfigurationError, match="unknown tag 'IMAGENET1K_V1'"):
        torchvision.SOURCE.check(entry(model=model, weights="IMAGENET1K_V1"), AT)


def test_torchvision__every_classification_model__passes_the_check():
    for name in models.list_models(module=models):
        torchvision.SOURCE.check(entry(model=name), AT)
