"""Whatever a fingerprint is made of: altered anywhere, it is noticed and named."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline import embeddings, frozen, hdf5
from pipeline.cli.embeddings import verify
from pipeline.errors import IntegrityError
from pipeline.params import BackboneParams
from tests.frozen_fixtures import edit_record, pixels
from tests.test_embeddings import BACKBONE, edit_attribute, refused, write

__all__ = ["pixels"]

LEAVES = {
    "format_version": 2,
    "name": "other",
    "file": "other.onnx",
    "file_sha256": "0" * 64,
    "dim": 767,
    "weights": "other",
    "licence": "other",
    "fingerprint": "a" * 64,
    "fields.source": "random",
    "fields.architecture": "other",
    "fields.package": "timm 2",
    "fields.weights_sha256": "0" * 64,
    "fields.preprocessing.resize": 17,
    "fields.preprocessing.crop": 15,
    "fields.preprocessing.interpolation": "bicubic",
    "fields.preprocessing.mean": [0.0, 0.0, 0.1],
    "fields.preprocessing.std": [1.0, 1.0, 0.9],
    "fields.layer": "pooled",
    "fields.pooling": "mean",
    "fields.runtime": "torch",
    "fields.precision": "float16",
    "fields.storage": "float32",
    "fields.pixel_probe": "0" * 64,
    "outputs.embeddings": "0" * 64,
    "pooling": "max",
    "layers": [{"name": "x", "layer": "x", "pooling": "default", "dim": 768, "jointly": []}],
    "views": [{"view": {"number": 1, "seed": 0, "augmentation": "x"}, "pixel_probe": "0" * 64}],
}
"""Everything in backbone.json, and what it may be altered to."""


@pytest.fixture
def folder(pixels, tmp_path) -> Path:
    """The folder of a frozen backbone, to be changed."""
    return shutil.copytree(pixels, tmp_path / "raw")


def put(record: dict, leaf: str, value) -> None:
    """Set the value under a dotted name."""
    *folders, name = leaf.split(".")
    for key in folders:
        record = record[key]
    record[name] = value


def not_loaded(folder: Path, *parts: str) -> None:
    """The frozen backbone is refused in one line that has these parts."""
    with pytest.raises(IntegrityError) as error:
        frozen.load(folder)
    message = str(error.value)
    assert "\n" not in message
    for part in (*parts, "run 'dvc repro -f freeze@raw'"):
        assert part in message


def test_leaves__of_a_record__are_all_that_is_mutated_here(pixels):
    record = json.loads((pixels / frozen.RECORD).read_bytes())
    assert set(record.pop("sha256")) == set(frozen.leaves(record)) == set(LEAVES)


@pytest.mark.parametrize("leaf", LEAVES)
def test_load__one_value_altered__is_refused_and_named(folder, leaf):
    edit_record(folder, lambda record: put(record, leaf, LEAVES[leaf]), sealed=False)
    shown = f"{leaf} was altered, it is {json.dumps(LEAVES[leaf])}"
    not_loaded(folder, "format_version is 2" if leaf == "format_version" else shown)


def test_load__its_digest_altered_too__is_refused_by_the_fingerprint(folder):
    edit_record(folder, lambda record: put(record, "fields.layer", "pooled"))
    not_loaded(folder, "fingerprint of its fields is")


def test_load__digest_altered_or_gone__is_refused_and_its_field_named(folder):
    whole = (folder / frozen.RECORD).read_text()
    edit_record(folder, lambda record: record["sha256"].update(dim="0" * 64), sealed=False)
    not_loaded(folder, "dim was altered")
    (folder / frozen.RECORD).write_text(whole)
    edit_record(folder, lambda record: record["sha256"].pop("weights"), sealed=False)
    not_loaded(folder, "weights was altered")
    (folder / frozen.RECORD).write_text(whole)
    edit_record(folder, lambda record: record["sha256"].update(other="0" * 64), sealed=False)
    not_loaded(folder, "other is gone")


def test_load__record_without_digests__is_read(folder):
    edit_record(folder, lambda record: record.pop("sha256"), sealed=False)
    assert frozen.load(folder).name == "raw"


def shown(leaf: str, now, then) -> str:
    """How a field that differs is told."""
    words = [value[:12] if len(str(value)) == 64 else value for value in (now, then)]
    words = [word if isinstance(word, str) else json.dumps(word) for word in words]
    return f" {leaf} is {words[0]}, was {words[1]}; "


def seal_again(path: Path, **attributes: str) -> None:
    """Edit a file's attributes as its writer would have written them."""
    path.write_bytes(path.read_bytes()[:-73])
    for key, value in attributes.items():
        edit_attribute(path, key, value)
    hdf5.seal(path)


