"""A shard of the store: a small HDF5 file that is named by its content, checked before it is parsed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import hdf5
from pipeline.dataset import Digests
from pipeline.errors import IntegrityError, ResourceError
from pipeline.hdf5 import Array, Buffer, Place

ENDING = ".h5"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a shard's rows lie in its file: digests (N,) S64, vectors (N, D)."""

    sha256: Place
    vectors: Place

    @property
    def row_bytes(self) -> int:
        """Of a vector."""
        return (self.vectors.end - self.vectors.offset) // self.vectors.shape[0]

    def digests(self, content: Buffer) -> Digests:
        """Those of all rows, over the file's bytes."""
        return self.sha256.within(content)

    def take(self, content: Buffer, row: Array, wanted: Digests) -> Array | None:
        """Some rows' vectors; None where those rows are not the wanted images'."""
        try:
            if (self.sha256.within(content)[row] == wanted).all():
                taken: Array = self.vectors.within(content)[row]
                return taken
        except (IndexError, TypeError):  # fewer rows than were listed, or a file cut short
            pass
        return None


def pack(sha256: Digests, vectors: Array) -> bytes:
    """The bytes of a shard; the same for the same rows."""
    return hdf5.image({"sha256": sha256, "embeddings": vectors}, {})


def digest(fingerprint: str, content: bytes) -> str:
    """Hex sha256 over whose a shard is and all its bytes; its name."""
    total = hashlib.sha256(f"{fingerprint}\n".encode())
    total.update(content)
    return total.hexdigest()


def read(path: Path, fingerprint: str, name: str) -> tuple[bytes, Layout]:
    """A shard's bytes, all of them checked, and where its rows are.

    Raises IntegrityError where it is damaged or none, ResourceError where it cannot be read, and
    FileNotFoundError.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}") from None
    if digest(fingerprint, content) != name:
        raise IntegrityError(f"{path} is damaged: its content is not what its name says")
    places = hdf5.places_in(path, content)
    try:
        return content, Layout(places["sha256"], places["embeddings"])
    except KeyError:
        raise IntegrityError(f"{path} is not a shard") from None


def check(path: Path, fingerprint: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape (N, D) and dtype of a shard's embeddings. Raises as `read` does."""
    _, layout = read(path, fingerprint, path.stem)
    return layout.vectors.shape, layout.vectors.dtype
