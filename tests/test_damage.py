"""Damage to what is kept: every flipped bit is found, named, and mended or computed anew."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline import catalog, embeddings, frozen, hdf5
from pipeline.errors import IntegrityError
from pipeline.extraction import Places
from pipeline.store import LostRowsError, Store
from tests.frozen_fixtures import pixels
from tests.test_embeddings import ask_here
from tests.test_extraction import photos, places_in, run, write_photos

__all__ = ["pixels"]

IMAGES = 120


class Kept:
    """An extraction's files, whole, and what finds damage in each."""

    def __init__(self, places: Places, capsys) -> None:
        self.places, self.capsys = places, capsys
        self.store = places.store / frozen.load(places.backbone).fingerprint
        shards = sorted(self.store.glob("*.h5"))
        assert len(shards) >= 3
        self.kinds = {
            "shard": shards,
            "tracked": [places.embeddings],
            "index": list(self.store.glob("*.index")),
            "probe": [self.store / "probe.npy"],
            "record": [places.backbone / frozen.RECORD],
            "model": [places.backbone / "model.onnx"],
        }
        self.whole = {path: path.read_bytes() for paths in self.kinds.values() for path in paths}
        opened = hdf5.open_plain(places.embeddings)
        self.places_of = {
            name: range(array.offset, array.offset + array.nbytes)
            for name, array in opened.arrays.items()
        }

    def restore(self) -> None:
        for path, content in self.whole.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def found(self, kind: str, path: Path) -> str:
        """What is told of the damaged file; fails where nothing is."""
        if kind in ("shard", "index", "probe"):
            store = Store(self.places.store, self.store.name)
            store.refresh()
            if kind == "shard":  # which is listed, and read where its rows are taken
                with pytest.raises(LostRowsError):
                    list(store.blocks(catalog.opened(self.places.images).digests()))
            assert not path.exists() or kind == "index"  # that is made anew at once
            return self.capsys.readouterr().err
        with pytest.raises(IntegrityError) as error:
            if kind == "tracked":
                embeddings.open(path)
            else:
                frozen.load(self.places.backbone)
        return str(error.value)

    def check_mended(self, kind: str) -> None:
        """A run of extract, or of freeze where it is the backbone, brings back the same bytes."""
        if kind in ("record", "model"):
            with pytest.raises(IntegrityError, match="run 'dvc repro -f freeze@raw'"):
                run(self.places)
            self.restore()
        summary = run(self.places)
        assert summary.computed + summary.reused == IMAGES
        assert (summary.computed > 0) == (kind == "shard")
        tracked = self.places.embeddings
        assert tracked.read_bytes() == self.whole[tracked]
        self.capsys.readouterr()


@pytest.fixture
def kept(pixels, tmp_path, monkeypatch, capsys) -> Kept:
    write_photos(tmp_path, photos(IMAGES))
    places = places_in(tmp_path, shutil.copytree(pixels, tmp_path / "raw"))
    run(places)
    return Kept(places, capsys)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def flip_bits(kept: Kept, monkeypatch, count: int, mended: int) -> Counter[str]:
    """Flip bits one at a time, and run again after every so many; how many by kind of file."""
    random = np.random.default_rng(count)
    flips = Counter[str]()
    for number in range(count):
        kind = str(random.choice(list(kept.kinds), p=[0.35, 0.35, 0.1, 0.08, 0.06, 0.06]))
        path = kept.kinds[kind][int(random.integers(len(kept.kinds[kind])))]
        bit = int(random.integers(8 * len(kept.whole[path])))
        flip(path, bit)
        with monkeypatch.context() as here:
            inside = [name for name, there in kept.places_of.items() if bit // 8 in there]
            if inside and kind == "tracked":
                ask_here(here)
            said = kept.found(kind, path)
        assert path.name in said, (kind, bit)
        if inside and kind == "tracked":
            assert f"dataset {inside[0]} is damaged" in said
        if number % mended == 0:
            kept.check_mended(kind)
        kept.restore()
        flips[kind] += 1
    return flips


def test_kept__300_bits_flipped__are_all_found_named_and_mended(kept, monkeypatch):
    flips = flip_bits(kept, monkeypatch, 300, mended=30)
    assert min(flips[kind] for kind in kept.kinds) >= 10


@pytest.mark.slow
def test_kept__10000_bits_flipped__are_all_found_named_and_mended(kept, monkeypatch):
    flips = flip_bits(kept, monkeypatch, 10_000, mended=50)
    print(dict(flips))
    assert sum(flips.values()) == 10_000


def spans(kept: Kept, path: Path) -> tuple[int, int]:
    """Where the vectors of a shard or of the tracked file lie, and the bytes of a row."""
    array = hdf5.open_plain(path).arrays["embeddings"]
    return array.offset, array.shape[1] * array.dtype.itemsize


def zero_a_chunk(content: bytearray, start: int, row: int) -> None:
    content[start + row : start + 3 * row] = bytes(2 * row)


def swap_rows(content: bytearray, start: int, row: int) -> None:
    first, second = slice(start, start + row), slice(start + 2 * row, start + 3 * row)
    content[first], content[second] = content[second], content[first]


def ones_for_zeros(content: bytearray, start: int, row: int) -> None:
    at = content.index(bytes(4))
    content[at : at + 4] = b"\xff" * 4


def truncate(content: bytearray, start: int, row: int) -> None:
    del content[-100:]


def append(content: bytearray, start: int, row: int) -> None:
    content += b"\0" * 100


DAMAGES = [zero_a_chunk, swap_rows, ones_for_zeros, truncate, append]


@pytest.mark.parametrize("kind", ["shard", "index", "tracked", "probe", "record", "model"])
def test_kept__damaged_at_large__is_found_named_and_mended(kept, kind):
    path = kept.kinds[kind][0]
    start, row = spans(kept, path) if kind in ("shard", "tracked") else (10, 40)
    for spoil in DAMAGES:
        if kind == "record" and spoil is ones_for_zeros:
            continue  # a text has no zeros
        kept.restore()
        content = bytearray(kept.whole[path])
        spoil(content, start, row)
        assert content != kept.whole[path]
        path.write_bytes(content)
        said = kept.found(kind, path)
        assert path.name in said
        if kind == "tracked" and spoil in (zero_a_chunk, swap_rows):
            assert "dataset embeddings is damaged" in said
        path.write_bytes(content)
        kept.check_mended(kind)
