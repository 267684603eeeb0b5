"""`headstart check --images`: what became of the files since prepare, told without reading them."""

import builtins
import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import changes, snapshot
from pipeline.formats import list_data
from stages import prepare
from tests.conftest import draw, make_photos
from tests.test_cli import Desk
from tests.test_cli import desk as desk  # noqa: PLC0414


@pytest.fixture
def photos(desk) -> Desk:
    """The desk's folder of 9 photos, prepared."""
    prepare.main()
    desk.capsys.readouterr()
    return desk


@pytest.fixture
def table(desk) -> Desk:
    """The same photos by a manifest, one of whose files is not there; prepared."""
    names = sorted(
        path.relative_to(desk.folder).as_posix() for path in desk.folder.rglob("photos/*/*.png")
    )
    write_manifest(desk, [*names, "photos/owl/late.png"])
    desk.edit(lambda params: params["data"].update(path="list.csv"))
    prepare.main()
    desk.capsys.readouterr()
    return desk


def write_manifest(at: Desk, names: list[str], **more: str) -> None:
    with (at.folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", *more])
        rows.writerows([name, name.split("/")[1], *more.values()] for name in names)


def told(done) -> list[str]:
    """The lines on the images."""
    assert "Traceback" not in done.err
    lines = done.out.splitlines()
    return [line.removeprefix("images: ") for line in lines if line.startswith("images: ")]


def photo(at: Desk, name: str) -> Path:
    return at.folder / "photos" / name


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def forget(at: Desk) -> None:
    (at.folder / "artifacts" / "runs" / snapshot.RECORD).unlink()


FORCED = "run 'dvc repro -f prepare', then 'dvc repro'"


# folders


def test_check_images__nothing_changed__is_exit_0(photos):
    done = photos.headstart("check", "--images")
    assert (done.code, done.err) == (0, "")
    assert told(done) == ["9 files are as prepare saw them"]


def test_check__without_images__looks_at_no_file(photos):
    photo(photos, "cat/000.png").write_bytes(b"other")
    done = photos.headstart("check")
    assert (done.code, told(done)) == (0, [])


def test_check_images__every_kind_of_change__is_told_with_names_and_is_exit_3(photos):
    photo(photos, "cat/000.png").write_bytes(b"no image at all")
    touch(photo(photos, "cat/001.png"))
    photo(photos, "dog/000.png").unlink()
    draw(5, 1).save(photo(photos, "owl/new.png"))
    done = photos.headstart("check", "--images")
    assert done.code == 3
    assert told(done) == [
        "1 changed in size: cat/000.png",
        "1 may have changed: the same size, another time: cat/001.png",
        "1 vanished: dog/000.png",
        "1 new: owl/new.png",
        "1 unsupported: no image by the first bytes: cat/000.png",
    ]
    assert done.err == "headstart: error: 4 files are not as prepare saw them; run 'dvc repro'\n"


def test_check_images__many_of_a_kind__names_the_first_few(photos):
    for path in photos.folder.rglob("photos/*/*.png"):
        path.write_bytes(path.read_bytes() + b"longer")
    done = photos.headstart("check", "--images")
    first = ", ".join(f"{kind}/{number:03d}.png" for kind in ("cat", "dog") for number in range(3))
    shown = first.rsplit(", ", 1)[0]
    assert told(done) == [f"9 changed in size: {shown} and 4 more"]


def test_check_images__only_touched__dvc_sees_no_change__so_force(photos):
    touch(photo(photos, "cat/001.png"))
    line = photos.refused(3, "check", "--images")
    assert line.endswith(f"1 file is not as prepare saw it; {FORCED}")
    prepare.main()
    photos.capsys.readouterr()
    assert photos.headstart("check", "--images").code == 0


def test_check_images__not_readable_for_us__is_named(photos):
    path = photo(photos, "cat/000.png")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "1 became unreadable: cat/000.png" in told(photos.headstart("check", "--images"))


def test_check_images__without_the_record__compares_sizes_and_says_so(photos):
    forget(photos)
    touch(photo(photos, "cat/001.png"))
    without = "artifacts/runs/prepare.parquet is missing or old: sizes alone are compared"
    done = photos.headstart("check", "--images")
    assert (done.code, told(done)) == (0, [without, "9 files are as prepare saw them"])
    photo(photos, "cat/001.png").write_bytes(b"short")
    photo(photos, "cat/002.png").unlink()
    done = photos.headstart("check", "--images")
    assert done.code == 3
    assert told(done)[:3] == [without, "1 changed in size: cat/001.png", "1 vanished: cat/002.png"]


def test_check_images__what_prepare_left_out__is_no_change__with_and_without_the_record(photos):
    photo(photos, "cat/read me.txt").write_text("no image")
    photo(photos, "cat/empty.png").touch()
    shutil.copy(photo(photos, "cat/000.png"), photo(photos, "dog/the same.png"))
    shutil.copy(photo(photos, "owl/000.png"), photo(photos, "owl/twice.png"))
    prepare.main()
    photos.capsys.readouterr()
    assert told(photos.headstart("check", "--images")) == ["13 files are as prepare saw them"]
    forget(photos)
    assert told(photos.headstart("check", "--images"))[1:] == ["13 files are as prepare saw them"]
    photo(photos, "dog/the same.png").write_bytes(b"another size")
    done = photos.headstart("check", "--images")
    assert "1 changed in size: dog/the same.png" in told(done)


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really PAR1"])
def test_check_images__damaged_record__compares_sizes(photos, damage):
    (photos.folder / "artifacts" / "runs" / snapshot.RECORD).write_bytes(damage)
    done = photos.headstart("check", "--images")
    assert done.code == 0
    assert "sizes alone are compared" in done.out


def test_check_images__record_of_other_tables__is_not_believed(photos):
    kept = photos.folder / "kept"
    shutil.copytree(photos.folder / "artifacts" / "dataset", kept)
    photo(photos, "cat/000.png").write_bytes(photo(photos, "dog/000.png").read_bytes() + b"x")
    prepare.main()
    shutil.rmtree(photos.folder / "artifacts" / "dataset")
    kept.rename(photos.folder / "artifacts" / "dataset")  # as DVC does on another branch
    photos.capsys.readouterr()
    done = photos.headstart("check", "--images")
    assert "sizes alone are compared" in done.out
    assert "1 changed in size: cat/000.png" in told(done)


def test_check_images__damaged_tables__are_exit_4(photos):
    (photos.folder / "artifacts" / "dataset" / "problems.csv").write_text("a,b\n1,2\n")
    assert "problems.csv is damaged" in photos.refused(4, "check", "--images")


# another data.path


def test_check_images__another_data_path__says_what_it_looked_at_and_nothing_of_the_former(photos):
    make_photos(photos.folder / "more", ("cat", "dog"), each=4)
    photo(photos, "../more/cat/notes.txt").write_text("no image")
    photos.edit(lambda params: params["data"].update(path="more"))
    done = photos.headstart("check", "--images")
    assert told(done) == [
        "data.path is more; prepare saw photos, which is not looked at",
        "0 of 9 files have name, size and time of one that prepare saw",
        "1 unsupported: no image by the first bytes: cat/notes.txt",
    ]
    assert (done.code, done.err) == (
        3,
        "headstart: error: data.path changed since prepare, from photos to more; run 'dvc repro'\n",
    )


def test_check_images__folder_moved__its_files_are_known(photos):
    photo(photos, "").rename(photos.folder / "moved")
    photos.edit(lambda params: params["data"].update(path="moved"))
    done = photos.headstart("check", "--images")
    assert done.code == 3
    assert told(done)[1] == "9 of 9 files have name, size and time of one that prepare saw"
    prepare.main()
    photos.capsys.readouterr()
    assert told(photos.headstart("check", "--images")) == ["9 files are as prepare saw them"]


def test_check_images__another_manifest__is_seen_by_dvc_whatever_it_names(table):
    shutil.copy(table.folder / "list.csv", table.folder / "other.csv")
    table.edit(lambda params: params["data"].update(path="other.csv"))
    touch(photo(table, "cat/000.png"))
    assert table.refused(3, "check", "--images").endswith("to other.csv; run 'dvc repro'")


# before prepare


def test_check_images__before_prepare__looks_at_the_first_bytes(desk):
    photo(desk, "cat/notes.txt").write_text("no image")
    done = desk.headstart("check", "--images")
    assert (done.code, done.err) == (0, "")
    assert told(done) == [
        "not prepared yet, so only looked at",
        "1 unsupported: no image by the first bytes: cat/notes.txt",
    ]


def test_check_images__no_file_is_an_image__is_exit_3(desk):
    for path in desk.folder.rglob("photos/*/*.png"):
        path.write_text("no image")
    done = desk.headstart("check", "--images")
    assert done.code == 3
    assert done.err == (
        "headstart: error: 0 of 9 files can be used, in 0 of the two classes needed at least; "
        "correct data.path or put the images there\n"
    )
    assert desk.headstart("check").code == 0


def test_check_images__manifest_whose_files_are_all_missing__is_exit_3_and_names_them(desk):
    write_manifest(desk, [f"photos/{kind}/gone.png" for kind in ("cat", "dog")])
    desk.edit(lambda params: params["data"].update(path="list.csv"))
    assert desk.headstart("check").code == 0
    done = desk.headstart("check", "--images")
    assert done.code == 3
    assert "2 named, but cannot be read: photos/cat/gone.png, photos/dog/gone.png" in told(done)


def test_check_images__sample_not_made_yet__has_nothing_to_look_at(desk):
    desk.edit(lambda params: params["data"].update(path="artifacts/sample"))
    done = desk.headstart("check", "--images")
    assert (done.code, told(done)) == (0, [])


# manifests


def test_check_images__manifests_file_that_was_never_there__is_named_and_no_change(table):
    done = table.headstart("check", "--images")
    assert (done.code, done.err) == (0, "")
    assert told(done) == [
        "1 named, but cannot be read: photos/owl/late.png",
        "9 files are as prepare saw them",
    ]


@pytest.mark.parametrize("record", [True, False])
def test_check_images__manifests_file_comes_later__is_told(table, record):
    if not record:
        forget(table)
    draw(6, 2).save(photo(table, "owl/late.png"))
    done = table.headstart("check", "--images")
    assert done.code == 3
    words = "1 could not be read at prepare and now can: photos/owl/late.png"
    assert words in told(done)
    assert FORCED in done.err


def test_check_images__pipe_in_a_files_place__is_named_and_nothing_waits(table):
    photo(table, "dog/001.png").unlink()
    os.mkfifo(photo(table, "dog/001.png"))
    done = table.headstart("check", "--images")
    assert done.code == 3
    assert "1 became unreadable: photos/dog/001.png" in told(done)


def test_check_images__file_behind_an_unchanged_manifest__needs_force(table):
    photo(table, "cat/000.png").write_bytes(photo(table, "cat/001.png").read_bytes() + b"x")
    assert table.refused(3, "check", "--images").endswith(FORCED)


def test_check_images__manifest_edited__is_seen_by_dvc(table):
    names = sorted(f"photos/{kind}/{n:03d}.png" for kind in ("cat", "dog") for n in range(3))
    draw(7, 0).save(photo(table, "cat/more.png"))
    write_manifest(table, [*names, "photos/cat/more.png"])
    done = table.headstart("check", "--images")
    assert told(done) == [
        "1 new: photos/cat/more.png",
        "3 no longer named: photos/owl/000.png, photos/owl/001.png, photos/owl/002.png",
    ]
    assert done.err.endswith("run 'dvc repro'\n")


def test_check_images__changed_under_a_stated_sha256__asks_for_the_right_one(table):
    names = [f"photos/{kind}/{n:03d}.png" for kind in ("cat", "dog") for n in range(3)]
    with (table.folder / "list.csv").open("w") as file:
        file.write("path,label,sha256\n")
        for number, name in enumerate(names):
            file.write(f"{name},{name.split('/')[1]},{number:064x}\n")
    prepare.main()
    table.capsys.readouterr()
    photo(table, "cat/000.png").write_bytes(b"short")
    line = table.refused(3, "check", "--images")
    assert line.endswith("correct their sha256 in the manifest, then run 'dvc repro'")


# the looks


def test_compare__ten_thousand_files__opens_none_and_looks_once(tmp_path, monkeypatch):
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for number in range(5000):
            (tmp_path / kind / f"{number}.png").touch()
    listing = list_data(tmp_path)
    seen = snapshot.take(tmp_path, [entry.path for entry in listing.entries])

    def refuse(*_, **__):
        raise AssertionError("a file was opened")

    looks = list[str]()
    real = os.stat
    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "stat", lambda path: (looks.append(path), real(path))[1])
    found = changes.compare(seen, listing)
    monkeypatch.undo()
    assert (found.count, found.absent) == (0, [])
    assert len(looks) == len(set(looks)) == 10_000


