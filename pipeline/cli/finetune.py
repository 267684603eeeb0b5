"""`headstart finetune`: what fine-tuning may bring and cost, and which blocks an entry trains."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import frozen, heads
from pipeline.cli.wording import counted, size, table
from pipeline.errors import ConfigurationError, HeadstartError, InputError, IntegrityError
from pipeline.params import PENULTIMATE, FinetuneParams
from pipeline.project import Project, open_project

EXAMPLE = (
    "finetune: {{finetuned: {{backbone: {backbone}, head: {head}, unfreeze: last:1, epochs: 5}}}}"
)
FOLDING = ("logistic", "linear_svm", "ridge", "lda", "nearest_mean")
"""Kinds of heads that training starts from exactly."""

METRICS = "evaluation/metrics.json"


def run() -> int:
    """Print an entry to paste where there is none, else what each may bring, its cost, what to type."""
    project = open_project()
    entries = project.params.finetune
    if not entries:
        print("\n".join(_explained(project)))
        return 0
    for number, (name, entry) in enumerate(entries.items()):
        print(*([""] if number else []), *_entry(project, name, entry), sep="\n", flush=True)
    return 0


def groups(name: str) -> int:
    """Print the blocks of an entry's backbone in forward order, and the head."""
    project = open_project()
    entry = project.finetune(name)
    record = heads.load_record(project.artifacts / "heads" / entry.backbone, entry.head)
    from pipeline import finetuning  # brings torch

    known = frozen.load(project.artifacts / "backbones" / entry.backbone)
    dims = dict(zip((tap.name for tap in known.taps), known.dims, strict=True))
    dim = sum(dims[layer] for layer in record.layers or [known.taps[0].name])
    origin = project.backbone(entry.backbone)
    wrong = None
    try:
        found = finetuning.groups(name, entry, origin, dim=dim, classes=len(record.classes))
    except ConfigurationError as error:  # the table has the names to choose from
        wrong, entry = error, entry.model_copy(update={"unfreeze": "head"})
        found = finetuning.groups(name, entry, origin, dim=dim, classes=len(record.classes))
    rows = [("block", "parameters", "rate", "")]
    rows += [
        (one.name, f"{one.parameters:,}", f"{one.rate:.3g}", "frozen" if one.frozen else "trained")
        for one in found
    ]
    moved = sum(one.parameters for one in found if not one.frozen)
    total = sum(one.parameters for one in found)
    print(*table(rows), f"{moved:,} of {total:,} parameters are trained", sep="\n")
    if entry.unfreeze != "head" and (
        inner := [one for one in record.layers or () if one != PENULTIMATE]
    ):
        print(
            f"of these a run leaves out blocks that the head does not see, which sees {', '.join(inner)}"
        )
    if wrong:
        raise wrong
    return 0


def _explained(project: Project) -> Iterator[str]:
    run = project.params.run
    best = _metrics(project).get("best", {})
    backbone, head = best.get("backbone", run.backbones[0]), best.get("head", run.heads[0])
    folding = [name for name in run.heads if project.params.heads[name].kind in FOLDING]
    if head not in folding:  # or it would start from another than it names
        head = (folding or run.heads)[0]
    yield "finetune is empty in params.yaml, so nothing is fine-tuned: the stage does not exist."
    yield "It would train some of a backbone's blocks on, from exactly where a fitted head stands."
    yield "To try it, write there in place of finetune: {}"
    yield f"  {EXAMPLE.format(backbone=backbone, head=head)}"
    yield "then 'headstart finetune' measures what it would cost, and 'dvc repro finetune@finetuned evaluate report bundle' does it."
    yield "Do not type 'dvc repro finetune' while it is empty: DVC would run the whole pipeline."


def _entry(project: Project, name: str, entry: FinetuneParams) -> Iterator[str]:
    unfreeze = entry.unfreeze if isinstance(entry.unfreeze, str) else ", ".join(entry.unfreeze)
    yield (
        f"{name}: {entry.backbone} and {entry.head}, init {entry.init}, unfreeze {unfreeze}, "
        f"{counted(entry.epochs, 'epoch')} at most"
    )
    yield f"  before: {_standing(project, entry)}"
    yield from (f"  learning curve {curve}: {said}" for curve, said in _curves(project, entry))
    try:
        yield f"  cost: {_cost(project, name, entry)}"
    except ConfigurationError:  # the entry cannot run: what it would cost is nothing to go by
        raise
    except HeadstartError as error:
        yield f"  cost: unknown: {error}"
    done = _metrics(project).get(entry.backbone, {}).get(name, {}).get("finetuned")
    if done:
        yield f"  after: {done['sentence']}"
    yield f"  to do it: dvc repro finetune@{name} evaluate report bundle"


def _standing(project: Project, entry: FinetuneParams) -> str:
    """The head's figures, and what is left to gain."""
    figures = _metrics(project).get(entry.backbone, {}).get(entry.head, {})
    test, val = figures.get("test"), figures.get("val")
    if not val:
        return f"not known, {entry.head} was not evaluated yet; run 'dvc repro evaluate'"
    said = f"{entry.head} has validation accuracy {val['accuracy']:.4f}"
    if not test:
        return f"{said}; no image is in test, so what comes of it could not be judged"
    low, high = test["accuracy_ci95"]
    wrong = round((1 - test["accuracy"]) * test["n"])
    return (
        f"{said}, test {test['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}): "
        f"{wrong} of {counted(test['n'], 'test image')} wrong, which is all there is to gain"
    )


def _curves(project: Project, entry: FinetuneParams) -> Iterator[tuple[str, str]]:
    """What each learning curve says of the backbone: whether more images would do as well."""
    for name in project.params.curve:
        said = _json(project.artifacts / "curve" / name / "summary.json").get("backbones", {})
        if entry.backbone in said:
            yield name, said[entry.backbone]["sentence"]


def _cost(project: Project, name: str, entry: FinetuneParams) -> str:
    if not (project.artifacts / "heads" / entry.backbone / f"{entry.head}.joblib").exists():
        raise InputError(
            f"it starts from a head that is not there; run 'dvc repro train@{entry.backbone}-{entry.head}'"
        )
    from pipeline import finetuning  # brings torch

    given = finetuning.read(
        project.artifacts, project.data_root, entry, project.backbone(entry.backbone)
    )
    place = finetuning.Place(
        project.artifacts, project.artifacts, project.locate, project.execution.device
    )
    cost = finetuning.measure(name, entry, given, place)
    return (
        f"{_minutes(cost.seconds)} at most, {size(cost.memory)} of memory on the {cost.device} "
        f"({cost.step:.2f} s a step of {counted(cost.images, 'image')}, {1000 * cost.judge:.0f} ms an "
        "image validated, measured now)"
    )


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _metrics(project: Project) -> dict[str, Any]:
    return _json(project.artifacts / METRICS)


def _json(path: Path) -> dict[str, Any]:
    """What it has; nothing where it is not there. Raises IntegrityError."""
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro'") from None
