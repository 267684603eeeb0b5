"""Training a head: the stage beside the bare scikit-learn work, and the choice of C beside one fit."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from benchmarks import desk as desks
from benchmarks.desk import BACKBONE, FULL, Desk
from benchmarks.measuring import interleaved, seconds_of
from benchmarks.memory import MIB, watch
from benchmarks.table import Row, row
from pipeline import dataset, embeddings, features, fitting, heads, metrics, search, selection
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.fitting import Ground
from pipeline.folds import Part
from pipeline.heads.grids import C_GRID
from pipeline.metrics import Scored
from pipeline.params import HeadParams
from pipeline.prediction import predict
from tests.conftest import Project, make_project, real_images
from tests.contracts_heads import embed, toy_labels

HEAD = "logistic"
DIM = 1280
CLASSES = 10
LATENT = 300
SETS = {"cifar10_small": 5000, "ants_bees": 244}
"""Real ones, and how many images they have to learn and to choose from."""

OVERHEAD = 1.1
STEPS = 45


@dataclass(frozen=True)
class Noted:
    """A fit that training makes. rows: it sees; start: coefficients and intercepts, if any."""

    C: float
    tolerance: float
    rows: int
    start: tuple[np.ndarray, np.ndarray] | None

    def repeat(self, X: np.ndarray, y: np.ndarray) -> LogisticRegression:
        """The same by scikit-learn alone."""
        fit = LogisticRegression(C=self.C, tol=self.tolerance, max_iter=1000)
        if self.start:
            fit.set_params(warm_start=True)
            fit.coef_, fit.intercept_, fit.classes_ = *self.start, np.unique(y)
        return fit.fit(X, y)


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    rows = _stage(desk)
    for name, size in SETS.items():
        rows += _choosing(name, desk, size)
    return rows


def vectors(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X (R, 1280) float16 and y (R,) of ten classes of which logistic regression tells four in five.

    Positive, a few directions holding most of the variance, as in what networks give.
    """
    random = np.random.default_rng(seed)
    y = np.arange(rows) % CLASSES
    spread = np.arange(1, LATENT + 1, dtype=np.float32)[:, None] ** -0.5
    mixed = random.standard_normal((LATENT, DIM), dtype=np.float32) * spread
    centres = 0.17 * random.standard_normal((CLASSES, LATENT), dtype=np.float32)
    X = np.empty((rows, DIM), dtype=np.float16)
    for start in range(0, rows, 4096):
        some = slice(start, start + 4096)
        inner = centres[y[some]]
        inner = inner + random.standard_normal(inner.shape, dtype=np.float32)
        seen = inner @ mixed / np.sqrt((spread**2).sum())
        seen += 0.3 * random.standard_normal(seen.shape, dtype=np.float32)
        X[some] = np.maximum(seen, 0)
    return X, y


def _written(folder: Path, rows: int, splits: tuple[str, ...]) -> tuple[Labels, Embeddings]:
    """Labels and the tracked file of so many images, as `prepare` and `extract` write them."""
    labels = toy_labels(rows, CLASSES, splits=splits)
    X, _ = vectors(rows)
    order = np.argsort(labels.label.astype(str), kind="stable")
    of_label = np.empty_like(X)
    of_label[order] = X[np.argsort(np.arange(rows) % CLASSES, kind="stable")]
    (folder / "artifacts/dataset").mkdir(parents=True)
    (folder / "artifacts/embeddings").mkdir(parents=True)
    dataset.write_labels(folder / "artifacts/dataset/labels.parquet", labels)
    path = folder / f"artifacts/embeddings/{BACKBONE}.h5"
    return labels, embed(path, labels, of_label, name=BACKBONE)


def _stage(desk: Desk) -> list[Row]:
    """`python -m stages.train` as a process."""
    project = make_project(desk.folder / "heads")
    labels, cached = _written(project.folder, desk.scale.rows, ("train",) * 4 + ("val",))
    noted, record = _noted(labels, cached)
    X = features.Gathered(cached, [(np.arange(len(cached.sha256)), 0)]).of(cached.layers[:1])
    size = X.nbytes
    images = [features.images(labels, cached, split) for split in (Split.TRAIN, Split.VAL)]
    X = np.concatenate([X[one.rows] for one in images])
    y = np.concatenate([one.codes(tuple(record.classes)) for one in images])
    peaks: list[float] = []
    subjects: dict[str, Callable[[], float]] = {
        "bare": lambda: seconds_of(lambda: _bare(noted, X, y, record.rows["train"])),
        "one": partial(_trained, project, 1, peaks),
        "all": partial(_trained, project, len(os.sched_getaffinity(0)), peaks),
    }
    measured = interleaved(subjects, min(3, desk.scale.runs))
    what = f"`stages.train`, {len(y)} x {DIM}, {CLASSES} classes"
    beside = {"beside": f"the same {len(noted)} fits by scikit-learn, data in memory"}
    beyond = [
        ours - OVERHEAD * bare for ours, bare in zip(measured["one"], measured["bare"], strict=True)
    ]
    accuracy = next(t["accuracy"] for t in record.trace if t["value"] == record.choice["C"])
    note = f"C = {record.choice['C']:.3g}, validation accuracy {accuracy:.3f}"
    return [
        row(f"{what}, on one core", measured["one"], **beside, beside_runs=measured["bare"], note=note),
        row(f"{what}: beyond {OVERHEAD} x scikit-learn", beyond, expected="median <= 3"),
        row(f"{what}, on every core", measured["all"], **beside, beside_runs=measured["bare"]),
        row(
            f"{what}: peak memory", peaks, unit="MiB",
            beside="the vectors as float32", beside_runs=[size / MIB],
        ),
    ]  # fmt: skip


