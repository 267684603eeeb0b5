"""A photo, the path or the sha256 of a cached image -> its vector, as extraction would make it."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline import files, frozen, runtimes
from pipeline.decoding.child import MAX_BYTES
from pipeline.embeddings import Embeddings
from pipeline.errors import ImageError, IntegrityError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images.views import Views, render
from pipeline.neighbors.answers import Known
from pipeline.outputs import Output, layers_of, separated, views_of
from pipeline.runtimes import Runtime


@dataclass(frozen=True)
class Query:
    """An image to look for. file: where it lies, "" where that is not known; row: its own among
    the cached, -1 where it is none; vector: (D,) float32, rounded as stored.
    """

    sha256: str
    file: str
    row: int
    vector: Vectors


@dataclass
class Queries:
    """Where images are found, and what embeds those that are not cached.

    root: the data root; folder: of the frozen backbone, which is loaded when it is needed.
    """

    cached: Embeddings
    known: Known
    root: Path
    folder: Path
    device: str = "auto"

    def query(self, said: str) -> Query:
        """The image that is meant: a file, else the path or sha256 of a cached one.

        Raises ImageError where there is none or it cannot be embedded, IntegrityError where the
        backbone is not that of the embeddings.
        """
        path = next((one for one in (Path(said), self.root / said) if os.path.exists(one)), None)
        content = b"" if path is None else _read(path)
        sha256 = files.sha256_of_bytes(content) if path else self._listed(said)
        row = int(self.cached.rows(np.array([sha256], "S64"))[0])
        if row >= 0:
            vector = self.cached.take(np.array([row]))[0]
        elif path is None:
            raise ImageError("unreadable", "no such file, nor path or sha256 of a cached image")
        else:
            vector = self._embed(content, sha256)
        return Query(sha256, "" if path is None else str(path), row, vector)

    def _listed(self, said: str) -> str:
        return said.lower() if files.is_digest(said.lower()) else self.known.sha256_at(said)

    def _embed(self, content: bytes, sha256: str) -> Vectors:
        backbone, output, views, runtime = self._loaded
        pixels = render(content, sha256, backbone.preprocessing, views)
        made = separated(runtime.embed(pixels), [output], views, backbone.dims)[output]
        with np.errstate(over="ignore"):  # infinity is told below
            vector: Vectors = made[0].astype(backbone.storage).astype(np.float32)
        if not np.isfinite(vector).all():
            raise IntegrityError(f"{backbone.name} makes NaN or infinity of image {sha256}")
        return vector

    @cached_property
    def _loaded(self) -> tuple[FrozenBackbone, Output, Views, Runtime]:
        backbone = frozen.load(self.folder)
        if backbone.fingerprint != self.cached.fingerprint:
            raise IntegrityError(
                f"{self.folder} is another backbone than the embeddings are of: fingerprint "
                f"{backbone.fingerprint}, theirs {self.cached.fingerprint}; run "
                f"'dvc repro extract@{backbone.name}'"
            )
        output = backbone.outputs[0]
        runtime = runtimes.load(backbone, device=self.device, layers=layers_of([output]))
        return backbone, output, views_of([output]), runtime


def _read(path: Path) -> bytes:
    """Raises ImageError where it cannot be, and for what is too large to be an image."""
    try:
        with files.open_plain(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise ImageError("too_many_bytes", f"{size} are more than {MAX_BYTES}")
            return file.read()
    except OSError as error:
        raise ImageError("unreadable", error.strerror or str(error)) from None
