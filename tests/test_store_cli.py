"""`headstart store`: what two projects that share a store are told, and what is deleted."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli, extraction, frozen, index, pace, shards, uses
from pipeline.cli.store import info, inventory, removal
from pipeline.cli.store.inventory import DAY
from pipeline.errors import exit_status
from pipeline.extraction import Places
from pipeline.params import ExecutionParams
from pipeline.store import Store
from pipeline.tuning import SPEED
from tests.conftest import ROOT, edit_yaml, make_pixel_project, use_pixels
from tests.doctor_desk import own_mounts
from tests.frozen_fixtures import edit_record, pixels
from tests.test_extraction import photos, write_photos
from tests.test_store import damage, sha256s, vectors

__all__ = ["pixels"]


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def row(self, fingerprint: str) -> str:
        """The line of the table on a fingerprint."""
        (line,) = (line for line in self.out.splitlines() if line.startswith(fingerprint[:12]))
        return line


def places_of(project: Path, backbone: Path, store: Path) -> Places:
    """Where an extraction of that project reads and writes."""
    return Places(
        root=project / "photos",
        backbone=backbone,
        images=project / "images.parquet",
        embeddings=project / "raw.h5",
        runs=project / "runs",
        store=store,
    )


@dataclass(frozen=True)
class Desk:
    """A store and the projects that use it, each with a backbone `raw` and 23 photos."""

    base: Path
    backbone: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    @property
    def store(self) -> Path:
        return self.base / "store"

    def project(self, name: str, **fields) -> Path:
        """A folder with params.yaml; fields: of the fingerprint, that are others."""
        folder = self.base / name
        if not folder.exists():
            write_photos(folder, photos(23))
            shutil.copy(ROOT / "params.yaml", folder)
            edit_yaml(folder / "params.yaml", use_pixels)
        shutil.rmtree(folder / "artifacts", ignore_errors=True)
        shutil.copytree(self.backbone, folder / "artifacts" / "backbones" / "raw")

        def change(record):
            record["fields"].update(fields)
            record["fingerprint"] = frozen.fingerprint_of(record["fields"])

        edit_record(folder / "artifacts" / "backbones" / "raw", change)
        return folder

    def extract(self, project: Path) -> str:
        """Embed with the project's backbone; returns the fingerprint."""
        backbone = project / "artifacts" / "backbones" / "raw"
        places = places_of(project, backbone, self.store)
        extraction.extract(places, ExecutionParams(threads=2), max_failed=0)
        return frozen.load(backbone).fingerprint

    def headstart(self, project: Path, *words: str) -> Said:
        self.monkeypatch.chdir(project)
        self.capsys.readouterr()
        code = exit_status(lambda: run_command(*words))
        said = self.capsys.readouterr()
        return Said(code, said.out, said.err)

    def folder(self, fingerprint: str) -> Path:
        return self.store / fingerprint

    def age(self, fingerprint: str, days: float) -> None:
        """As if all that was written and noted of a fingerprint were so much older."""
        age(self.folder(fingerprint), days)

    def holds(self, fingerprint: str) -> int:
        """How many of the photos the store has."""
        digests = set[bytes]()
        for path in self.folder(fingerprint).glob("*.h5"):
            content, layout = shards.read(path, fingerprint, path.stem)
            digests.update(layout.digests(content).tolist())
        return len(digests)


def run_command(*words: str) -> int:
    arguments = cli.parser().parse_args(["store", *words])
    return arguments.run(arguments)


def age(folder: Path, days: float) -> None:
    for path in folder.rglob("*"):
        if path.parent.name == uses.USES:
            edit_use(path, used=later(uses.read_use(path).used, -days))
        if path.is_file():
            moved = path.stat().st_mtime - days * DAY
            os.utime(path, (moved, moved))


def later(moment: str, days: float) -> str:
    from datetime import datetime, timedelta

    return (datetime.fromisoformat(moment) + timedelta(days=days)).isoformat()


def edit_use(path: Path, **values: str) -> Path:
    """Change a note, and its name where that follows."""
    use = uses.Use(**{**uses.asdict(uses.read_use(path)), **values})
    path.unlink()
    path = path.with_name(use.place.name)
    path.write_bytes(uses._sealed(uses.asdict(use)))
    return path


