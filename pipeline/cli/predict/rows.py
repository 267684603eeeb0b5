"""What is told of an image: its label and how sure, or why it has none."""

import os
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ImageError
from pipeline.predictor import Bundle, Prediction


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the label.

    top: how many classes, 0 for none; probabilities: of all; threshold: the probability below
    which no label is told, None for always; embeddings: the vectors too.
    """

    top: int = 0
    probabilities: bool = False
    threshold: float | None = None
    embeddings: bool = False


def row(path: str, found: Prediction | ImageError, wish: Wish) -> dict[str, Any]:
    """Its path and label, or path and error; what else was asked for and the bundle has."""
    if isinstance(found, ImageError):
        return {"path": _told(path), "error": found.reason, "detail": found.detail}
    told: dict[str, Any] = {"path": _told(path), "label": found.label}
    probability = found.probability
    if probability is not None:
        told["probability"] = probability
    if wish.threshold is not None and probability is not None:
        told["abstained"] = probability < wish.threshold
        told["label"] = None if told["abstained"] else found.label
    if wish.top and probability is not None:
        told["top"] = [
            {"label": label, "probability": known} for label, known in found.top(wish.top)
        ]
    if wish.probabilities and probability is not None:
        told["probabilities"] = {label: found.of(code) for code, label in enumerate(found.classes)}
    if wish.embeddings:
        told["embedding"] = [float(str(value)) for value in found.embedding]
    return told


def _told(path: str) -> str:
    """Its bytes read as UTF-8, though the locale may read them as something else."""
    try:
        return os.fsencode(path).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # of a manifest, and no name that this locale can write
        return path


def columns(wish: Wish, bundle: Bundle, *, probabilities: bool) -> list[str]:
    """Those of a flat table of such rows; probabilities: whether the head has some."""
    named = ["path", "label"]
    if probabilities:
        named += ["probability"]
        named += ["abstained"] if wish.threshold is not None else []
        for place in range(1, min(wish.top, len(bundle.classes)) + 1):
            named += [f"label_{place}", f"probability_{place}"]
        named += [f"p:{label}" for label in bundle.classes] if wish.probabilities else []
    named += [f"e{place}" for place in range(bundle.dim)] if wish.embeddings else []
    return [*named, "error", "detail"]


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """The same under the names of `columns`."""
    told = {
        key: value for key, value in row.items() if key not in ("top", "probabilities", "embedding")
    }
    for place, one in enumerate(row.get("top", ()), 1):
        told |= {f"label_{place}": one["label"], f"probability_{place}": one["probability"]}
    told |= {f"p:{label}": known for label, known in row.get("probabilities", {}).items()}
    return told | {f"e{place}": value for place, value in enumerate(row.get("embedding", ()))}
