"""What may be wrong with the data, seen through one backbone: duplicates, outliers, label suspects.

hashes.py      perceptual hashes of the images
nearness.py    every image compared with every other
duplicates.py  the same bytes, near copies
outliers.py    far from all others, or no vector at all
units.py       what folds must not tear apart
suspects.py    labels that a head would not give
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import files
from pipeline.dataset import Labels, Problem, Split
from pipeline.embeddings import Embeddings
from pipeline.inspection import duplicates, hashes, nearness, outliers
from pipeline.inspection.duplicates import Duplicate
from pipeline.inspection.hashes import Hashes
from pipeline.inspection.nearness import Nearness, Signs
from pipeline.inspection.outliers import Outlier
from pipeline.inspection.suspects import Judged, Suspect, judge
from pipeline.inspection.units import units
from pipeline.params import CONTROL_SOURCES

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Inspection:
    """What was found, each list in the order of its file. summary: counts and limits."""

    suspects: Sequence[Suspect]
    duplicates: Sequence[Duplicate]
    outliers: Sequence[Outlier]
    summary: dict[str, Any]


def inspect(
    labels: Labels, cached: Embeddings, problems: Sequence[Problem], *, root: Path
) -> Inspection:
    """Look at the labelled images that have an embedding, in the first layer's clean view.

    problems: of prepare; root: the folder that paths are relative to. Images that are gone or
    changed are compared by their embeddings alone. A control is not looked at: what is near by
    raw pixels or random weights tells little.
    """
    name = str(cached.attributes["backbone"])
    if cached.source in CONTROL_SOURCES:
        note = f"{name} is a control: its files have no rows"
        return Inspection((), (), (), {"backbone": name, "inspected": False, "notes": [note]})
    rows = labels.where(cached.rows(labels.sha256) >= 0)
    images = duplicates.first_of_each(rows)
    X = cached.take(cached.rows(images.sha256))
    nan, constant = outliers.broken(X)
    constants = _constant_dimensions(X[~nan])
    hashed = hashes.read(root, images.path.tolist(), images.sha256)
    found = nearness.compare(_signs(X, ~nan & ~constant, hashed, images))
    del X  # as large as what is taken next
    judged = _judge(rows, cached, images, found)
    listed = duplicates.ordered(duplicates.exact(labels, problems) + duplicates.near(images, found))
    far = outliers.outliers(images, found.distance, nan, constant)
    summary = {
        "backbone": name,
        "inspected": True,
        "rows": len(labels.path),
        "rows_without_embedding": len(labels.path) - len(rows.path),
        "images": len(images.path),
        "constant_dimensions": constants,
        **_of_duplicates(listed, found, hashed),
        **_of_outliers(far),
        **_of_suspects(judged),
    }
    return Inspection(judged.suspects, listed, far, summary)


def _signs(X: Vectors, usable: npt.NDArray[np.bool_], hashed: Hashes, images: Labels) -> Signs:
    """The rows of X brought to length 1 in place; rows that are not usable become 0."""
    X[~usable] = 0
    for start in range(0, len(X), nearness.COLUMNS):
        some = X[start : start + nearness.COLUMNS]
        norms = np.sqrt(np.square(some, dtype=np.float64).sum(axis=1, keepdims=True))
        np.divide(some, np.where(norms > 0, norms, 1), out=some, casting="same_kind")
    split = np.unique(images.split.astype(str), return_inverse=True)[1].astype(np.int64)
    return Signs(X, usable, hashed, split)


def _constant_dimensions(X: Vectors) -> int:
    """How many numbers of the vector are the same for all images."""
    return int((X[:1] == X).all(axis=0).sum()) if len(X) > 1 else 0


def _judge(rows: Labels, cached: Embeddings, images: Labels, found: Nearness) -> Judged:
    """The labels of train and validation whose image has a vector."""
    whole = images.sha256[np.isfinite(found.distance)]
    chosen = rows.where((rows.split != Split.TEST) & np.isin(rows.sha256, whole))
    if len(chosen.path) == 0:
        return Judged(notes=("no label of train or val to judge",))
    X = cached.take(cached.rows(chosen.sha256))
    return judge(X, chosen, units(chosen, images, found.pairs))


def _of_duplicates(
    listed: Sequence[Duplicate], found: Nearness, hashed: Hashes
) -> dict[str, object]:
    by = Counter(one.by for one in listed if one.kind == "near")
    return {
        "exact": sum(one.kind == "exact" for one in listed),
        "near": sum(one.kind == "near" for one in listed),
        "near_by": {name: by[name] for name in duplicates.BY},
        "across_splits": sum(one.leaks for one in listed),
        "across_labels": sum(one.disagrees for one in listed),
        "cosine_above": round(found.limits.cosine, 6),
        "hash_distance_up_to": found.limits.distance,
        "images_unread": hashed.unreadable,
        "images_flat": hashed.flat,
    }


def _of_outliers(listed: Sequence[Outlier]) -> dict[str, object]:
    kinds = Counter(one.kind for one in listed)
    return {
        "outliers": kinds["far"],
        "outlier_score_above": outliers.FAR,
        "constant_vectors": kinds["constant"],
        "nan_vectors": kinds["nan"],
    }


def _of_suspects(judged: Judged) -> dict[str, object]:
    return {
        "judged": judged.rows,
        "suspects": judged.disagreeing,
        "suspects_listed": len(judged.suspects),
        "C": judged.C,
        "notes": list(judged.notes),
    }


def write(folder: Path, found: Inspection) -> None:
    """Write suspects.csv, duplicates.csv, outliers.csv and summary.json, all or none."""
    with files.replacing(folder) as beside:
        _write(beside / "suspects.csv", Suspect, found.suspects)
        _write(beside / "duplicates.csv", Duplicate, found.duplicates)
        _write(beside / "outliers.csv", Outlier, found.outliers)
        files.write_json(beside / "summary.json", found.summary)


def _write(path: Path, kind: type, rows: Iterable[Any]) -> None:
    columns = [field.name for field in fields(kind)]
    files.write_csv(path, columns, (asdict(row) for row in rows))


def describe(found: Inspection) -> str:
    """What was found, in a few lines for the terminal."""
    said = found.summary
    if not said["inspected"]:
        return "\n".join(said["notes"])
    limits = (
        f"cosine above {said['cosine_above']:g}, or {said['hash_distance_up_to']} bits of a hash"
    )
    crossing = f"{said['across_splits']} across splits, {said['across_labels']} across labels"
    broken = f"{said['constant_vectors']} constant, {said['nan_vectors']} with NaN"
    lines = [
        f"inspected {said['images']} images with {said['backbone']}",
        f"  duplicates  {said['exact']} exact, {said['near']} near ({limits}); {crossing}",
        f"  suspects    {said['suspects']} of {said['judged']} labels: another is likelier",
        f"  outliers    {said['outliers']} far, {broken}",
    ]
    if said["images_unread"]:
        lines.append(f"  {said['images_unread']} images gone or changed: compared by vectors alone")
    return "\n".join([*lines, *(f"  {note}" for note in said["notes"])])
