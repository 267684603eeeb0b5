import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.files import replacing

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, **content: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)


def test_replacing__success__leaves_the_new_content_alone(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    for text in ("one", "two"):
        with replacing(target) as beside:
            beside.write_text(text)
            assert beside.parent == target.parent
        assert target.read_text() == text
        assert names_in(target.parent) == ["a.txt"]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_replacing__exception__leaves_the_old_content_and_nothing_else(tmp_path, first, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target, first=first) as beside:
        beside.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["a.txt"]


def test_replacing__while_writing__the_old_content_stands(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as beside:
        beside.write_text("new")
        assert target.read_text() == "old"
        assert beside.name.endswith(files.PARTIAL)


def test_replacing__folder__takes_the_place_of_the_old_one_whole(tmp_path):
    target = tmp_path / "out"
    fill(target, stale="old")
    with replacing(target) as beside:
        fill(beside, fresh="new")
        fill(beside / "inner", deep="new")
    assert names_in(tmp_path) == ["out"]
    assert names_in(target) == ["fresh", "inner"]
    assert names_in(target / "inner") == ["deep"]


def test_replacing__folder_and_exception__leaves_the_old_folder(tmp_path):
    target = tmp_path / "out"
    fill(target, kept="old")
    with pytest.raises(ValueError, match="x"), replacing(target) as beside:
        fill(beside, fresh="new")
        raise ValueError("x")
    assert names_in(tmp_path) == ["out"]
    assert names_in(target) == ["kept"]


def dead_process() -> int:
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leave_behind(target: Path, *, process: int, machine: str = "", age: float = 0) -> Path:
    """What a writer of `target` left: its process, its machine (this one) and age in seconds."""
    parts = files.unused(target).name.rsplit("-", 2)
    name = f".{target.name}.{machine or files._machine()}-{process}-{parts[-1]}"
    left = target.with_name(name)
    left.write_text("half")
    os.utime(left, (time.time() - age, time.time() - age))
    return left


def test_replacing__what_killed_runs_left__is_swept_and_gets_into_nothing(tmp_path):
    dead = leave_behind(tmp_path / "out", process=dead_process())
    folder = leave_behind(tmp_path / "other", process=dead_process())
    folder.unlink()
    fill(folder, half="left behind")
    with replacing(tmp_path / "out") as beside:
        fill(beside, fresh="new")
    assert not dead.exists()
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["fresh"]


def test_sweep__living_or_distant_writers__are_left_alone_for_a_day(tmp_path):
    target, day = tmp_path / "a", files.LEFT_SECONDS
    kept = [
        leave_behind(target, process=os.getpid()),
        leave_behind(target, process=1),  # another user's, or this container's first
        leave_behind(target, process=dead_process(), machine="0" * 8),
        leave_behind(target, process=dead_process(), machine="0" * 8, age=day - 60),
    ]
    gone = [
        leave_behind(target, process=dead_process()),
        leave_behind(target, process=dead_process(), machine="0" * 8, age=day + 60),
        leave_behind(target, process=os.getpid(), age=day + 60),
    ]
    plain = [tmp_path / ".hidden", tmp_path / f"visible{files.PARTIAL}", tmp_path / "b"]
    for path in plain:
        path.write_text("")
        os.utime(path, (0, 0))
    files.sweep(tmp_path)
    assert all(path.exists() for path in (*kept, *plain))
    assert not any(path.exists() for path in gone)
    files.sweep(tmp_path / "no such folder")


def test_replacing__two_writers_at_once__do_not_meet_and_the_last_stands(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target) as first:
        with replacing(target) as second:
            first.write_text("first")
            second.write_text("second")
            assert first != second
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert names_in(tmp_path) == ["a.txt"]


def test_replacing__first__keeps_what_came_first(tmp_path):
    target = tmp_path / "a.txt"
    with replacing(target, first=True) as slow, replacing(target, first=True) as quick:
        slow.write_text("slow")
        quick.write_text("quick")
    assert target.read_text() == "quick"
    assert names_in(tmp_path) == ["a.txt"]


def test_replacing__two_writers_of_a_folder__leave_a_whole_one(tmp_path):
    """Each finds that of the other, or nothing, where it looked before."""
    target = tmp_path / "out"
    fill(target, old="old")

    def write(number: int) -> None:
        for _ in range(30):
            with replacing(target) as beside:
                fill(beside, a=str(number), b=str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert names_in(tmp_path) == ["out"]
    assert names_in(target) == ["a", "b"]
    assert (target / "a").read_text() == (target / "b").read_text()


def test_replacing__folder_that_cannot_take_the_place__leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "out"
    fill(target, kept="old")
    real, calls = os.replace, []

    def failing(source, place):
        calls.append((source, place))
        if len(calls) == 3:  # after the try over the old folder, and its way aside
            raise OSError(errno.EIO, "Input/output error")
        real(source, place)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(OSError, match="Input/output error") as error, replacing(target) as beside:
        fill(beside, fresh="new")
    assert error.value.filename == str(target)
    assert names_in(tmp_path) == ["out"]
    assert names_in(target) == ["kept"]


def test_replacing__error_without_a_name_or_with_the_partial_one__names_the_file(tmp_path):
    target = tmp_path / "a.txt"
    with pytest.raises(OSError, match="a") as error, replacing(target):
        raise OSError(errno.ENOSPC, "a")
    assert error.value.filename == str(target)
    with pytest.raises(OSError, match="a") as error, replacing(target) as beside:
        raise OSError(errno.EIO, "a", str(beside))
    assert error.value.filename == str(target)
    with pytest.raises(OSError, match="a") as error, replacing(target):
        raise OSError(errno.EIO, "a", "other")
    assert error.value.filename == "other"


def test_replacing__nothing_written__is_an_error_and_keeps_the_old(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


def test_replacing__device_or_pipe__is_left_where_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(FileExistsError, match="is a device or a pipe") as caught:
            files.write_bytes(tmp_path / name, b"new")
        assert caught.value.filename == str(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symlink", "hardlink"])
def test_replacing__link_into_a_cache__leaves_the_cached_file_alone(tmp_path, link):
    cached, target = tmp_path / "cached", tmp_path / "out.txt"
    cached.write_text("cached")
    link(cached, target)
    files.write_bytes(target, b"new")
    assert cached.read_text() == "cached"
    assert target.read_text() == "new"
    assert not target.is_symlink()


def test_replacing__link_to_a_cached_folder__leaves_that_folder_alone(tmp_path):
    fill(tmp_path / "cached", kept="cached")
    (tmp_path / "out").symlink_to(tmp_path / "cached")
    with replacing(tmp_path / "out") as beside:
        fill(beside, fresh="new")
    assert names_in(tmp_path / "cached") == ["kept"]
    assert names_in(tmp_path / "out") == ["fresh"]


def test_replacing__every_file_and_folder__is_flushed_before_the_rename(tmp_path, monkeypatch):
    done = []
    flush, rename = os.fsync, os.replace

    def fsync(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        flush(descriptor)

    def replace(source, target):
        done.append("rename")
        rename(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to name an open file by")
    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    with replacing(tmp_path / "out") as beside:
        fill(beside, a="1")
        fill(beside / "inner", b="2")
    before, after = done[: done.index("rename")], done[done.index("rename") + 1 :]
    assert sorted(before) == sorted([beside.name, "a", "inner", "b"])
    assert after == [tmp_path.name]


@settings(deadline=None)
@given(st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), max_size=5))
@example([{"a": "carriage\rreturn", "b": "line\nfeed"}, {"a": '"', "b": ","}])
def test_csv__any_text__is_read_as_it_was_written(rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        files.write_csv(path, ["a", "b"], rows)
        assert files.read_csv(path) == rows


def test_csv__ordinary_rows__are_plain_utf8_lines(tmp_path):
    files.write_csv(tmp_path / "t.csv", ("path", "n"), [{"path": "é.png", "n": 1}])
    assert (tmp_path / "t.csv").read_bytes() == "path,n\né.png,1\n".encode()


def test_json_text__keys_in_any_order__is_the_same_and_ends_with_a_newline():
    text = files.json_text({"b": 1, "a": ["é"]})
    assert text == files.json_text({"a": ["é"], "b": 1})
    assert text.endswith("}\n")
    assert "é" in text
    assert json.loads(text) == {"a": ["é"], "b": 1}


def test_json_text__nan__is_refused():
    with pytest.raises(ValueError, match="JSON"):
        files.json_text({"a": float("nan")})


def test_sha256__file_bytes_and_json__are_hashlibs(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(content)
    expected = hashlib.sha256(content).hexdigest()
    assert files.sha256_of(tmp_path / "x") == files.sha256_of_bytes(content) == expected
    canonical = hashlib.sha256('{"a":"é","b":[1,2]}'.encode()).hexdigest()
    assert files.sha256_of_json({"b": [1, 2], "a": "é"}) == canonical
