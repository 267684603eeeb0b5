"""Extraction on Dask workers: the same bytes, whatever ends, comes late or poisons a worker."""

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from pipeline import dataset
from tests.dask_desk import desk, end_family, finish, start_run, wait_for
from tests.frozen_fixtures import pixels
from tests.test_extraction import photos, places_in, write_photos

__all__ = ["pixels"]


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def digest(base: Path, backbone: Path) -> str:
    return hashlib.sha256(places_in(base, backbone).embeddings.read_bytes()).hexdigest()


def in_process(base: Path, contents: dict[str, bytes], backbone: Path) -> str:
    """sha256 of the tracked file that one process makes."""
    base.mkdir()
    write_photos(base, contents)
    code, _, err = finish(start_run(base, backbone))
    assert code == 0, err
    return digest(base, backbone)


def shards_in(base: Path) -> int:
    return len(list((base / "store").glob("*/*.h5")))


def test_extract__separate_scheduler_and_workers__make_the_same_bytes(pixels, tmp_path):
    expected = in_process(tmp_path / "alone", photos(60), pixels)
    write_photos(tmp_path, photos(60))
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker()
        cluster.start_worker()
        run = start_run(tmp_path, pixels, size=8, env={"DASK_SCHEDULER_ADDRESS": cluster.address})
        assert finish(run) == (0, "(60, 60, 0, 0)", "")
        assert digest(tmp_path, pixels) == expected
        again = start_run(tmp_path, pixels, scheduler=str(cluster.file))
        assert finish(again) == (0, "(60, 0, 60, 0)", "")


def test_extract__worker_killed_midway__is_named_and_the_run_ends_in_the_same_bytes(
    pixels, tmp_path
):
    contents = photos(120)
    expected = in_process(tmp_path / "alone", contents, pixels)
    write_photos(tmp_path, contents)
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker("--no-nanny", *cluster.odd(), HS_SLOW="0.2")
        run = start_run(tmp_path, pixels, size=4, scheduler=str(cluster.file))
        second = cluster.workers.pop()
        wait_for(lambda: shards_in(tmp_path) >= 3 and cluster.is_at_work(second))
        end_family(second)
        code, out, err = finish(run)
    assert (code, out) == (0, "(120, 120, 0, 0)"), err
    assert "was lost; its shards are done again" in err
    assert digest(tmp_path, pixels) == expected


@pytest.mark.slow
def test_extract__worker_that_dask_pauses_midway__is_done_without(pixels, tmp_path):
    write_photos(tmp_path, photos(60))
    never = {"DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False"}  # Dask would end what it began not
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker(*cluster.odd(), "--name", "full", HS_PAUSE="1", **never)
        cluster.start_worker(*cluster.odd(), HS_SLOW="0.2")
        log = tmp_path / "dask" / "scheduler.log"
        wait_for(lambda: log.read_text().count("Register worker") == 2)
        run = start_run(tmp_path, pixels, size=4, scheduler=str(cluster.file))
        code, out, err = finish(run)
    assert (code, out) == (0, "(60, 60, 0, 0)"), err
    assert "worker full (tcp://127.0.0.1:" in err


def poisoned(base: Path, backbone: Path, seed: int, *, shards: int, size: int = 16) -> None:
    """One run among good shards; the poisonous image alone is listed."""
    contents = photos(shards * size)
    names = sorted(hashlib.sha256(content).hexdigest() for content in contents.values())
    bad = names[seed * 7919 % len(names)]
    write_photos(base, contents)
    with desk(base / "dask") as cluster:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker(*cluster.odd(), HS_POISON=bad)
        code, out, err = finish(start_run(base, backbone, size=size, scheduler=str(cluster.file)))
    assert (code, out) == (0, f"({len(names)}, {len(names) - 1}, 0, 1)"), err
    (problem,) = dataset.read_problems(places_in(base, backbone).problems)
    assert (problem.sha256, problem.reason) == (bad, "crashed")
    assert problem.detail == "its worker ended 2 times while nothing else was worked on"


