"""Reading the tracked file: opening it, which verifies every bit, and all rows as float32."""

from pathlib import Path

import numpy as np

from benchmarks.desk import Desk
from benchmarks.measuring import interleaved, seconds_of
from benchmarks.table import Row, row
from pipeline import dataset, embeddings, files, frozen

BLOCK = 8192


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    path = desk.folder / "random.h5"
    array = _write(path, desk)
    opened = embeddings.open(path)
    every = np.arange(len(opened.sha256))
    if not np.array_equal(opened.take(every), array.astype(np.float32)):
        raise RuntimeError(f"{path} does not read back as what was written")

    def both() -> None:
        fresh = embeddings.open(path)
        fresh.take(np.arange(len(fresh.sha256)))

    subjects = {
        "bare": lambda: seconds_of(lambda: array.astype(np.float32)),
        "open": lambda: seconds_of(lambda: embeddings.open(path)),
        "read": lambda: seconds_of(lambda: opened.take(every)),
        "both": lambda: seconds_of(both),
    }
    seconds = interleaved(subjects, desk.scale.runs)
    size = f"{array.shape[0]} x {array.shape[1]} float16"
    beside = {"beside": "astype(float32) of the array in memory", "beside_runs": seconds["bare"]}
    return [
        row(f"open and verify, {size}", seconds["open"], **beside),
        row(
            "all rows to float32, opened before", seconds["read"], expected="ratio <= 1.5", **beside
        ),
        row("open, verify and all rows", seconds["both"], expected="ratio <= 1.5", **beside),
    ]


def _write(path: Path, desk: Desk) -> np.ndarray:
    """A tracked file of random vectors, written as `extract` writes it; the vectors."""
    backbone = frozen.load(desk.frozen)
    random = np.random.default_rng(0)
    count = desk.scale.rows
    array = random.standard_normal((count, backbone.dim), dtype=np.float32).astype(np.float16)
    names = sorted(files.sha256_of_bytes(str(number).encode()) for number in range(count))
    blocks = (array[start : start + BLOCK] for start in range(0, count, BLOCK))
    embeddings.write(path, backbone, [dataset.digests(names)], [blocks], rows=count)
    return array
