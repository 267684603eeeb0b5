"""A frozen backbone's record: its identity, and what is refused when it does not hold."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline import files, frozen, images
from pipeline.errors import IntegrityError
from pipeline.frozen import TOLERANCE, Drift, FrozenBackbone
from pipeline.images import Preprocessing
from tests.frozen_fixtures import edit_record, pixels
from tests.make_probe import corrected

__all__ = ["pixels"]

FIELDS = {
    "source",
    "architecture",
    "package",
    "weights_sha256",
    "preprocessing",
    "layer",
    "pooling",
    "runtime",
    "precision",
    "storage",
    "pixel_probe",
}


@pytest.fixture
def folder(pixels, tmp_path):
    """A copy of the frozen backbone that a test may damage."""
    return shutil.copytree(pixels, tmp_path / "raw")


def refused(folder, *parts: str) -> None:
    with pytest.raises(IntegrityError) as error:
        frozen.load(folder)
    message = str(error.value)
    assert "\n" not in message
    for part in (*parts, "freeze@raw"):
        assert part in message


def test_load__what_was_frozen__is_its_record(pixels):
    backbone = frozen.load(pixels)
    record = json.loads((pixels / frozen.RECORD).read_bytes())
    assert backbone.fingerprint == record["fingerprint"]
    assert backbone.fields == record["fields"]
    assert (backbone.name, backbone.dim, backbone.storage) == ("raw", 768, "float16")
    assert backbone.model == pixels / "model.onnx"
    assert backbone.preprocessing == Preprocessing(
        16, 16, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    )


def test_write__record_that_was_loaded__is_written_with_the_same_bytes(folder):
    before = (folder / frozen.RECORD).read_bytes()
    frozen.write(frozen.load(folder))
    assert (folder / frozen.RECORD).read_bytes() == before


def test_fingerprint__is_made_of_what_defines_an_embedding_and_nothing_else(pixels):
    backbone = frozen.load(pixels)
    assert set(backbone.fields) == FIELDS
    elsewhere = replace(
        backbone,
        folder=pixels / "elsewhere",
        name="other",
        file_sha256="0" * 64,
        licence="other",
        weights="other",
    )
    assert elsewhere.fingerprint == backbone.fingerprint
    reordered = dict(reversed(backbone.fields.items()))
    assert frozen.fingerprint_of(reordered) == backbone.fingerprint


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_fingerprint__any_field_changed_or_left_out__is_another(pixels, field):
    backbone = frozen.load(pixels)
    value = backbone.fields[field]
    other = {**value, "crop": 15} if isinstance(value, dict) else f"{value}."
    without = {name: kept for name, kept in backbone.fields.items() if name != field}
    fingerprints = {
        backbone.fingerprint,
        frozen.fingerprint_of({**backbone.fields, field: other}),
        frozen.fingerprint_of(without),
    }
    assert len(fingerprints) == 3


@pytest.mark.parametrize("key", ["resize", "crop", "interpolation", "mean", "std"])
def test_fingerprint__any_part_of_the_preprocessing_changed__is_another(pixels, key):
    backbone = frozen.load(pixels)
    changed = {"interpolation": "nearest", "mean": [0.0, 0.0, 0.1], "std": [1.0, 1.0, 0.9]}
    recipe = {**backbone.fields["preprocessing"], key: changed.get(key, 17)}
    assert frozen.fingerprint_of({**backbone.fields, "preprocessing": recipe}) != (
        backbone.fingerprint
    )


@pytest.mark.parametrize("field", sorted(FIELDS - {"preprocessing"}))
def test_load__edited_field__is_refused_with_both_fingerprints(folder, field):
    before = frozen.load(folder).fingerprint
    edited = {"precision": "float16", "storage": "float32"}.get(field, "edited")
    edit_record(folder, lambda record: record["fields"].update({field: edited}))
    refused(folder, "fingerprint of its fields is", before)


def test_load__edited_fingerprint__is_refused_with_both_values(folder):
    true = frozen.load(folder).fingerprint
    edit_record(folder, lambda record: record.update(fingerprint="a" * 64))
    refused(folder, f"is {true}, recorded {'a' * 64}")


def test_load__edited_model_file__is_refused_with_both_digests(folder):
    recorded = frozen.load(folder).file_sha256
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    actual = files.sha256_of(folder / "model.onnx")
    refused(folder, f"file_sha256 is {actual}, recorded {recorded}")


def test_load__pillow_that_makes_other_pixels__is_refused_with_both_probes(folder, monkeypatch):
    recorded = frozen.load(folder).fields["pixel_probe"]
    pixels = frozen.probe_pixels(frozen.load(folder).preprocessing).copy()
    pixels[3, 5, 7, 1] ^= 1
    monkeypatch.setattr(frozen, "probe_pixels", lambda _, views: pixels)
    actual = frozen.pixel_probe(frozen.read(folder).preprocessing)
    assert actual != recorded
    refused(folder, f"pixel_probe is {actual}", f"recorded {recorded}", "Pillow")


def test_load__pillow_that_makes_the_same_pixels__is_accepted(folder, monkeypatch):
    monkeypatch.setattr("PIL.__version__", "99.0")
    assert frozen.load(folder).name == "raw"


def test_load__model_file_missing_or_elsewhere__is_refused(folder):
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").unlink()
    refused(folder, "model.onnx is missing")
    (folder.parent / "model.onnx").write_bytes(content)
    edit_record(folder, lambda record: record.update(file="../model.onnx"))
    refused(folder, "is damaged")


def test_load__no_record__is_refused(tmp_path):
    refused(tmp_path / "raw", "backbone.json is missing")


BROKEN = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "<html>",
    "a list": lambda text: "[]",
    "a number": lambda text: "3",
    "not UTF-8": lambda text: "\udcff",
    "no fields": lambda text: text.replace('"fields"', '"felds"'),
    "no dim": lambda text: text.replace('"dim": 768,', ""),
    "fields no mapping": lambda text: json.dumps({**json.loads(text), "fields": 3}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_load__broken_record__is_refused_in_one_line(folder, kind):
    path = folder / frozen.RECORD
    text = BROKEN[kind](path.read_text())
    path.write_bytes(text.encode(errors="surrogateescape"))
    refused(folder, "backbone.json is damaged")


@pytest.mark.parametrize("field", ["preprocessing", "precision", "storage", "pixel_probe"])
def test_load__record_of_a_newer_program_that_lacks_a_field__is_refused(folder, field):
    def drop(record):
        del record["fields"][field]
        record["fingerprint"] = frozen.fingerprint_of(record["fields"])

    edit_record(folder, drop)
    refused(folder, "backbone.json is damaged", field)


def test_load__record_of_another_format__is_refused_with_both_versions(folder):
    edit_record(folder, lambda record: record.update(format_version=2))
    refused(folder, "format_version is 2, not 1")


def test_probe__images__cover_what_decoders_differ_in_and_are_told_apart():
    recipe = Preprocessing(32, 32, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    names = {path.name for path in frozen.PROBE.iterdir()}
    assert {"cmyk.jpg", "rotated.jpg", "grey16.png", "palette.png", "alpha.png"} <= names
    images = frozen.probe_pixels(recipe)
    assert images.shape == (len(names), 32, 32, 3)
    assert images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == len(images)
    assert not images.flags.writeable


@pytest.mark.parametrize("name", sorted(corrected()))
def test_probe__kinds_that_pillow_reads_wrong__are_in_it_and_come_out_otherwise(name):
    """So a change in how they are corrected is another fingerprint."""
    content = (frozen.PROBE / name).read_bytes()
    assert content == corrected()[name]
    ours = images.decode(content).astype(int)
    try:
        with Image.open(io.BytesIO(content)) as image:
            by_itself = np.asarray(image.convert("RGB")).astype(int)
    except OSError:
        return  # refused, where ours is decoded
    assert np.abs(ours - by_itself).max() > 0


def test_probe__hidden_file_beside_it__changes_nothing(tmp_path, monkeypatch):
    recipe = Preprocessing(20, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    before = frozen.pixel_probe(recipe)
    copy = shutil.copytree(frozen.PROBE, tmp_path / "probe")
    (copy / ".DS_Store").write_bytes(b"\0")
    (copy / ".rgb.png.partial").write_bytes(b"\0")
    monkeypatch.setattr(frozen, "PROBE", copy)
    frozen.probe_pixels.cache_clear()
    assert frozen.pixel_probe(recipe) == before


@pytest.mark.parametrize("key", ["resize", "crop", "interpolation"])
def test_probe__recipe_that_makes_other_pixels__has_another_digest(key):
    recipe = Preprocessing(24, 16, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    changed = {"resize": 25, "crop": 17, "interpolation": "nearest"}
    assert frozen.pixel_probe(recipe) != frozen.pixel_probe(replace(recipe, **{key: changed[key]}))


def vectors(rows: int = 13, dim: int = 32) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)


def test_drift__equal_probes__is_none():
    assert frozen.drift(vectors(), vectors()) == Drift(cosine=1.0, relative=0.0)
    assert frozen.drift(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)).relative == 0


def test_drift__one_row_turned__is_the_lowest_cosine():
    reference = np.zeros((4, 2), np.float32)
    reference[:, 0] = 2.0
    measured = reference.copy()
    measured[2] = [2 * np.cos(0.3), 2 * np.sin(0.3)]
    found = frozen.drift(measured, reference)
    assert found.cosine == pytest.approx(np.cos(0.3), abs=1e-6)
    assert found.relative == pytest.approx(2 * np.sin(0.3) / np.sqrt(2), abs=1e-6)


def test_drift__row_that_vanished__has_cosine_0():
    measured = vectors()
    measured[5] = 0
    assert frozen.drift(measured, vectors()).cosine == 0


def moved(by: float) -> np.ndarray:
    """The reference with one value moved by `by` times its RMS."""
    measured = vectors().astype(np.float64)
    measured[1, 2] += by * np.sqrt((measured**2).mean())
    return measured.astype(np.float32)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_check_drift__largest_difference__is_held_to_the_precision(precision):
    _, most = TOLERANCE[precision]
    found = frozen.check_drift(moved(0.9 * most), vectors(), precision=precision, what="x")
    assert found.relative == pytest.approx(0.9 * most, rel=1e-2)
    with pytest.raises(IntegrityError, match=rf"x: .* max \|d\| / RMS .* \(at most {most:g}\)"):
        frozen.check_drift(moved(1.1 * most), vectors(), precision=precision, what="x")


@pytest.mark.parametrize("precision", TOLERANCE)
def test_check_drift__cosine__is_held_to_the_precision(precision, monkeypatch):
    least, _ = TOLERANCE[precision]
    monkeypatch.setitem(TOLERANCE, precision, (least, 1e9))
    reference = np.zeros((3, 2), np.float32)
    reference[:, 0] = 1
    for turned, refused in ((np.arccos(least) * 0.9, False), (np.arccos(least) * 1.1, True)):
        measured = reference.copy()
        measured[1] = [np.cos(turned), np.sin(turned)]
        if not refused:
            frozen.check_drift(measured, reference, precision=precision, what="x")
            continue
        with pytest.raises(IntegrityError, match=rf"cosine 0\.9\d+ \(at least {least}\)"):
            frozen.check_drift(measured, reference, precision=precision, what="x")


def test_tolerance__is_what_the_design_says():
    assert TOLERANCE == {
        "float32": (0.9999, 1e-3),
        "float16": (0.999, 1e-2),
        "bfloat16": (0.99, 5e-2),
    }


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["measured", "reference", "both"])
def test_check_drift__value_that_is_not_finite__is_refused(value, where):
    sets = {"measured": vectors(), "reference": vectors()}
    for name in sets if where == "both" else [where]:
        sets[name][4, 4] = value
    with pytest.raises(IntegrityError, match="the embedding probe drifts"):
        frozen.check_drift(**sets, precision="bfloat16", what="x")


def test_check_drift__probe_of_another_shape__is_refused_with_both():
    with pytest.raises(IntegrityError, match=r"probe of shape \(13, 31\), expected \(13, 32\)"):
        frozen.check_drift(vectors(dim=31), vectors(), precision="float32", what="x")


def test_frozen_backbone__is_a_record_of_plain_values(pixels):
    """What travels: nothing in it that JSON could not hold."""
    record = json.loads((pixels / frozen.RECORD).read_bytes())
    derived = {"format_version", "fingerprint", "sha256", "layers", "views", "outputs"}
    made = FrozenBackbone(
        folder=pixels, **{key: record[key] for key in record.keys() - derived}
    )  # of an older record, which has one layer and no view
    assert made == frozen.load(pixels)
