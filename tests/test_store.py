"""The store: shards are whole, found again, found damaged, and safe for several writers."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline import files, hdf5, shards
from pipeline import store as store_module
from pipeline.dataset import digests
from pipeline.errors import IntegrityError, ResourceError
from pipeline.store import Store

ROOT = Path(__file__).parents[1]
FINGERPRINT = "f" * 64


def sha256s(*numbers: int) -> np.ndarray:
    return digests(f"{number:064x}" for number in numbers)


def vectors(*numbers: int, dim: int = 6) -> np.ndarray:
    """A row an image that tells which it is."""
    return np.array([[number + column / 8 for column in range(dim)] for number in numbers], "f2")


def put(store: Store, *numbers: int) -> Path:
    return store.put(sha256s(*numbers), vectors(*numbers))


def opened(root: Path) -> Store:
    store = Store(root, FINGERPRINT)
    store.refresh()
    return store


def rows(store: Store, *numbers: int) -> np.ndarray:
    return np.concatenate(list(store.blocks([sha256s(*numbers)])))


def test_put__same_rows_twice__is_one_file_with_the_same_bytes(tmp_path):
    store = Store(tmp_path, FINGERPRINT)
    first = put(store, 1, 2, 3)
    content = first.read_bytes()
    assert put(store, 1, 2, 3) == first
    assert first.read_bytes() == content
    assert list(store.folder.iterdir()) == [first]
    assert first.parent == tmp_path / FINGERPRINT


def test_put__other_rows_vectors_types_or_fingerprint__have_other_names(tmp_path):
    store = Store(tmp_path, FINGERPRINT)
    names = [
        put(store, 1, 2).name,
        put(store, 2, 1).name,
        store.put(sha256s(1, 2), vectors(1, 3)).name,
        store.put(sha256s(1, 2), vectors(1, 2).astype("f4")).name,
        put(Store(tmp_path, "e" * 64), 1, 2).name,
    ]
    assert len(set(names)) == 5


def test_put__what_reads_back_otherwise__leaves_no_file(tmp_path, monkeypatch):
    store = Store(tmp_path, FINGERPRINT)
    monkeypatch.setattr(files, "sync", lambda path: path.is_file() and damage(path, 4711))
    with pytest.raises(IntegrityError, match="damaged"):
        put(store, 1, 2)
    assert list(store.folder.iterdir()) == []


def damage(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def test_store__flipped_bit__is_found_named_and_reported_missing(tmp_path, capsys):
    store = Store(tmp_path, FINGERPRINT)
    kept = put(store, 7, 8)
    path = put(store, *range(10, 40))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 100, replace=False):
        path.write_bytes(whole)
        damage(path, int(bit))
        found = opened(tmp_path)
        assert not path.exists()
        assert f"{path} is damaged" in capsys.readouterr().err
        assert found.missing(sha256s(7, 9, 10, 39)).tolist() == [False, True, True, True]
    assert kept.exists()
    path.write_bytes(whole)
    assert opened(tmp_path).missing(sha256s(10, 39)).tolist() == [False, False]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kept", [0, 0.1, 0.99])
def test_store__truncated_shard__is_deleted_and_computed_anew(tmp_path, kept, capsys):
    path = put(Store(tmp_path, FINGERPRINT), 1, 2)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert opened(tmp_path).missing(sha256s(1)).tolist() == [True]
    assert not path.exists()
    assert "computed anew" in capsys.readouterr().err


def test_store__shard_of_another_fingerprint_or_name__is_not_believed(tmp_path, capsys):
    path = put(Store(tmp_path, "e" * 64), 1, 2)
    moved = tmp_path / FINGERPRINT / path.name
    moved.parent.mkdir()
    moved.write_bytes(path.read_bytes())
    assert opened(tmp_path).missing(sha256s(1, 2)).all()
    assert not moved.exists()
    assert str(moved) in capsys.readouterr().err


def test_store__file_named_by_its_content_that_is_no_shard__is_deleted(tmp_path, capsys):
    content = hdf5.image({"embeddings": vectors(1)}, {})
    path = tmp_path / FINGERPRINT / f"{shards.digest(FINGERPRINT, content)}.h5"
    path.parent.mkdir()
    path.write_bytes(content)
    assert opened(tmp_path).missing(sha256s(1)).all()
    assert not path.exists()
    assert f"{path} is not a shard" in capsys.readouterr().err


def test_refresh__file_that_cannot_be_read_now__is_not_deleted(tmp_path, monkeypatch):
    path = put(Store(tmp_path, FINGERPRINT), 1)

    def out_of_files(_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as broken, pytest.raises(ResourceError, match="Too many open files"):
        broken.setattr(Path, "read_bytes", out_of_files)
        opened(tmp_path)
    assert opened(tmp_path).missing(sha256s(1)).tolist() == [False]
    assert path.exists()


def test_missing__empty_and_absent_store__is_everything(tmp_path):
    store = opened(tmp_path / "never")
    assert store.missing(sha256s(1, 2)).tolist() == [True, True]
    assert not (tmp_path / "never").exists()


def test_missing__shards_put_since__are_seen_after_a_refresh(tmp_path):
    reader, writer = opened(tmp_path), Store(tmp_path, FINGERPRINT)
    put(writer, 3, 1)
    assert reader.missing(sha256s(1, 2, 3)).all()
    reader.refresh()
    assert reader.missing(sha256s(1, 2, 3)).tolist() == [False, True, False]
    put(writer, 2)
    reader.refresh()
    assert not reader.missing(sha256s(1, 2, 3)).any()


def test_blocks__several_shards__follow_the_order_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "WINDOW_BYTES", 7 * 6 * 2)
    monkeypatch.setattr(store_module, "SCATTERED", 1)
    store = Store(tmp_path, FINGERPRINT)
    random = np.random.default_rng(1)
    numbers = random.permutation(60)
    for start in range(0, 60, 11):
        put(store, *numbers[start : start + 11])
    store.refresh()
    wanted = random.permutation(60)[:45]
    blocks = list(store.blocks([sha256s(*wanted)]))
    assert [len(block) for block in blocks] == [7, 7, 7, 7, 7, 7, 3]
    np.testing.assert_array_equal(np.concatenate(blocks), vectors(*wanted))


def test_blocks__image_in_several_shards__is_taken_from_the_same_one_always(tmp_path):
    numbers = list(range(20))
    parts = [
        (numbers[:12], vectors(*numbers[:12])),
        (numbers[8:], vectors(*numbers[8:]) + np.float16(0.5)),
        (numbers[5:15], vectors(*numbers[5:15]) + np.float16(1)),
    ]
    seen = []
    for name, order in (("a", (0, 1, 2)), ("b", (2, 1, 0)), ("c", (1, 0, 2))):
        store = Store(tmp_path / name, FINGERPRINT)
        written = {store.put(sha256s(*parts[k][0]), parts[k][1]): k for k in order}
        store.refresh()
        seen.append(rows(store, *numbers))
        first = written[min(written)]
        theirs = sha256s(*numbers).tolist().index(sha256s(parts[first][0][0]).tolist()[0])
        np.testing.assert_array_equal(
            seen[-1][theirs : theirs + len(parts[first][0])], parts[first][1]
        )
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize("wanted", [(0, 1), (1, 2, 3), (1, 99)])
def test_blocks__row_that_no_shard_has__is_an_integrity_error(tmp_path, wanted):
    put(Store(tmp_path, FINGERPRINT), 1, 3)
    with pytest.raises(IntegrityError, match="lost rows during the run; run the command again"):
        rows(opened(tmp_path), *wanted)


def test_blocks__store_without_a_shard__is_an_integrity_error(tmp_path):
    with pytest.raises(IntegrityError, match="lost rows"):
        rows(opened(tmp_path), 1)


@pytest.mark.parametrize("loss", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_blocks__shard_lost_after_it_was_checked__is_an_integrity_error(tmp_path, loss):
    path = put(Store(tmp_path, FINGERPRINT), 1, 2)
    store = opened(tmp_path)
    loss(path)
    with pytest.raises(IntegrityError, match="lost rows during the run"):
        rows(store, 1, 2)


def test_store__more_shards_than_files_may_be_open__are_read(tmp_path):
    store = Store(tmp_path, FINGERPRINT)
    for number in range(80):
        put(store, number)
    program = f"""
