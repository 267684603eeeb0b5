"""Fine-tuning: a frozen backbone's blocks are let loose, starting exactly where the fitted head stands.

    folding     a fitted head as torch layers, everything linear in one Linear
    start       where training starts: weights from their source again, the head, the check of step 0
    network     normalisation, backbone, layers joined, head: the module that is trained
    blocks      a backbone's blocks in forward order: which are trained, how fast
    memory      what decoded images may take of it, and what is done where it runs out
    pictures    images, decoded once, augmented, in an order that the seed tells
    optimising  loss, mixing, optimiser, rates, average: what turns gradients into other weights
    ranks       several processes that train one network, a GPU each
    step        one step: gradients, in as many passes as memory asks for, and other weights
    loop        epochs of steps, a validation after each, the best kept
    state       a run in the making, which a killed one goes on from
    prepared    a run before its first step: images, network, the check of its start
    course      what a run is of, and what is told of it while it goes
    trial       what a run would cost, by a few steps of it
    live        what can be watched while it goes
    energy      what it takes of it, where codecarbon is installed
    scoring     how good a network is on a split
    outcome     the weights that are kept, their answers, the folder of `pipeline.finetuned`

`run` is the whole of it, `groups` tells beforehand what would be trained. docs/finetune.md has the
settings and the sources of the methods.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline import files, finetuned
from pipeline.backbones import bare
from pipeline.backbones.weights import digest
from pipeline.dataset import Split
from pipeline.evaluation.results import Result
from pipeline.finetuning import (
    blocks,
    energy,
    loop,
    memory,
    optimising,
    outcome,
    ranks,
    scoring,
    start,
)
from pipeline.finetuning.blocks import Group
from pipeline.finetuning.course import Course, Told, Watch, silent
from pipeline.finetuning.live import watching
from pipeline.finetuning.network import State, repeatable
from pipeline.finetuning.outcome import Kept
from pipeline.finetuning.prepared import (
    Material,
    Place,
    Prepared,
    device_of,
    prepare,
    processes_of,
    read,
    views_of,
)
from pipeline.finetuning.state import Standing
from pipeline.finetuning.trial import Cost, measure
from pipeline.metrics import Scored
from pipeline.params import BackboneParams, FinetuneParams

__all__ = [
    "Cost",
    "Group",
    "Material",
    "Place",
    "Told",
    "describe",
    "groups",
    "measure",
    "read",
    "run",
    "watching",
]


@memory.enough()
def run(
    name: str, entry: FinetuneParams, given: Material, place: Place, watch: Watch = silent
) -> dict[str, Any]:
    """Fine-tune an entry of params.yaml, or go on with a killed run of it; returns its record.

    Writes the folder of `pipeline.finetuned`, and runs/finetune-<name>.json with what it took.
    Raises ConfigurationError, InputError, IntegrityError, ResourceError.
    """
    clock = _Clock()
    device = device_of(place.device)
    images = int((given.labels.split == str(Split.TRAIN)).sum())
    processes = processes_of(place, entry, device, images)
    with repeatable(device), energy.measured() as used:
        with ranks.together(processes, device, _follow, name, entry, given, place):
            prepared = prepare(name, entry, given, place, device)
            clock.note("start")
            standing, begun = _trained(prepared, watch)
            clock.note("train")
        course, network = prepared.course, prepared.network
        wise = entry.wise_ft and entry.init == "head" and standing.best_epoch > 0
        kept = outcome.keep(
            network,
            (begun, standing.best),
            (prepared.first, standing.score(standing.best_epoch)),
            course.judge,
            wise=wise,
            workers=course.workers,
        )
        results = list(_answers(name, given, prepared))
        clock.note("score")
    record = _record(name, entry, given, prepared, standing, kept)
    recipe = given.backbone.preprocessing
    outcome.write(
        place.folder, network, results, standing.history, record, recipe, views_of(given.backbone)
    )
    clock.note("write")
    _note_run(name, place, course, standing, clock, device, used)
    return finetuned.load(place.folder).record


def _trained(prepared: Prepared, watch: Watch) -> tuple[Standing, State]:
    course, network = prepared.course, prepared.network
    listed, chosen, entry = prepared.listed, course.chosen, course.entry
    machinery = optimising.made(network, listed, chosen, entry, course.updates)
    return loop.train(network, machinery, course, prepared.first, watch)


@memory.enough()
def _follow(name: str, entry: FinetuneParams, given: Material, place: Place) -> None:
    """What the other processes do where several train together."""
    device = device_of(place.device)
    with repeatable(device):
        _trained(prepare(name, entry, given, place, device), silent)


def groups(
    name: str, entry: FinetuneParams, origin: BackboneParams, *, dim: int, classes: int
) -> list[Group]:
    """What an entry would train of its backbone, block by block, and the head; needs no weights.

    dim, classes: of the head. Raises ConfigurationError, near misses named.
    """
    at = f"params.yaml: backbones.{entry.backbone}"
    start.check_source(origin, at)
    body = bare.built(start.architecture(origin), at).body
    return blocks.groups(body, dim * classes + classes, entry, f"params.yaml: finetune.{name}")


def describe(record: dict[str, Any]) -> str:
    """A record in a line or two, for the terminal."""
    val, agreement = record["val"], record["started_from"]["agreement"]
    started = "from random numbers" if agreement is None else f"from {record['head']}"
    if agreement is not None:
        started += ", a logistic regression beside it" if record["started_from"]["note"] else ""
        started += f", agreeing with it on {agreement:.1%} of the validation images"
    alpha = "" if record["alpha"] is None else f", {record['alpha']:g} of the way from the start"
    kept = "" if record["epoch"] else "; no epoch was better than the start, so nothing was tuned"
    return (
        f"{record['name']}: started {started}; kept epoch {record['epoch']} of {record['epochs']}{alpha}; "
        f"validation accuracy {val['accuracy']:.4f}, log loss {val['log_loss']:.4f}{kept}"
    )


def _answers(name: str, given: Material, prepared: Prepared) -> Iterator[Result]:
    """What the trained network says of val and of test."""
    course, classes = prepared.course, given.fitted.classes
    for split, decoded in ((Split.VAL, course.judge), (Split.TEST, prepared.test)):
        found = scoring.logits(prepared.network, decoded, workers=course.workers)
        known = scoring.probabilities(found)
        scored = Scored(decoded.listed.y, known.argmax(axis=1), known, len(classes))
        yield Result(
            *(given.backbone.name, name, split, prepared.held[split].labels, scored, classes),
            control=False,
            kind=finetuned.KIND,
            source=str(given.backbone.fields["source"]),
        )


def _record(
    name: str,
    entry: FinetuneParams,
    given: Material,
    prepared: Prepared,
    standing: Standing,
    kept: Kept,
) -> dict[str, Any]:
    """What record.json has, but for digests of files."""
    reference, held = prepared.reference, prepared.held
    return {
        "name": name,
        "kind": finetuned.KIND,
        "backbone": given.backbone.name,
        "head": given.record.head,
        "entry": entry.model_dump(),
        "classes": list(given.fitted.classes),
        "layers": [tap.name for tap in given.beginning.taps],
        "images": {str(split): len(held[split].rows) for split in Split},
        "trained_blocks": [block.name for block in prepared.course.chosen],
        "started_from": {
            "fingerprint": given.backbone.fingerprint,
            "weights_sha256": given.backbone.fields["weights_sha256"],
            "head_sha256": given.record.sha256,
            "agreement": prepared.agreement,
            "note": reference.note if reference else "",
        },
        "epochs": standing.epoch,
        "epoch": standing.best_epoch,
        "alpha": kept.alpha,
        "val": {"accuracy": kept.score.accuracy, "log_loss": kept.score.loss},
        "preprocessing": given.backbone.preprocessing.as_dict(),
        "tta": given.backbone.fields.get("tta"),
        "licence": given.backbone.licence,
        "architecture": start.architecture(given.origin),
        "weights_sha256": digest(prepared.network.body.state_dict()),
    }


@dataclass
class _Clock:
    """Seconds of each phase."""

    last: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)

    def note(self, phase: str) -> None:
        """What has passed since the last note was of this phase."""
        now = time.monotonic()
        self.phases[phase] = round(now - self.last, 3)
        self.last = now


def _note_run(
    name: str,
    place: Place,
    course: Course,
    standing: Standing,
    clock: _Clock,
    device: torch.device,
    used: dict[str, Any],
) -> None:
    """Write runs/finetune-<name>.json, which is tracked by nothing, and let the unfinished run go."""
    most = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    phases = {**clock.phases, "train": round(standing.seconds, 3)}
    if standing.resumptions:  # what the killed processes used was not counted
        used = {}
    note = {
        "seconds": round(sum(phases.values()), 3),
        "phases": phases,
        "resumptions": standing.resumptions,
        "epochs": standing.epoch,
        "images": len(course.learn.listed),
        "device": device.type,
        "passes": standing.passes,
        "gpu_memory_bytes": most,
        **used,
    }
    files.write_json(place.runs / f"finetune-{name}.json", note)
    shutil.rmtree(course.folder, ignore_errors=True)
