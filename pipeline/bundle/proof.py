"""What shows that a bundle says what scikit-learn and the frozen backbone say, before it is kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from pipeline import features, frozen
from pipeline.bundle.choice import Parts
from pipeline.bundle.graph import EMBEDDING, IMAGES
from pipeline.bundle.nodes import Inexpressible
from pipeline.errors import ResourceError
from pipeline.features import Vectors
from pipeline.frozen import TOLERANCE as DRIFT
from pipeline.heads import Fitted
from pipeline.outputs import layers_of, separated, views_of
from pipeline.prediction import predict
from pipeline.runtimes import onnx
from pipeline.runtimes.sessions import is_out_of_memory, open_session

if TYPE_CHECKING:
    import onnxruntime

LINEAR = ("logistic", "linear_svm", "ridge", "lda")
TOLERANCE = {True: 1e-5, False: 1e-4}
"""How far a probability may lie from scikit-learn's, of kinds that are linear and that are not."""

BLOCK, PASS = 4096, 512
"""Rows of which scikit-learn is asked at once, and onnxruntime."""

BATCH = 4
"""Images a pass, as extraction has them in its plainest way."""

Codes = npt.NDArray[np.int64]
Known = npt.NDArray[np.float64] | None
Answers = tuple[Codes, Known]


@dataclass
class Figures:
    """rows: that were compared; most: the largest |dp| of them; labels: that differ, between
    classes as probable as each other; undecided: rows of which scikit-learn says one thing in
    float32 and another in float64, and the bundle one of the two.
    """

    tolerance: float
    rows: int = 0
    most: float = 0.0
    labels: int = 0
    undecided: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def tolerance_of(kind: str) -> float:
    """The largest |dp| that a kind of head may show."""
    return TOLERANCE[kind in LINEAR]


def has_probabilities(fitted: Fitted) -> bool:
    """Whether a head says how sure it is."""
    return fitted.temperature is not None or hasattr(fitted.train_val, "predict_proba")


def session_of(content: bytes) -> "onnxruntime.InferenceSession":
    """A session on one core of this machine. Raises as `_running` does."""
    with _running():
        return open_session(content, "cpu")


def against_scikit_learn(content: bytes, parts: Parts, rows: npt.NDArray[np.int64]) -> Figures:
    """A head's graph on these rows of the cached embeddings. Raises Inexpressible, with the figure."""
    session, found = session_of(content), Figures(tolerance_of(parts.record.kind))

    def said(X: Vectors) -> Answers:
        return _joined([run(session, EMBEDDING, some)[:2] for some in _split(X, PASS)])

    for some in _split(rows, BLOCK):
        X = features.gather(parts.cached, parts.layers, [(some, 0)])
        _compare(X, said(X), parts, found)
    return found


def against_runtime(content: bytes, parts: Parts) -> dict[str, Any]:
    """The whole bundle on the probe's images. Raises Inexpressible, with the figure.

    Its embedding is compared with what the frozen backbone's runtime gives, its answers with what
    scikit-learn says of that embedding.
    """
    wanted, pixels = _of_probe(parts)
    session = session_of(content)
    runs = [run(session, IMAGES, some) for some in _split(pixels, BATCH)]
    embedding = np.concatenate([made[-1] for made in runs])
    drift = frozen.drift(embedding, wanted)
    least, most = DRIFT[str(parts.backbone.fields["precision"])]
    spacing = 0.0 if parts.backbone.storage == "float32" else 2.0**-10  # of float16, by size
    root = np.sqrt(np.square(wanted, dtype=np.float64).mean())
    near = np.abs(embedding - wanted) <= most * root + spacing * np.abs(wanted)
    if not (drift.cosine >= least and near.all()):
        raise Inexpressible(
            f"its embedding of the probe is not the backbone's: cosine {drift.cosine:.6f}, "
            f"max |d| / RMS {drift.relative:.1e}"
        )
    figures = Figures(tolerance_of(parts.record.kind))
    _compare(embedding, _joined([made[:-1] for made in runs]), parts, figures)
    same = bool(np.array_equal(embedding, wanted))
    return {**figures.as_dict(), **vars(drift), "same_bits": same}


