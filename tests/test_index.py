"""The index of a store: saves reading shards, and is never believed against them."""

import errno
import hashlib
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline import files, index, segments, shards
from pipeline.dataset import digests
from pipeline.errors import IntegrityError, ResourceError
from pipeline.store import LostRowsError, Store
from tests.conftest import ROOT
from tests.test_store import FINGERPRINT, damage, opened, put, rows, sha256s, vectors


def named(*numbers: int) -> np.ndarray:
    """Digests as images have them."""
    return digests(hashlib.sha256(str(number).encode()).hexdigest() for number in numbers)


def segments_in(root: Path) -> list[Path]:
    return sorted((root / FINGERPRINT).glob(f"*{index.ENDING}"))


@contextmanager
def reads(monkeypatch):
    """The names of the shards that are read."""
    names, real = [], shards.read
    with monkeypatch.context() as counting:
        counting.setattr(shards, "read", lambda *one: names.append(one[2]) or real(*one))
        yield names


def test_refresh__listed_shards__are_not_read_again(tmp_path, monkeypatch):
    store = Store(tmp_path, FINGERPRINT)
    for start in range(0, 40, 10):
        put(store, *range(start, start + 10))
    opened(tmp_path)
    added = put(store, 77, 78)
    with reads(monkeypatch) as read:
        found = opened(tmp_path)
        assert found.missing(sha256s(*range(40), 77, 79)).tolist() == [False] * 41 + [True]
    assert read == [added.stem]
    with reads(monkeypatch) as read:
        assert opened(tmp_path).missing(sha256s(0, 39, 77, 99)).tolist() == [False] * 3 + [True]
    assert read == []
    assert len(segments_in(tmp_path)) == 1


def test_blocks__shard_that_is_only_listed__is_checked_once_and_where_it_is_used(
    tmp_path, monkeypatch
):
    store = Store(tmp_path, FINGERPRINT)
    used, other = put(store, *range(0, 30, 2)), put(store, *range(100, 120))
    opened(tmp_path)
    monkeypatch.setattr("pipeline.store.WINDOW_BYTES", 4 * 12)
    with reads(monkeypatch) as read:
        found = opened(tmp_path)
        np.testing.assert_array_equal(rows(found, *range(0, 30, 2)), vectors(*range(0, 30, 2)))
    assert read == [used.stem]
    assert other.exists()


