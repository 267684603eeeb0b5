"""What a run would cost: a few real steps on a few of its images, timed after some to warm up."""

import resource
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from pipeline import features
from pipeline.dataset import Labels, Split
from pipeline.finetuning import loop, memory, optimising, outcome
from pipeline.finetuning.course import Told
from pipeline.finetuning.network import repeatable
from pipeline.finetuning.prepared import Material, Place, Prepared, device_of, prepare
from pipeline.params import FinetuneParams

WARM, TIMED = 1, 3
"""Steps before the clock starts, and those it is of."""

JUDGED = 64
"""Validation images that validation is timed on, at most."""


@dataclass(frozen=True)
class Cost:
    """step: seconds of one, of `images` images; judge: of one image's validation; memory: bytes at
    most, of the GPU where there is one, else of the process; seconds: of the whole run, at most.
    """

    device: str
    images: int
    step: float
    judge: float
    memory: int
    seconds: float


@dataclass
class _Watch:
    """Notes seconds of steps, and of the validations between them."""

    last: float = field(default_factory=time.monotonic)
    steps: list[float] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)

    def __call__(self, told: Told) -> None:
        now = time.monotonic()
        (self.steps if told.row is None else self.judged).append(now - self.last)
        self.last = now


@memory.enough()
def measure(name: str, entry: FinetuneParams, given: Material, place: Place) -> Cost:
    """Train a few steps of an entry and throw the result away; writes nothing that stays.

    Images are decoded within the timed steps, which a run does once: it may be faster from its
    second epoch on, never slower. Raises what `finetuning.run` raises before its first step.
    """
    device = device_of(place.device)
    size = entry.batch_size * entry.accumulate
    some = replace(given, labels=_some(given.labels, size * (WARM + TIMED)))
    with tempfile.TemporaryDirectory() as folder, repeatable(device):
        elsewhere = replace(place, folder=Path(folder) / name, runs=Path(folder), every=np.inf)
        prepared = prepare(name, entry, some, elsewhere, device, trial=True)
        watch = _steps(prepared, entry)
    timed = watch.steps[WARM:] or watch.steps
    step = float(np.median(timed))
    judge = float(np.median(watch.judged)) / len(prepared.course.judge.listed)
    total = _total(entry, given, step, judge)
    course = prepared.course
    return Cost(device.type, course.step_size, step, judge, _memory(device), total)


def _steps(prepared: Prepared, entry: FinetuneParams) -> _Watch:
    epochs = -(-(WARM + TIMED) // prepared.course.updates)
    changed = {"epochs": epochs, "warmup_epochs": 0, "patience": None, "gradual": False}
    entry = entry.model_copy(update=changed)
    course, network = replace(prepared.course, entry=entry), prepared.network
    machinery = optimising.made(network, prepared.listed, course.chosen, entry, course.updates)
    watch = _Watch()
    loop.train(network, machinery, course, prepared.first, watch)
    return watch


def _some(labels: Labels, images: int) -> Labels:
    """Images of train, of every class, about so many and two of each at least, and some of val."""
    classes, codes = np.unique(labels.label.astype(str), return_inverse=True)
    each = {Split.TRAIN: max(2, -(-images // len(classes))), Split.VAL: -(-JUDGED // len(classes))}
    kept = [
        rows[:most]
        for split, most in each.items()
        for code in range(len(classes))
        for rows in [np.flatnonzero((labels.split == str(split)) & (codes == code))]
    ]
    return labels.where(np.sort(np.concatenate(kept)))


def _total(entry: FinetuneParams, given: Material, step: float, judge: float) -> float:
    """Seconds of a run that no validation figure stops before its time."""
    held = {s: len(features.images(given.labels, given.cached, s).rows) for s in Split}
    size = min(entry.batch_size * entry.accumulate, max(1, held[Split.TRAIN]))
    steps = max(1, held[Split.TRAIN] // size)
    at_the_end = len(outcome.ALPHAS) if entry.wise_ft else 1
    looked_at = (1 + entry.epochs + at_the_end) * held[Split.VAL] + sum(
        held[split] for split in (Split.VAL, Split.TEST)
    )
    return entry.epochs * steps * step + looked_at * judge


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
