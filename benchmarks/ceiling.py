"""What the machine could do at best: the forward pass alone, decoding alone, each on all cores."""

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from benchmarks.measuring import rate
from pipeline import frozen
from pipeline.cluster import cores
from pipeline.images import Preprocessing, preprocess
from pipeline.runtimes.sessions import open_session

CORES = cores()
BATCHES = (1, 2, 4, 8)
ALL_CORES_BATCH = 8
FORWARD, DECODE = "forward alone", "decode alone"

Rates = Mapping[str, Callable[[], float]]


@contextmanager
def subjects(backbone: Path, paths: list[Path], *, forward: int, seconds: float) -> Iterator[Rates]:
    """Images a second of each way, by its name, which begins with FORWARD or DECODE.

    backbone: folder of the frozen one; forward: photos whose pixels are kept in memory.
    """
    loaded = frozen.load(backbone)
    recipe = loaded.preprocessing
    with ThreadPoolExecutor(CORES) as threads:
        pixels = np.stack(list(threads.map(partial(_decode, recipe), paths[:forward])))
    one_thread = open_session(loaded.model, "cpu")
    whole = onnxruntime.InferenceSession(loaded.model, providers=["CPUExecutionProvider"])
    rates = {
        f"{FORWARD}, {CORES} threads, batch {batch}": partial(
            rate, partial(_forward, one_thread, pixels, batch), threads=CORES, seconds=seconds
        )
        for batch in BATCHES
    }
    rates[f"{FORWARD}, one session of {CORES} threads, batch {ALL_CORES_BATCH}"] = partial(
        rate, partial(_forward, whole, pixels, ALL_CORES_BATCH), threads=1, seconds=seconds
    )
    rates[f"{DECODE}, {CORES} threads"] = partial(
        rate, partial(_decode_one, recipe, paths), threads=CORES, seconds=seconds
    )
    context = multiprocessing.get_context("spawn")  # a fork of threads that hold locks may hang
    with ProcessPoolExecutor(CORES, context) as pool:
        rates[f"{DECODE}, {CORES} processes"] = partial(
            _by_processes, pool, recipe, paths, seconds=seconds
        )
        _by_processes(pool, recipe, paths, seconds=0.1)  # started
        yield rates


def best(measured: Mapping[str, list[float]], kind: str) -> str:
    """The name of the fastest of a kind, by its median."""
    return max(
        (name for name in measured if name.startswith(kind)), key=lambda n: median(measured[n])
    )


def ceiling(forward: float, decode: float) -> float:
    """Images a second of cores that do nothing but decode and embed, one after the other."""
    return 1 / (1 / forward + 1 / decode)


def _forward(
    session: onnxruntime.InferenceSession, pixels: np.ndarray, batch: int, call: int
) -> int:
    start = call * batch % (len(pixels) - batch + 1)
    session.run(None, {"images": pixels[start : start + batch]})
    return batch


def _decode(recipe: Preprocessing, path: Path) -> np.ndarray:
    return preprocess(path.read_bytes(), recipe)


def _decode_one(recipe: Preprocessing, paths: list[Path], call: int) -> int:
    _decode(recipe, paths[call % len(paths)])
    return 1


def _by_processes(
    pool: ProcessPoolExecutor, recipe: Preprocessing, paths: list[Path], *, seconds: float
) -> float:
    begun = time.perf_counter()
    shares = [paths[first::CORES] for first in range(CORES)]
    done = sum(pool.map(partial(_decode_for, recipe, seconds), shares))
    return done / (time.perf_counter() - begun)


def _decode_for(recipe: Preprocessing, seconds: float, paths: list[Path]) -> int:
    begun, done = time.perf_counter(), 0
    for path in itertools.cycle(paths):
        _decode(recipe, path)
        done += 1
        if time.perf_counter() - begun >= seconds:
            break
    return done
