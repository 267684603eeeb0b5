"""The errors Headstart raises for its users, and the exit codes they end with.

    HeadstartError              1
    ├── ConfigurationError      2   params.yaml or a command line says something wrong
    ├── InputError              3   the images, labels or weights cannot be used as they are
    │   └── ImageError          -   one image cannot be embedded; listed, never fatal by itself
    ├── IntegrityError          4   a file is not what its record says it is
    │   └── LostRowsError       4   rows of the store went or were damaged during a run
    ├── ResourceError           5   disk or memory ran out, or the disk fails
    │   └── DeviceMemoryError   5   a GPU has no memory for a batch; a run goes on with half of it
    └── ClusterError            6   a Dask cluster cannot be reached or was lost

Ctrl-C ends with 130. A message says what is wrong, where, and what to type next.
Anything that is not a HeadstartError is a fault of ours and keeps its traceback.
"""

import atexit
import errno
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

INTERRUPTED = 130

REPEAT_SECONDS = 3.0
"""A Ctrl-C this soon after another is the same wish, and must not cut the tidying short."""

_WRONG_PLACE = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EROFS}
_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FAILING = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV}


class HeadstartError(Exception):
    """Something the user can mend; its text is one line."""

    exit_code = 1


class ConfigurationError(HeadstartError):
    """params.yaml, or a command's arguments, say something that cannot be done."""

    exit_code = 2


class InputError(HeadstartError):
    """Images, labels, manifests or weights that cannot be used as they are."""

    exit_code = 3


class ImageError(InputError):
    """One image that cannot be embedded.

    reason: a code of problems.csv (`truncated`, `empty`, …); detail: free text, one line.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = " ".join(detail.split())
        super().__init__(f"{reason}: {self.detail}" if self.detail else reason)

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)


class IntegrityError(HeadstartError):
    """A file whose content is not what its record says."""

    exit_code = 4


class ResourceError(HeadstartError):
    """Disk or memory ran out, or the disk fails."""

    exit_code = 5


class DeviceMemoryError(ResourceError):
    """A GPU has no memory for a batch. batch_size: images of it."""

    def __init__(self, message: str, batch_size: int) -> None:
        super().__init__(message, batch_size)
        self.batch_size = batch_size

    def __str__(self) -> str:
        return str(self.args[0])


class ClusterError(HeadstartError):
    """A Dask cluster that cannot be reached, is refused, or was lost."""

    exit_code = 6


def exit_status(run: Callable[[], int | None]) -> int:
    """Call `run` and return the exit code; a user's error is printed as one line on stderr."""
    try:
        return _exit_status(run)
    except Exception:
        if _interrupts:  # which a library in the midst of an import makes an error of its own
            return _interrupted()
        raise


def _exit_status(run: Callable[[], int | None]) -> int:
    try:
        status = run() or 0
        sys.stdout.flush()  # what a closed pipe or a full disk makes of it shows here, not at exit
        return status
    except HeadstartError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _interrupted()
    except MemoryError:
        return _fail(
            "memory ran out; lower execution.workers or execution.batch_size in params.yaml",
            ResourceError.exit_code,
        )
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _stdout_has_no_reader():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0  # `| head` has seen enough; what is left would break the flush at exit
        told = _of_the_system(error)
        if told is None:
            raise
        return _fail(*told)


def _of_the_system(error: OSError) -> tuple[str, int] | None:
    """The line and the exit code for what the machine or a path is to blame for."""
    if error.errno in _WRONG_PLACE and error.filename:
        text = f"{error.filename}: {error.strerror}; correct the path or its permissions"
        return text, ConfigurationError.exit_code
    place = f" at {error.filename}" if error.filename else ""
    if is_shortage(error):
        text = (
            f"{error.strerror or error}; type 'ulimit -n 4096' for more open files, or lower "
            "execution.threads or execution.workers in params.yaml"
        )
    elif error.errno in _OUT_OF_SPACE:
        text = f"the disk is full{place}; free some space and run the same command again"
    elif is_failing(error):
        text = (
            f"the disk fails{place}: {os.strerror(error.errno or 0)}; look at it, or at the network "
            "drive, and run the same command again"
        )
    else:
        return None
    return text, ResourceError.exit_code


def is_failing(error: BaseException) -> bool:
    """Whether a disk or network drive did not do what it was asked: no word on what is there."""
    return isinstance(error, OSError) and error.errno in _FAILING


def is_shortage(error: BaseException) -> bool:
    """Whether an error is this machine's, not that of the file or image that happened to meet it."""
    return isinstance(error, OSError) and error.errno in _SHORTAGE


def hear_interrupts() -> None:
    """Have Ctrl-C end with one line from here on, also while modules are still being imported.

    Further ones within REPEAT_SECONDS are taken as the first. For the main thread of a program;
    the processes that it starts through multiprocessing leave Ctrl-C to it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if "--multiprocessing-fork" in sys.orig_argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return
    default = sys.excepthook

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        repeated = bool(_interrupts) and now - _interrupts[-1] < REPEAT_SECONDS
        _interrupts.append(now)
        if not repeated:
            raise KeyboardInterrupt

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _interrupts:
            default(kind, error, trace)
            return
        code = _interrupted()
        sys.stderr.flush()
        os._exit(code)  # left to itself, Python would end by the signal, and with its code

    signal.signal(signal.SIGINT, interrupt)
    sys.excepthook = hook


def leave(code: int) -> NoReturn:
    """End a stage's process with `code`, or as interrupted where Ctrl-C comes while it ends.

    DVC does not hear Ctrl-C while a stage runs: one that is lost here would start the next stage.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _interrupts.append(time.monotonic())
        os._exit(_interrupted())

    signal.signal(signal.SIGINT, interrupt)
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no other way to end without the rest
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_interrupted() if _interrupts else code)


_interrupts: list[float] = []
"""When Ctrl-C was heard, by time.monotonic()."""


_told: list[bool] = []
"""Not empty once the line on an interrupt was printed."""


def _interrupted() -> int:
    if _interrupts and _told:
        return INTERRUPTED
    _told.append(True)
    return _fail("interrupted; nothing is half-written, run the same command to go on", INTERRUPTED)


def _stdout_has_no_reader() -> bool:
    """Whether stdout is a pipe whose reader went away; a worker's pipe can break as well."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # no event asked for: errors are always told
    except (OSError, ValueError):
        return False  # not a file at all
    return bool(poll.poll(0))


def _fail(message: str, code: int) -> int:
    print(f"headstart: error: {' '.join(message.split())}", file=sys.stderr)
    return code
