"""images.parquet, streamed: the same rows as at once, in order, and nothing else believed."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import catalog, dataset
from pipeline.dataset import Images
from pipeline.errors import IntegrityError


@pytest.fixture
def images(tmp_path, monkeypatch) -> Images:
    """100 images, listed in tmp_path; 16 are read at a time."""
    monkeypatch.setattr(catalog, "_READ_ROWS", 16)
    names = sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in range(100))
    paths = tuple(f"é{number}/a b.png" for number in range(100))
    listed = Images(dataset.digests(names), paths, (1,) * 100)
    dataset.write_images(tmp_path / "images.parquet", listed)
    return listed


def test_digests__streamed__are_all_in_order(images, tmp_path):
    opened = catalog.opened(tmp_path / "images.parquet")
    assert opened.rows == 100
    parts = list(opened.digests(32))
    assert [len(part) for part in parts] == [32, 32, 32, 4]
    assert {part.dtype.str for part in parts} == {"|S64"}
    np.testing.assert_array_equal(np.concatenate(parts), images.sha256)


@pytest.mark.parametrize("left_out", [[], [0], [99, 3, 50], range(32), range(100)])
def test_digests__but_some__are_the_others_in_order(images, tmp_path, left_out):
    but = images.sha256[list(left_out)]
    parts = [images.sha256[:0], *catalog.opened(tmp_path / "images.parquet").digests(but=but)]
    expected = np.delete(images.sha256, list(left_out))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_digests__all_of_a_part_left_out__give_no_empty_part(images, tmp_path):
    parts = list(catalog.opened(tmp_path / "images.parquet").digests(16, but=images.sha256[96:]))
    assert [len(part) for part in parts] == [16] * 6


def test_named__chosen_rows__are_digest_and_path_in_order(images, tmp_path):
    chosen = np.random.default_rng(0).random(100) < 0.3
    chosen[16:48] = False
    named = list(catalog.opened(tmp_path / "images.parquet").named(chosen))
    rows = np.flatnonzero(chosen)
    assert named == [(images.sha256[row].decode(), images.path[row]) for row in rows]
    assert not list(catalog.opened(tmp_path / "images.parquet").named(np.zeros(100, bool)))
    sized = list(catalog.opened(tmp_path / "images.parquet").sized(chosen))
    assert sized == [(images.path[row], 1) for row in rows]


def test_opened__no_image__gives_nothing(tmp_path):
    dataset.write_images(tmp_path / "i.parquet", Images(dataset.digests([]), (), ()))
    opened = catalog.opened(tmp_path / "i.parquet")
    assert opened.rows == 0
    assert list(opened.digests()) == []
    assert list(opened.named(np.zeros(0, bool))) == []


def test_opened__missing_or_another_table__is_an_integrity_error(tmp_path):
    with pytest.raises(IntegrityError, match="is missing; run 'dvc repro prepare'"):
        catalog.opened(tmp_path / "i.parquet")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "i.parquet")
    with pytest.raises(IntegrityError, match="its columns are path"):
        catalog.opened(tmp_path / "i.parquet")


@pytest.mark.parametrize("names", [["0" * 63], ["0" * 64, "1" * 65], [None], ["0" * 64, "é" * 31]])
def test_digests__what_is_not_64_digits_long__is_an_integrity_error(tmp_path, names):
    columns = {"sha256": names, "path": ["p"] * len(names), "bytes": [1] * len(names)}
    schema = pa.schema([("sha256", pa.string()), ("path", pa.string()), ("bytes", pa.int64())])
    table = pa.table(columns, schema=schema)
    pq.write_table(table, tmp_path / "i.parquet")
    with pytest.raises(IntegrityError, match="sha256 is not 64 digits long"):
        list(catalog.opened(tmp_path / "i.parquet").digests())


def test_digests__file_damaged_inside__is_an_integrity_error(images, tmp_path):
    path = tmp_path / "images.parquet"
    content = bytearray(path.read_bytes())
    content[10:2000] = bytes(1990)
    path.write_bytes(content)
    opened = catalog.opened(path)
    with pytest.raises(IntegrityError, match="run 'dvc repro -f prepare'"):
        list(opened.digests())
