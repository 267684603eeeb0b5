"""A Dask scheduler and workers in processes of their own, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]

DASK = [sys.executable, "-m", "dask"]

ODD = """
import os, random, signal, time
from distributed.core import Status
from pipeline import worker
from pipeline.errors import DeviceMemoryError

worker._plainly_stored = getattr(worker, "_plainly_stored", worker._stored)  # Dask loads it twice

def stored(vectors, backbone, names):
    time.sleep(random.random() * float(os.environ.get("HS_SLOW", 0)))
    if set(names) & set(os.environ.get("HS_POISON", "").split()):
        os.kill(os.getpid(), signal.SIGKILL)
    if "HS_PAUSE" in os.environ:
        here.loop.add_callback(setattr, here, "status", Status.paused)
    return worker._plainly_stored(vectors, backbone, names)

worker._plainly_embedded = getattr(worker, "_plainly_embedded", worker._embedded)

def embedded(shard, loaded):
    open(f"at-work-{os.getpid()}", "w").close()
    batch = shard.context.batch_size or 4
    if batch > int(os.environ.get("HS_ROOM", 1000)):
        raise DeviceMemoryError(f"the GPU has no memory for {batch} images", batch)
    return worker._plainly_embedded(shard, loaded)

worker._stored, worker._embedded = stored, embedded

def dask_setup(worker):
    global here
    here = worker
"""
"""Loaded into workers: what ends one, and what makes results come in another order."""


@dataclass
class Desk:
    """Started processes, ended with the desk. file: the scheduler's."""

    folder: Path
    host: str = "127.0.0.1"
    env: dict[str, str] = field(default_factory=dict)
    scheduler: "subprocess.Popen | None" = None
    workers: list[subprocess.Popen] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    def is_at_work(self, worker: subprocess.Popen) -> bool:
        """Whether a worker without a nanny, which loads ODD, has begun a shard."""
        return (self.folder / f"at-work-{worker.pid}").exists()

    @property
    def address(self) -> str:
        return json.loads(self.file.read_text())["address"]

    def start(self, *words: str, within: tuple[str, ...] = (), **env: str) -> subprocess.Popen:
        with (self.folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [*within, *DASK, *words],
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.env, **env},
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_scheduler(self, *words: str, within: tuple[str, ...] = ()) -> None:
        file, host = str(self.file), self.host
        self.scheduler = self.start(
            "scheduler", "--host", host, "--port", "0", "--dashboard-address", f"{host}:0",
            "--scheduler-file", file, *words, within=within,
        )  # fmt: skip
        wait_for(self.file.exists)

    def start_worker(self, *words: str, within: tuple[str, ...] = (), **env: str) -> None:
        host = [] if "--host" in words else ["--host", self.host]
        started = self.start(
            "worker", "--scheduler-file", str(self.file), *host, "--no-dashboard",
            "--local-directory", str(self.folder / "spill"),
            *(() if "--nthreads" in words else ("--nthreads", "1")), *words, within=within, **env,
        )  # fmt: skip
        self.workers.append(started)

    def odd(self) -> tuple[str, str]:
        """What makes a worker load ODD."""
        path = self.folder / "odd.py"
        path.write_text(ODD)
        return "--preload", str(path)

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                end_family(process)


def end_family(process: subprocess.Popen) -> None:
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)


@contextmanager
def desk(folder: Path, **given):
    folder.mkdir(exist_ok=True)
    made = Desk(folder, **given)
    try:
        yield made
    finally:
        made.end()


RUN = """
import sys
from pathlib import Path
from pipeline import pace
from pipeline.errors import exit_status
from pipeline.extraction import extract
from pipeline.params import ExecutionParams
from tests.test_extraction import counts, places_in

def main():
    base, backbone, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    pace.LEAST = pace.MOST = size
    execution = ExecutionParams(**eval(sys.argv[4]))
    places = places_in(base, backbone)
    print(counts(extract(places, execution, max_failed=0.5)))

if __name__ == "__main__":
    sys.exit(exit_status(main))
"""


def start_run(
    base: Path,
    backbone: Path,
    *,
    size: int = 16,
    within: tuple[str, ...] = (),
    env: "dict[str, str] | None" = None,
    **execution,
) -> subprocess.Popen:
    """Extraction in a process of its own; size: images a shard."""
    script = base / "run.py"
    script.write_text(RUN)
    words = [sys.executable, str(script), str(base), str(backbone), str(size), repr(execution)]
    return subprocess.Popen(
        [*within, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=base,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(started: subprocess.Popen, seconds: float = 60.0) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = started.communicate(timeout=seconds)
    return started.returncode, out.strip(), err
