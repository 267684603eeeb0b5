"""HEADS: the classifiers that train on cached embeddings, and the file a fitted one is kept in.

A head is a function of its options that returns a Recipe; one function and one line in HEADS
add a head. Options left at null are chosen by `pipeline.selection`.
"""

import inspect
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, PositiveFloat, PositiveInt, create_model
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from pipeline import files
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.names import unknown
from pipeline.outputs import FIRST
from pipeline.params import HeadParams, checked

C_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-6, 5, 45))
"""The 45 values of the linear-probe protocol (SimCLR, Chen 2020; DINOv2, Oquab 2023)."""

SVM_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-6, -1, 11))
RBF_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-2, 4, 13))
ALPHA_GRID = tuple(float(alpha) for alpha in 10.0 ** np.linspace(6, -2, 17))
K_GRID = (200, 100, 50, 20, 10, 5, 3, 1)

PCA_ROWS = 1000
"""From this many training rows on, the RBF SVM works on PCA_DIMENSIONS principal components:
its cost grows with rows squared times dimensions."""
PCA_DIMENSIONS = 256

TEMPERATURE = 0.07
SEED = 0
ClassWeight = Literal["balanced"] | None


@dataclass(frozen=True)
class Setting:
    """What a pipeline is built for.

    value: of the option searched; rows, dim: shape of the training embeddings;
    tolerance: of an iterative solver.
    """

    value: float
    rows: int
    dim: int
    tolerance: float


@dataclass(frozen=True)
class Recipe:
    """A head before it is fitted.

    build: makes an unfitted scikit-learn pipeline, whose last step is the classifier and the
    only one that depends on the value searched.
    option: the one that can be searched, if any; value: what the user gave for it;
    grid: its candidates, from the most regularised on;
    warm: a fit reaches the same optimum, sooner, from another candidate's (`warm_start`);
    by_accuracy: chosen by accuracy though it has probabilities, as these are no estimates;
    counts_rows: the option is a number of training images, of which there must be as many.
    """

    build: Callable[[Setting], Pipeline]
    option: str | None = None
    value: float | None = None
    grid: tuple[float, ...] = ()
    warm: bool = False
    by_accuracy: bool = False
    counts_rows: bool = False


def logistic(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Multinomial logistic regression, L2; C: inverse regularisation, chosen when null."""

    def build(at: Setting) -> Pipeline:
        return make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=at.value, tol=at.tolerance, max_iter=1000, class_weight=class_weight
            ),
        )

    return Recipe(build, "C", C, C_GRID, warm=True)


def linear_svm(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Linear support vector machine, one against the rest; no probabilities."""

    def build(at: Setting) -> Pipeline:
        svm = LinearSVC(
            C=at.value,
            # liblinear's scale: 1e-3 changes no prediction seen, at half the time of 1e-4
            tol=100 * at.tolerance,  # 1e-2 in the end: 1e-4 changed no accuracy, at twice the time
            max_iter=2000,
            class_weight=class_weight,
            dual=True,  # the primal solver took 5 to 60 times as long on standardised embeddings
            random_state=SEED,
        )
        return make_pipeline(StandardScaler(), svm)

    return Recipe(build, "C", C, SVM_GRID)


def rbf_svm(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Support vector machine, RBF kernel; on 256 principal components from 1,000 rows on."""

    def build(at: Setting) -> Pipeline:
        steps: list[Any] = [StandardScaler()]
        if at.rows >= PCA_ROWS and at.dim > PCA_DIMENSIONS:
            steps.append(PCA(PCA_DIMENSIONS, random_state=SEED))
        svm = SVC(C=at.value, tol=at.tolerance, class_weight=class_weight)
        return make_pipeline(*steps, svm)

    return Recipe(build, "C", C, RBF_GRID)


def knn(*, k: PositiveInt | None = None) -> Recipe:
    """Nearest neighbours by cosine, weighted exp(cosine / 0.07) as DINO does (Caron 2021)."""

    def build(at: Setting) -> Pipeline:
        neighbours = KNeighborsClassifier(
            min(int(at.value), at.rows),
            metric="cosine",
            algorithm="brute",
            weights=similarity_weights,
        )
        return make_pipeline(StandardScaler(), neighbours)

    return Recipe(build, "k", k, K_GRID, by_accuracy=True, counts_rows=True)


def similarity_weights(distances: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """DINO's weights of neighbours at cosine distances; both (N, k)."""
    weights: npt.NDArray[Any] = np.exp(-distances / TEMPERATURE)
    return weights


class NearestMean(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """The class whose mean is nearest; no probabilities.

    scikit-learn's NearestCentroid predicts by plain distances, but its probabilities divide each
    dimension by its spread: their argmax is another classifier, and they are all but 0 and 1.
    """

    classes_: npt.NDArray[Any]
    means_: npt.NDArray[np.float64]

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "NearestMean":
        """X: (N, D) float; y: (N,) class of each row."""
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == name].mean(axis=0, dtype=float) for name in self.classes_])
        return self

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, D) float -> (N,) class."""
        closeness = X @ self.means_.T - (self.means_**2).sum(axis=1) / 2
        predicted: npt.NDArray[Any] = self.classes_[closeness.argmax(axis=1)]
        return predicted


def nearest_mean() -> Recipe:
    """The nearest class mean of standardised, L2-normalised embeddings; no option."""
    return Recipe(lambda _: make_pipeline(StandardScaler(), Normalizer(), NearestMean()))


def ridge(*, alpha: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Ridge regression on the classes as -1 and 1; alpha chosen when null; no probabilities."""

    def build(at: Setting) -> Pipeline:
        classifier = RidgeClassifier(alpha=at.value, class_weight=class_weight)
        return make_pipeline(StandardScaler(), classifier)

    return Recipe(build, "alpha", alpha, ALPHA_GRID)


