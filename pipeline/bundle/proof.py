"""Before a bundle is written: its head is scikit-learn's on every cached row, its backbone the frozen one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from threadpoolctl import threadpool_limits

from pipeline import features, frozen, prediction, runtimes
from pipeline.bundle.graph import EMBEDDING, IMAGES, LABEL, PROBABILITIES
from pipeline.bundle.nodes import Inexpressible
from pipeline.embeddings import Embeddings
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.images.views import Views
from pipeline.runtimes.sessions import open_session

LINEAR = ("logistic", "linear_svm", "ridge", "lda", "nearest_mean", "dummy")
"""Kinds whose probabilities follow from planes: rounding has little to grow by."""

TOLERANCE = {True: 1e-5, False: 1e-4}
"""By whether a head is linear: how far a probability may lie from scikit-learn's."""

ROWS = 2048
"""Cached rows compared at a time."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Proof:
    """What was compared. rows: cached vectors; labels: of how many the label was the same.

    probability: the largest difference of one; ties: rows whose two likeliest classes lie closer
    together than the tolerance, of which the label may be either.
    """

    rows: int
    labels: int
    ties: int
    probability: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the two are equal."""
        return self.labels + self.ties >= self.rows and self.probability <= self.tolerance

    @property
    def sentence(self) -> str:
        """What is wrong where it does not hold."""
        return (
            f"in ONNX {self.rows - self.labels} of {self.rows} cached rows have another label and a "
            f"probability lies {self.probability:.1e} from scikit-learn's, more than {self.tolerance:g}"
        )


def of_head(
    model: onnx.ModelProto,
    classifier: Any,
    temperature: float | None,
    cached: Embeddings,
    layers: tuple[str, ...],
    *,
    linear: bool,
) -> Proof:
    """Compare a head's graph with its pipeline, on every row of the embeddings file.

    linear: its kind is in LINEAR. Raises Inexpressible where onnxruntime does not run it.
    """
    session = _session(model.SerializeToString())
    tolerance, worst = TOLERANCE[linear], 0.0
    total, labels, ties = len(cached.sha256), 0, 0
    for start in range(0, total, ROWS):
        rows = np.arange(start, min(start + ROWS, total))
        X = features.gather(cached, layers, [(rows, 0)])
        made = dict(
            zip(
                (one.name for one in session.get_outputs()),
                session.run(None, {EMBEDDING: X}),
                strict=True,
            )
        )
        with threadpool_limits(1):
            codes, known = prediction.predict(classifier, X, temperature)
        same = made[LABEL] == codes
        close = _close(known, classifier, X, tolerance) & ~same
        labels, ties = labels + int(same.sum()), ties + int(close.sum())
        if known is not None:
            worst = max(worst, _furthest(made.get(PROBABILITIES), known))
    return Proof(total, labels, ties, worst, tolerance)


def _session(content: bytes) -> onnxruntime.InferenceSession:
    try:
        return open_session(content, "cpu")
    except Exception as error:  # noqa: BLE001 - onnxruntime has no class of its own for these
        raise Inexpressible(
            f"onnxruntime does not run it: {' '.join(str(error).split())}"
        ) from None


def _furthest(made: npt.NDArray[np.float32] | None, known: npt.NDArray[np.float64]) -> float:
    """The largest difference; infinite where the graph says none, or says NaN."""
    if made is None or made.shape != known.shape or not np.isfinite(made).all():
        return float("inf")
    return float(np.abs(made - known).max(initial=0.0))


def _close(
    known: npt.NDArray[np.float64] | None, classifier: Any, X: features.Vectors, tolerance: float
) -> npt.NDArray[np.bool_]:
    """(N,) bool: whether the two likeliest classes are as good as equal."""
    said = prediction.logits(classifier, X) if known is None else known
    scale = 1.0 if known is not None else float(np.abs(said).max(initial=0.0)) or 1.0
    top = np.sort(said, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0] <= tolerance * scale)


def of_whole(content: bytes, backbone: FrozenBackbone, layers: tuple[str, ...]) -> frozen.Drift:
    """Compare a bundle's embeddings of the probe's images with the frozen backbone's.

    Raises IntegrityError where they drift further apart than two machines may.
    """
    tta = backbone.fields.get("tta")
    views = Views(tta=None if tta is None else str(tta))
    pixels = frozen.probe_pixels(backbone.preprocessing, views)
    given = pixels if tta is None else pixels.reshape(-1, len(views), *pixels.shape[1:])
    session = open_session(content, "cpu")
    made = np.concatenate(
        [session.run([EMBEDDING], {IMAGES: given[at : at + 1]})[0] for at in range(len(given))]
    )
    expected = _expected(backbone, layers, pixels, views)
    what = f"{backbone.folder} in the bundle"
    return frozen.check_drift(
        made, expected, precision=str(backbone.fields["precision"]), what=what
    )


def _expected(
    backbone: FrozenBackbone, layers: tuple[str, ...], pixels: Any, views: Views
) -> frozen.Vectors:
    """(K, D) float32: what a head would see of the probe's images by way of the cache."""
    from pipeline.outputs import layers_of, separated

    wanted = [one for one in backbone.outputs if not one.view]
    runtime = runtimes.load(backbone, device="cpu", layers=layers_of(wanted))
    parts = separated(runtime.embed(pixels), wanted, views, backbone.dims)
    names = [layer.tap.name for layer in backbone.layers]
    by_name = {names[one.number]: part for one, part in parts.items()}
    stored = [by_name[name].astype(backbone.storage).astype(np.float32) for name in layers]
    if not all(np.isfinite(one).all() for one in stored):
        raise IntegrityError(
            f"{backbone.folder} makes numbers of the probe that float16 cannot hold"
        )
    return features.joined(stored)
