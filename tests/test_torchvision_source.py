"""Source `torchvision`: its real loading code, on weights that the tests make."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

from pipeline import architectures, files
from pipeline.backbones import torchvision
from pipeline.errors import ConfigurationError
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


def test_torchvision__model_without_a_last_linear__gives_its_pooled_features():
    whole = models.get_model("squeezenet1_1", weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = whole.features(images).mean(dim=(2, 3))
        body, classifier = architectures.torchvision_parts(whole, AT)
        np.testing.assert_allclose(body(images), expected, rtol=1e-5)
    assert classifier is None


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("alexnet", 4096), ("vit_b_16", 768)])
def test_torchvision__penultimate__has_the_documented_width(name, dim):
    model = models.get_model(name, weights=None).eval()
    body, classifier = architectures.torchvision_parts(model, AT)
    with torch.inference_mode():
        assert body(torch.rand(1, 3, 224, 224)).shape == (1, dim)
    assert classifier.in_features == dim


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
