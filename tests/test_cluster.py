"""Where work runs: threads or Dask, the same results, errors that arrive as they are."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline import cluster
from pipeline.cluster import Ready, Work, open_cluster, scheduler
from pipeline.errors import (
    ClusterError,
    ConfigurationError,
    ImageError,
    IntegrityError,
    exit_status,
)
from pipeline.params import ExecutionParams

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def threads(count: int = 3) -> ExecutionParams:
    return ExecutionParams(threads=count)


def work(task, *, slots: int = 3) -> Work:
    """A kind of task that is one function, and cannot be parted."""
    return Work(lambda _: Ready(slots), lambda each, _: task(each), lambda _: (), lambda *_: None)


def square(number: int) -> int:
    return number * number


def refuse_third(number: int) -> int:
    if number == 3:
        raise IntegrityError("the third is damaged")
    return number


def not_an_image(_: int) -> int:
    raise ImageError("truncated", "a short one")


def broken(number: int) -> int:
    return number // 0


def full_disk(number: int) -> int:
    raise OSError(28, "No space left on device", f"/store/{number}")


def test_run__threads__yield_every_result_once():
    with open_cluster(threads()) as pool:
        assert sorted(pool.run(work(square), range(50))) == [n * n for n in range(50)]
        assert list(pool.run(work(square), [])) == []
        assert pool.ready.slots == 3
        assert pool.place == "3 threads of this process"


@pytest.mark.parametrize("workers", ["auto", 0])
def test_open_cluster__no_workers_asked_for__runs_in_this_process(workers):
    execution = ExecutionParams(workers=workers)
    assert cluster.is_here(execution)
    with open_cluster(execution) as pool:
        assert set(pool.run(work(lambda _: os.getpid()), range(4))) == {os.getpid()}


@pytest.mark.parametrize(
    ("task", "kind", "text"),
    [
        (refuse_third, IntegrityError, "the third is damaged"),
        (not_an_image, ImageError, "truncated: a short one"),
        (broken, ZeroDivisionError, "division"),
        (full_disk, OSError, "No space left on device"),
    ],
)
def test_run__error_of_a_task__arrives_as_it_is(task, kind, text):
    with open_cluster(threads(1)) as pool, pytest.raises(kind, match=text) as error:
        list(pool.run(work(task, slots=1), range(8)))
    assert type(error.value) is kind


def test_run__task_fails__running_ones_end_and_waiting_ones_never_start():
    started, ended = [], []

    def task(number: int) -> None:
        started.append(number)
        if number == 0:
            raise IntegrityError("no")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(IntegrityError), open_cluster(threads(2)) as pool:
        list(pool.run(work(task, slots=2), range(100)))
    assert len(started) < 8
    assert sorted(ended) == sorted(set(started) - {0})


def test_run__tasks__are_taken_as_places_become_free():
    running, most, taken, at_result = 0, 0, [], []
    lock = threading.Lock()

    def tasks():
        for number in range(40):
            taken.append(number)
            yield number

    def task(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return number

    done = 0
    with open_cluster(threads(3)) as pool:
        for _ in pool.run(work(task), tasks()):
            done += 1
            at_result.append(len(taken) - done)
    assert done == 40
    assert most == 3
    assert max(at_result) <= 2 * 3


def test_open_cluster__in_this_process__imports_no_dask():
    program = """
import sys
from pipeline.cluster import Ready, Work, open_cluster
from pipeline.params import ExecutionParams
work = Work(lambda _: Ready(2), lambda task, _: abs(task), lambda _: (), lambda *_: None)
with open_cluster(ExecutionParams()) as pool:
    assert sorted(pool.run(work, range(9))) == list(range(9))
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("dask", "distributed")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


NETWORK = [
    "tcp://10.0.0.5:8786",
    "tcp://scheduler.example.com:8786",
    "10.0.0.5:8786",
    "scheduler.example.com:8786",
    "tcp://0.0.0.0:8786",
    "tcp://[2001:db8::1]:8786",
    "ws://10.0.0.5:8786",
    "ucx://10.0.0.5:8786",
    "tcp://localhost.example.com:8786",
    "tcp://127.0.0.1.example.com:8786",
    "tcp://127.0.0.1@10.0.0.5:8786",
]


@pytest.mark.parametrize("address", NETWORK)
def test_open_cluster__unencrypted_over_a_network__is_refused(address):
    with (
        pytest.raises(ConfigurationError, match="over a network, where .*use tls://") as error,
        open_cluster(ExecutionParams(scheduler=address)),
    ):
        pass
    assert address in str(error.value)