def test_extract__poisonous_image__is_listed_and_no_other(pixels, tmp_path):
    poisoned(tmp_path, pixels, 1, shards=5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_extract__poisonous_image_among_200_good_shards__is_listed_alone(pixels, tmp_path, seed):
    poisoned(tmp_path, pixels, seed, shards=201)


def test_extract__scheduler_killed__exits_6_and_a_rerun_finishes(pixels, tmp_path):
    contents = photos(120)
    expected = in_process(tmp_path / "alone", contents, pixels)
    write_photos(tmp_path, contents)
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker(*cluster.odd(), HS_SLOW="0.2")
        run = start_run(tmp_path, pixels, size=4, scheduler=str(cluster.file))
        wait_for(lambda: shards_in(tmp_path) >= 3)
        end_family(cluster.scheduler)
        code, _, err = finish(run, seconds=60)
    assert code == 6, err
    assert err.count("\n") == 1, err
    (line,) = err.splitlines()
    assert line.startswith("headstart: error: the Dask scheduler went away (")
    assert line.endswith("what is stored stays, run the same command to go on")
    assert "Traceback" not in err
    kept = shards_in(tmp_path)
    code, out, err = finish(start_run(tmp_path, pixels))
    assert code == 0, err
    assert int(out.split(",")[2]) >= 4 * 3
    assert kept >= 3
    assert digest(tmp_path, pixels) == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_extract__any_workers_and_results_in_any_order__make_the_same_bytes(
    pixels, tmp_path, workers
):
    contents = photos(90)
    expected = in_process(tmp_path / "alone", contents, pixels)
    write_photos(tmp_path, contents)
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        for _ in range(workers):
            cluster.start_worker(*cluster.odd(), "--nthreads", "3", HS_SLOW="0.1")
        run = start_run(tmp_path, pixels, size=3, scheduler=str(cluster.file))
        assert finish(run)[:2] == (0, "(90, 90, 0, 0)")
    assert digest(tmp_path, pixels) == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_extract__local_workers__make_the_same_bytes(pixels, tmp_path, workers):
    expected = in_process(tmp_path / "alone", photos(90), pixels)
    write_photos(tmp_path, photos(90))
    code, out, err = finish(start_run(tmp_path, pixels, size=5, workers=workers))
    assert (code, out) == (0, "(90, 90, 0, 0)"), err
    assert digest(tmp_path, pixels) == expected


def test_extract__worker_with_another_headstart__is_left_out_by_name(pixels, tmp_path):
    write_photos(tmp_path, photos(20))
    other = tmp_path / "other.py"
    other.write_text("from pipeline import admission\nadmission._code = lambda: 'code 0'\n")
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker("--name", "stale", "--preload", str(other))
        code, out, err = finish(start_run(tmp_path, pixels, scheduler=str(cluster.file)))
        assert (code, out) == (6, "")
        assert "worker stale (tcp://127.0.0.1:" in err
        assert "is left out: headstart code 0 there, code " in err
        cluster.start_worker()
        log = tmp_path / "dask" / "scheduler.log"
        wait_for(lambda: log.read_text().count("Register worker") == 2)
        code, out, err = finish(start_run(tmp_path, pixels, scheduler=str(cluster.file)))
    assert (code, out) == (0, "(20, 20, 0, 0)"), err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_extract__no_worker_comes__exits_6_after_its_patience(pixels, tmp_path):
    write_photos(tmp_path, photos(3))
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        run = start_run(tmp_path, pixels, scheduler=str(cluster.file), patience=0.5)
        code, _, err = finish(run)
    assert code == 6
    waiting, gone = err.splitlines()
    assert waiting.startswith("headstart: none of the workers of tcp://127.0.0.1:")
    assert "is there; waiting 0.5 s for one, start it with 'dask worker tcp://127.0.0.1:" in waiting
    assert gone.startswith("headstart: error: no worker came, of workers of tcp://127.0.0.1:")


def certificates(folder: Path) -> dict[str, str]:
    """Self-made ones, as docs/workers.md has them."""
    folder.mkdir()
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            "/CN=dask", "-keyout", "key.pem", "-out", "cert.pem",
        ],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    tls = "DASK_DISTRIBUTED__COMM__TLS"
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    roles = {
        f"{tls}__{role}__{what}": path
        for role in ("SCHEDULER", "WORKER", "CLIENT")
        for what, path in (("CERT", cert), ("KEY", key))
    }
    return {f"{tls}__CA_FILE": cert, **roles}


