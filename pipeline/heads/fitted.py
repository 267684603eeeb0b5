"""A fitted head, what is recorded of it, and the files both are kept in."""

import io
import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import joblib
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline

from pipeline import files
from pipeline.errors import IntegrityError
from pipeline.outputs import FIRST


@dataclass(frozen=True)
class Fitted:
    """A head fitted twice: on train alone, and, its options chosen there, on train + val.

    classes: the labels, sorted; a pipeline's class i is classes[i]; temperature: its logits are
    divided by before they become probabilities (`pipeline.prediction`), None: as the pipeline says.
    """

    classes: tuple[str, ...]
    train: Pipeline
    train_val: Pipeline
    temperature: float | None = None


@dataclass(frozen=True)
class Record:
    """What <h>.json says of a fitted head. Older files have nothing from `images` on.

    rows: it was fitted on, of train and, in the second fit, of val as well; choice: the option
    searched and its value, chosen_by which figure; trace: every candidate with its validation
    accuracy and log loss; at_edge: the choice lies at an end of the grid; images: that the rows
    are of; layers: joined in this order, layers_by: `given`, or the figure they were chosen by;
    views: augmented ones of each image; fingerprints: of what it was fitted on, by dataset of the
    embeddings file; by_layer: validation figures of each layer alone and of all joined, where it
    saw several; notes: what is not as its entry in params.yaml says, and why; enhance: names of
    the steps before the classifier; chosen_on: which images the option was chosen on; temperature:
    see Fitted; abstention: the threshold for the precision wanted, and what it gives on val, empty
    where none is wanted; seeds: what each draw of train and val gave on its val, the given split,
    of seed 0, first, empty where one draw was asked for; edges: which end of its grid each choice
    lies at that lies at one. Of a head made of heads, options are named `logistic.C`, and each entry
    of the trace says of which `member` it is.
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
    enhance: list[str] = field(default_factory=list)
    chosen_on: str = "val"
    temperature: float | None = None
    abstention: dict[str, Any] = field(default_factory=dict)
    seeds: list[dict[str, Any]] = field(default_factory=list)
    edges: dict[str, str] = field(default_factory=dict)
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
        record = Record(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; {_again(folder, head)}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); {_again(folder, head)}") from None
    for name, hint in get_type_hints(Record).items():
        if not _fits(getattr(record, name), hint):
            raise IntegrityError(
                f"{path} is damaged ({name} is {str(getattr(record, name))[:40]!r}); "
                f"{_again(folder, head)}"
            )
    return record


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value that JSON held is of an annotated type, with all that is in it."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is list:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    return hint is Any or isinstance(value, hint)


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
    return unpickled(content, path, again=_again(folder, head, force=True)), record


def unpickled(content: bytes, path: Path, *, again: str) -> Fitted:
    """The head in a joblib file's bytes. It runs whatever code they hold: know them first.

    again: what to type where it was fitted by another scikit-learn, an IntegrityError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            return Fitted(**joblib.load(io.BytesIO(content)))
    except InconsistentVersionWarning as error:
        raise IntegrityError(
            f"{path} was fitted by scikit-learn {error.original_sklearn_version}, this is "
            f"{error.current_sklearn_version}; {again}"
        ) from None


def _again(folder: Path, head: str, *, force: bool = False) -> str:
    return f"run 'dvc repro {'-f ' if force else ''}train@{folder.name}-{head}'"