def test_open_cluster__address_of_the_environment__is_looked_at_as_well(monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://10.0.0.5:8786")
    with pytest.raises(ConfigurationError, match="over a network"), open_cluster(threads()):
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("host", ["tcp://127.0.0.1", "127.0.0.1", "localhost", "tcp://[::1]"])
def test_open_cluster__no_scheduler_answers__exits_6_with_one_line(host, monkeypatch, capsys):
    monkeypatch.setattr(scheduler, "TIMEOUT", "0.5s")
    address = f"{host}:{free_port()}"

    def main() -> None:
        with open_cluster(ExecutionParams(scheduler=address)):
            pass

    assert exit_status(main) == ClusterError.exit_code == 6
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"no Dask scheduler answers at {address}" in printed
    assert "dask scheduler" in printed


@pytest.mark.parametrize("address", ["tls://127.0.0.1:8786", "ucx://127.0.0.1:1"])
def test_open_cluster__address_that_dask_cannot_use__is_a_cluster_error(address, monkeypatch):
    monkeypatch.setattr(scheduler, "TIMEOUT", "0.5s")
    with pytest.raises(ClusterError), open_cluster(ExecutionParams(scheduler=address)):
        pass


DASK = """
import sys
from functools import partial
from pipeline.cluster import Work, open_cluster
from pipeline.errors import HeadstartError, exit_status
from pipeline.params import ExecutionParams
from tests import test_cluster as tasks

def work(name):
    return Work(tasks.ready, partial(tasks.do, name), tasks.whole, tasks.lost)

def main():
    with open_cluster(ExecutionParams(workers=2, threads=1)) as pool:
        print(sorted(pool.run(work("square"), range(50))) == [n * n for n in range(50)])
        print(tasks.listening())
        print(len(set(pool.run(work("process"), range(40)))) == 2)
        print(pool.ready.slots, pool.place)
        for name in ("refuse_third", "not_an_image", "no_answer"):
            try:
                list(pool.run(work(name), range(8)))
            except (HeadstartError, OSError) as error:
                print(type(error).__name__, error)
        if sys.argv[1:] == ["die"]:
            print(sorted(pool.run(work("exit_hard"), range(20))))

if __name__ == "__main__":
    sys.exit(exit_status(main))
"""


def process(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def no_answer(number: int) -> int:
    raise TimeoutError(110, "Connection timed out", "/store/1")


def exit_hard(number: int) -> int:
    if number == 7:
        os._exit(9)
    return number


def ready(seat) -> Ready:
    return Ready(seat.threads)


def do(name: str, task: int, _) -> object:
    return globals()[name](task)


def whole(_: int) -> tuple:
    return ()


def lost(task: int, words: str) -> int:
    return 1000 + task


def listening() -> list[str]:
    """The addresses at which this process and its children listen."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    sockets = [each for process in family for each in process.net_connections()]
    return sorted({each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN})


def run_dask(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """DASK in a process of its own, as a stage has it."""
    script = folder / "main.py"
    script.write_text(DASK)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_local_cluster__two_workers__do_what_threads_do(tmp_path):
    done = run_dask(tmp_path)
    assert done.stdout.splitlines() == [
        "True",
        "['127.0.0.1']",
        "True",
        "2 2 local workers",
        "IntegrityError the third is damaged",
        "ImageError truncated: a short one",
        "TimeoutError [Errno 110] Connection timed out: '/store/1'",
    ]
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr  # a user's error is no crash to log
    assert "InvalidStateError" not in done.stderr


def test_local_cluster__task_that_ends_its_workers__is_lost_alone(tmp_path):
    done = run_dask(tmp_path, "die")
    assert done.returncode == 0, done.stderr
    numbers = [number for number in range(20) if number != 7]
    assert done.stdout.splitlines()[-1] == str([*numbers, 1007])
    said = done.stderr.splitlines()
    assert all(line.startswith("headstart: worker ") for line in said), done.stderr


@pytest.mark.parametrize(
    "address", ["tls://10.0.0.5", "http://127.0.0.1:8786", "127.0.0.1", "tcp://:8786", "tcp://h:x"]
)
def test_open_cluster__no_address__is_a_configuration_error_with_what_to_write(address):
    with (
        pytest.raises(ConfigurationError, match="is no address of a scheduler; write tls://") as e,
        open_cluster(ExecutionParams(scheduler=address)),
    ):
        pass
    assert str(e.value).startswith(f"execution.scheduler: {address} is")


def test_open_cluster__environments_scheduler__is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://10.0.0.5:8786")
    with (
        pytest.raises(ConfigurationError, match="^DASK_SCHEDULER_ADDRESS: "),
        open_cluster(threads()),
    ):
        pass