def test_blocks__damaged_shards_that_are_listed__are_all_named_and_deleted(tmp_path, capsys):
    store = Store(tmp_path, FINGERPRINT)
    paths = [put(store, *range(start, start + 10)) for start in range(0, 50, 10)]
    opened(tmp_path)
    for path in (paths[1], paths[3]):
        damage(path, 8 * (path.stat().st_size // 2))
    paths[4].unlink()
    found = Store(tmp_path, FINGERPRINT)
    found.refresh()
    taken = []
    with pytest.raises(LostRowsError, match="lost rows during the run; run the command again"):
        taken.extend(found.blocks([sha256s(*range(40))]))
    said = capsys.readouterr().err
    for number, path in enumerate(paths[:4]):
        assert (f"{path} is damaged" in said) == (number in (1, 3))
        assert path.exists() == (number not in (1, 3))
    found.refresh()
    expected = [number // 10 in (1, 3, 4) for number in range(50)]
    assert found.missing(sha256s(*range(50))).tolist() == expected


@pytest.mark.parametrize("spoil", ["flip", "cut", "empty", "gone"])
def test_refresh__index_damaged_or_gone__costs_reading_and_nothing_else(
    tmp_path, monkeypatch, capsys, spoil
):
    store = Store(tmp_path, FINGERPRINT)
    paths = [put(store, *range(start, start + 10)) for start in range(0, 40, 10)]
    opened(tmp_path)
    (path,) = segments_in(tmp_path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 40, replace=False):
        if spoil == "flip":
            damage(path, int(bit))
        elif spoil == "gone":
            path.unlink()
        else:
            path.write_bytes(whole[: bit // 8 if spoil == "cut" else 0])
        with reads(monkeypatch) as read:
            assert opened(tmp_path).missing(sha256s(1, 39, 40)).tolist() == [False, False, True]
        assert sorted(read) == sorted(path.stem for path in paths)
        said = capsys.readouterr().err
        assert (f"{path} is damaged" in said) == (spoil != "gone")
        assert path.read_bytes() == whole


def test_refresh__index_of_another_version__is_left_alone(tmp_path, capsys):
    store = Store(tmp_path, FINGERPRINT)
    put(store, 1, 2)
    content = b"headstart index 2\nwho knows"
    other = store.folder / f"{segments.digest(FINGERPRINT, content)}{index.ENDING}"
    other.write_bytes(content)
    assert opened(tmp_path).missing(sha256s(1, 3)).tolist() == [False, True]
    assert capsys.readouterr().err == ""
    assert other.read_bytes() == content


def test_refresh__shard_deleted_and_brought_back__is_missing_and_then_there(tmp_path, monkeypatch):
    store = Store(tmp_path, FINGERPRINT)
    gone, kept = put(store, 1, 2), put(store, 3)
    opened(tmp_path)
    content = gone.read_bytes()
    gone.unlink()
    assert opened(tmp_path).missing(sha256s(1, 2, 3)).tolist() == [True, True, False]
    gone.write_bytes(content)
    with reads(monkeypatch) as read:
        assert not opened(tmp_path).missing(sha256s(1, 2, 3)).any()
    assert read == []
    for path in (gone, kept):
        path.unlink()
    opened(tmp_path)
    assert segments_in(tmp_path) == []


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
def test_find__any_shards_in_any_segments__agrees_with_a_plain_search(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(index, "SEGMENT_ROWS", limit)
    random = np.random.default_rng(limit)
    store = Store(tmp_path, FINGERPRINT)
    held: dict[bytes, tuple[str, int]] = {}
    for step in range(30):
        numbers = random.choice(300, int(random.integers(1, 20)), replace=False)
        path = put_named(store, numbers)
        for row, name in enumerate(named(*numbers).tolist()):
            held[name] = min(held.get(name, (path.stem, row)), (path.stem, row))
        if step % 4 == 0:
            store.refresh()
    for found in (store, Store(tmp_path, FINGERPRINT)):
        found.refresh()
        names = sorted(path.stem for path in found.folder.glob("*.h5"))
        wanted = named(*random.permutation(320))
        rank, row = found._index.find(wanted)
        for name, at, number in zip(wanted.tolist(), rank, row, strict=True):
            assert held.get(name) == (None if at == segments.ABSENT else (names[at], number))
    total = sum(int(one.counts.sum()) for one in found._index._segments)
    assert len(segments_in(tmp_path)) <= 2 * total / limit + 1


def test_missing__many_segments__looks_for_more_images_at_a_time(tmp_path, monkeypatch):
    """So that the looks into segments grow with the images, not with their square."""
    monkeypatch.setattr(index, "SEGMENT_ROWS", 10)
    monkeypatch.setattr(index, "LOOKUP_ROWS", 7)
    monkeypatch.setattr(index, "LOOKUP_ROWS_A_SEGMENT", 2)
    store = Store(tmp_path, FINGERPRINT)
    for start in range(0, 200, 10):
        put_named(store, np.arange(start, start + 10))
        assert store.rows_at_once == max(7, 2 * start // 10)
        store.refresh()
    asked, real = [], segments.match
    monkeypatch.setattr(segments, "match", lambda *one: asked.append(len(one[2])) or real(*one))
    assert store.missing(named(*range(220))).tolist() == [False] * 200 + [True] * 20
    assert len(asked) == 20 * 6
    assert max(asked) == 40


def put_named(store: Store, numbers: np.ndarray) -> Path:
    return store.put(named(*numbers), vectors(*numbers))


def test_find__more_rows_than_between_two_fences__are_all_found(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "_FENCE", 8)
    store = Store(tmp_path, FINGERPRINT)
    for start in range(0, 200, 50):
        put_named(store, np.arange(start, start + 50))
    store.refresh()
    wanted = np.sort(named(*range(300)))
    here = set(named(*range(200)).tolist())
    for size in (1, 3, 50, 300):
        for start in range(0, 300, size):
            some = wanted[start : start + size]
            assert store.missing(some).tolist() == [name not in here for name in some.tolist()]


def alike(*numbers: int) -> np.ndarray:
    """Digests that begin with the same 8 bytes, which are what is sorted and searched by."""
    return digests(f"{'ab' * 8}{number:048x}" for number in numbers)


@pytest.mark.parametrize("limit", [3, 1000])
def test_store__digests_with_equal_first_8_bytes__are_told_apart(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(index, "SEGMENT_ROWS", limit)
    monkeypatch.setattr(segments, "_FENCE", 2)
    store = Store(tmp_path, FINGERPRINT)
    for numbers in ((5, 1, 9), (2, 8), (7, 3, 4)):
        store.put(alike(*numbers), vectors(*numbers))
    store.put(named(1, 2), vectors(101, 102))
    store.refresh()
    expected = [True, False, False, False, False, False, True, False, False, False, True]
    assert store.missing(alike(*range(11))).tolist() == expected
    wanted = np.concatenate([alike(8, 1, 7, 5), named(2), alike(2, 9)])
    taken = np.concatenate(list(store.blocks([wanted])))
    np.testing.assert_array_equal(taken, vectors(8, 1, 7, 5, 102, 2, 9))


def lie(root: Path, added: dict[str, np.ndarray]) -> Path:
    """Replace the index by a well-formed one that lists these rows."""
    for path in segments_in(root):
        path.unlink()
    head, records = segments.packed({name: segments.raw(sha256) for name, sha256 in added.items()})
    content = head + records.tobytes()
    path = root / FINGERPRINT / f"{segments.digest(FINGERPRINT, content)}{index.ENDING}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "said", [(2, 1, 3), (1, 2, 3, 4), (1, 2, 4)], ids=["swapped", "too many", "another"]
)
def test_blocks__index_that_lists_other_rows__is_deleted_and_not_believed(tmp_path, said):
    path = put(Store(tmp_path, FINGERPRINT), 1, 2, 3)
    false = lie(tmp_path, {path.stem: sha256s(*said)})
    store = opened(tmp_path)
    with pytest.raises(LostRowsError):
        rows(store, *said)
    assert not false.exists()
    store.refresh()
    np.testing.assert_array_equal(rows(store, 3, 2, 1), vectors(3, 2, 1))


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_refresh__index_that_cannot_be_written__is_done_without(tmp_path, monkeypatch, error):
    monkeypatch.setattr(index, "SEGMENT_ROWS", 15)
    store = Store(tmp_path, FINGERPRINT)
    for start in range(0, 40, 10):
        put(store, *range(start, start + 10))

    @contextmanager
    def refuse(path):
        raise OSError(error, "no", str(path))
        yield

    monkeypatch.setattr(files, "replacing", refuse)
    store.refresh()
    store.refresh()
    assert store.missing(sha256s(0, 39, 40)).tolist() == [False, False, True]
    np.testing.assert_array_equal(rows(store, *range(39, -1, -1)), vectors(*range(39, -1, -1)))
    assert segments_in(tmp_path) == []


def test_refresh__disk_that_fails__is_told(tmp_path, monkeypatch):
    put(Store(tmp_path, FINGERPRINT), 1)
    opened(tmp_path)
    (path,) = segments_in(tmp_path)
    real = Path.open

    def fail(self, *arguments, **named):
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(ResourceError, match=f"{path.name} cannot be read: Input/output error"):
        opened(tmp_path)
    assert path.exists()


def test_missing__segment_that_another_run_replaced__is_looked_for_anew(tmp_path):
    put(Store(tmp_path, FINGERPRINT), 1)
    reader, writer = opened(tmp_path), Store(tmp_path, FINGERPRINT)
    put(writer, 2)
    writer.refresh()
    with pytest.raises(LostRowsError):
        reader.missing(sha256s(1))
    reader.refresh()
    assert reader.missing(sha256s(1, 2, 3)).tolist() == [False, False, True]


DRIVER = """
import sys
from pathlib import Path
from pipeline import index
from tests.test_store import *

index.SEGMENT_ROWS = 64
mine = int(sys.argv[2])
store = Store(Path(sys.argv[1]), FINGERPRINT)
for start in range(0, 200, 4):
    put(store, *range(1000 * mine + start, 1000 * mine + start + 4))
    if start % 3 == 0:
        store.refresh()
"""


def test_refresh__three_runs_at_once__lose_nothing(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), str(number)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]
    for process in running:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    numbers = [1000 * mine + number for mine in range(3) for number in range(200)]
    for _ in range(2):
        np.testing.assert_array_equal(rows(opened(tmp_path), *numbers), vectors(*numbers))
    assert [path.name for path in (tmp_path / FINGERPRINT).iterdir() if path.name[0] == "."] == []


@pytest.mark.parametrize("text", ["A" * 64, "g" * 64, "ab " * 21 + "a", "0" * 63])
def test_raw__what_is_no_sha256__is_an_integrity_error(text):
    with pytest.raises(IntegrityError, match="not 64 hex digits"):
        segments.raw(digests([text]))
    assert segments.raw(digests(["0a" * 32])).tolist() == [[10] * 32]
