"""The tracked file: its bytes repeat, it maps, and nothing wrong with it goes unseen."""

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import attributes, embeddings, files, frozen, hdf5
from pipeline.dataset import digests
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.store import Store

ROOT = Path(__file__).parents[1]
DIM = 24

BACKBONE = FrozenBackbone(
    folder=Path("nowhere"),
    name="raw",
    file="model.onnx",
    file_sha256="0" * 64,
    dim=DIM,
    weights="default",
    licence="none needed",
    fields={"source": "pixels", "layer": "input", "storage": "float16", "precision": "float32"},
)


def dataset(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sorted digests and their vectors."""
    random = np.random.default_rng(seed)
    names = sorted(hashlib.sha256(random.bytes(8)).hexdigest() for _ in range(count))
    return digests(names), random.standard_normal((count, DIM)).astype(np.float16)


def write(path: Path, count: int = 40, **changes) -> Path:
    """A small tracked file."""
    sha256, vectors = dataset(count)
    embeddings.write(path, replace(BACKBONE, **changes), [sha256], [[vectors]], rows=count)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The bytes of a small tracked file."""
    return write(tmp_path_factory.mktemp("whole") / "raw.h5").read_bytes()


def refused(path: Path, *parts: str) -> str:
    """The message with which `open` refuses the file."""
    with pytest.raises(IntegrityError) as error:
        embeddings.open(path)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message
    return message


def test_write__shards_cut_and_ordered_otherwise__give_the_same_bytes(tmp_path):
    sha256, vectors = dataset(97)
    random = np.random.default_rng(1)
    contents = set()
    for number, rows in enumerate((97, 30, 7)):
        store = Store(tmp_path / str(number), BACKBONE.fingerprint)
        order = random.permutation(97)
        for start in range(0, 97, rows):
            part = order[start : start + rows]
            store.put(sha256[part], vectors[part])
        store.refresh()
        path = tmp_path / str(number) / "raw.h5"
        embeddings.write(path, BACKBONE, [sha256], [store.blocks([sha256])], rows=97)
        contents.add(path.read_bytes())
    one = tmp_path / "raw.h5"
    blocks = np.array_split(vectors, 9)
    embeddings.write(one, BACKBONE, np.array_split(sha256, 4), [blocks], rows=97)
    assert contents == {one.read_bytes()}


def test_write__file__holds_what_its_docstring_says(tmp_path):
    path = write(tmp_path / "raw.h5")
    sha256, vectors = dataset(40)
    with h5py.File(path) as file:
        assert set(file) == {"embeddings", "sha256"}
        assert file["embeddings"].dtype == np.float16
        assert file["embeddings"].chunks is None
        assert file["embeddings"].compression is None
        np.testing.assert_array_equal(file["embeddings"][:], vectors)
        np.testing.assert_array_equal(file["sha256"][:], sha256)
        stored = dict(file.attrs)
    assert stored.pop("format_version") == attributes.FORMAT_VERSION == 1
    assert stored.pop("dim") == DIM
    assert stored == {
        "backbone": "raw",
        "fingerprint": BACKBONE.fingerprint,
        "fingerprint_fields": json.dumps(BACKBONE.fields, sort_keys=True),
        "field_sha256": json.dumps(
            {
                name: hashlib.sha256(f'"{value}"'.encode()).hexdigest()
                for name, value in BACKBONE.fields.items()
            },
            sort_keys=True,
        ),
        "contract": json.dumps(
            {
                "batch_size": "bits",
                "device": {"least_cosine": 0.9999, "most_relative": 1e-3},
                "neighbours": "bits",
                "precision": "float32",
                "processor": {"least_cosine": 0.9999, "most_relative": 1e-3},
                "storage": "float16",
                "threads": "bits",
                "workers": "bits",
            }
        ),
        "outputs": json.dumps(
            [
                {
                    "dataset": "embeddings",
                    "dim": DIM,
                    "fingerprint": BACKBONE.fingerprint,
                    "layer": "input",
                    "view": 0,
                }
            ]
        ),
        "sha256": json.dumps(
            {
                "embeddings": hashlib.sha256(vectors.tobytes()).hexdigest(),
                "sha256": hashlib.sha256(sha256.tobytes()).hexdigest(),
            },
            sort_keys=True,
        ),
    }
    body, seal = path.read_bytes()[:-73], path.read_bytes()[-73:]
    assert seal == f"\nsha256 {hashlib.sha256(body).hexdigest()}\n".encode()


def test_write__float32_storage__keeps_float32(tmp_path):
    sha256, vectors = dataset(5)
    single = vectors.astype(np.float32) * 1e6
    fields = {**BACKBONE.fields, "storage": "float32"}
    path = tmp_path / "raw.h5"
    embeddings.write(path, replace(BACKBONE, fields=fields), [sha256], [[single]], rows=len(sha256))
    opened = embeddings.open(path)
    assert opened.vectors.dtype == np.float32
    np.testing.assert_array_equal(opened.vectors, single)


def test_open__what_was_written__comes_back_sorted_and_mapped(tmp_path):
    path = write(tmp_path / "raw.h5")
    sha256, vectors = dataset(40)
    opened = embeddings.open(path)
    assert isinstance(opened.vectors, np.memmap)
    np.testing.assert_array_equal(opened.vectors, vectors)
    np.testing.assert_array_equal(opened.sha256, sha256)
    assert (opened.sha256[:-1] < opened.sha256[1:]).all()
    assert opened.fingerprint == BACKBONE.fingerprint
    assert opened.source == "pixels"
    assert opened.attributes["fingerprint_fields"] == BACKBONE.fields
    again = np.memmap(path, np.float16, "r", opened.vectors.offset, (40, DIM))
    np.testing.assert_array_equal(again, vectors)


def test_rows_and_take__images_in_any_order__are_joined_by_their_digest(tmp_path):
    opened = embeddings.open(write(tmp_path / "raw.h5"))
    sha256, vectors = dataset(40)
    wanted = np.concatenate([sha256[[5, 0, 39]], digests(["0" * 64, "f" * 64])])
    assert opened.rows(wanted).tolist() == [5, 0, 39, -1, -1]
    taken = opened.take(opened.rows(wanted[:3]))
    assert taken.dtype == np.float32
    np.testing.assert_array_equal(taken, vectors[[5, 0, 39]].astype(np.float32))


def ask_here(monkeypatch) -> None:
    """Have damaged files looked into by this process: where HDF5's own bytes are whole, it lives."""

    def complaint(path: Path) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            embeddings.complain(path)
        return said.getvalue() or f"{path}: it was damaged or edited outside its data"

    monkeypatch.setattr(embeddings, "_complaint", complaint)


def test_open__bit_flipped_in_a_dataset__is_found_and_the_dataset_named(
    tmp_path, whole, monkeypatch
):
    ask_here(monkeypatch)
    path = tmp_path / "raw.h5"
    path.write_bytes(whole)
    places = {name: (a.offset, a.nbytes) for name, a in hdf5.open_plain(path).arrays.items()}
    random = np.random.default_rng(0)
    for number in range(200):
        name = ("embeddings", "sha256")[number % 2]
        offset, size = places[name]
        flip(path, whole, 8 * offset + int(random.integers(8 * size)))
        refused(path, f"dataset {name} is damaged", "dvc repro extract@raw")


def flip(path: Path, whole: bytes, bit: int) -> None:
    content = bytearray(whole)
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "child", ["import os; os.kill(os.getpid(), 11)", "import time; time.sleep(60)", "raise OSError"]
)
def test_open__damage_that_hdf5_does_not_survive__is_refused_all_the_same(
    tmp_path, whole, monkeypatch, child
):
    path = tmp_path / "raw.h5"
    flip(path, whole, 8000)
    monkeypatch.setattr(embeddings, "_CHILD", child)
    monkeypatch.setattr(embeddings, "CHILD_SECONDS", 1.0)
    refused(path, "damaged or edited outside its data", "dvc repro extract@raw")