import resource
from pathlib import Path
from tests.test_store import *
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
store = opened(Path({str(tmp_path)!r}))
np.testing.assert_array_equal(rows(store, *range(80)), vectors(*range(80)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list(store.folder.glob("*.h5"))) == 80


def test_put__many_threads_at_once__lose_and_tear_nothing(tmp_path):
    store = Store(tmp_path, FINGERPRINT)
    tasks = [range(start, start + 8) for start in range(0, 64, 8)] * 4
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda numbers: put(store, *numbers), tasks))
    assert len(set(paths)) == 8
    assert sorted(store.folder.iterdir()) == sorted(set(paths))
    store.refresh()
    np.testing.assert_array_equal(rows(store, *range(64)), vectors(*range(64)))


def test_put__two_processes_at_once__lose_and_tear_nothing(tmp_path):
    program = f"""
from pathlib import Path
from tests.test_store import *
store = Store(Path({str(tmp_path)!r}), FINGERPRINT)
for start in list(range(0, 64, 8)) * 3:
    put(store, *range(start, start + 8))
"""
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    store = opened(tmp_path)
    assert len(list(store.folder.glob("*.h5"))) == 8
    np.testing.assert_array_equal(rows(store, *range(64)), vectors(*range(64)))


def test_store__what_a_killed_writer_left__is_ignored_and_kept_out(tmp_path):
    store = Store(tmp_path, FINGERPRINT)
    path = put(store, 1, 2)
    left = path.with_name(f".{'0' * 64}.h5.4711-abcd{files.PARTIAL}")
    left.write_bytes(path.read_bytes()[:1000])
    found = opened(tmp_path)
    assert found.missing(sha256s(1, 2, 3)).tolist() == [False, False, True]
    assert left.exists()  # its writer may still be at work