def test_open__one_field_altered_and_sealed_again__is_refused_and_named(tmp_path, pixels):
    backbone = frozen.load(pixels)
    leaves = {name[7:]: value for name, value in LEAVES.items() if name.startswith("fields.")}
    assert set(leaves) == set(frozen.leaves(backbone.fields))
    shutil.copytree(pixels, tmp_path / "backbones" / "raw")
    path = write(tmp_path / "embeddings" / "raw.h5", fields=backbone.fields)
    whole, said = path.read_bytes(), embeddings.info(path)["outputs"]
    for leaf, value in leaves.items():
        fields = json.loads(json.dumps(backbone.fields))
        put(fields, leaf, value)
        path.write_bytes(whole)
        seal_again(path, fingerprint_fields=json.dumps(fields, sort_keys=True))
        assert hdf5.is_sealed(path)
        refused(path, f"{leaf} was altered, it is {json.dumps(value)}", backbone.fingerprint)
        digests = json.dumps(frozen.digests(fields))
        seal_again(path, field_sha256=digests)
        refused(path, "fingerprint of its fields is", backbone.fingerprint)
        fingerprint = frozen.fingerprint_of(fields)
        outputs = [{**one, "fingerprint": fingerprint} for one in said]
        seal_again(path, fingerprint=fingerprint, outputs=json.dumps(outputs))
        with pytest.raises(IntegrityError) as error:  # a true record, of another backbone
            verify(str(path))
        assert shown(leaf, frozen.leaves(backbone.fields)[leaf], value) in str(error.value)


def test_open__file_without_digests_of_its_fields__is_read(tmp_path):
    path = write(tmp_path / "raw.h5")
    seal_again(path, field_sha256=None)
    assert embeddings.open(path).fingerprint == BACKBONE.fingerprint


RECIPES = {
    "storage": {"storage": "float32"},
    "preprocessing.resize": {"resize": 18},
    "preprocessing.interpolation": {"interpolation": "bicubic"},
    "preprocessing.mean": {"mean": [0.5, 0.0, 0.0]},
    "preprocessing.std": {"std": [1.0, 0.5, 1.0]},
}
"""A field, and what changes it in params.yaml."""


@pytest.mark.slow
@pytest.mark.parametrize("field", RECIPES)
def test_freeze__recipe_changed__is_another_fingerprint_and_the_field_named(
    pixels, tmp_path, field
):
    from pipeline.backbones import freezing

    before = frozen.load(pixels)
    changed = RECIPES[field]
    if field.startswith("preprocessing."):
        changed = {"preprocessing": {**before.preprocessing.as_dict(), **changed}}
    entry = BackboneParams(source="pixels", **changed)
    freezing.freeze("raw", entry, tmp_path / "raw", locate=Path)
    after = frozen.load(tmp_path / "raw")
    assert after.fingerprint != before.fingerprint
    shutil.copytree(tmp_path / "raw", tmp_path / "backbones" / "raw")
    path = write(tmp_path / "embeddings" / "raw.h5", fields=before.fields)
    with pytest.raises(IntegrityError) as error:
        verify(str(path))
    now, then = (frozen.leaves(one.fields)[field] for one in (after, before))
    assert shown(field, now, then) in str(error.value)
    shutil.rmtree(tmp_path / "backbones")
    assert verify(str(path)) == 0


def test_verify__backbone_beside_frozen_otherwise__names_each_field_with_both(
    pixels, tmp_path, capsys
):
    folder = shutil.copytree(pixels, tmp_path / "backbones" / "raw")
    path = write(tmp_path / "embeddings" / "raw.h5", fields=frozen.load(folder).fields)
    assert verify(str(path)) == 0
    assert capsys.readouterr().out.endswith(": ok\n")

    def change(record):
        record["fields"]["storage"] = "float32"
        record["fields"]["preprocessing"]["crop"] = 15
        record["fingerprint"] = frozen.fingerprint_of(record["fields"])

    edit_record(folder, change)
    with pytest.raises(IntegrityError) as error:
        verify(str(path))
    assert (
        f"not of the backbone in {folder}: preprocessing.crop is 15, was 16; storage is float32, "
        "was float16; run 'dvc repro extract@raw'"
    ) in str(error.value)