def test_extract__tls_with_self_made_certificates__works_and_without_them_does_not(
    pixels, tmp_path
):
    write_photos(tmp_path, photos(20))
    env = certificates(tmp_path / "tls")
    with desk(tmp_path / "dask", env=env) as cluster:
        cluster.start_scheduler("--protocol", "tls")
        cluster.start_worker("--protocol", "tls")
        assert cluster.address.startswith("tls://127.0.0.1:")
        bare = finish(start_run(tmp_path, pixels, scheduler=cluster.address))
        run = start_run(tmp_path, pixels, scheduler=cluster.address, env=env)
        assert finish(run) == (0, "(20, 20, 0, 0)", "")
    assert bare[0] == 6
    assert bare[2].count("\n") == 1
    assert "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in bare[2]


@pytest.mark.slow
def test_extract__performance_report__is_written_and_nothing_else(pixels, tmp_path):
    write_photos(tmp_path, photos(20))
    run = start_run(tmp_path, pixels, workers=1, performance_report=True)
    code, _, err = finish(run)
    assert code == 0, err
    notes = {path.name for path in places_in(tmp_path, pixels).runs.iterdir()}
    assert notes == {f"dask-{pixels.name}.html", f"extract-{pixels.name}.json"}
    report = places_in(tmp_path, pixels).runs / f"dask-{pixels.name}.html"
    assert "Dask Performance Report" in report.read_text()


@pytest.mark.slow
def test_extract__scheduler_killed_while_a_report_is_asked_for__exits_6_without_one(
    pixels, tmp_path
):
    write_photos(tmp_path, photos(120))
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker(*cluster.odd(), HS_SLOW="0.2")
        file = str(cluster.file)
        run = start_run(tmp_path, pixels, size=4, scheduler=file, performance_report=True)
        wait_for(lambda: shards_in(tmp_path) >= 2)
        end_family(cluster.scheduler)
        code, _, err = finish(run)
    assert code == 6, err
    assert err.count("\n") == 1
    assert list(places_in(tmp_path, pixels).runs.iterdir()) == []


def listening(pid: int) -> set[str]:
    """Addresses at which a process and its children listen, as `ss` sees them."""
    family = {pid, *(each.pid for each in psutil.Process(pid).children(recursive=True))}
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    return {
        line.split()[3].rpartition(":")[0]
        for line in lines.splitlines()
        if any(f"pid={each}," in line for each in family)
    }


@pytest.mark.skipif(not Path("/usr/bin/ss").exists(), reason="no ss here")
@pytest.mark.parametrize("workers", [0, 2])
def test_extract__any_default__listens_on_loopback_alone(pixels, tmp_path, workers):
    write_photos(tmp_path, photos(40))
    seen: set[str] = set()
    run = start_run(tmp_path, pixels, size=2, workers=workers)
    while run.poll() is None:
        try:
            seen |= listening(run.pid)
        except psutil.NoSuchProcess:
            break
    assert finish(run)[0] == 0
    assert seen == ({"127.0.0.1"} if workers else set())


@pytest.mark.slow
def test_extract__interrupted_on_an_existing_cluster__leaves_its_workers_alone(pixels, tmp_path):
    write_photos(tmp_path, photos(120))
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker(*cluster.odd(), HS_SLOW="0.2")
        run = start_run(tmp_path, pixels, size=4, scheduler=str(cluster.file))
        wait_for(lambda: shards_in(tmp_path) >= 2)
        run.send_signal(signal.SIGINT)
        code, _, err = finish(run, seconds=60)
        assert code == 130, err
        assert err.count("\n") == 1
        assert "interrupted" in err
        run = start_run(tmp_path, pixels, scheduler=str(cluster.file))
        code, out, err = finish(run)
    assert code == 0, err
    assert out.startswith("(120, ")


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 2])
def test_extract__interrupted_on_a_terminal_with_local_workers__is_one_line(pixels, tmp_path, kept):
    """There the workers hear Ctrl-C as well."""
    write_photos(tmp_path, photos(300))
    run = start_run(tmp_path, pixels, within=("setsid",), size=2, workers=2)
    run_itself = psutil.Process(run.pid)  # setsid becomes what it starts
    wait_for(lambda: len(run_itself.children()) >= 3 and shards_in(tmp_path) >= kept)
    os.killpg(run.pid, signal.SIGINT)
    code, _, err = finish(run)
    assert code == 130, err
    assert err.count("\n") == 1, err
    assert "interrupted" in err


