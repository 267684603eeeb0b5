"""What the images themselves show: copies, labels to look at again, what lies far from the rest."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import dataset
from pipeline.params import CONTROL_SOURCES
from pipeline.reporting import pictures
from pipeline.reporting.pictures import Picture
from pipeline.reporting.reading import csv_rows, damaged, json_object
from pipeline.reporting.records import Run
from pipeline.reporting.wording import count, counted, figure

PAIRS, SUSPECTS, OUTLIERS = 8, 16, 8
"""How many are shown as pictures; the files have all."""
DECODERS = 4
SUSPECT_COLUMNS = ("path", "label", "suggested", "score")
PAIR_COLUMNS = (
    "path_a",
    "path_b",
    "similarity",
    "kind",
    "split_a",
    "split_b",
    "label_a",
    "label_b",
)
OUTLIER_COLUMNS = ("path", "label", "score", "kind")


@dataclass(frozen=True)
class Shown:
    """A picture with what is said under it: in bold, then plainly, then its path."""

    picture: Picture | None
    bold: str
    text: str
    path: str


@dataclass(frozen=True)
class Inspection:
    """What one backbone's embeddings say. pairs: two pictures each."""

    backbone: str
    folder: str
    text: str
    pairs: list[tuple[Shown, Shown]]
    suspects: list[Shown]
    outliers: list[Shown]


class _Album:
    """Thumbnails of images by path, if their bytes are those of the labels table."""

    def __init__(self, artifacts: Path, root: Path) -> None:
        self._root = root
        labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
        self._sha256 = dict(zip(labels.path, labels.sha256.astype("U64"), strict=True))

    def thumbnails(self, paths: list[str]) -> dict[str, Picture | None]:
        with ThreadPoolExecutor(DECODERS) as pool:
            return dict(zip(paths, pool.map(self._thumbnail, paths), strict=True))

    def _thumbnail(self, path: str) -> Picture | None:
        return pictures.thumbnail(self._root / path, str(self._sha256.get(path, "")))


def describe(artifacts: Path, root: Path, run: Run) -> dict[str, Any]:
    """The template's `inspections`: one a backbone that is no control."""
    wanted = [one.name for one in run.backbones if one.source not in CONTROL_SOURCES]
    album = _Album(artifacts, root) if wanted else None
    return {
        "inspections": [_inspection(artifacts, name, album) for name in wanted if album is not None]
    }


def _inspection(artifacts: Path, backbone: str, album: _Album) -> Inspection:
    folder, stage = artifacts / "inspect" / backbone, f"inspect@{backbone}"
    summary = json_object(folder / "summary.json", stage, ())
    suspects = csv_rows(folder / "suspects.csv", stage, SUSPECT_COLUMNS)[:SUSPECTS]
    pairs = csv_rows(folder / "duplicates.csv", stage, PAIR_COLUMNS)[:PAIRS]
    outliers = csv_rows(folder / "outliers.csv", stage, OUTLIER_COLUMNS)[:OUTLIERS]
    paths = {row["path"] for row in (*suspects, *outliers)}
    paths |= {row[end] for row in pairs for end in ("path_a", "path_b")}
    shown = album.thumbnails(sorted(paths))
    try:
        return Inspection(
            backbone=backbone,
            folder=f"artifacts/inspect/{backbone}",
            text=_sentence(summary),
            pairs=[_pair(row, shown) for row in pairs],
            suspects=[_suspect(row, shown) for row in suspects if row["suggested"] != row["label"]],
            outliers=[_outlier(row, shown) for row in outliers],
        )
    except (KeyError, ValueError) as error:
        raise damaged(folder, stage, error) from None


def _sentence(summary: dict[str, Any]) -> str:
    pairs = counted(summary["exact"] + summary["near"], "pair") + " of equal or nearly equal images"
    across = f"{count(summary['across_splits'])} of them across splits"
    suspects = counted(summary["suspects"], "label") + " to look at again"
    return f"{pairs}, {across}; {suspects}; {counted(summary['outliers'], 'outlier')}."


def _pair(row: dict[str, str], shown: dict[str, Picture | None]) -> tuple[Shown, Shown]:
    said = f"{row['kind']}, {figure(float(row['similarity']))}"
    first, second = (
        Shown(
            shown[row[f"path_{end}"]], row[f"label_{end}"], row[f"split_{end}"], row[f"path_{end}"]
        )
        for end in ("a", "b")
    )
    return first, Shown(second.picture, second.bold, f"{second.text}, {said}", second.path)


def _suspect(row: dict[str, str], shown: dict[str, Picture | None]) -> Shown:
    said = f"rather {row['suggested']}? Own label: {figure(float(row['score']))}"
    return Shown(shown[row["path"]], row["label"], said, row["path"])


def _outlier(row: dict[str, str], shown: dict[str, Picture | None]) -> Shown:
    said = row["kind"] if not row["score"] else f"{row['kind']}, {float(row['score']):.3g}"
    return Shown(shown[row["path"]], row["label"], said, row["path"])
