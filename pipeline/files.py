"""Files that are whole or absent: written beside, flushed to the disk, then renamed."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import ImageError, is_shortage

PARTIAL = ".partial"
"""Ending of what a killed run may leave behind; .dvcignore and .gitignore name it."""

LEFT_SECONDS = 24 * 3600.0
"""A partial file untouched for so long has lost its writer, wherever that ran."""

_WRITER = re.compile(rf"\.([0-9a-f]{{8}})-(\d+)-[0-9a-f]{{8}}{re.escape(PARTIAL)}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_IN_THE_WAY = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def replacing(path: Path, *, first: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it becomes `path`, on error it goes.

    Several writers may aim at the same `path` at once: the last one's stands, with `first` the
    first one's. The first call for a folder sweeps it. A device or a pipe is never replaced.
    Raises OSError as the file system does, with the name `path` where it gives none.
    """
    _refuse_device(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent)
    beside = unused(path)
    try:
        yield beside
        sync(beside)
        (_keep_first if first else _rename)(beside, path)
        _sync_one(path.parent)
    except BaseException as error:
        with suppress(OSError):  # what went wrong before is told; what is left is swept one day
            _remove(beside)
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            error.filename, error.filename2 = str(path), None
        raise


def _refuse_device(path: Path) -> None:
    """Root may put a file in the place of /dev/null, and every program would meet it."""
    try:
        kind = path.stat().st_mode  # once: between two looks another writer may put its own here
    except OSError:  # nothing there, or what writing will tell
        return
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise FileExistsError(errno.EEXIST, "is a device or a pipe, not a file", str(path))


def unused(path: Path) -> Path:
    """A name beside `path` that no other writer has, and that `sweep` knows."""
    mark = f"{_machine()}-{os.getpid()}-{os.urandom(4).hex()}"
    return path.with_name(f".{path.name}.{mark}{PARTIAL}")


@lru_cache
def _machine() -> str:
    """Where a process id means something: this machine since it started, this container."""
    known = [os.uname().nodename]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(os.readlink("/proc/self/ns/pid"))
    return sha256_of_json(known)[:8]


def sweep(folder: Path) -> None:
    """Remove what writers left in `folder` that are dead, or untouched for LEFT_SECONDS."""
    try:
        found = list(folder.glob(f".*{PARTIAL}"))
    except FileNotFoundError:  # the folder itself was removed meanwhile
        return
    for left in found:
        with suppress(OSError):
            if has_lost_its_writer(left):
                _remove(left)


@lru_cache(maxsize=1024)
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def has_lost_its_writer(left: Path) -> bool:
    """Whether nobody writes a partial file any more, as far as this machine can tell."""
    writer = _WRITER.search(left.name)
    if writer and writer[1] == _machine() and not _is_alive(int(writer[2])):
        return True
    return time.time() - left.lstat().st_mtime > LEFT_SECONDS


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _rename(beside: Path, path: Path) -> None:
    """A folder takes the place of another by two renames: there is no instant with half of one."""
    try:
        os.replace(beside, path)
        return
    except OSError as error:
        if not beside.is_dir() or error.errno not in _IN_THE_WAY:
            raise
    old = unused(path)
    with suppress(FileNotFoundError):  # another writer has moved it
        os.replace(path, old)
    try:
        _rename(beside, path)
    except OSError:
        with suppress(OSError):
            os.replace(old, path)
        raise
    with suppress(OSError):
        _remove(old)


def _keep_first(beside: Path, path: Path) -> None:
    try:
        os.link(beside, path)  # fails where another writer was first
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(beside, path)
        return
    _remove(beside)


def open_plain(path: str | Path) -> io.FileIO:
    """Open a plain file for reading, without waiting for a writer where it is a pipe.

    Raises ImageError `unreadable`, and OSError where this machine is short of something.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if is_shortage(error):
            raise
        raise ImageError("unreadable", _why(path, error)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # FileIO would leave a folder's open
        os.close(descriptor)
        raise ImageError("unreadable", "not a plain file")
    return io.FileIO(descriptor, "rb")


def _why(path: str | Path, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "a link to a file that is not there"
    return getattr(error, "strerror", None) or str(error)


def sync(path: Path) -> None:
    """Flush a file, or a folder with all it holds, to the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync_one(Path(folder, name))
            _sync_one(Path(folder))
    else:
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def json_text(value: Any) -> str:
    """The one way JSON is written: sorted keys, two spaces, no NaN, a final newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as sorted JSON."""
    write_bytes(path, json_text(value).encode())


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Replace `path` by a CSV table with a header, in UTF-8 with plain newlines."""
    text = io.StringIO()
    columns = list(columns)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    quoting = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:  # before Python 3.13 a bare \r is not quoted, and ends the row when read
        returns = any("\r" in str(value) for value in row.values())
        (quoting if returns else writer).writerow(row)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV table that `write_csv` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def is_digest(text: str) -> bool:
    """Whether a text is a sha256 as all of these functions write it."""
    return _DIGEST.fullmatch(text) is not None


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex sha256 of a value's canonical (sorted, compact) JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()
