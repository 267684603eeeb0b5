"""`headstart rank`: which backbone, or layer of one, tells the user's classes apart best, untrained."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import embeddings, files, ranking
from pipeline.cli.wording import counted, table
from pipeline.dataset import Digests, Labels, Split, read_labels, read_problems
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.metrics import Interval, wilson
from pipeline.params import CONTROL_SOURCES
from pipeline.project import Project, open_project
from pipeline.ranking import LEADING, Measured

SPLITS = (Split.TRAIN, Split.VAL)
"""What a choice may be made by; the test images are for the head that was chosen."""


@dataclass(frozen=True)
class Seen:
    """The images that are ranked on. sha256: (N,) S64, sorted, distinct; y: (N,) int64."""

    sha256: Digests
    y: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A layer of a backbone, measured. interval: of the neighbours' accuracy, 95 %."""

    backbone: str
    layer: str
    control: bool
    measured: Measured

    @property
    def interval(self) -> Interval:
        n = self.measured.n
        return wilson(round(self.measured.scores["loo_knn"] * n), n)

    def is_separated(self, other: "Candidate") -> bool:
        """Whether the intervals of the two have nothing in common."""
        (low, high), (least, most) = self.interval, other.interval
        return low > most or least > high


def run(names: Sequence[str], *, layer: str | None, most: int, as_json: bool = False) -> int:
    """Score the backbones of these names, or every one that is embedded, and print them in order.

    layer: of each, None for every cached one; most: images at most.
    Raises InputError where a named one, or none at all, can be scored.
    """
    project = open_project()
    chosen = list(dict.fromkeys(names)) or list(project.params.backbones)
    for name in chosen:
        project.backbone(name)
    cached, left_out = _opened(project, chosen)
    if not cached and not names:
        raise InputError(
            f"no backbone is embedded yet; {_make(project, project.params.run.backbones[0])}"
        )
    seen = _seen(read_labels(project.artifacts / "dataset" / "labels.parquet"))
    old = {name: why for name, one in cached.items() if (why := _missing(project, name, one, seen))}
    without = _without(layer, {name: one for name, one in cached.items() if name not in old})
    left_out |= old | without
    if left_out and (names or len(left_out) == len(chosen)):
        name, why = next(iter({**old, **without, **left_out}.items()))
        raise InputError(f"backbone {name} {why}")
    cached = {name: one for name, one in cached.items() if name not in left_out}
    shared = _shared(seen, cached.values(), most)
    found = sorted(_candidates(cached, shared, layer), key=_order)
    print((_as_json if as_json else _as_text)(found, shared, left_out), end="")
    return 0


def _opened(project: Project, names: list[str]) -> tuple[dict[str, Embeddings], dict[str, str]]:
    """The embeddings that are there, and why others are left out."""
    paths = {name: project.artifacts / "embeddings" / f"{name}.h5" for name in names}
    there = {name: embeddings.open(path) for name, path in paths.items() if path.is_file()}
    absent = [name for name in names if name not in there]
    return there, {name: f"has no embeddings yet; {_make(project, name)}" for name in absent}


def _make(project: Project, name: str) -> str:
    """What to type for the embeddings of a backbone."""
    listed = name in project.params.run.backbones
    first = "" if listed else f"add {name} to run.backbones in params.yaml, then "
    return f"{first}run 'dvc repro extract@{name}'"


def _without(layer: str | None, cached: dict[str, Embeddings]) -> dict[str, str]:
    """Which backbones do not have the layer that is asked for, in words."""
    return {
        name: f"has no embeddings of layer {layer!r}, only of {', '.join(one.layers)}; "
        f"add it to backbones.{name}.layers in params.yaml, then run 'dvc repro extract@{name}'; "
        f"'headstart backbones show {name}' lists what there is"
        for name, one in cached.items()
        if layer is not None and layer not in one.layers
    }


def _seen(labels: Labels) -> Seen:
    """The distinct images of train and val: copies would be each other's nearest neighbours."""
    mine = labels.where(np.isin(labels.split.astype(str), SPLITS))
    sha256, first = np.unique(mine.sha256, return_index=True)
    _, y = np.unique(mine.label[first].astype(str), return_inverse=True)
    return Seen(sha256, y.astype(np.int64))


def _missing(project: Project, name: str, cached: Embeddings, seen: Seen) -> str:
    """Why a file is not of these images; empty where it has all that could be embedded."""
    listed = project.artifacts / "embeddings" / f"{name}.problems.csv"
    failed = [one.sha256 for one in read_problems(listed)] if listed.is_file() else []
    wanted = seen.sha256[~np.isin(seen.sha256, np.array(failed, "S64"))]
    lost = int((cached.rows(wanted) < 0).sum())
    if not lost:
        return ""
    images = counted(len(wanted), "image")
    return f"has no embedding of {lost} of {images} in train and val; {_make(project, name)}"


