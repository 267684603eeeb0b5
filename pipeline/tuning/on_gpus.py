"""How many images a GPU is given at a time: by measurement, and within its memory.

Another batch size may change bits on a GPU, so a run keeps one, and what is chosen here need only
agree with what was, within what the probe may drift.
"""

import base64
import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from pipeline import frozen
from pipeline.errors import DeviceMemoryError, IntegrityError
from pipeline.frozen import Vectors
from pipeline.images import Pixels
from pipeline.runtimes import Runtime, Setting
from pipeline.tuning.choice import Tuned, Wish, read_note, write_note

BATCHES = (32, 64, 128, 256, 512)
"""Images a pass that are tried."""

ENOUGH = 0.95
"""The smallest batch that reaches this share of the fastest is taken: the rest is memory's."""

PASSES = 2
"""Passes at once on a GPU: while one computes, the pixels of the next are copied."""

SAMPLE = 0.3
"""Seconds, at least, that a batch size is measured for."""

PATIENCE = 5.0
"""Seconds after which no other is tried."""


def tune(
    runtime: Runtime, images: Pixels, *, wish: Wish, note: Path, measure: bool, precision: str
) -> Tuned:
    """See `pipeline.tuning.tune`; note: where a choice is remembered."""
    if wish.batch_size is None and (found := _recall(note, runtime, images, precision)):
        return found
    plain = _plain(runtime, wish)
    if wish.batch_size is not None or not measure:
        return _within_memory(runtime, plain, images)
    batch_size, rates = _fastest(runtime, plain, images)
    chosen = _within_memory(runtime, replace(plain, batch_size=batch_size), images)
    if wish.compiled:
        chosen = _compiled(runtime, chosen, images, precision)
    told = {
        "setting": asdict(chosen.setting),
        "probe": base64.b64encode(chosen.probe.tobytes()).decode(),
        "images_per_second": {f"batch {size}": round(rate, 1) for size, rate in rates.items()},
    }
    write_note(note, told)
    return chosen


def _plain(runtime: Runtime, wish: Wish) -> Setting:
    threads = wish.threads or wish.cores
    sessions = wish.sessions or PASSES * len(runtime.gpus)
    return Setting(threads, min(sessions, threads), wish.batch_size or runtime.batch_size)


def _within_memory(runtime: Runtime, setting: Setting, images: Pixels) -> Tuned:
    """That batch size, or the half of it as often as the GPU's memory asks for.

    Raises DeviceMemoryError where not even one image at a time fits.
    """
    while True:
        try:
            return _tried(runtime, setting, images)
        except DeviceMemoryError:
            if setting.batch_size == 1:
                raise
        _free()
        size = setting.batch_size // 2
        _say(f"no GPU memory for {setting.batch_size} images a pass; {size} are tried")
        setting = replace(setting, batch_size=size)


def _tried(runtime: Runtime, setting: Setting, images: Pixels) -> Tuned:
    """The runtime in that setting, after as many passes at once as it will ever have to hold."""
    chosen = runtime.run_as(setting)
    with ThreadPoolExecutor(setting.sessions) as pool:
        probe, *_ = pool.map(chosen.embed, [images] * setting.sessions)
    return Tuned(chosen, setting, probe)


def _fastest(runtime: Runtime, plain: Setting, images: Pixels) -> tuple[int, dict[int, float]]:
    """The batch size to take, and images a second of each that was tried."""
    begun, rates = time.monotonic(), dict[int, float]()
    for size in BATCHES:
        try:
            rates[size] = _rate(runtime, replace(plain, batch_size=size), images)
        except DeviceMemoryError:
            if rates:
                _say(f"no GPU memory for {size} images a pass; {max(rates)} are the most")
            break
        finally:
            _free()
        if time.monotonic() - begun > PATIENCE:
            break
    if not rates:
        return BATCHES[0], rates
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= ENOUGH * best), rates


def _compiled(runtime: Runtime, plain: Tuned, images: Pixels, precision: str) -> Tuned:
    """The same setting compiled, where the runtime can and its vectors stay within tolerance."""
    try:
        found = _tried(runtime, replace(plain.setting, compiled=True), images)
        frozen.check_drift(found.probe, plain.probe, precision=precision, what="compiled")
    except (DeviceMemoryError, IntegrityError) as error:
        _free()
        _say(f"the backbone runs uncompiled: {error}")
        return plain
    return found


def _rate(runtime: Runtime, setting: Setting, images: Pixels) -> float:
    """Images a second with every caller at work on full batches."""
    tried = runtime.run_as(setting)
    batch = np.resize(images, (setting.batch_size, *images.shape[1:]))
    with ThreadPoolExecutor(setting.threads) as pool:
        _all_embed(pool, tried.embed, batch, setting.sessions)  # it plans, and takes its memory
        passes, seconds, begun = 0, 0.0, time.perf_counter()
        while seconds < SAMPLE:
            _all_embed(pool, tried.embed, batch, setting.threads)
            passes += setting.threads
            seconds = time.perf_counter() - begun
    return passes * setting.batch_size / seconds


def _all_embed(
    pool: ThreadPoolExecutor, embed: Callable[[Pixels], Vectors], batch: Pixels, callers: int
) -> None:
    for _ in pool.map(embed, [batch] * callers):
        pass


def _recall(path: Path, runtime: Runtime, images: Pixels, precision: str) -> Tuned | None:
    """What was chosen before, if it still fits and makes what it made then, within tolerance."""
    try:
        note = read_note(path)
        setting = Setting(**note["setting"])
        kept = np.frombuffer(base64.b64decode(note["probe"]), np.float32)
        found = _tried(runtime, setting, images)
        frozen.check_drift(
            found.probe, kept.reshape(len(images), -1), precision=precision, what=path.name
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    except (DeviceMemoryError, IntegrityError):
        return None
    return found


def _free() -> None:
    """Have what was tried give its memory back before more is asked for.

    An error that holds the frames it went through can keep it alive in a circle.
    """
    gc.collect()


def _say(text: str) -> None:
    print(f"headstart: {text}", file=sys.stderr)