def _of_probe(parts: Parts) -> tuple[Vectors, npt.NDArray[np.uint8]]:
    """What the runtime makes of the probe's images, as the head sees it, and their pixels."""
    backbone = parts.backbone
    numbers = {tap.name: number for number, tap in enumerate(backbone.taps)}
    clean = {one.number: one for one in backbone.outputs if not one.view}
    outputs = [clean[numbers[layer]] for layer in parts.layers]
    views = views_of(outputs)
    pixels = frozen.probe_pixels(backbone.preprocessing, views)
    made = onnx.load(backbone, "cpu", layers=layers_of(outputs)).embed(pixels)
    by_layer = separated(made, outputs, views, backbone.dims)
    vectors = [by_layer[one].astype(backbone.storage).astype(np.float32) for one in outputs]
    wanted = np.hstack([features.unit(one) for one in vectors]) if vectors[1:] else vectors[0]
    return wanted, pixels.reshape(-1, len(views), *pixels.shape[1:]) if views.tta else pixels


def _split(values: Any, size: int) -> Iterator[Any]:
    return (values[start : start + size] for start in range(0, len(values), size))


def run(session: "onnxruntime.InferenceSession", name: str, values: Any) -> list[Any]:
    with _running():
        return list(session.run(None, {name: values}))


@contextmanager
def _running() -> Iterator[None]:
    """Raises Inexpressible where onnxruntime has no kernel, ResourceError where it has no memory.

    A full machine says nothing of a head: another must not be bundled for it.
    """
    try:
        yield
    except OSError:  # of a disk that fails
        raise
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        text = str(error)
        reason = " ".join(text.split())[:200]
        if isinstance(error, MemoryError) or "bad_alloc" in text or is_out_of_memory(text):
            raise ResourceError(
                f"memory ran out while the bundle was proven ({reason}); free some, then run "
                "'dvc repro bundle'"
            ) from None
        raise Inexpressible(f"onnxruntime does not run it: {reason}") from None


def _joined(runs: list[list[Any]]) -> Answers:
    labels = np.concatenate([made[0] for made in runs])
    return labels, np.concatenate([made[1] for made in runs]) if len(runs[0]) > 1 else None


def _compare(X: Vectors, said: Answers, parts: Parts, found: Figures) -> None:
    """Add to the figures what a bundle said of (N, D). Raises Inexpressible where it is not right."""
    ask = partial(predict, parts.fitted.train_val, temperature=parts.fitted.temperature)
    with threadpool_limits(1):  # the same bits whatever the machine's cores
        wanted = ask(X)
        off = _off(said, wanted, found.tolerance)
        where = np.flatnonzero(off)
        again = ask(X[where].astype(np.float64)) if len(where) else wanted
    found.rows += len(X)
    found.undecided += len(where)
    if len(where) and _off(_of(said, where), again, found.tolerance).any():
        raise Inexpressible(_unproven(_of(said, where), again, found.tolerance))
    kept = _of(said, ~off), _of(wanted, ~off)
    found.labels += int((kept[0][0] != kept[1][0]).sum())
    found.most = max(found.most, _most(*kept))


def _off(said: Answers, wanted: Answers, tolerance: float) -> npt.NDArray[np.bool_]:
    """Which rows a bundle has wrong."""
    (labels, known), (others, expected) = said, wanted
    if known is None or expected is None:
        return np.asarray((labels != others) | (known is not expected))
    two = np.sort(expected, axis=1)[:, -2:]
    told_apart = two[:, -1] - two[:, 0] >= tolerance
    near = np.abs(known - expected).max(axis=1) <= tolerance  # False where one is NaN
    return np.asarray(~near | (told_apart & (labels != others)))


def _of(answers: Answers, rows: Any) -> Answers:
    labels, known = answers
    return labels[rows], None if known is None else known[rows]


def _most(said: Answers, wanted: Answers) -> float:
    if said[1] is None or wanted[1] is None or not len(said[0]):
        return 0.0
    return float(np.abs(said[1] - wanted[1]).max())


def _unproven(said: Answers, wanted: Answers, tolerance: float) -> str:
    if said[1] is None or wanted[1] is None:
        return f"{(said[0] != wanted[0]).sum()} labels of it are not scikit-learn's"
    return (
        f"its probabilities lie {_most(said, wanted):.1e} from scikit-learn's, at most "
        f"{tolerance:g} is allowed"
    )
