"""Choose a head's option and layers on the validation images, or on folds, never on test; fit it twice.

Each candidate set of layers has a search and a fit on train of its own; the chosen one is then
fitted once more, from scratch, on train + val.
"""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline import abstention, features, fitting, heads
from pipeline.candidates import EVERY, Candidate, Task, contest, fits
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.features import Gathered, Images
from pipeline.fitting import Fit
from pipeline.folds import Draw, Pool
from pipeline.heads import Fitted, Record, Setting
from pipeline.params import HeadParams


def train(
    name: str, entry: HeadParams, labels: Labels, cached: Embeddings
) -> tuple[Fitted, Record]:
    """Choose and fit a head on a backbone's cached embeddings.

    Raises ConfigurationError (the entry), InputError (a class without training images, no
    validation image).
    """
    recipe = heads.recipe(name, entry)
    sight = features.sight(name, entry, features.offer(cached))
    seen = features.images(labels, cached, Split.TRAIN)
    held = features.images(labels, cached, Split.VAL)
    task = Task(recipe, entry, sight, Pool(seen, held, sight.views, _classes(labels, seen, held)))
    gathered = Gathered(cached, [(images.rows, sight.views) for images in (seen, held)])
    draws, skipped = _draws(task)
    with fitting.alone_on_a_thread():
        best, kept, reached = contest(task, draws, gathered)
        everything = kept.everything or _on_everything(task, gathered, best[0])
    chosen = best[0]
    about = {
        "backbone": str(cached.attributes["backbone"]),
        "head": name,
        "fingerprint": cached.fingerprint,
        "fingerprints": features.fingerprints(cached, chosen.layers, sight.views),
        "converged": kept.train.converged and everything.converged,
        "notes": [*_notes(task, chosen, kept.train.setting), *skipped],
        "enhance": list(recipe.enhanced(kept.train.setting)),
        "by_layer": [_reached(one) for one in reached] if len(reached) > 1 else [],
        "seeds": [_drawn(*one) for one in zip(draws, best, strict=True)] if entry.seeds > 1 else [],
    }
    pipelines = kept.train.pipeline, everything.pipeline
    return Fitted(task.pool.classes, *pipelines, chosen.temperature), _record(task, chosen, about)


def _classes(labels: Labels, seen: Images, held: Images) -> tuple[str, ...]:
    wanted, found = sorted(set(labels.label)), set(seen.labels.label)
    if lost := [label for label in wanted if label not in found]:
        raise InputError(
            f"class {lost[0]!r} has lost all its training images; see the problems.csv beside "
            "the embeddings, mend the images or remove the class"
        )
    if len(held.rows) == 0:
        raise InputError(
            "no validation image has an embedding; give each class at least three images, or a val split"
        )
    return tuple(wanted)


def _draws(task: Task) -> tuple[list[Draw], list[str]]:
    """The given split and those drawn beside it; a note for each that cannot be used."""
    pool, notes = task.pool, list[str]()
    draws = [pool.given()]
    for seed in range(1, task.entry.seeds):
        draw = pool.redrawn(seed)
        lost = pool.lost(draw)
        if lost or len(draw.val) == 0:
            what = f"class {lost[0]!r} has no image in its train" if lost else "its val is empty"
            notes.append(f"draw {seed} of train and val is left out: {what}")
        else:
            draws.append(draw)
    return draws, notes


def _on_everything(task: Task, gathered: Gathered, chosen: Candidate) -> Fit:
    """The fit on train + val."""
    ground, draw = task.ground(gathered, chosen.layers), task.pool.given()
    train = task.pool.part(draw.train, draw.val).seen
    (fit,) = fits(task.recipe, ground, chosen.search, train, [EVERY])
    return fit


