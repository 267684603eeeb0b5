"""Freezing for the torch runtime: one safetensors file, in the precision of the recipe."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file

from pipeline import backbones, dataset, embeddings, files, frozen, runtimes
from pipeline.architectures.restored import restore
from pipeline.backbones import SOURCES, freezing
from pipeline.errors import ConfigurationError
from pipeline.frozen import TOLERANCE
from pipeline.images import preprocess
from pipeline.params import BackboneParams, parse
from tests.test_extraction import counts, photos, places_in, run, write_photos

ROOT = Path(__file__).parents[1]
PRECISIONS = tuple(TOLERANCE)
HALVES = ("float16", "bfloat16")


def weights_file(source: str, model: str, folder: Path) -> Path:
    """Random weights of a model, as a file."""
    torch.manual_seed(0)
    make = timm.create_model if source == "timm" else torchvision.models.get_model
    old = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    path = folder / f"{model}.pth"
    torch.save(make(model, **old).state_dict(), path)
    return path


def entry(path: Path, source: str = "timm", **keys) -> BackboneParams:
    return BackboneParams(
        source=source,
        model=path.stem,
        weights=f"file:{path}",
        sha256=files.sha256_of(path),
        **{"runtime": "torch", **keys},
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return weights_file("timm", "test_resnet", tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_freeze__each_precision__is_within_its_tolerance_of_float32(weights, tmp_path, precision):
    drift = freezing.freeze("b", entry(weights, precision=precision), tmp_path / "b", locate=Path)
    least, most = TOLERANCE[precision]
    assert drift.cosine >= least
    assert drift.relative <= most
    assert (drift.relative == 0) == (precision == "float32")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "backbone.json",
        "model.safetensors",
    ]
    backbone = frozen.load(tmp_path / "b")
    assert backbone.fields["runtime"] == "torch"
    assert backbone.fields["precision"] == precision
    probe = frozen.probe_pixels(backbone.preprocessing)
    measured = runtimes.load(backbone, device="cpu").embed(probe)
    kept = restore(backbone).probe
    frozen.check_drift(measured, kept, precision=precision, what="restored")


@pytest.mark.parametrize("precision", HALVES)
def test_freeze__short_floats__are_those_of_the_file_but_for_batch_norm(
    weights, tmp_path, precision
):
    freezing.freeze("b", entry(weights, precision=precision), tmp_path / "b", locate=Path)
    tensors = load_file(tmp_path / "b" / "model.safetensors")
    found = {name: str(tensor.dtype) for name, tensor in tensors.items()}
    assert found["backbone.conv1.0.weight"] == f"torch.{precision}"
    assert found["backbone.bn1.running_var"] == found["backbone.bn1.weight"] == "torch.float32"
    assert found["backbone.bn1.num_batches_tracked"] == "torch.int64"
    assert not any("fc" in name for name in found)  # the classifier


def test_freeze__again_in_a_process_of_other_threads__gives_the_same_bytes(weights, tmp_path):
    program = """