@pytest.mark.slow
def test_extract__gpus_of_workers_too_small__halves_the_batch_and_loses_nothing(pixels, tmp_path):
    expected = in_process(tmp_path / "alone", photos(60), pixels)
    write_photos(tmp_path, photos(60))
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker(*cluster.odd(), HS_ROOM="2")
        code, out, err = finish(start_run(tmp_path, pixels, size=4, scheduler=str(cluster.file)))
    assert (code, out) == (0, "(60, 60, 0, 0)"), err
    assert "the GPU has no memory for 4 images; the rest is embedded 2 images at a time" in err
    assert digest(tmp_path, pixels) == expected


@pytest.mark.slow
def test_extract__two_runs_at_once_on_one_cluster__are_both_right(pixels, tmp_path):
    expected = in_process(tmp_path / "alone", photos(60), pixels)
    with desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker(*cluster.odd(), HS_SLOW="0.05")
        runs = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            write_photos(tmp_path / name, photos(60))
            runs.append(start_run(tmp_path / name, pixels, size=4, scheduler=str(cluster.file)))
        assert [finish(run) for run in runs] == [(0, "(60, 60, 0, 0)", "")] * 2
    assert {digest(tmp_path / name, pixels) for name in ("a", "b")} == {expected}


class Hosts:
    """Two hosts: network namespaces with a cable between them."""

    names = (f"hs{os.getpid()}a", f"hs{os.getpid()}b")
    addresses = ("10.77.0.1", "10.77.0.2")

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def make(self) -> None:
        a, b = self.names
        for name in self.names:
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        self.ip(
            "-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b
        )
        for name, address in zip(self.names, self.addresses, strict=True):
            self.ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            self.ip("-n", name, "link", "set", "cable", "up")

    def within(self, host: int) -> tuple[str, ...]:
        return "ip", "netns", "exec", self.names[host]

    def cut(self) -> None:
        self.ip("-n", self.names[1], "link", "set", "cable", "down")

    def end(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.fixture
def hosts():
    made = Hosts()
    try:
        made.make()
    except (OSError, subprocess.CalledProcessError) as error:
        made.end()
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.end()


@pytest.mark.slow
def test_extract__two_hosts_one_cut_off__finishes_with_the_same_bytes(pixels, tmp_path, hosts):
    contents = photos(160)
    expected = in_process(tmp_path / "alone", contents, pixels)
    write_photos(tmp_path, contents)
    env = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s"}
    near, far = hosts.within(0), hosts.within(1)
    with desk(tmp_path / "dask", host=hosts.addresses[0], env=env) as cluster:
        cluster.start_scheduler(within=near)
        odd = cluster.odd()
        cluster.start_worker("--name", "near", *odd, within=near, HS_SLOW="0.2")
        cluster.start_worker(
            "--name", "far", "--host", hosts.addresses[1], *odd, within=far, HS_SLOW="0.2"
        )
        log = tmp_path / "dask" / "scheduler.log"
        wait_for(lambda: log.read_text().count("Register worker") == 2)
        refused = finish(start_run(tmp_path, pixels, within=near, scheduler=cluster.address))
        assert refused[0] == 2
        assert "is plain tcp over a network" in refused[2]
        run = start_run(
            tmp_path, pixels, size=4, within=near, env=env, scheduler=cluster.address, insecure=True
        )
        wait_for(lambda: shards_in(tmp_path) >= 6)
        hosts.cut()
        code, out, err = finish(run, seconds=120)
    assert (code, out) == (0, "(160, 160, 0, 0)"), err
    assert "worker far (tcp://10.77.0.2:" in err
    assert digest(tmp_path, pixels) == expected
