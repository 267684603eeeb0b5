"""The tracked embeddings file: written from the store in one pass, verified when opened.

Datasets: `embeddings` (N, D) float16 or float32, the first layer's of the clean view, `sha256`
(N,) S64, and where the backbone has more, `layers/<name>` and `views/<number>/<layer>` (N, D_i);
rows sorted by sha256. `pipeline.attributes` tells the attributes. Behind the HDF5 file stands the
sha256 of all its bytes.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import attributes, children, files, hdf5
from pipeline.dataset import Digests, positions
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Array, Column, PlainFile
from pipeline.names import unknown
from pipeline.outputs import FIRST
from pipeline.taps import PENULTIMATE

info = attributes.info

CHILD_SECONDS = 60.0
"""What looking into a damaged file may take."""

_CHILD = "import sys, pathlib, pipeline.embeddings as e; e.complain(pathlib.Path(sys.argv[1]))"

TAKEN_ROWS = 1024
"""Rows converted at a time: what a core's cache holds."""


@dataclass(frozen=True)
class Embeddings:
    """An opened file. sha256: (N,) S64, sorted; vectors: (N, D), memory-mapped, read-only.

    attributes: as stored, JSON ones parsed; arrays: all datasets of vectors, by name.
    """

    sha256: Digests
    vectors: Array
    attributes: dict[str, Any]
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def __repr__(self) -> str:
        rows, dim = self.vectors.shape
        name, kind = self.attributes.get("backbone", "?"), self.vectors.dtype
        more = len(self.arrays) - 1
        return f"Embeddings({name}, {rows} x {dim} {kind}{f', {more} more' if more > 0 else ''})"

    @property
    def fingerprint(self) -> str:
        """Identity of the vectors."""
        return str(self.attributes["fingerprint"])

    @property
    def source(self) -> str:
        """The backbone's source (`timm`, `pixels`, …)."""
        return str(self.attributes["fingerprint_fields"]["source"])

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, the first being that of `vectors`."""
        return tuple(one["layer"] for one in self._outputs if not one["view"])

    @property
    def views(self) -> int:
        """How many augmented views there are beside the clean one."""
        return max(int(one["view"]) for one in self._outputs)

    @property
    def _outputs(self) -> list[dict[str, Any]]:
        one = {"dataset": FIRST, "layer": PENULTIMATE, "view": 0, "fingerprint": self.fingerprint}
        return self.attributes.get("outputs") or [one]

    def fingerprint_of(self, layer: str | None = None, view: int = 0) -> str:
        """Identity of the vectors of a layer in a view. Raises ConfigurationError."""
        return str(self._output(layer, view)["fingerprint"])

    def of(self, layer: str | None = None, view: int = 0) -> Array:
        """The vectors of a layer in a view, (N, D_i), memory-mapped. Raises ConfigurationError.

        layer: None for the first; view: 0 is the clean one.
        """
        name = self._output(layer, view)["dataset"]
        return self.vectors if name == FIRST else self.arrays[name]

    def _output(self, layer: str | None, view: int) -> dict[str, Any]:
        wanted = self.layers[0] if layer is None else layer
        at = f"embeddings of {self.attributes.get('backbone', 'this backbone')}"
        if wanted not in self.layers:
            raise ConfigurationError(f"{at}: {unknown('layer', wanted, self.layers)}")
        for one in self._outputs:
            if (one["layer"], one["view"]) == (wanted, view):
                return one
        raise ConfigurationError(f"{at}: no view {view}, there are {self.views}; raise views")

    def frame(self, layer: str | None = None, view: int = 0) -> Any:
        """A pandas DataFrame of them; see `pipeline.tables`."""
        return _tables().frame(self, layer=layer, view=view)

    def labelled(self, labels: Any, *, split: str | None = None, **which: Any) -> Any:
        """X, y and paths of the images that `labels` lists; see `pipeline.tables`."""
        return _tables().labelled(self, labels, split=split, **which)

    def rows(self, wanted: Digests) -> npt.NDArray[np.int64]:
        """The row of each image; -1 where it has none. (M,) int64."""
        return positions(self.sha256, wanted)

    def take(
        self, rows: npt.NDArray[np.int64], *, layer: str | None = None, view: int = 0
    ) -> npt.NDArray[np.float32]:
        """The vectors of `rows` as (M, D) float32; some rows at a time, on every core. See `of`."""
        vectors = self.of(layer, view)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(vectors):
            raise IndexError(f"rows beyond 0..{len(vectors) - 1}; -1 is no image's")
        taken = np.empty((len(rows), vectors.shape[1]), dtype=np.float32)

        def convert(start: int) -> None:
            some = rows[start : start + TAKEN_ROWS]
            follow = len(some) > 1 and bool((np.diff(some) == 1).all())
            index = slice(some[0], some[-1] + 1) if follow else some
            taken[start : start + len(some)] = vectors[index]

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(convert, range(0, len(rows), TAKEN_ROWS)))
        return taken


def _tables() -> Any:
    """What no stage calls, and so must be no dep of one: an edit would run every stage again."""
    return import_module("pipeline.tables")


def write(
    path: Path,
    backbone: FrozenBackbone,
    sha256: Iterable[Digests],
    blocks: Sequence[Iterable[Array]],
    *,
    rows: int,
) -> None:
    """Write the tracked file, whole or not at all; equal content gives equal bytes.

    sha256: S64, sorted, some at a time; blocks: their vectors in that order, of each of the
    backbone's outputs; rows: of all. Raises OSError where the disk is full and IntegrityError
    where it does not read back.
    """
    with files.replacing(path) as beside:
        first, *others = (
            Column(
                out.dataset, (rows, out.dim), backbone.storage, _checked(backbone, out.dim, made)
            )
            for out, made in zip(backbone.outputs, map(_ahead, map(iter, blocks)), strict=True)
        )
        columns = [first, Column("sha256", (rows,), "S64", _sorted(path, sha256)), *others]
        hdf5.write_blocks(beside, columns, partial(attributes.of, backbone))
        plain = hdf5.open_plain(beside)
        _check_datasets(beside, plain, attributes.read(beside, plain.attributes))
        hdf5.seal(beside)


def _ahead(blocks: Iterator[Array]) -> Iterator[Array]:
    """The same, each made by another thread while the one before is written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block


