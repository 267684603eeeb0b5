"""`headstart heads`: a fitted head, which may be another project's: what it is, what it answers."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline import dataset, embeddings, features, files, prediction
from pipeline.cli.wording import table
from pipeline.dataset import Labels
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, HeadstartError, InputError, IntegrityError
from pipeline.heads import Fitted, Record
from pipeline.heads.fitted import load_record, unpickled
from pipeline.metrics import wilson
from pipeline.project import open_project

COLUMNS = ("path", "sha256", "label", "prediction", "probability")
SHOWN = ("label", "prediction", "probability", "sha256", "path")
"""The same in a table: the longest last, so that nothing is padded to it."""
ROWS = 4096
"""Images predicted at a time."""


def show(head: str) -> int:
    """Print the record of a head as JSON. Nothing is unpickled."""
    place = _place(head)
    print(files.json_text(asdict(load_record(place.parent, place.name))), end="")
    return 0


def predict(
    head: str,
    *,
    file: str | None,
    labels: str | None,
    split: str | None,
    form: str,
    trust_pickle: bool,
) -> int:
    """Print what a head says of cached embeddings; of labelled ones, how many are right, too.

    Raises IntegrityError where no record of this project knows the head, or where it was fitted
    on other vectors than the file has.
    """
    place = _place(head)
    record = load_record(place.parent, place.name)
    content = _known(place, record, trust_pickle=trust_pickle)
    path = _embeddings(file, record)
    cached = embeddings.open(path)
    _check(place, record, cached, path)
    fitted = _opened(content, place)
    found = _chosen(labels, split, cached)
    rows = _rows(fitted, record, cached, found)
    _print(rows, form)
    return 0


def _place(head: str) -> Path:
    """The head's files without their ending. Raises ConfigurationError."""
    path = Path(head)
    place = path.with_suffix("") if path.suffix in (".joblib", ".json") else path
    if not place.name or not place.with_name(f"{place.name}.json").is_file():
        raise ConfigurationError(
            f"{place}.json is not there; give the path of a head, as artifacts/heads/BACKBONE/NAME, "
            "with its record beside it"
        )
    return place


def _pickle(place: Path) -> Path:
    return place.with_name(f"{place.name}.joblib")


def _known(place: Path, record: Record, *, trust_pickle: bool) -> bytes:
    """The bytes of the joblib, which are what the user trusts. Raises IntegrityError."""
    path = _pickle(place)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    actual = files.sha256_of_bytes(content)
    if actual != record.sha256:
        raise IntegrityError(
            f"{path}: sha256 is {actual}, its record says {record.sha256}; fetch both again"
        )
    if not trust_pickle and actual not in _records():
        raise IntegrityError(
            f"{path} may run any code when it is opened, and no record of this project names its "
            f"sha256 {actual}; if you know where it comes from, add --trust-pickle"
        )
    return content


def _opened(content: bytes, place: Path) -> Fitted:
    try:
        return unpickled(content, _pickle(place), again="fit it anew where it comes from")
    except HeadstartError:
        raise
    except Exception as error:  # noqa: BLE001 - what a stranger's file runs may raise anything
        why = dataset.on_one_line(f"{type(error).__name__}: {error}")
        raise IntegrityError(f"{_pickle(place)} holds no head ({why}); fetch it again") from None


def _records() -> set[str]:
    """The sha256 of each head that this project fitted."""
    try:
        folder = open_project().artifacts / "heads"
    except HeadstartError:
        return set()
    found = set[str]()
    for path in folder.glob("*/*.json"):
        try:
            found.add(load_record(path.parent, path.stem).sha256)
        except IntegrityError:  # a damaged record knows nothing
            continue
    return found - {""}


def _embeddings(file: str | None, record: Record) -> Path:
    path = Path(file) if file else None
    if path is None:
        path = open_project().artifacts / "embeddings" / f"{Path(record.backbone).name}.h5"
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file; give --embeddings the path of a .h5")
    return path


def _check(place: Path, record: Record, cached: Embeddings, path: Path) -> None:
    """Raise IntegrityError where the head was fitted on other vectors than are in the file."""
    there = features.fingerprints(cached, cached.layers, cached.views)
    wanted = {name: one for name, one in record.fingerprints.items() if "views/" not in name}
    for name, fingerprint in (wanted or {"embeddings": record.fingerprint}).items():
        if there.get(name) != fingerprint:
            raise IntegrityError(
                f"{place} was fitted on {name} of fingerprint {fingerprint}, {path} has "
                f"{there.get(name, 'no such dataset')}; give the embeddings of its own backbone"
            )


def _chosen(path: str | None, split: str | None, cached: Embeddings) -> Labels | None:
    """The labelled images that have an embedding; None where no labels are given."""
    if path is None:
        if split:
            raise ConfigurationError(
                "--split is of labels; give --labels the path of a labels.parquet"
            )
        return None
    if not Path(path).is_file():
        raise ConfigurationError(
            f"{path} is not a file; give --labels the path of a labels.parquet"
        )
    labels = dataset.read_labels(Path(path))
    wanted = cached.rows(labels.sha256) >= 0
    if split:
        wanted &= labels.split == split
    if not wanted.any():
        raise InputError(f"{path} has no image of {split or 'any split'} that has an embedding")
    return labels.where(wanted)


def _rows(
    fitted: Fitted, record: Record, cached: Embeddings, labels: Labels | None
) -> Iterator[dict[str, Any]]:
    """What the fit on train + val says, an image at a time; a count of the right ones at the end."""
    digests = cached.sha256 if labels is None else labels.sha256
    layers, right = tuple(record.layers) or cached.layers[:1], 0
    for start in range(0, len(digests), ROWS):
        some = slice(start, start + ROWS)
        X = features.gather(cached, layers, [(cached.rows(digests[some]), 0)])
        with threadpool_limits(1):  # the same bits as evaluate's
            codes, known = prediction.predict(fitted.train_val, X, fitted.temperature)
        names = np.array(fitted.classes, dtype=object)[codes]
        for at, name in enumerate(names):
            row: dict[str, Any] = {"sha256": digests[start + at].decode(), "prediction": name}
            if labels is not None:
                label = labels.label[start + at]
                row |= {"path": labels.path[start + at], "label": label}
                right += label == name
            if known is not None:
                row["probability"] = float(known[at].max())
            yield row
    if labels is not None:
        low, high = wilson(right, len(digests))
        share = right / len(digests)
        print(
            f"{right} of {len(digests)} are right: {share:.4f} ({low:.4f} to {high:.4f})",
            file=sys.stderr,
        )


def _print(rows: Iterator[dict[str, Any]], form: str) -> None:
    if form == "jsonl":
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if form == "csv":
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    shown = [_shown(row) for row in rows]
    columns = [name for name in SHOWN if name in (shown[0] if shown else SHOWN)]
    print(*table([columns, *([row[name] for name in columns] for row in shown)]), sep="\n")


def _shown(row: dict[str, Any]) -> dict[str, str]:
    cells = {**row, "sha256": row["sha256"][:12]}
    if "probability" in row:
        cells["probability"] = f"{row['probability']:.4f}"
    return {name: dataset.on_one_line(str(cell)) for name, cell in cells.items()}
