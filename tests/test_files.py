import hashlib
import json
import os
import tempfile
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


@pytest.mark.parametrize("unique", [False, True])
def test_replacing__success__leaves_the_new_content_alone(tmp_path, unique):
    target = tmp_path / "new" / "folder" / "a.txt"
    for text in ("one", "two"):
        with replacing(target, unique=unique) as beside:
            beside.write_text(text)
            assert beside.parent == target.parent
        assert target.read_text() == text
        assert names_in(target.parent) == ["a.txt"]


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_replacing__exception__leaves_the_old_content_and_nothing_else(tmp_path, unique, error):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), replacing(target, unique=unique) as beside:
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


def test_replacing__what_a_killed_run_left__does_not_get_into_the_new_folder(tmp_path):
    fill(tmp_path / f".out{files.PARTIAL}", half="left behind")
    with replacing(tmp_path / "out") as beside:
        fill(beside, fresh="new")
    assert names_in(tmp_path) == ["out"]
    assert names_in(tmp_path / "out") == ["fresh"]


def test_replacing__unique__two_writers_at_once_do_not_meet(tmp_path):
    target = tmp_path / "shard.h5"
    with replacing(target, unique=True) as first, replacing(target, unique=True) as second:
        first.write_text("same")
        second.write_text("same")
        assert first != second
    assert names_in(tmp_path) == ["shard.h5"]


def test_replacing__nothing_written__is_an_error_and_keeps_the_old(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


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
