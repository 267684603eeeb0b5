"""Stages under fire: the n-th write, flush, rename or open of a stage fails, or kills it.

A server process has faults.c loaded before the C library and the stages imported; for each try it
forks a child that arms the fault and is the stage. `serve` is its main program.
"""

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.closure import ROOT

KINDS = {"write": 1, "fsync": 2, "rename": 4, "open": 8, "any": 15}
KILL = 0
"""What stands for SIGKILL where an error number is asked for."""

FAULTS = [
    ("write", errno.EIO),
    ("write", errno.ENOSPC),
    ("fsync", errno.EIO),
    ("rename", errno.EIO),
    ("open", errno.EIO),
]
NEVER = 1 << 40


@dataclass(frozen=True)
class Fault:
    """The nth operation of a kind fails with `error`, a full disk goes on to fail."""

    kind: str
    error: int
    nth: int

    @property
    def spell(self) -> list[int]:
        """As faults.c takes it, without the folders."""
        return [KINDS[self.kind], self.nth, self.error, int(self.error == errno.ENOSPC)]

    def environment(self, library: Path, *folders: Path) -> dict[str, str]:
        """For a whole process, and those it starts."""
        spelled = ":".join(map(str, [*self.spell, *folders]))
        return {"LD_PRELOAD": str(library), "HEADSTART_FAULTS": spelled}


@dataclass(frozen=True)
class Tried:
    """What became of a stage. code: as subprocess has it; seen: operations of the fault's kind."""

    code: int
    seen: int
    err: str


def build(folder: Path) -> Path:
    """Compile faults.c; skips where that cannot be."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler 'cc' on this Linux to make errors of the disk with")
    library = folder / "faults.so"
    source = str(ROOT / "tests/faults.c")
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), source, "-ldl"]
    subprocess.run(command, check=True)
    return library


class Server:
    """Runs stages in the project of `folder`, whose store is `artifacts/.store`."""

    def __init__(self, library: Path, folder: Path, stages: list[str]) -> None:
        clean = {k: v for k, v in os.environ.items() if k not in ("DVC_ROOT", "HEADSTART_STORE")}
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.faulty import serve; serve()", *stages],
            cwd=folder,
            env={**clean, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, stage: str, fault: Fault) -> Tried:
        """Run a stage, given as its command line, with the fault armed."""
        spell = [*fault.spell, str(self._folder / "artifacts")]
        self._process.stdin.write(json.dumps([stage.split(), spell]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the server of faults died"
        return Tried(**json.loads(answer))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def serving(library: Path, folder: Path, stages: list[str]):
    """A server for the stages of a project."""
    server = Server(library, folder, stages)
    try:
        yield server
    finally:
        server.close()


def serve() -> None:
    """Answer the tries asked for on stdin, each with a line."""
    from importlib import import_module

    from pipeline.runtimes import onnx  # noqa: F401 - what extract imports later

    mains = {name: import_module(f"stages.{name}").main for name in sys.argv[1:]}
    if "sample" in mains:
        _fewer_digits(sys.modules["stages.sample"])
    for line in sys.stdin:
        command, spell = json.loads(line)
        print(json.dumps(_try(mains[command[0]], command, spell)), flush=True)


def _fewer_digits(stage) -> None:
    """Forty of the sample's 1,797 files: each is written by the same lines."""
    real = stage.load_digits

    def few():
        digits = real()
        digits.images, digits.target = digits.images[:40], digits.target[:40]
        return digits

    stage.load_digits = few


def _try(main, command: list[str], spell: list) -> dict:
    told, tell = os.pipe()
    seen = os.memfd_create("seen")
    child = os.fork()
    if child == 0:
        _be(main, command, spell, tell, seen)
    os.close(tell)
    with os.fdopen(told, errors="replace") as pipe:
        err = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = os.pread(seen, 20, 0)
    os.close(seen)
    return {"code": code, "seen": int(count or 0), "err": err}


def _be(main, command: list[str], spell: list, tell: int, seen: int) -> None:
    """Be the stage, as `python -m stages.<stage>` is; never returns."""
    from pipeline.errors import exit_status, leave

    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    sys.argv = command
    silence = os.open(os.devnull, os.O_RDWR)
    os.dup2(silence, 0)
    os.dup2(silence, 1)
    os.dup2(tell, 2)
    os.close(tell)
    *numbers, folders = spell
    try:
        library.faults_arm(
            *(ctypes.c_int(n) if at != 1 else ctypes.c_long(n) for at, n in enumerate(numbers)),
            folders.encode(),
        )
        code = exit_status(main)
        os.pwrite(seen, str(library.faults_seen()).encode(), 0)
        leave(code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os.pwrite(seen, str(library.faults_seen()).encode(), 0)
        sys.stderr.flush()
        os._exit(1)
    os.kill(os.getpid(), signal.SIGKILL)