def _sorted(path: Path, sha256: Iterable[Digests]) -> Iterator[Digests]:
    last = np.array([b""], "S64")
    for some in sha256:
        joined = np.concatenate([last, some])
        if not (joined[:-1] < joined[1:]).all():
            raise _unsorted(path)
        last = some[-1:]
        yield some


def _unsorted(path: Path) -> IntegrityError:
    return IntegrityError(f"{path}: its rows are not sorted by sha256; {attributes.again(path)}")


def _checked(backbone: FrozenBackbone, dim: int, blocks: Iterable[Array]) -> Iterator[Array]:
    for block in blocks:
        if block.shape[1] != dim:
            raise IntegrityError(
                f"{backbone.folder}: dim is {dim}, but its vectors have {block.shape[1]} "
                f"values; run 'dvc repro -f freeze@{backbone.name}'"
            )
        yield block


def open(path: Path | str) -> Embeddings:
    """Open and verify every bit of it. Raises IntegrityError, naming what differs."""
    path = Path(path)
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
    return found or f"{path}: it was damaged or edited outside its data; {attributes.again(path)}"


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
        raise IntegrityError(f"{error}; {attributes.again(path)}") from None


def _opened(path: Path, plain: PlainFile, *, trusted: bool) -> Embeddings:
    """What the file says, if it does not contradict itself. trusted: its bytes are known."""
    said = attributes.read(path, plain.attributes)
    _check_datasets(path, plain, said, trusted=trusted)
    sha256 = plain.arrays["sha256"]
    if not (sha256[:-1] < sha256[1:]).all():
        raise _unsorted(path)
    vectors = {one["dataset"]: plain.arrays[one["dataset"]] for one in said["outputs"]}
    return Embeddings(np.array(sha256), plain.arrays[FIRST], said, vectors)


def _check_datasets(
    path: Path, plain: PlainFile, said: dict[str, Any], *, trusted: bool = False
) -> None:
    """Raise IntegrityError where they are not what the attributes say."""
    for name, recorded in sorted(said["sha256"].items()):
        if name not in plain.arrays:
            raise IntegrityError(f"{path}: dataset {name} is missing; {attributes.again(path)}")
        if not trusted and (actual := hdf5.digest_on_disk(plain.arrays[name])) != recorded:
            raise IntegrityError(
                f"{path}: dataset {name} is damaged: sha256 {actual}, recorded {recorded}; "
                f"{attributes.again(path)}"
            )
    sha256 = plain.arrays["sha256"]
    for output in said["outputs"]:
        name = output["dataset"]
        dim = said["dim"] if name == FIRST else output["dim"]
        vectors = plain.arrays[name]
        kinds, shape = (sha256.dtype.str, vectors.dtype.kind), (len(sha256), dim)
        if vectors.shape != shape or kinds != ("|S64", "f"):
            raise IntegrityError(
                f"{path}: {name} of shape {vectors.shape} for {len(sha256)} images and dim {dim}; "
                f"{attributes.again(path)}"
            )
