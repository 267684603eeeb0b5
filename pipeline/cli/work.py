"""What `headstart plan` says of heads, curves and fine-tuning: how many may run, what they last took."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.cli.wording import counted, seconds
from pipeline.params import CurveParams, Params


@dataclass(frozen=True)
class Work:
    """Stages of a kind that may run.

    steps: what they do at most: heads, draws of curves, epochs; measured: how many of the stages
    left a note of their last run, which may have been of other images or options; seconds: those
    of the notes together, None where there is none.
    """

    stages: int
    steps: int
    measured: int
    seconds: float | None


KINDS = {
    "train": ("heads", "may be fitted", ""),
    "curve": ("curves", "may be measured", "draw"),
    "finetune": ("fine-tuning", "may run", "epoch"),
}
"""By the kind of a stage: what these are, what may become of them, and what they do step by step."""


def ahead(stages: Sequence[str], params: Params, runs: Path) -> dict[str, Work]:
    """By kind, the work of those of the stages that embed nothing. runs: where the notes lie."""
    found = dict[str, Work]()
    for kind in KINDS:
        names = [name for name in stages if name.startswith(f"{kind}@")]
        notes = [_noted(runs / f"{name.replace('@', '-')}.json") for name in names]
        known = [note for note in notes if note is not None]
        if names:
            steps = sum(_steps(kind, name.partition("@")[2], params) for name in names)
            found[kind] = Work(len(names), steps, len(known), sum(known) if known else None)
    return found


def _steps(kind: str, key: str, params: Params) -> int:
    if kind == "curve":
        return _draws(params.curve[key], params)
    return params.finetune[key].epochs if kind == "finetune" else 1


def _draws(entry: CurveParams, params: Params) -> int:
    """At most: those of a number that no class has are one, of all images."""
    drawn = sum(1 if shots == "all" else entry.seeds for shots in entry.shots)
    return drawn * len(entry.backbones or params.run.backbones)


def _noted(path: Path) -> float | None:
    """Seconds of a stage's last run; None where it left no note that can be read."""
    try:
        took = float(json.loads(path.read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return took if 0 <= took < math.inf else None


def lines(found: dict[str, Work]) -> Iterator[str]:
    """A line a kind."""
    for kind, work in found.items():
        what, done, step = KINDS[kind]
        most = f", {counted(work.steps, step)} at most" if step else ""
        took = "seconds are not known before a first run"
        if work.seconds is not None:
            some = f" for {work.measured} of them" if work.measured < work.stages else ""
            took = f"the last time {seconds(work.seconds)} s{some}"
        yield f"{what}: {work.stages} {done}{most}; {took}"
