"""`headstart backbones verify`: what is the original's is told so, and what is not is named by its step."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import files, frozen, verification
from pipeline.backbones import freezing
from pipeline.backbones import timm as timm_source
from pipeline.cli import verify
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.params import BackboneParams
from tests.frozen_fixtures import edit_record
from tests.test_extraction import photos
from tests.test_freezing_torch import entry, weights_file

PHOTOS = photos(5)


def noisy_photo(**options) -> bytes:
    """A JPEG, 60 x 40 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> BackboneParams:
    return entry(weights_file("timm", "test_resnet", tmp_path_factory.mktemp("w")), runtime="onnx")


@pytest.fixture(scope="module")
def folder(given, tmp_path_factory) -> Path:
    """The small network, frozen. Not to be changed."""
    folder = tmp_path_factory.mktemp("frozen") / "b"
    freezing.freeze("b", given, folder, locate=Path)
    return folder


def verified(given: BackboneParams, folder: Path, contents=None) -> verification.Verified:
    return verification.verify("b", given, folder, (contents or PHOTOS).items(), locate=Path)


def steps(found: verification.Verified) -> dict[str, int]:
    return {step.name: step.differing for step in found.steps}


def test_verify__frozen_from_its_origin__differs_in_no_step(given, folder):
    found = verified(given, folder)
    assert found.holds
    assert steps(found) == dict.fromkeys(
        ("decode", "resize and crop", "network", "stored as float16"), 0
    )
    assert (found.images, found.failed, found.top1, found.own_recipe) == (5, (), 5, False)
    assert found.whole.cosine > 0.99999
    assert 0 < found.whole.relative < 5e-3  # float16 is in it


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_verify__several_layers__are_all_compared(given, tmp_path, runtime):
    several = given.model_copy(update={"layers": ["layer2", "penultimate"], "runtime": runtime})
    freezing.freeze("b", several, tmp_path / "b", locate=Path)
    found = verified(several, tmp_path / "b")
    assert found.holds
    assert found.top1 is None  # the first is not what the classifier takes in


def test_verify__other_weights_in_the_frozen_file__is_the_network_step(given, folder, tmp_path):
    other = weights_file("timm", "test_resnet", tmp_path)
    state = torch.load(other, weights_only=True)
    torch.save({name: tensor * 1.01 for name, tensor in state.items()}, other)
    freezing.freeze("b", entry(other, runtime="onnx"), tmp_path / "b", locate=Path)
    found = verified(given, tmp_path / "b")
    assert not found.holds
    assert {name for name, count in steps(found).items() if count} == {"network"}
    assert steps(found)["network"] == 5
    assert {step.name: step.named for step in found.steps}["network"] == list(PHOTOS)[:3]


def test_verify__other_resizing_than_the_maker_s__is_the_resize_step(given, tmp_path, monkeypatch):
    real = timm_source.preprocessing

    def coarse(config, at):
        return real({**config, "interpolation": "nearest"}, at)

    monkeypatch.setattr(timm_source, "preprocessing", coarse)
    freezing.freeze("b", given, tmp_path / "b", locate=Path)
    found = verified(given, tmp_path / "b", {"noise.jpg": noisy_photo()})
    assert not found.holds
    assert {name for name, count in steps(found).items() if count} == {"resize and crop"}
    assert found.whole.relative > 1e-2


