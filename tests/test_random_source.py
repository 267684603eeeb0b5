"""Source `random`: weights that a seed makes, calibrated so that images stay apart."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import backbones, frozen
from pipeline.architectures import named
from pipeline.backbones import SOURCES, calibration, freezing
from pipeline.backbones.network import TorchNetwork
from pipeline.errors import ConfigurationError
from pipeline.params import BackboneParams
from pipeline.taps import Tap
from tests.conftest import ROOT

AT = "params.yaml: backbones.b"
PENULTIMATE = (Tap("penultimate", "penultimate", "default"),)


def entry(**keys) -> BackboneParams:
    return BackboneParams(**{"source": "random", "model": "timm/test_resnet", **keys})


def load(given: BackboneParams):
    backbones.check("b", given)
    return SOURCES["random"].load(given, AT, Path)


def cosines(network: TorchNetwork, recipe) -> np.ndarray:
    """Between every two of the probe's images."""
    (vectors,) = network.embed(frozen.probe_pixels(recipe), recipe, PENULTIMATE)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]


def test_random__calibrated__keeps_apart_what_uncalibrated_becomes_one_vector():
    recipe = {"resize": 112, "crop": 96, "mean": [0.5] * 3, "std": [0.25] * 3}
    calibrated = load(entry(model="torchvision/resnet50", preprocessing=recipe))
    with calibration.seeded(0):
        as_made = TorchNetwork(named.parts("torchvision/resnet50").body)
    assert cosines(as_made, calibrated.preprocessing).min() > 0.99
    between = cosines(calibrated.network, calibrated.preprocessing)
    assert between.max() < 0.985
    assert between.mean() < 0.94


def test_random__calibration__leaves_each_channel_normal_on_the_probe():
    made = load(entry())
    seen = []
    layer = made.network.module.get_submodule("layer2.0.bn1")
    undone = torch.nn.BatchNorm2d(layer.num_features, affine=False)
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    made.network.embed(frozen.probe_pixels(made.preprocessing), made.preprocessing, PENULTIMATE)
    inputs = torch.cat(seen)
    torch.testing.assert_close(layer.running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.running_var, inputs.var((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert undone.momentum == layer.momentum
    assert not any(part.training for part in made.network.module.modules())


def test_random__seed__decides_every_bit_and_nothing_else_does():
    torch.manual_seed(1)
    first = load(entry(seed=5)).network.digest()
    torch.manual_seed(2)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert load(entry(seed=5)).network.digest() == first
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert load(entry(seed=6)).network.digest() != first


def test_random__another_process_with_one_core__makes_the_same_bits():
    program = (
        "from pathlib import Path; from pipeline.backbones import SOURCES\n"
        "from pipeline.params import BackboneParams\n"
        "given = BackboneParams(source='random', model='timm/test_resnet', seed=5)\n"
        "print(SOURCES['random'].load(given, 'at', Path).network.digest())"
    )
    command = ["taskset", "-c", "0"] if Path("/usr/bin/taskset").exists() else []
    done = subprocess.run(
        [*command, sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == load(entry(seed=5)).network.digest()


def test_random__global_generators__are_left_as_they_were():
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    load(entry(seed=9))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_random__other_seed__has_another_fingerprint_and_is_not_frozen_already(tmp_path):
    made = {}
    for seed in (0, 1):
        given = entry(seed=seed, runtime="torch")
        freezing.freeze("b", given, tmp_path / str(seed), locate=Path)
        made[seed] = frozen.load(tmp_path / str(seed))
    assert made[0].fingerprint != made[1].fingerprint
    assert [made[seed].weights for seed in (0, 1)] == ["seed 0", "seed 1"]
    assert made[0].licence == "none needed"
    assert backbones.already_frozen(given.model_copy(update={"seed": 0}), tmp_path / "0")
    assert backbones.already_frozen(given, tmp_path / "0") is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"weights": "IMAGENET1K_V1"}, ".weights: source random makes its own weights; delete"),
        ({"sha256": "a" * 64}, ".sha256: source random makes its own weights; delete"),
        ({"model": None}, ".model is missing; add one such as torchvision/resnet18"),
        ({"model": "resnet18"}, "write timm/resnet18 or torchvision/resnet18"),
        ({"model": "keras/resnet18"}, "write timm/resnet18 or torchvision/resnet18"),
        ({"model": "torchvision/resnet81"}, "did you mean 'torchvision/resnet18'"),
        ({"model": "timm/tset_resnet"}, "did you mean 'timm/test_resnet'"),
        ({"seed": 2**64}, ".seed is 18446744073709551616; write one below 2**64"),
    ],
)
def test_random__wrong_entry__is_one_line(keys, words):
    with pytest.raises(ConfigurationError) as error:
        backbones.check("b", entry(**keys))
    assert str(error.value).startswith(AT)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_random__preprocessing__is_that_of_the_pretrained_model_or_the_entrys():
    own = load(entry(model="torchvision/squeezenet1_1")).preprocessing
    assert (own.resize, own.crop, own.interpolation) == (256, 224, "bilinear")
    recipe = {"resize": 64, "crop": 48, "mean": [0.5] * 3, "std": [0.25] * 3}
    made = load(entry(preprocessing=recipe))
    assert (made.preprocessing.crop, made.preprocessing.std[0]) == (48, 0.25)
    assert made.transform is None
    assert load(entry()).preprocessing.crop == 160


def already(folder: Path, **keys) -> bool:
    return backbones.already_frozen(entry(**keys), folder) is not None


def test_already_frozen__layers_views_and_pooling__are_compared(tmp_path):
    recipe = {"resize": 40, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    keys = {
        "preprocessing": recipe, "layers": ["penultimate", "layer2", "layer3@gem"],
        "pooling": "max", "views": 2, "tta": "flip", "seed": 4, "runtime": "torch",
    }  # fmt: skip
    folder = tmp_path / "b"
    freezing.freeze("b", entry(**keys), folder, locate=Path)
    assert already(folder, **keys)
    for other in (
        {"layers": ["penultimate"]},
        {"layers": ["penultimate", "layer3@gem", "layer2"]},
        {"layers": ["penultimate", "layer2@avg", "layer3@gem"]},
        {"pooling": "avg"},
        {"pooling": None},
        {"views": 1},
        {"views": 3},
        {"tta": None},
        {"tta": "ten_crop"},
        {"seed": 5},
        {"runtime": "onnx"},
    ):
        assert not already(folder, **{**keys, **other}), other


def test_already_frozen__pooling__is_compared_as_it_is_written(tmp_path):
    """What it comes to depends on shapes, which nobody knows here: a vector keeps none."""
    recipe = {"resize": 40, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    keys = {"preprocessing": recipe, "layers": ["layer2"], "runtime": "torch"}
    freezing.freeze("b", entry(**keys), tmp_path / "b", locate=Path)
    assert already(tmp_path / "b", **keys)
    for other in ("avg", "gem", "flatten"):
        assert not already(tmp_path / "b", **keys, pooling=other)
    keys = {**keys, "layers": ["penultimate"], "pooling": "gem"}
    freezing.freeze("b", entry(**keys), tmp_path / "c", locate=Path)
    assert already(tmp_path / "c", **keys)