import sys
from pathlib import Path
from pipeline.backbones import freezing
from pipeline.params import BackboneParams
given = BackboneParams.model_validate_json(sys.argv[1])
freezing.freeze("b", given, Path(sys.argv[2]), locate=Path)
"""
    given = entry(weights)
    torch.set_num_threads(2)
    freezing.freeze("b", given, tmp_path / "here", locate=Path)
    assert torch.get_num_threads() == 2
    done = subprocess.run(
        [sys.executable, "-c", program, given.model_dump_json(), str(tmp_path / "there")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "9", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "backbone.json"):
        here, there = ((tmp_path / place / name).read_bytes() for place in ("here", "there"))
        assert here == there


def test_fingerprint__runtime_and_precision__are_part_of_it(weights, tmp_path):
    made = [entry(weights, precision=precision) for precision in PRECISIONS]
    made.append(entry(weights, runtime="onnx"))
    for number, one in enumerate(made):
        freezing.freeze("b", one, tmp_path / str(number), locate=Path)
    loaded = [frozen.load(tmp_path / str(number)) for number in range(len(made))]
    assert len({backbone.fingerprint for backbone in loaded}) == len(made)
    assert len({str(backbone.fields["weights_sha256"]) for backbone in loaded}) == 1
    for number, one in enumerate(made):
        for other in range(len(made)):
            found = backbones.already_frozen(one, tmp_path / str(other))
            assert (found is not None) == (number == other)


def test_freeze__short_float_beyond_tolerance__is_refused_with_the_figure(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setitem(TOLERANCE, "bfloat16", (0.99, 1e-3))
    with pytest.raises(ConfigurationError) as error:
        freezing.freeze("b", entry(weights, precision="bfloat16"), tmp_path / "b", locate=Path)
    said = str(error.value)
    assert said.startswith("params.yaml: backbones.b: bfloat16 against float32: the embedding")
    assert said.endswith("(at most 0.001): too coarse for this network; write precision: float32")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("precision", HALVES)
def test_check__precision_that_the_onnx_runtime_has_not__says_what_to_type(weights, precision):
    with pytest.raises(ConfigurationError) as error:
        backbones.check("b", entry(weights, runtime="onnx", precision=precision))
    said = str(error.value)
    assert said.startswith("params.yaml: backbones.b.precision: runtime onnx")
    assert f"write runtime: torch for {precision}, or precision: float32" in said
    assert "\n" not in said


def test_params__precision__is_one_of_three():
    content = {
        "data": {"path": "x"},
        "heads": {"dummy": {"kind": "dummy"}},
        "run": {"backbones": ["b"], "heads": ["dummy"]},
    }
    for precision in PRECISIONS:
        given = {**content, "backbones": {"b": {"source": "pixels", "precision": precision}}}
        assert parse(given).backbones["b"].precision == precision
    given["backbones"]["b"]["precision"] = "float64"
    with pytest.raises(ConfigurationError, match="precision is 'float64'.*'bfloat16'"):
        parse(given)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_freeze__models_of_other_kinds__are_restored(tmp_path, name):
    """One gives a slice of its last layer, the other normalises by layer."""
    path = weights_file("timm", name, tmp_path)
    drift = freezing.freeze("b", entry(path, precision="float16"), tmp_path / "b", locate=Path)
    assert drift.relative > 0
    backbone = frozen.load(tmp_path / "b")
    given = np.zeros((3, backbone.preprocessing.crop, backbone.preprocessing.crop, 3), np.uint8)
    assert runtimes.load(backbone, device="cpu").embed(given).shape == (3, backbone.dim)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "mobilenet_v3_small", "vit_b_16"])
def test_freeze__torchvision__drops_what_only_training_uses(tmp_path, name):
    path = weights_file("torchvision", name, tmp_path)
    drift = freezing.freeze("b", entry(path, "torchvision"), tmp_path / "b", locate=Path)
    assert drift.relative < 1e-4
    names = load_file(tmp_path / "b" / "model.safetensors")
    assert not any("aux" in name.lower() for name in names)


def test_sources__each__can_be_frozen_for_torch(tmp_path):
    given = {
        "pixels": BackboneParams(source="pixels", runtime="torch"),
        "timm": entry(weights_file("timm", "test_resnet", tmp_path)),
        "torchvision": entry(weights_file("torchvision", "mnasnet0_5", tmp_path), "torchvision"),
        "random": BackboneParams(source="random", model="timm/test_resnet", runtime="torch"),
    }
    given["checkpoint"] = given["timm"].model_copy(
        update={"source": "checkpoint", "model": "timm/test_resnet"}
    )
    assert given.keys() == SOURCES.keys() - {"onnx"}  # whose files torch does not run
    for source, one in given.items():
        freezing.freeze(source, one, tmp_path / source, locate=Path)
        backbone = frozen.load(tmp_path / source)
        assert runtimes.load(backbone, device="cpu").version == torch.__version__
        assert backbones.already_frozen(one, tmp_path / source) is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_extract__torch_runtime__embeds_each_image_and_again_none(weights, tmp_path, precision):
    given = entry(weights, precision=precision)
    freezing.freeze("small", given, tmp_path / "small", locate=Path)
    contents = photos(9)
    write_photos(tmp_path, contents)
    places = places_in(tmp_path, tmp_path / "small")
    assert counts(run(places)) == (9, 9, 0, 0)
    backbone = frozen.load(tmp_path / "small")
    opened = embeddings.open(places.embeddings)
    listed = dataset.read_images(places.images)
    pixels = np.stack([preprocess(contents[path], backbone.preprocessing) for path in listed.path])
    expected = runtimes.load(backbone, device="cpu").embed(pixels)
    np.testing.assert_array_equal(opened.take(opened.rows(listed.sha256)), expected.astype("f2"))
    before = places.embeddings.read_bytes()
    assert counts(run(places)) == (9, 0, 9, 0)
    for execution in ({"batch_size": 2}, {"sessions": 1}, {"batch_size": 8}):
        again = places_in(tmp_path, tmp_path / "small")
        for path in places.store.rglob("*.h5"):
            path.unlink()
        run(again, **execution)
        assert places.embeddings.read_bytes() == before