def test_open__bit_flipped_in_padding_or_seal__is_found(tmp_path, whole):
    """HDF5 reads the same from such a file; it is damaged all the same."""
    path = tmp_path / "raw.h5"
    padding = whole.index(bytes(200)) + 100
    for byte in (padding, len(whole) - 30, len(whole) - 1):
        flip(path, whole, 8 * byte + 3)
        refused(path, "damaged or edited outside its data")


def test_open__byte_order_flipped_in_the_header__is_found(tmp_path, whole):
    """The bytes of the data keep their sha256 and mean something else."""
    path = tmp_path / "raw.h5"
    path.write_bytes(whole)
    vectors = hdf5.open_plain(path).arrays["embeddings"]
    header = bytes([0x11, 0x20, 0x0F, 0x00, 0x02, 0x00, 0x00, 0x00])  # IEEE float, 2 bytes
    at = whole.index(header)
    flip(path, whole, 8 * (at + 1))
    swapped = hdf5.open_plain(path).arrays["embeddings"]
    assert swapped.dtype == vectors.dtype.newbyteorder(">")
    refused(path, "damaged or edited")


@pytest.mark.parametrize("cut", [1, 73, 500, 5000])
def test_open__truncated_file__is_refused(tmp_path, whole, cut):
    path = tmp_path / "raw.h5"
    path.write_bytes(whole[:-cut])
    refused(path)