def test_snapshot__written_and_read__is_the_same_and_byte_stable(tmp_path):
    tables = tmp_path / "dataset"
    tables.mkdir()
    for name in ("images.parquet", "labels.parquet", "problems.csv"):
        (tables / name).write_text(name)
    (tmp_path / "a").write_text("four")
    taken = snapshot.take(tmp_path, ["a", "b", "dataset", "a\0"], data="../café")
    assert taken.bytes.tolist() == [4, snapshot.ABSENT, snapshot.UNREADABLE, snapshot.UNREADABLE]
    assert taken.mtime_ns[0] == (tmp_path / "a").stat().st_mtime_ns
    record = tmp_path / "runs" / snapshot.RECORD
    snapshot.write(record, taken, of=tables)
    first = record.read_bytes()
    snapshot.write(record, taken, of=tables)
    assert record.read_bytes() == first
    back = snapshot.read(record, of=tables)
    assert back is not None
    assert (back.path, back.data) == (taken.path, "../café")
    assert np.array_equal(back.bytes, taken.bytes)
    assert np.array_equal(back.mtime_ns, taken.mtime_ns)
    (tables / "problems.csv").write_text("other")
    assert snapshot.read(record, of=tables) is None


def test_snapshot__of_nothing__is_empty(tmp_path):
    assert snapshot.take(tmp_path, []).bytes.shape == (0,)


def test_prepare__leaves_the_record__untracked(photos):
    record = photos.folder / "artifacts" / "runs" / snapshot.RECORD
    seen = snapshot.read(record, of=photos.folder / "artifacts" / "dataset")
    assert seen is not None
    assert len(seen.path) == 9
