"""The probe's embeddings as a small file: an array as numpy writes it, its sha256 behind."""

import hashlib
import io
import threading
from pathlib import Path

import numpy as np

from pipeline.errors import IntegrityError
from pipeline.frozen import Vectors

_MARK_BYTES = hashlib.sha256().digest_size

_parsing = threading.Lock()
"""numpy parses a header as Python, which threads cannot do at once (python/cpython#106905)."""


def pack(vectors: Vectors) -> bytes:
    """The file's bytes. vectors: (K, D) float32."""
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    return buffer.getvalue() + hashlib.sha256(buffer.getvalue()).digest()


def unpack(path: Path, content: bytes) -> Vectors:
    """What was packed. Raises IntegrityError where a bit of it is another."""
    body, mark = content[:-_MARK_BYTES], content[-_MARK_BYTES:]
    if hashlib.sha256(body).digest() != mark:
        raise IntegrityError(f"{path} is damaged")
    with _parsing:
        vectors: Vectors = np.load(io.BytesIO(body), allow_pickle=False)
    return vectors
