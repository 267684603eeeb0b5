"""What the doctor says of the store, the disk, memory, files and DVC, with fixes that are typed."""

# ruff: noqa: F811 - a fixture that is imported is asked for by its name

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cgroups, dataset, frozen
from pipeline.cli.doctor import store
from pipeline.cli.store import inventory
from tests.doctor_desk import Desk, desk, own_mounts, without_root  # noqa: F401 - a fixture
from tests.frozen_fixtures import edit_record, pixels  # noqa: F401 - a fixture
from tests.test_doctor import QUICK

# store


def test_acceptance__store_on_a_disk_that_is_read_only__is_exit_2_and_the_command_mends_it(
    desk,
    tmp_path,
):
    place = tmp_path / "team"
    place.mkdir()
    under = own_mounts(f"mount -t tmpfs -o ro,size=1m none {place}")
    env = {"HEADSTART_STORE": str(place)}
    said = desk.doctor(*QUICK, env=env, under=under)
    fix = said.told("error", str(place), "Read-only file system", code=2)
    assert said.bad.topic == "store"
    assert fix == f"export HEADSTART_STORE={desk.folder / 'artifacts' / '.store'}"
    desk.doctor("store", env=env, under=under, first=fix).all_right()


def test_store__folder_that_may_not_be_written__is_mended_by_chmod(desk):
    place = desk.folder / "artifacts" / ".store"
    place.mkdir(mode=0o555)
    under = without_root()
    fix = desk.doctor("store", under=under).told("error", "Permission denied", code=2)
    assert fix == "chmod u+rwx artifacts/.store"
    desk.type(fix)
    desk.doctor("store", under=under).all_right()


def test_store__folder_of_another_in_a_project__is_given_by_chown(desk):
    place = desk.folder / "artifacts" / ".store"
    place.mkdir(mode=0o755)
    under = without_root()
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(place, 1, 1)
    fix = desk.doctor("store", under=under).told("error", "Permission denied", code=2)
    assert fix == 'sudo chown -R "$(id -un)" artifacts/.store'
    desk.type(fix.removeprefix("sudo "))
    desk.doctor("store", under=under).all_right()


def test_store__file_in_the_place_of_a_folder__is_moved_away(desk):
    (desk.folder / "occupied").write_text("kept")
    desk.project.edit(lambda params: params["execution"].update(store="occupied/store"))
    fix = desk.doctor("store").told("error", "occupied is a file where the store's", code=2)
    assert fix == "mv occupied occupied.old && mkdir -p occupied/store"
    desk.type(fix)
    desk.doctor("store").all_right()
    assert (desk.folder / "occupied.old").read_text() == "kept"