def _record(task: Task, chosen: Candidate, about: dict[str, Any]) -> Record:
    """What is recorded. about: what is no matter of the head alone."""
    entry, pool, search, known = task.entry, task.pool, chosen.search, chosen.scored.probabilities
    wanted = entry.wanted_precision
    per_image = pool.views + 1
    train, val = pool.images
    return Record(
        kind=entry.kind,
        classes=list(pool.classes),
        rows={"train": train * per_image, "val": val * per_image},
        images={"train": train, "val": val},
        choice=search.choice,
        chosen_by=search.by,
        chosen_on=f"{chosen.folds} folds of train" if chosen.folds else "val",
        trace=search.trace,
        at_edge=search.at_edge,
        edges=search.edges,
        layers=list(chosen.layers),
        layers_by=chosen.by if task.sight.best else "given",
        views=pool.views,
        temperature=chosen.temperature,
        abstention=(
            {}
            if wanted is None or known is None
            else abstention.chosen(known, chosen.scored.y, wanted)
        ),
        **about,
    )


def _notes(task: Task, chosen: Candidate, at: Setting) -> Iterator[str]:
    """What is not as the entry in params.yaml says, and why."""
    yield from task.sight.notes
    yield from task.recipe.notes(at)
    entry, folds = task.entry, chosen.folds
    if entry.cv and task.is_searched and folds < entry.cv:
        on = f"{folds} folds" if folds else "val"
        yield (
            f"chosen on {on}, not on {entry.cv} folds: a class has too few images, or groups of "
            "them, in train"
        )
    if entry.calibrate and chosen.temperature is None:
        yield "not calibrated: it has neither probabilities nor a decision function"
    if entry.wanted_precision and chosen.scored.probabilities is None:
        yield "no threshold for the precision wanted: it has no probabilities; see calibrate"


def _reached(one: Candidate) -> dict[str, Any]:
    return {"layers": list(one.layers), "choice": one.search.choice, **one.figures}


def _drawn(draw: Draw, one: Candidate) -> dict[str, Any]:
    return {"seed": draw.seed, "n": len(draw.val), **_reached(one)}


def describe(record: Record) -> str:
    """What was chosen, in a few lines for the terminal."""
    chosen = ", ".join(f"{option} = {value:.4g}" for option, value in record.choice.items())
    on = "" if record.chosen_on == "val" else f" on {record.chosen_on}"
    tried = f" of {len(record.trace)} tried{on}" if record.trace else ""
    told = [heads.seen(record), chosen + tried if chosen else "fitted"]
    if record.temperature is not None:
        told.append(f"calibrated at temperature {record.temperature:.3g}")
    lines = [f"{record.backbone} / {record.head}: {', '.join(filter(None, told))}"]
    lines += [*_of_draws(record.seeds), *_of_abstention(record.abstention)]
    lines += [f"note: {note}" for note in record.notes]
    lines += [
        f"warning: {option} lies at the {end} end of the grid"
        + ("" if "." in option else "; give a value of your own")  # a member takes none
        for option, end in record.edges.items()
    ]
    if record.at_edge and not record.edges:  # an older record
        lines.append("warning: the choice lies at an end of the grid; give a value of your own")
    if not record.converged:
        lines.append("warning: the final fit stopped before it converged")
    return "\n".join(lines)


def _of_draws(seeds: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation over the draws of train and val."""
    if len(seeds) > 1:
        accuracies = [float(draw["accuracy"]) for draw in seeds]
        mean, spread = statistics.mean(accuracies), statistics.stdev(accuracies)
        yield f"{len(seeds)} draws of train and val: accuracy {mean:.4f} ± {spread:.4f} on val"


def _of_abstention(told: dict[str, Any]) -> Iterator[str]:
    if not told:
        return
    if told["threshold"] is None:
        yield f"no threshold reaches a precision of {told['wanted']:g} on val"
        return
    low, high = told["precision_ci95"]
    yield (
        f"below {told['threshold']:.3g} it abstains, and is right on {told['precision']:.4f} "
        f"({low:.4f} to {high:.4f}) of the {told['coverage']:.1%} of val that is left"
    )