def edit_map(path: Path, name: str, change) -> None:
    place = hdf5.open_plain(path).arrays[name]
    change(np.memmap(path, place.dtype, "r+", place.offset, place.shape))


def test_open__rows_swapped_or_zeroed__are_found(tmp_path, whole):
    def swap(array):
        array[[3, 7]] = array[[7, 3]]

    def zero(array):
        array[11] = 0

    path = tmp_path / "raw.h5"
    for name, change in (("embeddings", swap), ("embeddings", zero), ("sha256", swap)):
        path.write_bytes(whole)
        edit_map(path, name, change)
        refused(path, f"dataset {name} is damaged", "recorded")


def edit_attribute(path: Path, key: str, value) -> None:
    with h5py.File(path, "r+") as file:
        if value is None:
            del file.attrs[key]
        else:
            file.attrs[key] = value


def changed_fields(**changes) -> str:
    return json.dumps({**BACKBONE.fields, **changes}, sort_keys=True)


EDITS = {
    "fingerprint": ("a" * 64, ("fingerprint of its fields is", BACKBONE.fingerprint, "a" * 64)),
    "fingerprint_fields": (changed_fields(layer="pooled"), ("fingerprint of its fields is",)),
    "dim": (DIM - 1, (f"shape (40, {DIM})", f"dim {DIM - 1}")),
    "backbone": ("other", ("damaged or edited",)),
    "format_version": (2, ("format_version is 2, not 1",)),
    "sha256": (json.dumps({"embeddings": "b" * 64, "sha256": "b" * 64}), ("dataset", "b" * 64)),
}


@pytest.mark.parametrize("key", EDITS)
def test_open__edited_attribute__is_found(tmp_path, whole, key):
    value, parts = EDITS[key]
    path = tmp_path / "raw.h5"
    path.write_bytes(whole)
    edit_attribute(path, key, value)
    refused(path, *parts)


@pytest.mark.parametrize("key", EDITS)
def test_open__attribute_removed__is_found_and_named(tmp_path, whole, key):
    path = tmp_path / "raw.h5"
    path.write_bytes(whole)
    edit_attribute(path, key, None)
    refused(path, f"no embeddings file (KeyError('{key}'))")


@pytest.mark.parametrize("value", ["not json", "[1, 2]", 7, "{}"])
def test_open__digests_that_are_none__are_refused(tmp_path, whole, value):
    path = tmp_path / "raw.h5"
    path.write_bytes(whole)
    edit_attribute(path, "sha256", value)
    refused(path)


