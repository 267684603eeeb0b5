"""Notes beside the shards: who uses a fingerprint, and what it is made of."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import files, frozen, uses
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.uses import differences, note, read_made, read_use
from tests.frozen_fixtures import pixels

__all__ = ["pixels"]


@pytest.fixture
def backbone(pixels, tmp_path, monkeypatch) -> FrozenBackbone:
    """A frozen backbone in the artifacts of a project, which is `tmp_path`."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = tmp_path / "artifacts" / "backbones" / "raw"
    shutil.copytree(pixels, folder)
    return frozen.load(folder)


def changed(backbone: FrozenBackbone, **fields) -> FrozenBackbone:
    return replace(backbone, fields={**backbone.fields, **fields})


def notes(store: Path, backbone: FrozenBackbone) -> list[Path]:
    return sorted((store / backbone.fingerprint / "uses").iterdir())


def test_note__first_use__can_be_read_back(backbone, tmp_path):
    assert note(tmp_path / "store", backbone) is None
    (path,) = notes(tmp_path / "store", backbone)
    use = read_use(path)
    assert (use.project, use.backbone) == (str(tmp_path), "raw")
    assert use.host
    assert abs(use.time - path.stat().st_mtime) < 5
    made = read_made(tmp_path / "store" / backbone.fingerprint, backbone.fingerprint)
    assert (made.dim, made.fields) == (768, backbone.fields)


def test_note__again__moves_the_time_of_the_one_note(backbone, tmp_path):
    times = []
    for _ in range(3):
        note(tmp_path, backbone)
        times += [read_use(path).time for path in notes(tmp_path, backbone)]
    assert times == sorted(set(times))
    assert len(times) == 3


def other(value):
    """A value of the same kind that is another."""
    if isinstance(value, dict):
        return {**value, "resize": value["resize"] + 1}
    return "0" * 64 if len(value) == 64 else f"{value}2"


@pytest.mark.parametrize(
    "field",
    ["architecture", "layer", "package", "pixel_probe", "pooling", "precision", "preprocessing",
     "runtime", "source", "storage", "weights_sha256"],
)  # fmt: skip
def test_note__one_field_is_another__is_named_with_both_values(backbone, tmp_path, field):
    note(tmp_path, backbone)
    now = other(backbone.fields[field])
    told = note(tmp_path, changed(backbone, **{field: now}))
    then = backbone.fields[field]
    if field == "preprocessing":
        said = f"preprocessing.resize is {then['resize'] + 1}, was {then['resize']}"
    else:
        said = (
            f"{field} is {now[:12]}, was {then[:12]}"
            if len(now) == 64
            else (f"{field} is {now}, was {then}")
        )
    assert told == f"raw: embedded anew, since {said}"


def test_note__fields_tried_are_all_of_a_fingerprint(backbone):
    marks = test_note__one_field_is_another__is_named_with_both_values.pytestmark
    assert sorted(marks[0].args[1]) == sorted(backbone.fields)


def test_note__several_changes__are_told_against_the_last_use_alone(backbone, tmp_path):
    second = changed(backbone, precision="float16")
    note(tmp_path, backbone)
    note(tmp_path, second)
    third = changed(second, layer="first", storage="float32")
    said = (
        "raw: embedded anew, since layer is first, was penultimate; storage is float32, was float16"
    )
    assert note(tmp_path, third) == said


def test_note__back_to_a_fingerprint_used_before__says_nothing(backbone, tmp_path):
    note(tmp_path, backbone)
    assert note(tmp_path, changed(backbone, precision="float16"))
    assert note(tmp_path, backbone) is None


def test_note__other_project_or_name__is_another_use(backbone, tmp_path):
    note(tmp_path, backbone)
    elsewhere = tmp_path / "clone" / "artifacts" / "backbones" / "raw"
    elsewhere.parent.mkdir(parents=True)
    shutil.copytree(backbone.folder, elsewhere)
    for one in (replace(backbone, folder=elsewhere), replace(backbone, name="again")):
        assert note(tmp_path, changed(one, precision="float16")) is None
    assert len(notes(tmp_path, changed(backbone, precision="float16"))) == 2