@pytest.fixture
def desk(pixels, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        extraction, "MEASURED", {"cpu": 1}
    )  # so that a note on the speed lies there too
    monkeypatch.setattr(pace, "LEAST", 5)
    monkeypatch.setattr(pace, "MOST", 5)
    monkeypatch.setenv("HEADSTART_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    with Path(os.devnull).open() as empty:
        monkeypatch.setattr("sys.stdin", empty)
        yield Desk(tmp_path, pixels, capsys, monkeypatch)


# extract


def test_extract__other_precision__names_the_field_once(desk):
    mine = desk.project("mine")
    desk.extract(mine)
    assert "embedded anew" not in desk.capsys.readouterr().err
    desk.extract(desk.project("mine", storage="float32"))
    said = "headstart: raw: embedded anew, since storage is float32, was float16\n"
    assert desk.capsys.readouterr().err.startswith(said)
    for _ in range(2):
        desk.extract(mine)
        assert "embedded anew" not in desk.capsys.readouterr().err


def test_extract__embeddings_that_another_project_made__are_not_told_as_computed(desk):
    desk.extract(desk.project("mine"))
    desk.extract(desk.project("other", storage="float32"))
    desk.capsys.readouterr()
    desk.extract(desk.project("mine", storage="float32"))
    assert "embedded anew" not in desk.capsys.readouterr().err


# info


def test_info__two_projects_and_an_old_fingerprint__tells_rows_sizes_and_users(desk):
    mine, other = desk.project("mine"), desk.project("other")
    first = desk.extract(mine)
    desk.extract(other)
    second = desk.extract(desk.project("mine", storage="float32"))
    said = desk.headstart(mine, "info")
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert said.code == 0
    assert said.out.startswith("fingerprint   backbone               shards  rows")
    row = said.row(first)
    assert "pixels pixels float32  5       23    " in row
    assert f"{today}  " in row
    assert f"this project: raw until {today}" in row
    assert f"{other}: raw" in row
    assert said.row(second).endswith(f"{today}  this project: raw")
    size = sum(path.stat().st_size for path in desk.store.rglob("*") if path.is_file())
    assert f"total: 2 fingerprints, 10 shards, {size / 1000:.3g} kB in {desk.store}" in said.out


def test_info__json__has_what_the_notes_say(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    said = json.loads(desk.headstart(mine, "info", "--json").out)
    (entry,) = said["fingerprints"]
    backbone = frozen.load(mine / "artifacts" / "backbones" / "raw")
    assert (entry["fingerprint"], entry["fields"]) == (fingerprint, backbone.fields)
    assert (entry["shards"], entry["rows"], entry["dim"]) == (5, 23, 768)
    assert entry["this_project"] == ["raw"]
    (use,) = entry["uses"]
    assert (use["project"], use["backbone"], use["state"]) == (str(mine), "raw", "here")
    assert said["bytes"] == entry["bytes"]
    assert said["store"] == str(desk.store)


def test_info__project_that_is_gone_or_moved_on__is_told_until_when(desk):
    mine, other = desk.project("mine"), desk.project("other", storage="float32")
    fingerprint = desk.extract(other)
    assert desk.headstart(mine, "info").row(fingerprint).endswith(f"{other}: raw")
    shutil.rmtree(other)
    desk.age(fingerprint, 3)
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 3 * DAY))
    assert (
        desk.headstart(mine, "info").row(fingerprint).endswith(f"{day}  {other}: raw until {day}")
    )


def test_info__use_on_another_host__is_told_with_the_host(desk):
    mine, other = desk.project("mine"), desk.project("other")
    fingerprint = desk.extract(other)
    (path,) = (desk.folder(fingerprint) / "uses").iterdir()
    edit_use(path, host="gpu7")
    assert f"{other} on host gpu7: raw" in desk.headstart(mine, "info").row(fingerprint)