def _noted(labels: Labels, cached: Embeddings):
    """Every fit that training makes, and the record."""
    noted, fit = list[Noted](), LogisticRegression.fit

    def noting(self, X, y):
        start = (
            (self.coef_, self.intercept_) if self.warm_start and hasattr(self, "coef_") else None
        )
        noted.append(Noted(self.C, self.tol, len(X), start))
        return fit(self, X, y)

    with mock.patch.object(LogisticRegression, "fit", noting):
        _, record = selection.train(HEAD, HeadParams(kind=HEAD), labels, cached)
    return noted, record


def _bare(noted: list[Noted], X: np.ndarray, y: np.ndarray, train: int) -> None:
    """What training does, without choosing, recording, reading and writing."""
    with threadpool_limits(1):
        scaler = StandardScaler().fit(X[:train])
        seen, held = scaler.transform(X[:train]), scaler.transform(X[train:])
        for one in noted:
            if one.rows == train:
                one.repeat(seen, y[:train]).predict_proba(held)
        del seen, held
        whole = StandardScaler().fit_transform(X)
        for one in noted:
            if one.rows != train:
                one.repeat(whole, y)


def _trained(project: Project, cores: int, peaks: list[float]) -> float:
    """Wall seconds of the stage on so many cores; its peak memory is noted."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "stages.train", BACKBONE, HEAD],
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),  # noqa: PLW1509  # no thread runs here
    ) as process:
        peak = watch(process)
        took = time.perf_counter() - begun
        said = process.stderr.read().decode()
    if process.returncode:
        raise RuntimeError(said)
    peaks.append(peak.resident)
    return took


def _choosing(name: str, desk: Desk, size: int) -> list[Row]:
    """Choosing C from 45 values."""
    name, ground, part = _set(name, desk, size)
    recipe = heads.recipe(HEAD, HeadParams(kind=HEAD))
    rows = len(ground.y[part.seen])

    def once(value: float, index=part.seen) -> fitting.Fit:
        return fitting.fit(recipe, ground, index, fitting.setting(recipe, ground, index, value))

    def chosen() -> search.Search:
        found = search.choose(recipe, ground, [part])
        return found if found.fit else replace(found, fit=once(found.value))

    with fitting.alone_on_a_thread():
        value = chosen().value
        subjects = {
            "chosen": lambda: seconds_of(chosen),
            "fit": lambda: seconds_of(lambda: once(value)),
            "both": lambda: seconds_of(lambda: (chosen(), once(value, slice(None)))),
        }
        seconds = interleaved(subjects, desk.scale.runs)
        losses = [_loss(once(C), ground, part) for C in C_GRID]
    beside = {"beside": "one cold fit at that C", "beside_runs": seconds["fit"]}
    limit = "ratio <= 4" if rows >= 3000 else "median <= 0.25"
    steps = abs(C_GRID.index(value) - int(np.argmin(losses)))
    worse = losses[C_GRID.index(value)] - min(losses)
    what, best = f"C of {STEPS} values, {name}, {rows} rows", "of the best of 45 independent fits"
    return [
        row(f"{what}, with the fit on train", seconds["chosen"], expected=limit, **beside),
        row(f"{what}, with that on train + val too", seconds["both"], **beside),
        row(f"{what}: steps from that {best}", [steps], unit="steps", expected="median <= 1"),
        row(f"{what}: log loss beyond that {best}", [worse], unit="nats", expected="median <= 0.001"),
    ]  # fmt: skip


def _loss(fit: fitting.Fit, ground: Ground, part: Part) -> float:
    y, said = ground.y[part.held], predict(fit.pipeline, ground.X[part.held])
    return metrics.log_loss(Scored(y, *said, len(fit.pipeline.classes_)))


def _set(name: str, desk: Desk, size: int) -> tuple[str, Ground, Part]:
    """The embeddings of real images, where they are at hand and time is, or else made ones."""
    folder = real_images() / name
    if folder.is_dir() and desk.scale == FULL:
        project = make_project(desk.folder / f"heads-{name}")
        project.edit(lambda params: params["data"].update(path=str(folder)))
        for stage, *arguments in (["prepare"], ["freeze", BACKBONE], ["extract", BACKBONE]):
            with desk.empty_store() as store:
                desks.stage(project, stage, *arguments, store=store)
        labels = dataset.read_labels(project.folder / "artifacts/dataset/labels.parquet")
        cached = embeddings.open(project.folder / f"artifacts/embeddings/{BACKBONE}.h5")
    else:
        name = f"made ones like {name}"
        labels, cached = _written(desk.folder / name, size, ("train",) * 4 + ("val",))
    classes = tuple(sorted(set(labels.label)))
    images = [features.images(labels, cached, split) for split in (Split.TRAIN, Split.VAL)]
    X = features.gather(cached, cached.layers[:1], [(one.rows, 0) for one in images])
    y = np.concatenate([one.codes(classes) for one in images])
    first = len(images[0].rows)
    return name, Ground(X, y, np.arange(len(y))), Part(slice(0, first), slice(first, len(y)))
