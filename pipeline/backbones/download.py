"""Downloads: an address into a file, resumed where it broke off, compared, then renamed."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from pipeline import files
from pipeline.backbones import recognition
from pipeline.backbones.transfer import PATIENCE, FailedError, Patience, bring


def fetch(url: str, path: Path, *, digest: str = "", patience: Patience = PATIENCE) -> None:
    """Make `path` the file at `url`, whole or not at all.

    digest: hex sha256, or its beginning, that the file must have; with one, what a killed or
    failed run got is gone on from. Several processes may fetch the same file at once.
    Raises FailedError, and OSError as the disk does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"headstart: downloading {url} to {path}", file=sys.stderr)
    beside = files.unused(path)
    resumed = bool(digest) and _take_over(path, beside)
    try:
        bring(url, beside, checked=bool(digest), patience=patience)
        if resumed and not _is_right(beside, digest):  # the part was of another version
            beside.unlink()
            bring(url, beside, checked=bool(digest), patience=patience)
        _check(beside, digest)
    except FailedError:
        _hand_back(beside, path, digest)
        raise
    files.sync(beside)
    os.replace(beside, path)
    for left in _left_beside(path):
        left.unlink(missing_ok=True)


def _take_over(path: Path, beside: Path) -> bool:
    """Go on from the longest part that a run which is no more has left."""
    for left in _left_beside(path):
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(left, beside)
            return True
    return False


def _left_beside(path: Path) -> list[Path]:
    """Parts of a file that nobody writes any more, longest first."""
    start = f".{path.name}."
    found = []
    for left in path.parent.glob(f".*{files.PARTIAL}"):
        with suppress(OSError):
            if left == _handed_back(path) or (
                left.name.startswith(start) and files.has_lost_its_writer(left)
            ):
                found.append((left.stat().st_size, left))
    return [left for _, left in sorted(found, reverse=True)]


def _handed_back(path: Path) -> Path:
    return path.with_name(f".{path.name}{files.PARTIAL}")


def _hand_back(beside: Path, path: Path, digest: str) -> None:
    """Leave what a failed download got to whoever tries next, if that can be checked then."""
    if digest and beside.exists() and beside.stat().st_size:
        os.replace(beside, _handed_back(path))
    else:
        beside.unlink(missing_ok=True)


def _is_right(path: Path, digest: str) -> bool:
    return files.sha256_of(path).startswith(digest)


def _check(beside: Path, digest: str) -> None:
    """Remove a file that is not the one asked for, and say so."""
    size, actual = beside.stat().st_size, files.sha256_of(beside)
    what = recognition.impostor(beside)
    if not what and actual.startswith(digest):
        return
    beside.unlink()
    if what:
        raise FailedError(f"what came is {what.partition(';')[0]}")
    raise FailedError(
        f"the {size} bytes that came have the wrong sha256, {actual[:12]}… and not {digest[:12]}…, "
        "and were removed"
    )
