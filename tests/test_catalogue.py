"""`headstart backbones`: every figure it prints, against what is really built or published."""

import json
import re
import socket
import subprocess
import sys

import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from torchvision import models

from pipeline import files
from pipeline.backbones import catalogue, freezing
from pipeline.cli.wording import millions
from pipeline.params import BackboneParams
from tests import onnx_files, test_cli
from tests.conftest import ROOT
from tests.frozen_fixtures import LITE0
from tests.test_cli import Desk

MODEL = "mobilenet_v3_small"

desk = test_cli.desk


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and caches with nothing in them."""

    def refuse(*_args, **_keys):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def as_json(desk: Desk, *arguments: str):
    done = desk.headstart("backbones", *arguments, "--json")
    assert done.code == 0, done.text
    return json.loads(done.out)


def add(desk: Desk, name: str, **entry) -> None:
    desk.edit(lambda params: params["backbones"].update({name: entry}))


def numbers(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def last_linear(module: torch.nn.Module) -> torch.nn.Linear:
    return [part for part in module.modules() if isinstance(part, torch.nn.Linear)][-1]


def real_shapes(module: torch.nn.Module, crop: int) -> dict[str, tuple[int, ...]]:
    """What each submodule makes of an image, by a forward pass with numbers."""
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name, part in module.named_modules():
        part.register_forward_hook(
            lambda _m, _i, made, name=name: seen.setdefault(name, []).append(tuple(made.shape[1:]))
        )
    with torch.inference_mode():
        module.eval()(torch.rand(1, 3, crop, crop))
    return {name: shapes[0] for name, shapes in seen.items() if len(shapes) == 1}


def test_list__model_of_torchvision__has_the_figures_that_are_published(desk):
    (row,) = as_json(desk, f"*/{MODEL}")
    weights = models.get_model_weights(MODEL).IMAGENET1K_V1
    built = models.get_model(MODEL)
    linear = last_linear(built)
    assert row["parameters"] + row["parameters_of_classifier"] == weights.meta["num_params"]
    assert row["parameters_of_classifier"] == numbers(linear)
    assert row["dim"] == linear.in_features
    assert row["top1"] == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert row["input"] == weights.transforms().crop_size[0]
    assert (row["weights"], row["other_tags"]) == ("IMAGENET1K_V1", [])
    assert (row["at_hand"], row["where"]) == ("would be fetched", weights.url)
    (row,) = as_json(desk, "torchvision/resnet50")
    assert row["other_tags"] == ["IMAGENET1K_V2"]


def test_list__model_of_timm__has_its_own_figures_and_none_that_nobody_published(desk):
    (row,) = as_json(desk, "timm/resnet18d")
    built, config = timm.create_model("resnet18d"), timm.get_pretrained_cfg("resnet18d")
    assert row["parameters"] + row["parameters_of_classifier"] == numbers(built)
    assert row["dim"] == last_linear(built).in_features
    assert (row["input"], row["licence"]) == (config.input_size[-1], config.license)
    assert (row["weights"], row["where"]) == (config.tag, config.hf_hub_id)
    assert row["top1"] is None
    assert len(row["other_tags"]) == len(timm.list_pretrained("resnet18d.*")) - 1


def test_list__without_a_pattern__has_the_entries_and_what_is_wrong_with_them(desk):
    add(desk, "lite0", **LITE0.model_dump())
    add(desk, "chance", source="random", model=f"torchvision/{MODEL}", seed=7)
    add(desk, "lost", source="onnx", weights="file:lost.onnx", sha256="0" * 64)
    add(desk, "wrong", source="timm", model="resnet81")
    rows = {row["name"]: row for row in as_json(desk)}
    assert list(rows) == ["raw", "lite0", "chance", "lost", "wrong"]
    assert {name: (row["dim"], row["at_hand"]) for name, row in rows.items()} == {
        "raw": (768, "needs none"),
        "lite0": (1280, "yes"),
        "chance": (1024, "needs none"),
        "lost": (None, "no"),
        "wrong": (None, "no"),
    }
    assert rows["raw"]["parameters"] == 0
    assert rows["chance"]["weights"] == "seed 7"
    out = desk.headstart("backbones").out
    assert re.search(r"^lost: .*lost\.onnx does not exist", out, re.MULTILINE)
    assert re.search(r"^wrong: .*did you mean 'resnet18'", out, re.MULTILINE)
    assert out.count("wrong:") == 1


def test_list__frozen_entry__is_said_to_be(desk):
    folder = desk.folder / "artifacts" / "backbones" / "raw"
    freezing.freeze("raw", BackboneParams(source="pixels"), folder, locate=lambda p: p)
    (row,) = as_json(desk)
    assert (row["at_hand"], row["where"]) == ("frozen", str(folder))


def test_list__weights_in_torchs_cache__are_at_hand(desk, tmp_path):
    name = "torchvision/squeezenet1_1"
    url = models.get_model_weights("squeezenet1_1").IMAGENET1K_V1.url
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / url.rpartition("/")[2]
    path.write_bytes(b"not what its name says")
    assert as_json(desk, name)[0]["at_hand"] == "would be fetched"
    path = path.rename(folder / "own.pth")
    add(desk, "own", source="torchvision", model="squeezenet1_1", weights=f"file:{path}",
        sha256=files.sha256_of(path))  # fmt: skip
    assert as_json(desk, "own")[0]["at_hand"] == "yes"


def test_list__more_than_fit__says_how_many(desk, monkeypatch):
    monkeypatch.setattr("pipeline.cli.backbones.MOST", 2)
    done = desk.headstart("backbones", "list", "torchvision/vgg1?")
    assert done.out.count("torchvision/") == 2
    assert "2 more; narrow the pattern" in done.out, "vgg11, 13, 16 and 19 fit"
    assert "IMAGENET1K_V1" in done.out


def test_list__text__holds_the_figures_of_json(desk):
    (row,) = as_json(desk, f"*/{MODEL}")
    line = next(
        one for one in desk.headstart("backbones", f"*/{MODEL}").out.splitlines() if MODEL in one
    )
    for cell in (millions(row["parameters"]), row["dim"], row["input"], row["top1"], "not stated"):
        assert str(cell) in line
    assert "no, from download.pytorch.org" in line


def test_list__pattern_of_nothing__is_refused(desk):
    assert "no backbone is called like 'xyzzy'" in desk.refused(2, "backbones", "xyzzy")


def test_catalogue__without_a_project__is_there_all_the_same(desk, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert [row["name"] for row in as_json(desk, f"torchvision/{MODEL}")] == [
        f"torchvision/{MODEL}"
    ]
    assert as_json(desk, "show", f"torchvision/{MODEL}")["dim"] == 1024
    assert "no params.yaml" in desk.refused(2, "backbones")


@pytest.mark.parametrize(
    ("name", "built", "crop"),
    [
        (f"torchvision/{MODEL}", lambda: models.get_model(MODEL), 224),
        ("torchvision/regnet_y_400mf", lambda: models.get_model("regnet_y_400mf"), 224),
        ("timm/test_vit", lambda: timm.create_model("test_vit"), 160),
    ],
)
def test_show__layers__are_those_of_a_real_pass(desk, name, built, crop):
    told = as_json(desk, "show", name)
    real = real_shapes(built(), crop)
    *inner, last = told["layers"]
    assert len(inner) > 20
    classifier = next(reversed(list(built().state_dict()))).rpartition(".")[0]
    for layer in inner:
        if layer["name"] not in (classifier, classifier.rpartition(".")[0]):
            assert tuple(layer["shape"]) == real[layer["name"]], layer
    assert last["name"] == "penultimate"
    assert last["dim"] == last_linear(built()).in_features == told["dim"]


def test_show__entry__marks_what_is_taken_and_tells_the_recipe(desk):
    layers = ["penultimate", "blocks.4@gem", "pooled"]
    add(desk, "lite0", **LITE0.model_dump() | {"layers": layers})
    told = as_json(desk, "show", "lite0")
    taken = {one["name"]: one["taken"] for one in told["layers"] if one["taken"]}
    assert taken == {
        "blocks.4": ["blocks.4@gem"],
        "bn2": ["pooled"],
        "penultimate": ["penultimate"],
    }
    out = desk.headstart("backbones", "show", "lite0").out
    built = timm.create_model("tf_efficientnet_lite0")
    for said in (
        "shorter side to 256 (bicubic), centre 224 x 224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
        "the sha256 in the package's own record",
        "efficientnet-lite0-57934424.pth",
        f"{numbers(built) - numbers(built.classifier):,}, and {numbers(built.classifier):,} of the",
        "here bn2",
        "more within these",
    ):
        assert said in out
    assert re.search(
        r"^blocks\.4 +112 x 14 x 14 +avg +112 +taken as blocks\.4@gem$", out, re.MULTILINE
    )
    assert "blocks.4.0.conv_pw" not in out
    assert "blocks.4.0.conv_pw" in desk.headstart("backbones", "show", "lite0", "--all").out


def test_show__after_extract__marks_what_is_cached(desk, monkeypatch):
    folder = desk.folder / "artifacts" / "backbones" / "raw"
    entry = BackboneParams(source="pixels")
    freezing.freeze("raw", entry, folder, locate=lambda p: p)
    path = desk.folder / "artifacts" / "embeddings" / "raw.h5"
    path.parent.mkdir()
    path.touch()
    own = catalogue.look("raw", entry, locate=lambda p: p, folder=folder).frozen.fingerprint
    for fingerprint, cached in ((own, ["penultimate"]), ("other", [])):
        said = {"fingerprint": fingerprint}
        monkeypatch.setattr("pipeline.embeddings.info", lambda _path, said=said: said)
        assert as_json(desk, "show", "raw")["layers"][-1]["cached"] == cached


def test_show__layer_that_is_none__lists_those_there_are_all_the_same(desk):
    add(desk, "lite0", **LITE0.model_dump() | {"layers": ["blocks.44"]})
    out = desk.headstart("backbones", "show", "lite0").out
    assert "no layer 'blocks.44'; did you mean 'blocks.4'" in out
    assert re.search(r"^blocks\.4 ", out, re.MULTILINE)


def test_show__onnx_file__lists_its_tensors_and_without_it_one_line(desk):
    path = onnx_files.write(onnx_files.KINDS[0], desk.folder)
    add(desk, "own", **onnx_files.entry(path).model_dump())
    told = as_json(desk, "show", "own")
    model = onnx.load(path)
    held = sum(numpy_helper.to_array(one).size for one in model.graph.initializer
               if one.data_type == onnx.TensorProto.FLOAT)  # fmt: skip
    network = onnx_files.network()
    assert told["dim"] == 8
    assert told["parameters"] == held
    assert held >= numbers(network.classifier)
    path.unlink()
    assert "does not exist" in desk.refused(3, "backbones", "show", "own")


def test_show__tag_for_larger_images__has_the_tokens_of_those(desk):
    told = as_json(desk, "show", "torchvision/vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    shapes = {layer["name"]: layer["shape"] for layer in told["layers"]}
    assert told["input"] == 384
    assert shapes["encoder"] == [1 + (384 // 16) ** 2, 768]


def test_show__recipe_that_nothing_here_does__says_what_to_write(desk):
    told = as_json(desk, "show", "timm/coat_lite_medium_384")
    assert told["preprocessing"] is None
    assert told["input"] == 384
    assert "squash crops" in told["doubts"][0]


def test_show__unknown_name__names_near_misses(desk):
    line = desk.refused(2, "backbones", "show", "resnet18")
    assert "did you mean 'torchvision/resnet18' or 'timm/resnet18'" in line
    assert "'raw'" in desk.refused(2, "backbones", "show", "rawr")
    assert "'resnet18'" in desk.refused(2, "backbones", "show", "torchvision/resnet81")
    assert "'a1_in1k'" in desk.refused(2, "backbones", "show", "timm/resnet18.a1_in")
    assert "finds names" in desk.refused(2, "backbones", "show", "xyzzy")


@pytest.mark.parametrize("words", [["--help"], ["backbones", "--help"]])
def test_help__of_the_command__loads_no_torch(words):
    code = f"import sys; from pipeline.cli import parser; parser().parse_args({words})"
    loud = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(loud, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout
    assert not re.search(r"\| +(torch|timm|numpy)$", done.stderr, re.MULTILINE)
