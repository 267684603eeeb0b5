"""The tracked embeddings file: written from the store in one pass, verified when opened.

Datasets: `embeddings` (N, D) float16 or float32, `sha256` (N,) S64, rows sorted by sha256.
Attributes: format_version, fingerprint, backbone, dim; fingerprint_fields, field_sha256 (of each
field) and sha256 (of each dataset) as sorted JSON. Behind the HDF5 file stands the sha256 of all
its bytes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import children, files, frozen, hdf5
from pipeline.dataset import Digests, positions
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Array, Attributes, PlainFile

FORMAT_VERSION = 1

CHILD_SECONDS = 60.0
"""What looking into a damaged file may take."""

_CHILD = "import sys, pathlib, pipeline.embeddings as e; e.complain(pathlib.Path(sys.argv[1]))"

TAKEN_ROWS = 1024
"""Rows converted at a time: what a core's cache holds."""


@dataclass(frozen=True)
class Embeddings:
    """An opened file. sha256: (N,) S64, sorted; vectors: (N, D), memory-mapped, read-only.

    attributes: as stored, JSON ones parsed.
    """

    sha256: Digests
    vectors: Array
    attributes: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Identity of the vectors."""
        return str(self.attributes["fingerprint"])

    @property
    def source(self) -> str:
        """The backbone's source (`timm`, `pixels`, …)."""
        return str(self.attributes["fingerprint_fields"]["source"])

    def rows(self, wanted: Digests) -> npt.NDArray[np.int64]:
        """The row of each image; -1 where it has none. (M,) int64."""
        return positions(self.sha256, wanted)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The vectors of `rows` as (M, D) float32; some rows at a time, on every core."""
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.vectors):
            raise IndexError(f"rows beyond 0..{len(self.vectors) - 1}; -1 is no image's")
        taken = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)

        def convert(start: int) -> None:
            some = rows[start : start + TAKEN_ROWS]
            follow = len(some) > 1 and bool((np.diff(some) == 1).all())
            index = slice(some[0], some[-1] + 1) if follow else some
            taken[start : start + len(some)] = self.vectors[index]

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(convert, range(0, len(rows), TAKEN_ROWS)))
        return taken


def write(path: Path, backbone: FrozenBackbone, sha256: Digests, blocks: Iterable[Array]) -> None:
    """Write the tracked file, whole or not at all; equal content gives equal bytes.

    sha256: (N,) S64, sorted; blocks: their vectors in that order.
    Raises OSError where the disk is full and IntegrityError where it does not read back.
    """

    def attributes(digests: dict[str, str]) -> Attributes:
        return {
            "format_version": FORMAT_VERSION,
            "backbone": backbone.name,
            "dim": backbone.dim,
            "fingerprint": backbone.fingerprint,
            "fingerprint_fields": json.dumps(backbone.fields, sort_keys=True),
            "field_sha256": json.dumps(frozen.digests(backbone.fields), sort_keys=True),
            "sha256": json.dumps(digests, sort_keys=True),
        }

    with files.replacing(path) as beside:
        hdf5.write_blocks(
            beside,
            "embeddings",
            _of_length(backbone, blocks),
            shape=(len(sha256), backbone.dim),
            dtype=backbone.storage,
            others={"sha256": sha256},
            attributes=attributes,
        )
        _opened(beside, hdf5.open_plain(beside), trusted=False)
        hdf5.seal(beside)


def _of_length(backbone: FrozenBackbone, blocks: Iterable[Array]) -> Iterator[Array]:
    for block in blocks:
        if block.shape[1] != backbone.dim:
            raise IntegrityError(
                f"{backbone.folder}: dim is {backbone.dim}, but its vectors have {block.shape[1]} "
                f"values; run 'dvc repro -f freeze@{backbone.name}'"
            )
        yield block


def open(path: Path) -> Embeddings:
    """Open and verify every bit of it. Raises IntegrityError, naming what differs."""
    if path.exists() and not hdf5.is_sealed(path):
        raise IntegrityError(_complaint(path))
    return _opened(path, _plain(path), trusted=True)


def _complaint(path: Path) -> str:
    """What is wrong with a file that is not sealed.

    HDF5 may crash or never end on a damaged file, so another process looks into it.
    """
    command = [sys.executable, "-P", "-c", _CHILD, str(path)]
    try:
        done = subprocess.run(
            command,
            env=children.environment(),
            capture_output=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
        found = done.stdout.decode(errors="replace") if done.returncode == 0 else ""
    except subprocess.TimeoutExpired:
        found = ""
    return found or f"{path}: it was damaged or edited outside its data; {_again(path)}"


def complain(path: Path) -> None:
    """Print how a file that is not sealed contradicts itself; nothing where it does not."""
    try:
        _opened(path, _plain(path), trusted=False)
    except IntegrityError as error:
        print(error, end="")


def _plain(path: Path) -> PlainFile:
    try:
        return hdf5.open_plain(path)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {_again(path)}") from None


def _opened(path: Path, plain: PlainFile, *, trusted: bool) -> Embeddings:
    """What the file says, if it does not contradict itself. trusted: its bytes are known."""
    attributes = _attributes(path, plain.attributes)
    for name, recorded in sorted(attributes["sha256"].items()):
        if name not in plain.arrays:
            raise IntegrityError(f"{path}: dataset {name} is missing; {_again(path)}")
        if not trusted and (actual := hdf5.digest_on_disk(plain.arrays[name])) != recorded:
            raise IntegrityError(
                f"{path}: dataset {name} is damaged: sha256 {actual}, recorded {recorded}; "
                f"{_again(path)}"
            )
    vectors, sha256 = plain.arrays["embeddings"], np.array(plain.arrays["sha256"])
    if vectors.shape != (len(sha256), attributes["dim"]) or sha256.dtype != "S64":
        raise IntegrityError(
            f"{path}: embeddings of shape {vectors.shape} for {len(sha256)} images and dim "
            f"{attributes['dim']}; {_again(path)}"
        )
    if not (sha256[:-1] < sha256[1:]).all():
        raise IntegrityError(f"{path}: its rows are not sorted by sha256; {_again(path)}")
    return Embeddings(sha256, vectors, attributes)


def info(path: Path) -> dict[str, Any]:
    """What a file says of itself, its rows unread: attributes, and shape and dtype of each dataset.

    Raises IntegrityError where it is not a plain embeddings file.
    """
    plain = hdf5.open_plain(path)
    datasets = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in plain.arrays.items()
    }
    return {**_attributes(path, plain.attributes), "datasets": datasets}


def _attributes(path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    try:
        version = int(stored["format_version"])
        attributes: dict[str, Any] = {
            "format_version": version,
            "backbone": str(stored["backbone"]),
            "dim": int(stored["dim"]),
            "fingerprint": str(stored["fingerprint"]),
            "fingerprint_fields": dict(json.loads(stored["fingerprint_fields"])),
            "field_sha256": dict(
                json.loads(stored.get("field_sha256", "{}"))
            ),  # older files have none
            "sha256": dict(json.loads(stored["sha256"])),
        }
    except (KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is no embeddings file ({error!r}); {_again(path)}") from None
    if version != FORMAT_VERSION:
        raise IntegrityError(f"{path}: format_version is {version}, not {FORMAT_VERSION}")
    if not {"embeddings", "sha256"} <= set(attributes["sha256"]):
        raise IntegrityError(f"{path}: no digest of its datasets; {_again(path)}")
    _check_fields(path, attributes)
    return attributes


def _check_fields(path: Path, attributes: dict[str, Any]) -> None:
    fields, recorded = attributes["fingerprint_fields"], attributes["field_sha256"]
    changed = frozen.altered(fields, recorded) if recorded else []
    computed = frozen.fingerprint_of(fields)
    if computed != attributes["fingerprint"]:
        changed.append(
            f"fingerprint of its fields is {computed}, recorded {attributes['fingerprint']}"
        )
    if changed:
        raise IntegrityError(f"{path}: {'; '.join(changed)}; {_again(path)}")


def _again(path: Path) -> str:
    name = path.name.strip(".").split(".")[0]
    return f"run 'dvc repro extract@{name}' where it was made, or fetch it again"