def test_open__other_hdf5_file__is_refused(tmp_path):
    path = tmp_path / "raw.h5"
    path.write_bytes(hdf5.image({"embeddings": np.ones((2, 2))}, {}))
    refused(path, "is no embeddings file")
    refused(tmp_path / "gone.h5", "is missing")


def test_open__sealed_but_of_another_version_or_order__is_refused(tmp_path, monkeypatch):
    """A seal tells that nothing changed, not that all is right."""
    path = tmp_path / "raw.h5"
    with monkeypatch.context() as newer:
        newer.setattr(attributes, "FORMAT_VERSION", 2)
        write(path)
    assert hdf5.is_sealed(path)
    refused(path, "format_version is 2, not 1")


def test_write__unsorted_rows__are_refused_and_leave_no_file(tmp_path):
    sha256, vectors = dataset(10)
    path = tmp_path / "raw.h5"
    with pytest.raises(IntegrityError, match="not sorted by sha256"):
        embeddings.write(path, BACKBONE, [sha256[::-1]], [[vectors]], rows=10)
    assert list(tmp_path.iterdir()) == []


def test_write__too_few_rows__are_refused_and_leave_no_file(tmp_path):
    sha256, vectors = dataset(10)
    with pytest.raises(IntegrityError, match="dataset embeddings is damaged"):
        embeddings.write(tmp_path / "raw.h5", BACKBONE, [sha256], [[vectors[:9]]], rows=10)
    assert list(tmp_path.iterdir()) == []


def test_write__vectors_of_another_length_than_recorded__names_dim_with_both(tmp_path):
    sha256, vectors = dataset(10)
    with pytest.raises(IntegrityError, match=rf"dim is {DIM - 1}, .*have {DIM} values"):
        backbone = replace(BACKBONE, dim=DIM - 1)
        embeddings.write(tmp_path / "raw.h5", backbone, [sha256], [[vectors]], rows=10)
    assert list(tmp_path.iterdir()) == []


def test_write__failure_midway__keeps_the_file_that_was_there(tmp_path):
    path = write(tmp_path / "raw.h5")
    before = path.read_bytes()
    sha256, vectors = dataset(10)

    def blocks():
        yield vectors[:5]
        raise RuntimeError("worker lost")

    with pytest.raises(RuntimeError, match="worker lost"):
        embeddings.write(path, BACKBONE, [sha256], [blocks()], rows=10)
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["raw.h5"]


FULL_DISK = """
import resource, sys
from tests.test_embeddings import *
from pipeline.errors import exit_status

def main():
    sha256, vectors = dataset(400)
    blocks = np.array_split(vectors, 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
    path = Path(sys.argv[1]) / "raw.h5"
    embeddings.write(path, BACKBONE, [sha256], [iter(blocks)], rows=400)

sys.exit(exit_status(main))
"""


@pytest.mark.parametrize("share", [0.01, 0.25, 0.6, 0.9995])
def test_write__full_disk__exits_5_with_one_line_and_leaves_nothing(tmp_path, share):
    """At the start, in a block, in sha256, in the seal: HDF5 itself crashes at exit after these."""
    limit = int(share * write(tmp_path / "complete.h5", 400).stat().st_size)
    folder = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), str(limit)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("headstart: error: the disk is full")
    assert done.stderr.count("\n") == 1
    assert list(folder.iterdir()) == []


def test_info__damaged_rows__are_not_read(tmp_path, whole):
    path = tmp_path / "raw.h5"
    path.write_bytes(whole)
    edit_map(path, "embeddings", lambda array: array.fill(0))
    told = embeddings.info(path)
    assert told["datasets"] == {
        "embeddings": {"shape": [40, DIM], "dtype": "float16"},
        "sha256": {"shape": [40], "dtype": "|S64"},
    }
    assert told["fingerprint"] == frozen.fingerprint_of(BACKBONE.fields)
    assert files.json_text(told)


def test_take__row_of_no_image__is_refused(tmp_path):
    opened = embeddings.open(write(tmp_path / "raw.h5"))
    for row in (-1, len(opened.sha256)):
        with pytest.raises(IndexError):
            opened.take(np.array([0, row]))