def dummy() -> Recipe:
    """The class frequencies of the training images, whatever the image: the control."""
    return Recipe(lambda _: make_pipeline(StandardScaler(), DummyClassifier(strategy="prior")))


HEADS: dict[str, Callable[..., Recipe]] = {
    "logistic": logistic,
    "linear_svm": linear_svm,
    "rbf_svm": rbf_svm,
    "knn": knn,
    "nearest_mean": nearest_mean,
    "ridge": ridge,
    "dummy": dummy,
}


def recipe(name: str, entry: HeadParams) -> Recipe:
    """The recipe of an entry of params.yaml. Raises ConfigurationError, near misses named."""
    at = f"heads.{name}"
    if entry.kind not in HEADS:
        raise ConfigurationError(f"params.yaml: {at}.kind: {unknown('head', entry.kind, HEADS)}")
    function = HEADS[entry.kind]
    options = checked(_options(function), dict(entry), where="params.yaml", at=at)
    return function(**{name: getattr(options, name) for name in entry.options})


class _Entry(HeadParams):
    """An entry whose keys are all known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _options(function: Callable[..., Recipe]) -> type[HeadParams]:
    """An entry of one kind as a pydantic model: its options are the function's keyword arguments."""
    arguments: dict[str, Any] = {
        name: (argument.annotation, argument.default)
        for name, argument in inspect.signature(function).parameters.items()
    }
    return create_model(function.__name__, __base__=_Entry, **arguments)


@dataclass(frozen=True)
class Fitted:
    """A head fitted twice: on train alone, and, its options chosen there, on train + val.

    classes: the labels, sorted; a pipeline's class i is classes[i].
    """

    classes: tuple[str, ...]
    train: Pipeline
    train_val: Pipeline


@dataclass(frozen=True)
class Record:
    """What <h>.json says of a fitted head. Older files have nothing from `images` on.

    rows: it was fitted on, of train and, in the second fit, of val as well; choice: the option
    searched and its value, chosen_by which figure; trace: every candidate with its validation
    accuracy and log loss; at_edge: the choice lies at an end of the grid; images: that the rows
    are of; layers: joined in this order, layers_by: `given`, or the figure they were chosen by;
    views: augmented ones of each image; fingerprints: of what it was fitted on, by dataset of the
    embeddings file; by_layer: validation figures of each layer alone and of all joined, where it
    saw several; notes: what is not as its entry in params.yaml says, and why.
    """

    backbone: str
    head: str
    kind: str
    fingerprint: str
    classes: list[str]
    rows: dict[str, int]
    choice: dict[str, Any]
    chosen_by: str
    trace: list[dict[str, Any]]
    at_edge: bool
    converged: bool
    images: dict[str, int] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    layers_by: str = "given"
    views: int = 0
    fingerprints: dict[str, str] = field(default_factory=dict)
    by_layer: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sha256: str = ""


def seen(record: Record) -> str:
    """What it sees of the backbone, in words; nothing where that is the first layer's clean view."""
    if not record.by_layer and set(record.fingerprints) <= {FIRST}:
        return ""
    number = len(record.by_layer)
    best = f" (best of {number} by {record.layers_by.replace('_', ' ')})"
    views = f" in {record.views + 1} views" if record.views else ""
    layers = " + ".join(record.layers) + ("" if record.layers_by == "given" else best) + views
    return f"{'layer' if len(record.layers) == 1 else 'layers'} {layers}"


def save(folder: Path, fitted: Fitted, record: Record) -> None:
    """Write <h>.joblib, then <h>.json with its sha256."""
    buffer = io.BytesIO()
    joblib.dump(vars(fitted), buffer)  # not asdict, which copies the pipelines
    path = folder / f"{record.head}.joblib"
    files.write_bytes(path, buffer.getvalue())
    files.write_json(
        folder / f"{record.head}.json", {**asdict(record), "sha256": files.sha256_of(path)}
    )


def load_record(folder: Path, head: str) -> Record:
    """Read <h>.json. Raises IntegrityError."""
    path = folder / f"{head}.json"
    try:
        return Record(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; {_again(folder, head)}") from None
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); {_again(folder, head)}") from None


def load(folder: Path, head: str) -> tuple[Fitted, Record]:
    """Read a fitted head, if its bytes are those its record names: nothing else is unpickled.

    Raises IntegrityError, with both digests.
    """
    record = load_record(folder, head)
    path = folder / f"{head}.joblib"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; {_again(folder, head)}") from None
    actual = files.sha256_of_bytes(content)
    if actual != record.sha256:
        raise IntegrityError(
            f"{path}: sha256 is {actual}, recorded {record.sha256}; {_again(folder, head)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            return Fitted(**joblib.load(io.BytesIO(content))), record
    except InconsistentVersionWarning as error:
        raise IntegrityError(
            f"{path} was fitted by scikit-learn {error.original_sklearn_version}, this is "
            f"{error.current_sklearn_version}; {_again(folder, head, force=True)}"
        ) from None


def _again(folder: Path, head: str, *, force: bool = False) -> str:
    return f"run 'dvc repro {'-f ' if force else ''}train@{folder.name}-{head}'"
