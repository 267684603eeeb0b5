"""The fastest way on a CPU, of those that change no bit.

The plainest way, one core a pass and the runtime's own batch size, is the reference. Only what
gives the probe's images the same bits is a choice, so that no choice changes a result.
"""

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline import files
from pipeline.frozen import Vectors
from pipeline.images import Pixels
from pipeline.runtimes import Runtime, Setting
from pipeline.tuning.choice import Tuned, Wish, read_note, write_note

BATCHES = (1, 2, 4, 8)
"""Images a pass that are tried: larger ones lose on a CPU, whose caches they leave."""

FEW_SESSIONS_BATCH = 8
"""Images a pass where several cores share one: less than that keeps them waiting."""

FEWER_THREADS_GAIN = 1.1
"""How much faster fewer threads must be: decoding, which is not measured, can use them all."""

CLOSE = 0.8
"""What comes so close to the fastest is measured once more."""

PATIENCE = 1.0
"""Seconds after which nothing more is tried."""


def tune(runtime: Runtime, images: Pixels, *, wish: Wish, note: Path, measure: bool) -> Tuned:
    """See `pipeline.tuning.tune`; note: where a choice is remembered."""
    if found := _recall(note, runtime, images):
        return found
    plain = Setting(wish.threads or wish.cores, wish.threads or wish.cores, runtime.batch_size)
    reference = Tuned(runtime, plain, runtime.embed(images))
    ways = list(_ways(plain, wish, runtime.batch_size))
    if not measure:
        ways = [] if ways[0] == plain else ways[:1]
    chosen_way, rates = _fastest(reference, images, ways)
    if measure:
        told = {
            "setting": asdict(chosen_way.setting),
            "probe_sha256": _digest(reference.probe),
            "images_per_second": rates,
        }
        write_note(note, told)
    return chosen_way


def _ways(plain: Setting, wish: Wish, batch_size: int) -> Iterator[Setting]:
    """What to try, the likeliest first."""
    batches = (wish.batch_size,) if wish.batch_size else (batch_size, *BATCHES)
    sessions = wish.sessions or plain.threads
    for size in dict.fromkeys(batches):
        yield Setting(plain.threads, min(sessions, plain.threads), size)
    fewer = sorted({plain.threads // 2, 1} - {0, plain.threads}, reverse=True)
    if wish.sessions is None:
        for count in fewer:
            yield Setting(plain.threads, count, wish.batch_size or FEW_SESSIONS_BATCH)
        if wish.threads is None and fewer:  # two threads a core may be too many
            yield Setting(fewer[0], fewer[0], wish.batch_size or batch_size)


def _fastest(
    reference: Tuned, images: Pixels, ways: Iterable[Setting]
) -> tuple[Tuned, dict[str, float]]:
    """The fastest of those that give the reference's bits; and images a second of each."""
    begun = time.monotonic()
    tried = dict[Setting, Runtime]()
    rates = dict[Setting, float]()
    for setting in ways:
        if time.monotonic() - begun > PATIENCE:
            break
        runtime = reference.runtime.run_as(setting)
        rate, vectors = _pass(runtime, setting, images)
        if vectors == reference.probe.tobytes():
            tried[setting], rates[setting] = runtime, rate
    close = [way for way, rate in rates.items() if rate > CLOSE * max(rates.values())]
    for setting in close:  # once more, since others use the machine too
        if len(close) > 1 and time.monotonic() - begun <= PATIENCE:
            rates[setting] = max(rates[setting], _pass(tried[setting], setting, images)[0])
    told = {_words(setting): round(rate, 1) for setting, rate in rates.items()}
    if not tried:
        return reference, told
    best = max(rates, key=lambda setting: rates[setting] / _handicap(setting, reference.setting))
    return Tuned(tried[best], best, reference.probe), told


def _handicap(setting: Setting, plain: Setting) -> float:
    return FEWER_THREADS_GAIN if setting.threads < plain.threads else 1.0


def _pass(runtime: Runtime, setting: Setting, images: Pixels) -> tuple[float, bytes]:
    """Images a second with every thread at work, and the vectors of the first round of images."""
    size = setting.batch_size
    whole = -(-len(images) // size) * size
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    rounds = math.lcm(len(batches), setting.threads) // len(batches)  # no thread idle at the end
    with ThreadPoolExecutor(setting.threads) as pool:
        begun = time.perf_counter()
        vectors = list(pool.map(runtime.embed, batches * rounds))
        seconds = time.perf_counter() - begun
    return whole * rounds / seconds, np.concatenate(vectors[: len(batches)]).tobytes()


def _words(setting: Setting) -> str:
    return f"{setting.threads} threads, {setting.sessions} sessions, batch {setting.batch_size}"


def _recall(path: Path, runtime: Runtime, images: Pixels) -> Tuned | None:
    """What was chosen before, if it still gives the bits that it gave then."""
    try:
        note = read_note(path)
        setting = Setting(**note["setting"])
        chosen = runtime.run_as(setting)
        probe = chosen.embed(images)
        return Tuned(chosen, setting, probe) if note["probe_sha256"] == _digest(probe) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _digest(probe: Vectors) -> str:
    return files.sha256_of_bytes(probe.tobytes())