def test_try_writing__leaves_nothing__not_the_folders_it_made(tmp_path):
    assert store.try_writing(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    store.try_writing(tmp_path / "kept")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_store__shards_are_counted_by_backbone__and_leftovers_are_deleted_as_told(
    desk,
    pixels,
):
    shutil.copytree(pixels, desk.folder / "artifacts" / "backbones" / "raw")
    known, other = frozen.load(pixels).fingerprint, "b" * 64
    place = desk.folder / "artifacts" / ".store"
    for fingerprint, name in ((known, "1.h5"), (known, "2.h5"), (other, "3.h5")):
        (place / fingerprint).mkdir(parents=True, exist_ok=True)
        (place / fingerprint / name).write_bytes(bytes(1000))
    left, recent = place / known / ".4.h5.partial", place / known / ".5.h5.partial"
    for path in (left, recent):
        path.touch()
    os.utime(left, (time.time() - 2 * inventory.DAY,) * 2)
    said = desk.doctor("store")
    assert "3 shards, 3 kB (raw 2, bbbbbbbbbbbb 1)" in said.findings[0].text
    fix = said.told("warning", "1 files that killed runs left")
    desk.type(fix)
    desk.doctor("store").all_right()
    assert recent.exists()


# disk


def filled(place: Path, size: int, left: int) -> str:
    """A command that mounts a file system of `size` bytes, but for `left` full."""
    return (
        f"mount -t tmpfs -o size={size} none {place} && "
        f"head -c {size - left} /dev/zero > {place}/ballast"
    )


def test_acceptance__one_percent_of_the_disk_left__is_exit_5_and_the_command_mends_it(
    desk,
    tmp_path,
):
    place = tmp_path / "small"
    place.mkdir()
    size = 4096 * 2500
    under = own_mounts(filled(place, size, size // 100))
    env = {"HEADSTART_STORE": str(place)}
    said = desk.doctor(*QUICK, env=env, under=under)
    fix = said.told("error", f"of 10.2 MB free at {place}, for the store (1.0%)", code=5)
    assert said.bad.topic == "disk"
    assert re.fullmatch(r"export HEADSTART_STORE=\S+/headstart-store", fix)
    desk.doctor("disk", env=env, under=under, first=fix).all_right()


@pytest.mark.parametrize(("percent", "level"), [(0, "error"), (3, "warning"), (10, "ok")])
def test_disk__share_that_is_left__tells_how_grave_it_is(desk, tmp_path, percent, level):
    place = tmp_path / "small"
    place.mkdir()
    size = 4096 * 2500
    under = own_mounts(filled(place, size, size * percent // 100))
    said = desk.doctor("disk", env={"TMPDIR": str(place)}, under=under)
    (found,) = (each for each in said.of("disk") if str(place) in each.text)
    assert found.level == level
    if level != "ok":
        assert found.fix.startswith("export TMPDIR=")
        desk.doctor("disk", env={"TMPDIR": str(place)}, under=under, first=found.fix).all_right()


def test_disk__no_byte_left__is_said_of_the_store_as_well(desk, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    under = own_mounts(filled(place, 4096 * 2500, 0))
    said = desk.doctor("store", env={"HEADSTART_STORE": str(place)}, under=under)
    said.told("error", "No space left on device", code=5)


def test_disk__project_on_a_full_disk__frees_dvcs_cache_or_shows_what_fills(desk, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    script = (
        f"mount -t tmpfs -o size=40m none {place} && cp -a {desk.folder}/. {place}/ && "
        f"head -c 39m /dev/zero > {place}/ballast; cd {place}"
    )
    shown = desk.doctor("disk", under=own_mounts(script))
    assert shown.code == 5
    (bad,) = (found for found in shown.findings if found.level == "error")
    assert "artifacts, the store" in bad.text
    assert bad.fix == "du -xhd 2 artifacts | sort -h | tail"
    desk.type(bad.fix)
    cached = f"mkdir -p {place}/.dvc/cache/files/md5 && cd {place}"
    (bad,) = (
        found
        for found in desk.doctor("disk", under=own_mounts(script), first=cached).findings
        if found.level == "error"
    )
    assert bad.fix == "dvc gc --workspace"
    desk.type(f"{bad.fix} --force")


def test_disk__less_than_the_embeddings_take__is_an_error(desk, pixels, tmp_path):
    frozen_raw = desk.folder / "artifacts" / "backbones" / "raw"
    shutil.copytree(pixels, frozen_raw)
    edit_record(frozen_raw, lambda record: record.update(dim=1000))
    names = [f"{number:064x}" for number in range(2000)]
    images = dataset.Images(dataset.digests(names), tuple(names), (1,) * len(names))
    table = desk.folder / "artifacts" / "dataset" / "images.parquet"
    table.parent.mkdir()
    dataset.write_images(table, images)
    place = tmp_path / "small"
    place.mkdir()
    under = own_mounts(f"mount -t tmpfs -o size=3m none {place}")
    env = {"HEADSTART_STORE": str(place)}
    said = desk.doctor("disk", env=env, under=under)
    said.told("error", "the embeddings to come take 4 MB", code=5)
    half = f"mkdir {place}/$F && head -c 2000000 /dev/zero > {place}/$F/1.h5"
    fingerprint = frozen.load(pixels).fingerprint
    said = desk.doctor("disk", env=env, under=under, first=half.replace("$F", fingerprint))
    assert "the embeddings to come take 2 MB" in said.bad.text, "what is stored is there"


# memory, cores, files


def test_memory__more_workers_than_fit__is_exit_5_and_the_line_mends_it(desk):
    desk.project.edit(lambda params: params["execution"].update(workers=100_000))
    fix = desk.doctor("memory").told("error", "100000 worker processes take about 50 TB", code=5)
    desk.edit_as_told(fix)
    assert desk.doctor("memory").code == 0


def test_memory__more_threads_than_the_largest_images_allow__is_a_warning(desk):
    desk.project.edit(lambda params: params["execution"].update(threads=100_000))
    fix = desk.doctor("memory").told("warning", "100000 threads that meet the largest images")
    desk.edit_as_told(fix)
    desk.doctor("memory").all_right()


def test_cores__more_threads_than_cores__is_a_warning_and_the_line_mends_it(desk):
    desk.project.edit(lambda params: params["execution"].update(workers=3, threads=500))
    fix = desk.doctor("cores").told("warning", "runs 1500 threads in 3 processes")
    assert fix.startswith("in params.yaml, under execution, write workers: auto, threads: ")
    desk.edit_as_told(fix)
    desk.doctor("cores").all_right()


def test_cgroups__version_2__the_tightest_of_the_groups_above_counts(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/box\n")
    for folder, limit, used, cpu in (
        ("pod", "3000", "2500", "150000 100000"),
        ("pod/box", "max", "2000", "max 100000"),
    ):
        at = tmp_path / folder
        at.mkdir()
        (at / "memory.max").write_text(f"{limit}\n")
        (at / "memory.current").write_text(f"{used}\n")
        (at / "memory.stat").write_text("anon 5\ninactive_file 100\n")
        (at / "cpu.max").write_text(f"{cpu}\n")
    assert cgroups.memory_left(tmp_path, own) == 3000 - 2500 + 100
    assert cgroups.cores_allowed(tmp_path, own) == 1.5


def test_cgroups__version_1__is_read_as_well(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/box\n3:cpu,cpuacct:/\n0::/\n")
    at = tmp_path / "memory" / "box"
    at.mkdir(parents=True)
    (at / "memory.limit_in_bytes").write_text("3000\n")
    (at / "memory.usage_in_bytes").write_text("2500\n")
    (at / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 100\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroups.memory_left(tmp_path, own) == 600
    assert cgroups.cores_allowed(tmp_path, own) == 0.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroups.cores_allowed(tmp_path, own) is None
    assert cgroups.memory_left(tmp_path, tmp_path / "gone") is None


def test_files__few_may_be_open__is_mended_by_ulimit(desk):
    low = "ulimit -Sn 256"
    fix = desk.doctor("files", first=low).told("warning", "only 256 may be open")
    assert fix == "ulimit -n 4096"
    desk.doctor("files", first=f"{low}; {fix}").all_right()


def test_files__hard_limit_is_low_too__is_raised_for_the_shell(desk):
    fix = desk.doctor("files", first="ulimit -n 256").told("warning", "the hard limit is 256")
    assert fix == "sudo prlimit --pid $$ --nofile=4096"
    raise_it = f"ulimit -n 256 && {fix.removeprefix('sudo ')}"
    if desk.project.run("bash", "-c", raise_it).code:
        pytest.skip("this user may not raise a hard limit")
    desk.doctor("files", first=raise_it).all_right()


# DVC


def described(desk: Desk) -> None:
    """DVC works here, and the doctor says so."""
    said = desk.doctor("dvc")
    said.all_right()
    assert "remotes: none" in said.findings[0].text
    desk.type("dvc stage list")


def remove(desk: Desk, *names: str) -> None:
    for name in names:
        shutil.rmtree(desk.folder / name)


@pytest.mark.parametrize(
    ("gone", "part", "command"),
    [
        ((".dvc", ".git"), "is no git repository, and has no .dvc", "git init && dvc init"),
        ((".dvc",), "has no .dvc, so DVC does not run here", "dvc init"),
        ((".git",), "is in no git repository", "git init"),
    ],
)
def test_dvc__no_repository__is_made_as_told(desk, gone, part, command):
    remove(desk, *gone)
    fix = desk.doctor("dvc").told("error", part, code=2)
    assert fix == command
    desk.type(fix)
    described(desk)


def test_dvc__project_below_the_repository__is_made_a_part_of_it(desk, tmp_path):
    remove(desk, ".dvc", ".git")
    desk.type("git init -q", cwd=tmp_path)
    fix = desk.doctor("dvc").told("error", "has no .dvc", code=2)
    assert fix == "dvc init --subdir"
    desk.type(fix)
    described(desk)


def test_dvc__called_from_below__names_the_folder_to_enter(desk):
    remove(desk, ".dvc")
    below = desk.folder / "photos"
    env = {"PYTHONPATH": str(desk.folder)}
    fix = desk.doctor("dvc", cwd=below, env=env).told("error", "has no .dvc", code=2)
    assert fix == f"cd {desk.folder} && dvc init"
    desk.type(fix, cwd=below)
    described(desk)


def test_dvc__wrong_setting__is_restored_as_told(desk):
    with (desk.folder / ".dvc" / "config").open("a") as file:
        file.write("[cache]\n    typo = 3\n")
    fix = desk.doctor("dvc").told("error", "config file error", "typo", code=2)
    assert fix == "git checkout -- .dvc/config"
    desk.type(fix)
    described(desk)


def test_dvc__remote_and_cache__are_told(desk, tmp_path):
    desk.type(f"dvc remote add -d team {tmp_path / 'remote'} && dvc cache dir {tmp_path / 'cache'}")
    desk.type("dvc config cache.type hardlink,copy")
    said = desk.doctor("dvc")
    said.all_right()
    text = f"cache {tmp_path / 'cache'} by hardlink or copy; remotes: team (default team)"
    assert said.findings[0].text == text


@pytest.mark.parametrize("name", ["curve", "finetuned"])
def test_dvc__folder_of_an_optional_stage_missing__is_made_as_told(desk, name):
    remove(desk, f"artifacts/{name}")
    fix = desk.doctor("dvc").told("error", f"artifacts/{name} is missing", code=2)
    desk.type(fix)
    described(desk)
    assert (desk.folder / "artifacts" / name / ".gitkeep").exists()


def test_dvc__artifacts_not_ignored__are_ignored_as_told(desk):
    (desk.folder / ".gitignore").write_text("/photos\n")
    fix = desk.doctor("dvc").told("warning", "git does not ignore artifacts/")
    desk.type(fix)
    described(desk)
    listed = desk.project.run("git", "ls-files", "--others", "--exclude-standard", "artifacts")
    assert listed.out == ""
    assert "/photos\n" in (desk.folder / ".gitignore").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"read": {"a": [{"cmd": "x"}]}, "write": {}}'])
def test_dvc__damaged_list_of_locks__is_removed_as_told(desk, content):
    path = desk.folder / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    fix = desk.doctor("dvc").told("error", "rwlock is damaged", code=2)
    assert fix == "rm .dvc/tmp/rwlock"
    desk.type(fix)
    described(desk)


def test_dvc__lock_of_a_number_that_another_program_has_now__is_removed_as_told(desk):
    entry = {"pid": os.getpid(), "cmd": "repro"}
    dead = {"pid": 2**22 + 7, "cmd": "repro"}  # above what Linux gives out
    path = desk.folder / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"read": {"/x": [dead]}, "write": {"/y": entry}}))
    fix = desk.doctor("dvc").told("error", f"names process {os.getpid()}", code=2)
    desk.type(fix)
    described(desk)
    for left in ({"read": {"/x": [dead]}, "write": {}}, {"read": {}}, {}):  # as DVC leaves it
        path.write_text(json.dumps(left))
        described(desk)


HOLD = (
    "import os, sys; from dvc.lock import make_lock; "
    "lock = make_lock('.dvc/tmp/lock', tmp_dir='.dvc/tmp', hardlink_lock=sys.argv[1] == 'hard'); "
    "lock.lock(); print('held', flush=True); sys.stdin.read(); os._exit(0)"
)
"""Holds DVC's lock until its standard input ends, and leaves it as a killed process does."""


def test_dvc__lock_that_is_held__names_its_process_and_is_free_after(desk):
    (desk.folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, "kernel"],
        cwd=desk.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        fix = desk.doctor("dvc").told("warning", f"DVC runs here (process {holder.pid})")
        desk.type(fix)
    described(desk)


def test_dvc__hard_lock_of_a_killed_run__is_removed_as_told(desk):
    (desk.folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    desk.type("dvc config core.hardlink_lock true")
    desk.type(f'{sys.executable} -c "{HOLD}" hard < /dev/null')
    assert desk.project.run("dvc", "status").code != 0
    fix = desk.doctor("dvc").told("error", "left by a DVC that was killed", code=2)
    assert fix == "rm .dvc/tmp/lock"
    desk.type(fix)
    described(desk)
    assert desk.project.run("dvc", "status").code == 0


def test_dvc__params_without_a_pipeline__is_a_warning(desk):
    (desk.folder / "dvc.yaml").unlink()
    desk.doctor("dvc").told("warning", "no dvc.yaml in")