def test_differences__keys_of_dicts_and_keys_that_came_or_went__are_named():
    old = {"a": {"x": 1, "y": [0.5]}, "gone": None, "same": True}
    new = {"a": {"x": 1.0, "y": [0.25]}, "new": "b" * 64, "same": True}
    assert differences(new, old) == [
        "a.x is 1.0, was 1",
        "a.y is [0.25], was [0.5]",
        "gone is absent, was null",
        "new is bbbbbbbbbbbb, was absent",
    ]
    assert differences(old, old) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_note__store_that_may_not_be_written__is_left_as_it_is(
    backbone, tmp_path, monkeypatch, code
):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert note(tmp_path / "store", backbone) is None
    assert not list((tmp_path / "store").rglob("*.json"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_note__disk_that_fails__is_told(backbone, tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        note(tmp_path / "store", backbone)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize("step", [1, 2])
def test_note__folder_taken_away_between_two_steps__is_written_all_the_same(
    backbone, tmp_path, monkeypatch, step
):
    real, calls = os.replace, []

    def replace_without_folder(source, target):
        calls.append(target)
        if len(calls) == step:
            shutil.rmtree(tmp_path / "store" / backbone.fingerprint)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_without_folder)
    note(tmp_path / "store", backbone)
    assert len(calls) == 3
    assert read_made(tmp_path / "store" / backbone.fingerprint, backbone.fingerprint)


def test_note__many_at_once__leave_one_whole_note(backbone, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: note(tmp_path, backbone), range(64)))
    (path,) = notes(tmp_path, backbone)
    assert read_use(path).backbone == "raw"


def test_notes__every_flipped_bit__is_found(backbone, tmp_path):
    note(tmp_path, backbone)
    folder = tmp_path / backbone.fingerprint
    dice = np.random.default_rng(0)
    for path, read in (
        (folder / "fields.json", lambda: read_made(folder, backbone.fingerprint)),
        (*notes(tmp_path, backbone), lambda: read_use(*notes(tmp_path, backbone))),
    ):
        whole = path.read_bytes()
        for bit in dice.choice(8 * len(whole), 200, replace=False):
            content = bytearray(whole)
            content[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(content)
            with pytest.raises(IntegrityError, match=f"{path.name} is damaged"):
                read()
        for length in (0, 1, len(whole) // 2):
            path.write_bytes(whole[:length])
            with pytest.raises(IntegrityError, match="is damaged"):
                read()
        path.write_bytes(whole)
        read()


@pytest.mark.parametrize("content", [{}, {"dim": 3}, {"dim": 3, "fields": {"a": 1}}, []])
def test_read_made__whole_file_with_another_content__is_damaged(tmp_path, content):
    folder = tmp_path / ("a" * 64)
    value = (
        content
        if isinstance(content, list)
        else {**content, "sha256": files.sha256_of_json(content)}
    )
    files.write_json(folder / "fields.json", value)
    with pytest.raises(IntegrityError, match="is damaged"):
        read_made(folder, folder.name)


def test_read_use__renamed_note__is_damaged(backbone, tmp_path):
    note(tmp_path, backbone)
    (path,) = notes(tmp_path, backbone)
    path = path.rename(path.with_name(f"{'b' * 64}.json"))
    with pytest.raises(IntegrityError, match="is damaged"):
        read_use(path)


def test_note__damaged_notes__are_mended(backbone, tmp_path):
    note(tmp_path, backbone)
    folder = tmp_path / backbone.fingerprint
    for path in (folder / "fields.json", *notes(tmp_path, backbone)):
        path.write_bytes(b"{}")
    note(tmp_path, changed(backbone, layer="first"))  # looks at the damaged ones, and goes on
    note(tmp_path, backbone)
    assert read_made(folder, backbone.fingerprint)
    assert read_use(*notes(tmp_path, backbone)).backbone == "raw"


@pytest.mark.parametrize("copy", ["tmpx1", ".dvc/tmp/exps/tmpx1"])
def test_project_of__experiments_copy__is_the_project_it_is_of(tmp_path, monkeypatch, copy):
    within = Path("artifacts", "backbones", "raw")
    for repository in (tmp_path, tmp_path / copy):
        (repository / ".dvc").mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert uses.project_of(tmp_path / copy / within) == tmp_path
    assert uses.project_of(tmp_path / copy / "sub" / within) == tmp_path / "sub"
    assert uses.project_of(tmp_path / "sub" / within) == tmp_path / "sub"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "another"))
    assert uses.project_of(tmp_path / "sub" / within) == tmp_path / "sub"
    monkeypatch.delenv("DVC_ROOT")
    assert uses.project_of(tmp_path / "sub" / within) == tmp_path / "sub"


def test_project_of__path_through_a_link__is_the_real_one(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    within = Path("artifacts", "backbones", "raw")
    assert uses.project_of(tmp_path / "link" / within) == tmp_path / "real"