def _shared(seen: Seen, cached: Iterable[Embeddings], most: int) -> Seen:
    """The images that every candidate has, the first `most` by sha256: a random sample of them.

    Raises InputError where these are of fewer than two classes.
    """
    both = np.logical_and.reduce([one.rows(seen.sha256) >= 0 for one in cached])
    sha256, y = seen.sha256[both][:most], seen.y[both][:most]
    if len(np.unique(y)) < 2:
        raise InputError(
            f"{counted(len(y), 'image')} of {counted(len(np.unique(y)), 'class')} in train and val: "
            "ranking needs two classes; add images, or look at artifacts/dataset/problems.csv"
        )
    return Seen(sha256, y)


def _candidates(
    cached: dict[str, Embeddings], seen: Seen, wanted: str | None
) -> Iterator[Candidate]:
    for name, one in cached.items():
        rows = one.rows(seen.sha256)
        for layer in one.layers:
            if wanted in (None, layer):
                measured = ranking.score(one.take(rows, layer=layer), seen.y)
                yield Candidate(name, layer, one.source in CONTROL_SOURCES, measured)


def _order(one: Candidate) -> tuple[float, str, str]:
    return -one.measured.scores[LEADING], one.backbone, one.layer


def _as_text(found: list[Candidate], seen: Seen, left_out: dict[str, str]) -> str:
    classes = len(np.unique(seen.y))
    lines = [
        f"{len(seen.y)} images of {classes} classes, of train and val; no test image is looked at",
        *table([_COLUMNS, *map(_row, found)]),
        *_doubts(found),
    ]
    lines += [f"not ranked: {name} {why}" for name, why in left_out.items()]
    return "".join(f"{line}\n" for line in lines)


_COLUMNS = (
    *("backbone", "layer", "dim", "LogME", "s", "H-score", "s"),
    *(f"{ranking.NEIGHBOURS}-NN", "95 % interval", "s", ""),
)


def _row(one: Candidate) -> list[str]:
    scores, seconds = one.measured.scores, one.measured.seconds
    low, high = one.interval
    return [
        *(one.backbone, one.layer, str(one.measured.dim)),
        *(f"{scores['logme']:.4f}", f"{seconds['logme']:.2f}"),
        *(f"{scores['h_score']:.4f}", f"{seconds['h_score']:.2f}"),
        *(f"{scores['loo_knn']:.4f}", f"{low:.4f} to {high:.4f}", f"{seconds['loo_knn']:.2f}"),
        "control" if one.control else "",
    ]


def _doubts(found: list[Candidate]) -> Iterator[str]:
    """Where two that stand one below the other are not in an order that the images show."""
    near = [(a, b) for a, b in pairwise(found) if not a.is_separated(b)]
    wrong = [
        (a, b) for a, b in pairwise(found) if a.is_separated(b) and a.interval[1] < b.interval[0]
    ]
    if near:
        yield f"order not separated by these images (intervals overlap): {_pairs(near, found)}"
    if wrong:
        yield f"order reversed by nearest neighbours (intervals apart): {_pairs(wrong, found)}"


def _pairs(pairs: list[tuple[Candidate, Candidate]], found: list[Candidate]) -> str:
    layers = len({one.backbone for one in found}) < len(found)

    def name(one: Candidate) -> str:
        return f"{one.backbone} {one.layer}" if layers else one.backbone

    return "; ".join(f"{name(a)} and {name(b)}" for a, b in pairs)


def _as_json(found: list[Candidate], seen: Seen, left_out: dict[str, str]) -> str:
    below = [*found[1:], None]
    content = {
        "images": len(seen.y),
        "classes": len(np.unique(seen.y)),
        "splits": [str(split) for split in SPLITS],
        "sorted_by": LEADING,
        "candidates": [_entry(a, b) for a, b in zip(found, below, strict=True)],
        "not_ranked": left_out,
    }
    return files.json_text(content)


def _entry(one: Candidate, below: Candidate | None) -> dict[str, Any]:
    """separated_from_next: None for the last."""
    return {
        "backbone": one.backbone,
        "layer": one.layer,
        "control": one.control,
        **asdict(one.measured),
        "loo_knn_ci95": list(one.interval),
        "separated_from_next": None if below is None else one.is_separated(below),
    }
