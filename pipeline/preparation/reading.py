"""Image files -> digest and size: each file read once, in threads, decoded never."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pipeline import files
from pipeline.dataset import Problem
from pipeline.errors import ImageError, is_shortage
from pipeline.formats import Entry, Listing
from pipeline.images.headers import SNIFF_BYTES, sniff

_READ_BYTES = 1 << 20
_FILES_A_TASK = 256
"""A task and its future cost more than a small file; so many share one."""


@dataclass(frozen=True)
class Row:
    """A readable image file: its entry, digest, size and, once it has one, its split."""

    entry: Entry
    sha256: str
    bytes: int

    def problem(self, reason: str, detail: str) -> Problem:
        return Problem(self.entry.path, self.sha256, reason, detail)


def read_all(listing: Listing) -> tuple[list[Row], list[Problem]]:
    """Hash and sniff each listed file, a path once; what cannot be used becomes a problem."""
    known_last = sorted(listing.entries, key=lambda entry: entry.sha256 is not None)
    by_path = {entry.path: entry for entry in known_last}
    entries = list(by_path.values())
    tasks = [entries[at : at + _FILES_A_TASK] for at in range(0, len(entries), _FILES_A_TASK)]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        results = pool.map(lambda task: _read_each(listing.root, task), tasks)
        read = dict(zip(by_path, chain.from_iterable(results), strict=True))
    rows, problems = list[Row](), list[Problem]()
    for entry in listing.entries:
        result = read[entry.path]
        if isinstance(result, Problem):
            problems.append(result)
        else:
            rows.append(Row(entry, *result))
    return rows, problems


def _read_each(root: Path, entries: Sequence[Entry]) -> list[tuple[str, int] | Problem]:
    return [_read(root, entry) for entry in entries]


def _read(root: Path, entry: Entry) -> tuple[str, int] | Problem:
    """Digest and size of one file; a digest that the manifest gives is believed."""
    try:
        with files.open_plain(os.path.join(root, entry.path)) as file:
            if entry.sha256 is not None:
                return entry.sha256, os.fstat(file.fileno()).st_size
            content = file.read(_READ_BYTES)
            sniff(content[:SNIFF_BYTES])
            digest, size = hashlib.sha256(content), len(content)
            while content := file.read(_READ_BYTES):
                digest.update(content)
                size += len(content)
            return digest.hexdigest(), size
    except ImageError as error:
        return Problem(entry.path, entry.sha256 or "", error.reason, error.detail)
    except OSError as error:
        if is_shortage(error):
            raise
        return Problem(entry.path, entry.sha256 or "", "unreadable", error.strerror or str(error))