def test_info__store_of_before_the_notes__is_shown_as_such(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    (desk.folder(fingerprint) / "fields.json").unlink()
    shutil.rmtree(desk.folder(fingerprint) / "uses")
    row = desk.headstart(mine, "info").row(fingerprint)
    assert "not noted " in row
    assert row.endswith("this project: raw")
    row = desk.headstart(desk.project("mine", storage="float32"), "info").row(fingerprint)
    assert row.endswith("unknown: embedded by an older version")
    assert " 23 " in row


def test_info__empty_store__says_so_and_makes_no_folder(desk):
    said = desk.headstart(desk.project("mine"), "info")
    assert (said.code, said.out) == (0, f"total: 0 fingerprints, 0 shards, 0 in {desk.store}\n")
    assert not desk.store.exists()


def test_info__folder_that_is_no_store__is_exit_2(desk):
    desk.monkeypatch.setenv("HEADSTART_STORE", str(desk.base))
    mine = desk.project("mine")
    for words in (["info"], ["verify"], ["gc", "--yes"]):
        said = desk.headstart(mine, *words)
        assert said.code == 2
        assert f"{desk.base} does not look like a store: it has 'mine'" in said.err


def test_rows_in__shards_of_several_lengths_and_layouts__counts_each_row(tmp_path):
    store, count = Store(tmp_path, "a" * 64), 0
    for rows, dim in ((7, 6), (7, 6), (19, 6), (1, 6), (5, 11)):
        numbers = range(count, count + rows)
        store.put(sha256s(*numbers), vectors(*numbers, dim=dim))
        count += rows
    (holding,) = inventory.opened(tmp_path).holdings
    assert holding.shards == 5
    assert info.rows_in(holding) == count
    (store.folder / f"{'0' * 64}.h5").write_bytes(bytes(4711))
    (holding,) = inventory.opened(tmp_path).holdings
    assert info.rows_in(holding) == count


def test_rows_in__one_layout__reads_one_shard(desk, monkeypatch):
    desk.extract(desk.project("mine"))
    (holding,) = inventory.opened(desk.store).holdings
    read, real = [], info.shards.check
    monkeypatch.setattr(info.shards, "check", lambda *one: read.append(one) or real(*one))
    assert info.rows_in(holding) == 23
    assert len(read) == 1


def test_inventory__names__are_those_that_are_written():
    """It imports neither; see there."""
    assert (inventory._INDEX, inventory._SPEED) == (index.ENDING, SPEED)


# verify


def test_verify__whole_store__is_exit_0_with_counts(desk):
    mine = desk.project("mine")
    desk.extract(mine)
    said = desk.headstart(mine, "verify")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"{desk.store}: 1 fingerprint, 9 files, ")