def test_verify__rotated_photo__differs_by_the_rule_and_holds(given, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    found = verified(given, folder, {"up.jpg": noisy_photo(exif=exif), **PHOTOS})
    assert found.holds
    assert steps(found)["decode"] == 1
    assert found.steps[0].named == ["up.jpg"]
    assert found.images == 6


def test_verify__plain_photo_decoded_otherwise__does_not_hold(given, folder, monkeypatch):
    real = verification.images.opened
    monkeypatch.setattr(verification.images, "opened", lambda content: real(content).rotate(180))
    exif = Image.Exif()
    exif[0x0112] = 3
    both = {"up.jpg": noisy_photo(exif=exif), "plain.jpg": noisy_photo()}
    found = verified(given, folder, both)
    assert not found.holds
    assert (found.steps[0].differing, found.steps[0].expected) == (1, 0)
    assert found.steps[0].named == ["plain.jpg"]


def test_verify__averaged_crops__says_that_the_centre_alone_is_compared(given, tmp_path):
    averaged = given.model_copy(update={"tta": "flip"})
    freezing.freeze("b", averaged, tmp_path / "b", locate=Path)
    assert verified(averaged, tmp_path / "b").tta == "flip"


def test_verify__own_preprocessing__is_not_compared_and_said_so(given, tmp_path):
    own = {"resize": 40, "crop": 32, "interpolation": "bicubic"}
    recipe = {**own, "mean": [0.5] * 3, "std": [0.5] * 3}
    mine = BackboneParams.model_validate({**given.model_dump(), "preprocessing": recipe})
    freezing.freeze("b", mine, tmp_path / "b", locate=Path)
    found = verified(mine, tmp_path / "b")
    assert found.holds
    assert found.own_recipe
    assert list(steps(found)) == ["network", "stored as float16"]


@pytest.fixture
def project(given, folder, tmp_path, monkeypatch) -> Path:
    """A project with that backbone frozen, and some photos."""
    entry = {key: value for key, value in given.model_dump().items() if value is not None}
    params = {
        "data": {"path": "photos"},
        "backbones": {"b": entry},
        "heads": {"dummy": {"kind": "dummy"}},
        "run": {"backbones": ["b"], "heads": ["dummy"]},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    shutil.copytree(folder, tmp_path / "artifacts" / "backbones" / "b")
    for name, content in {**PHOTOS, "0/broken.png": PHOTOS["0/000.png"][:50]}.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run__folder_of_photos__prints_each_step_and_what_was_left_out(project, capsys):
    assert verify.run("b", ["photos"], most=50) == 0
    said = capsys.readouterr().out
    assert "b: 5 images through its maker's code and through the frozen file" in said
    assert "the original classifier's top-1 agrees on 5 of 5" in said
    assert "left out: photos/0/broken.png: truncated" in said
    assert "notes.txt" not in said
    assert verify.run("b", ["photos/1"], most=1, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["holds"], told["steps"][0]["name"]) == (1, True, "decode")


def test_run__photo_of_another_size_to_pillow__is_json_all_the_same(project, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    (project / "photos" / "up.jpg").write_bytes(noisy_photo(exif=exif))
    assert verify.run("b", ["photos/up.jpg"], most=1, as_json=True) == 0
    step = json.loads(capsys.readouterr().out)["steps"][0]
    assert (step["largest"], step["expected"], step["holds"]) == (None, 1, True)
    assert verify.run("b", ["photos/up.jpg"], most=1) == 0
    assert "another size" in capsys.readouterr().out


def test_run__model_file_of_other_weights__exits_with_the_step(project, tmp_path):
    """Its record says that it is the original's, which no digest can contradict."""
    other = weights_file("timm", "test_resnet", tmp_path)
    state = torch.load(other, weights_only=True)
    torch.save({name: tensor * 1.01 for name, tensor in state.items()}, other)
    freezing.freeze("b", entry(other, runtime="onnx"), tmp_path / "other", locate=Path)
    folder = project / "artifacts" / "backbones" / "b"
    shutil.copy(tmp_path / "other" / "model.onnx", folder)
    digest = files.sha256_of(folder / "model.onnx")
    edit_record(folder, lambda record: record.update(file_sha256=digest))
    assert frozen.load(folder).name == "b"
    with pytest.raises(IntegrityError, match="step 'network' makes something else of 5 images"):
        verify.run("b", ["photos"], most=50)


@pytest.mark.parametrize(
    ("paths", "error", "words"),
    [
        (["nowhere"], ConfigurationError, "nowhere is not there"),
        (
            ["photos/notes.txt"],
            InputError,
            "no image to compare on: photos/notes.txt: unsupported_format",
        ),
        ([], InputError, "run 'dvc repro prepare'"),
    ],
)
def test_run__no_images__is_one_line(project, paths, error, words):
    with pytest.raises(error, match=words):
        verify.run("b", paths, most=9)


def test_run__not_frozen_yet__says_what_to_type(project):
    shutil.rmtree(project / "artifacts" / "backbones")
    with pytest.raises(InputError, match=r"run 'dvc repro freeze@b'"):
        verify.run("b", ["photos"], most=9)