def test_probe__stored__comes_back_bit_for_bit(tmp_path):
    store = Store(tmp_path, FINGERPRINT)
    assert store.reference_probe() is None
    probe = np.random.default_rng(0).standard_normal((13, 9)).astype(np.float32)
    store.put_probe(probe)
    reference = store.reference_probe()
    assert reference is not None
    assert reference.dtype == np.float32
    np.testing.assert_array_equal(reference, probe)


def test_probe__second_machine__does_not_replace_the_first(tmp_path, monkeypatch):
    store = Store(tmp_path, FINGERPRINT)
    store.put_probe(np.ones((2, 3), np.float32))
    store.put_probe(np.zeros((2, 3), np.float32))
    monkeypatch.setattr(Path, "exists", lambda _: False)  # it came between the look and the write
    store.put_probe(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(store.reference_probe(), np.ones((2, 3)))
    assert [path.name for path in store.folder.iterdir()] == ["probe.npy"]


def test_probe__file_system_without_hard_links__is_stored_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    store = Store(tmp_path, FINGERPRINT)
    store.put_probe(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(store.reference_probe(), np.ones((2, 3)))
    assert [path.name for path in store.folder.iterdir()] == ["probe.npy"]


def test_probe__damaged__is_named_and_made_anew(tmp_path, capsys):
    store = Store(tmp_path, FINGERPRINT)
    store.put_probe(np.ones((13, 9), np.float32))
    path = store.folder / "probe.npy"
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    bits = random.choice(8 * len(whole), 50, replace=False)
    damages = [lambda bit=bit: damage(path, int(bit)) for bit in bits]
    damages += [lambda size=size: os.truncate(path, size) for size in (0, 10, len(whole) - 1)]
    for spoil in damages:
        path.write_bytes(whole)
        spoil()
        with pytest.raises(IntegrityError, match=r"probe\.npy is damaged"):
            store.reference_probe()
        store.refresh()
        assert f"{path} is damaged; deleted, it is made anew" in capsys.readouterr().err
        assert store.reference_probe() is None
        store.put_probe(np.ones((13, 9), np.float32))
        assert path.read_bytes() == whole
    store.refresh()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("scattered", "lengths"), [(False, [5] * 8), (True, [20, 20])])
def test_blocks__rows_of_most_shards_in_every_window__take_larger_windows(
    tmp_path, monkeypatch, scattered, lengths
):
    """So that each shard is opened fewer times."""
    monkeypatch.setattr(store_module, "WINDOW_BYTES", 5 * 6 * 2)
    monkeypatch.setattr(store_module, "SCATTERED", 4)
    monkeypatch.setattr(store_module, "FEW", 3)
    store = Store(tmp_path, FINGERPRINT)
    order = np.random.default_rng(0).permutation(40) if scattered else np.arange(40)
    for start in range(0, 40, 10):
        put(store, *order[start : start + 10])
    store.refresh()
    blocks = list(store.blocks([sha256s(*range(40))]))
    assert [len(block) for block in blocks] == lengths
    np.testing.assert_array_equal(np.concatenate(blocks), vectors(*range(40)))