def test_verify__any_bit_of_any_file__is_found_and_the_file_named(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    paths = [path for path in desk.folder(fingerprint).rglob("*") if path.is_file()]
    paths = [path for path in paths if not path.name.startswith(SPEED)]  # which vouches for itself
    assert len(paths) == 9
    dice = np.random.default_rng(0)
    for path in paths:
        whole = path.read_bytes()
        for bit in dice.choice(8 * len(whole), 10, replace=False):
            damage(path, int(bit))
            said = desk.headstart(mine, "verify", fingerprint[:5])
            assert said.code == 4
            (line,) = said.out.splitlines()
            assert line.startswith(f"{path} is damaged"), line
            assert "1 of 9 files" in said.err
            path.write_bytes(whole)
    assert desk.headstart(mine, "verify").code == 0


def test_verify__what_its_message_says__makes_the_store_whole(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    made = (mine / "raw.h5").read_bytes()
    for path in desk.folder(fingerprint).rglob("*"):
        if path.is_file():
            damage(path, 999)
    said = desk.headstart(mine, "verify")
    assert "9 of 9 files" in said.err
    assert "delete them, then run 'dvc repro -f -s extract@raw', which makes them anew" in said.err
    for line in said.out.splitlines():
        Path(line.split(" is damaged")[0]).unlink()
    desk.extract(mine)
    assert desk.headstart(mine, "verify").code == 0
    assert (mine / "raw.h5").read_bytes() == made


def test_verify__other_fingerprints_damage__is_not_looked_at(desk):
    mine = desk.project("mine")
    first = desk.extract(mine)
    second = desk.extract(desk.project("mine", storage="float32"))
    damage(next(desk.folder(first).glob("*.h5")), 4711)
    assert desk.headstart(mine, "verify", second[:12]).code == 0
    said = desk.headstart(mine, "verify", first)
    assert said.code == 4
    assert said.err.endswith("delete them: the next run that needs their rows computes them anew\n")
    said = desk.headstart(mine, "verify", "zzz")
    assert said.code == 2
    there = ", ".join(sorted((first[:12], second[:12])))
    assert f"no fingerprint in {desk.store} begins with zzz; there: {there}" in said.err


def test_verify__partial_files__are_no_damage(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    (desk.folder(fingerprint) / f".{'0' * 64}.h5.1-ab.partial").write_bytes(b"half")
    assert desk.headstart(mine, "verify").code == 0


# gc


@pytest.fixture
def old(desk) -> tuple[Path, str, str]:
    """A project, the fingerprint it used until 40 days ago, and the one it uses."""
    unused = desk.extract(desk.project("mine"))
    mine = desk.project("mine", storage="float32")
    used = desk.extract(mine)
    for fingerprint in (unused, used):
        desk.age(fingerprint, 40)
    return mine, unused, used


def test_gc__what_nothing_uses_any_more__goes_and_what_is_used_stays(desk, old):
    mine, unused, used = old
    size = sum(path.stat().st_size for path in desk.folder(unused).rglob("*") if path.is_file())
    said = desk.headstart(mine, "gc", "--yes")
    assert (said.code, said.err) == (0, "")
    assert f"unused: {unused[:12]}: pixels pixels float32, 5 shards, " in said.out
    assert f"deleted {size / 1000:.3g} kB in {desk.store}" in said.out
    assert [path.name for path in desk.store.iterdir()] == [used]
    assert desk.holds(used) == 23
    assert desk.headstart(mine, "gc", "--yes").out == f"nothing to delete in {desk.store}\n"


def test_gc__no_terminal_and_no_yes__deletes_nothing(desk, old):
    mine, unused, _ = old
    before = contents(desk.store)
    said = desk.headstart(mine, "gc")
    assert said.code == 0
    assert f"unused: {unused[:12]}" in said.out
    assert said.out.endswith("nothing was deleted; add --yes to delete it\n")
    assert contents(desk.store) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("typed", "goes"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_gc__on_a_terminal__asks(desk, old, typed, goes):
    mine, unused, _ = old
    ours, theirs = os.openpty()
    os.write(ours, typed.encode())
    program = "from pipeline.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "store", "gc"],
        cwd=mine,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(ours)
    os.close(theirs)
    assert "? [y/N] " in done.stdout
    assert ("nothing was deleted" in done.stdout) is not goes
    assert desk.folder(unused).exists() is not goes


@pytest.mark.parametrize(("days", "goes"), [("50", False), ("39", True), ("0", True)])
def test_gc__days__are_those_since_the_last_use(desk, old, days, goes):
    mine, unused, _ = old
    desk.headstart(mine, "gc", "--yes", "--days", days)
    assert desk.folder(unused).exists() is not goes


def test_gc__zero_days__spares_what_a_run_may_be_writing(desk, old):
    mine, unused, _ = old
    shard = next(desk.folder(unused).glob("*.h5"))
    os.utime(shard)
    desk.headstart(mine, "gc", "--yes", "--days", "0")
    assert desk.holds(unused) == 23
    os.utime(shard, (time.time() - 2 * removal.AT_WORK,) * 2)
    desk.headstart(mine, "gc", "--yes", "--days", "0")
    assert not desk.folder(unused).exists()


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "week"])
def test_gc__days_that_are_no_number_of_days__are_refused(desk, old, days):
    with pytest.raises(SystemExit):
        desk.headstart(old[0], "gc", f"--days={days}")
    assert f"--days: {days} is no number of days" in desk.capsys.readouterr().err


def test_gc__other_project_that_uses_it__keeps_it(desk, old):
    mine, unused, _ = old
    other = desk.project("other")
    desk.extract(other)
    desk.age(unused, 400)
    assert "nothing to delete" not in desk.headstart(mine, "gc", "--yes").out  # an ended use
    assert desk.holds(unused) == 23
    shutil.rmtree(other)
    desk.headstart(mine, "gc", "--yes")
    assert not desk.folder(unused).exists()


def test_gc__use_on_another_host__keeps_it_until_told_otherwise(desk, old):
    mine, unused, _ = old
    (path,) = (desk.folder(unused) / "uses").iterdir()
    edit_use(path, host="gpu7")
    desk.headstart(mine, "gc", "--yes", "--days", "0")
    assert desk.holds(unused) == 23
    desk.headstart(mine, "gc", "--yes", "--other-hosts", "--days", "50")
    assert desk.holds(unused) == 23
    desk.headstart(mine, "gc", "--yes", "--other-hosts")
    assert not desk.folder(unused).exists()


def test_gc__two_hosts_that_both_moved_on__free_it_by_a_gc_on_each(desk, old):
    mine, unused, _ = old
    (path,) = (desk.folder(unused) / "uses").iterdir()
    ended = path.read_bytes()
    elsewhere = edit_use(path, host="gpu7")
    path.write_bytes(ended)
    said = desk.headstart(mine, "gc", "--yes")
    assert "ended: 1 use of fingerprints that others use" in said.out
    assert list((desk.folder(unused) / "uses").iterdir()) == [elsewhere]
    desk.monkeypatch.setattr("socket.gethostname", lambda: "gpu7")
    desk.headstart(mine, "gc", "--yes")
    assert not desk.folder(unused).exists()


def test_gc__what_was_never_noted__is_kept_with_the_command_that_deletes_it(desk, old):
    mine, unused, _ = old
    (desk.folder(unused) / "fields.json").unlink()
    shutil.rmtree(desk.folder(unused) / "uses")
    said = desk.headstart(mine, "gc", "--yes", "--days", "0")
    assert f"kept: {unused[:12]}: not noted, " in said.out
    assert f"type 'rm -r {desk.folder(unused)}'" in said.out
    assert desk.holds(unused) == 23


def test_gc__damaged_note_of_a_use__keeps_it(desk, old):
    mine, unused, _ = old
    (path,) = (desk.folder(unused) / "uses").iterdir()
    damage(path, 99)
    said = desk.headstart(mine, "gc", "--yes")
    assert "a note on who uses it is damaged" in said.out
    assert desk.holds(unused) == 23


@pytest.mark.parametrize("name", ["config.v2.json", "notes.txt", "uses/x.json", "a/b", "1.h5"])
def test_gc__folder_with_something_else_in_it__is_kept(desk, old, name):
    mine, unused, _ = old
    path = desk.folder(unused) / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    os.utime(path, (0, 0))
    os.utime(path.parent, (0, 0))
    before = contents(desk.store)
    said = desk.headstart(mine, "gc", "--yes")
    assert "which no run writes" in said.out
    assert contents(desk.store) == before


def test_gc__links__are_neither_followed_nor_deleted(desk, old):
    mine, unused, _ = old
    real = desk.base / "elsewhere"
    desk.folder(unused).rename(real)
    left = real / f".{'0' * 64}.h5.1-ab.partial"
    left.touch()
    os.utime(left, (0, 0))
    desk.folder(unused).symlink_to(real)
    before = contents(real)
    assert "it is a link to somewhere else" in desk.headstart(mine, "gc", "--yes").out
    assert contents(real) == before
    assert desk.folder(unused).is_symlink()


def test_gc__link_inside_a_fingerprint__keeps_what_it_leads_to(desk, old):
    mine, unused, _ = old
    precious = desk.base / "precious"
    precious.mkdir()
    (precious / "file").write_text("here")
    (desk.folder(unused) / "uses" / "more").symlink_to(precious)
    assert "which no run writes" in desk.headstart(mine, "gc", "--yes").out
    (desk.folder(unused) / "uses" / "more").unlink()
    desk.headstart(mine, "gc", "--yes")
    assert not desk.folder(unused).exists()
    assert (precious / "file").read_text() == "here"


def test_gc__other_folders_of_the_store__are_never_touched(desk, old):
    mine, unused, _ = old
    names = [unused[:63], unused.upper(), f"x{unused}", ".hidden", f".{unused}", "lost+found"]
    for name in names:
        shutil.copytree(desk.folder(unused), desk.store / name)
    desk.headstart(mine, "gc", "--yes", "--days", "0")
    assert not desk.folder(unused).exists()
    assert all(len(contents(desk.store / name)) == 10 for name in names)


def test_gc__partial_files__go_after_a_day(desk, old):
    mine, _, used = old
    left = desk.folder(used) / f".{'0' * 64}.h5.1-ab.partial"
    noted = desk.folder(used) / "uses" / f".{'0' * 64}.json.1-ab.partial"
    recent = desk.folder(used) / f".{'1' * 64}.h5.1-ab.partial"
    for path in (left, noted, recent):
        path.write_bytes(bytes(500))
    for path in (left, noted):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    told = "3 partial files, 1.5 kB: 2 left by killed runs, the others younger than a day"
    assert told in desk.headstart(mine, "info").out
    said = desk.headstart(mine, "gc", "--yes")
    assert "left by killed runs: 2 partial files, 1 kB" in said.out
    assert [path.exists() for path in (left, noted, recent)] == [False, False, True]
    assert desk.holds(used) == 23


# gc while others write


def when_renamed(desk: Desk, before, after) -> None:
    """Do something before and after `gc` takes a folder out of sight."""
    real = os.rename

    def rename(source, target):
        if str(target).endswith(removal._TAKEN):
            before()
            real(source, target)
            after()
        else:
            real(source, target)

    desk.monkeypatch.setattr(os, "rename", rename)


def nothing() -> None:
    pass


def test_gc__use_noted_just_before_the_folder_is_taken__puts_it_back_whole(desk, old):
    mine, unused, _ = old
    backbone = frozen.load(desk.project("other") / "artifacts" / "backbones" / "raw")
    before = contents(desk.folder(unused))
    when_renamed(desk, lambda: uses.note(desk.store, backbone), nothing)
    said = desk.headstart(mine, "gc", "--yes")
    assert f"kept: {unused[:12]}: used since this command looked at it" in said.out
    after = contents(desk.folder(unused))
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 1
    assert not list(desk.store.glob(".*"))


def test_gc__run_that_writes_before_and_after__loses_nothing(desk, old):
    mine, unused, _ = old
    backbone = frozen.load(desk.project("other") / "artifacts" / "backbones" / "raw")
    store = Store(desk.store, unused)
    count = len(contents(desk.folder(unused)))
    when_renamed(
        desk,
        lambda: uses.note(desk.store, backbone),
        lambda: store.put(sha256s(1), vectors(1, dim=768)),
    )
    desk.headstart(mine, "gc", "--yes")
    assert desk.holds(unused) == 24
    assert len(contents(desk.folder(unused))) == count + 2
    assert not list(desk.store.glob(".*"))


def test_gc__run_that_begins_after_the_folder_is_taken__keeps_its_own(desk, old):
    mine, unused, _ = old
    other = desk.project("other")
    when_renamed(desk, nothing, lambda: desk.extract(other))
    desk.headstart(mine, "gc", "--yes")
    assert desk.holds(unused) == 23
    assert desk.headstart(mine, "verify").code == 0


@pytest.mark.parametrize("left_by", ["before it looked again", "while it deleted"])
def test_gc__killed__is_finished_by_the_next(desk, old, left_by):
    mine, unused, _ = old
    place = removal.os.rename if left_by == "before it looked again" else removal.shutil.rmtree
    name = place.__name__
    owner = removal.os if name == "rename" else removal.shutil
    real = getattr(owner, name)

    def killed(*arguments):
        if name == "rename" and str(arguments[1]).endswith(removal._TAKEN):
            real(*arguments)
        raise KeyboardInterrupt

    with desk.monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        assert desk.headstart(mine, "gc", "--yes").code == 130
    assert not desk.folder(unused).exists()
    assert "1 folder that a killed 'headstart store gc' left" in desk.headstart(mine, "info").out
    said = desk.headstart(mine, "gc", "--yes")
    assert "left by a killed 'headstart store gc': 1 folder" in said.out
    assert not list(desk.store.glob(".*"))
    assert not desk.folder(unused).exists()


def test_gc__killed_before_it_saw_a_new_use__is_put_back_by_the_next(desk, old):
    mine, unused, _ = old
    desk.project("mine")  # which uses it again
    hidden = desk.store / f".{unused}-00{removal._TAKEN}"
    desk.folder(unused).rename(hidden)
    desk.headstart(mine, "gc", "--yes")
    assert desk.holds(unused) == 23
    assert not hidden.exists()


GC = """
import sys, time
from pathlib import Path
from pipeline.cli.store import inventory, removal
print("begun", flush=True)
while True:
    rule = removal.Rule(time.time() + 60)  # as if everything were old
    waste = removal.find(inventory.opened(Path(sys.argv[1])), {}, rule)
    if removal.delete(waste, {}, rule):
        print("deleted", flush=True)
"""


def test_extract__gc_that_deletes_all_the_time__succeeds_or_says_so_and_then_recovers(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    made = (mine / "raw.h5").read_bytes()
    ended = desk.base / "ended"  # a project that no gc finds: its notes are of uses that ended
    shutil.copytree(mine, ended)
    moved = ended / "artifacts" / "raw"
    (ended / "artifacts" / "backbones" / "raw").rename(moved)
    gc = subprocess.Popen(
        [sys.executable, "-c", GC, str(desk.store)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shutil.rmtree(mine)
    places = places_of(ended, moved, desk.store)

    def extract() -> None:
        (ended / "raw.h5").unlink(missing_ok=True)
        extraction.extract(places, ExecutionParams(threads=2), max_failed=0)

    try:
        assert gc.stdout.readline() == "begun\n"
        codes = [exit_status(extract) for _ in range(4)]
    finally:
        gc.kill()
        out, errors = gc.communicate()
    assert errors == ""
    assert out.count("deleted") >= 4
    assert set(codes) <= {0, 4}
    said = desk.capsys.readouterr().err
    assert said.count("lost rows during the run; run the command again") == codes.count(4)
    assert exit_status(extract) == 0
    assert (ended / "raw.h5").read_bytes() == made
    assert desk.holds(fingerprint) == 23


# as users do it


READ_ONLY = """
import sys
from pathlib import Path
from pipeline import extraction
from pipeline.errors import exit_status
from pipeline.extraction import Places
from pipeline.params import ExecutionParams

project, store = Path(sys.argv[1]), Path(sys.argv[2])
places = Places(
    root=project / "photos", backbone=project / "artifacts" / "backbones" / "raw",
    images=project / "images.parquet", embeddings=project / "raw.h5", runs=project / "runs",
    store=store,
)
sys.exit(exit_status(lambda: print(extraction.extract(places, ExecutionParams(), max_failed=0))))
"""


def test_extract__store_on_a_read_only_disk__is_right_as_long_as_nothing_is_new(desk):
    mine = desk.project("mine")
    fingerprint = desk.extract(mine)
    made = (mine / "raw.h5").read_bytes()
    (mine / "raw.h5").unlink()
    before = contents(desk.store)
    mount = f"mount --bind {desk.store} {desk.store} && mount -o remount,ro,bind {desk.store}"
    command = [*own_mounts(mount), sys.executable, "-c", READ_ONLY, str(mine), str(desk.store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "computed=0, reused=23" in done.stdout
    assert (mine / "raw.h5").read_bytes() == made
    assert contents(desk.store) == before
    next(desk.folder(fingerprint).glob("*.h5")).unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_store__two_clones_on_another_file_system__share_and_gc_what_both_left(tmp_path):
    if not Path("/dev/shm").is_dir():
        pytest.skip("no second file system here")
    store = Path("/dev/shm", f"headstart-{os.getpid()}-{time.time_ns()}")
    env = {"HEADSTART_STORE": str(store)}
    first = make_pixel_project(tmp_path / "first")
    second = tmp_path / "second"
    try:
        first.repro("extract@raw", env=env)
        shutil.copytree(first.folder, second)
        shutil.rmtree(second / "artifacts" / "embeddings")
        clone = type(first)(second)
        done = clone.stage("extract", "raw", env=env)
        assert "36 images, 0 computed, 36 reused" in done.out, done.text
        for project in (first, clone):
            project.edit(lambda params: params["backbones"]["raw"].update(storage="float32"))
            done = project.run("dvc", "repro", "extract@raw", env=env)
            assert ("embedded anew, since storage is float32" in done.err) == (project is first)
        for folder in store.iterdir():
            age(folder, 31)
        command = ("python", "-c", "from pipeline.cli import main; main()", "store")
        done = clone.run(*command, "gc", "--yes", env=env)
        assert "unused: " in done.out, done.text
        (kept,) = store.iterdir()
        assert str(first.folder) in clone.run(*command, "info", env=env).out
        shard = next(kept.glob("*.h5"))
        damage(shard, 4711)
        done = first.run(*command, "verify", env=env)
        assert done.code == 4
        assert f"{shard} is damaged" in done.out
        shard.unlink()
        done = first.run("dvc", "repro", "-f", "-s", "extract@raw", env=env)
        assert done.code == 0, done.text
        assert first.run(*command, "verify", env=env).code == 0
    finally:
        shutil.rmtree(store, ignore_errors=True)
