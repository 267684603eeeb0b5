"""FrozenBackbone: a frozen backbone as a scikit-learn transformer, on the pipeline's own store."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from pipeline import dataset, embeddings, frozen
from pipeline.dataset import Images, Problem
from pipeline.errors import ConfigurationError, InputError
from pipeline.extraction import Places, extract
from pipeline.formats import Entry, Listing
from pipeline.frozen import FrozenBackbone as Record
from pipeline.params import ExecutionParams
from pipeline.preparation.reading import Row, read_all
from pipeline.project import Project, open_project

EVERYWHERE = Path("/")
"""The data root: what a notebook names may lie anywhere."""


class FrozenBackbone(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Paths of images -> their embeddings, each computed once for all projects of a store.

    backbone: the name of an entry of params.yaml in the current folder's project, or the path of
    a frozen backbone's folder, with backbone.json in it; layer: one that it was frozen with, None
    for its first; store: where embeddings are kept, None for HEADSTART_STORE or the project's;
    failed: what becomes of an image that cannot be embedded, `raise` or `nan`, a row of NaN.

    Nothing is learned from the images, so `fit` only looks whether the backbone is there. Which
    backbone and which layer can be searched as any parameter: `frozenbackbone__layer`.
    """

    def __init__(
        self,
        backbone: str | os.PathLike[str],
        *,
        layer: str | None = None,
        store: str | os.PathLike[str] | None = None,
        failed: Literal["raise", "nan"] = "raise",
    ) -> None:
        self.backbone = backbone
        self.layer = layer
        self.store = store
        self.failed = failed

    def fit(self, X: Any, y: Any = None) -> "FrozenBackbone":  # noqa: ARG002 - scikit-learn's way to call
        """Check the backbone, the layer and what X is. X: see `transform`.

        Raises ConfigurationError (no such backbone or layer), IntegrityError (it is damaged).
        """
        self._dim(frozen.read(self._place()[0]))
        _paths(X)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """(N, D) float32, rows in the order of X, to the bit what the pipeline's .h5 holds.

        X: (N,) or (N, 1) paths of image files, text or Path, relative to the current folder.
        Raises InputError where X is something else or, unless `failed` is `nan`, an image cannot
        be embedded, naming the first; whatever else `pipeline.extraction.extract` raises.
        """
        folder, project = self._place()
        record = frozen.read(folder)
        dim, paths = self._dim(record), _paths(X)
        rows, problems = _read(paths)
        made = np.full((len(paths), dim), np.nan, dtype=np.float32)
        if rows:
            problems += self._embed(rows, paths, made, folder, project)
        if problems and self.failed == "raise":
            place = {path: at for at, path in enumerate(dict.fromkeys(paths))}
            first = min(problems, key=lambda one: place[f"/{one.path}"])
            why = f"{first.reason}: {first.detail}" if first.detail else first.reason
            raise InputError(
                f"{len(problems)} of {len(place)} images cannot be embedded, the first is "
                f"/{first.path} ({why}); leave them out, or say failed='nan'"
            )
        return made

    def _embed(
        self,
        rows: list[Row],
        paths: list[str],
        made: npt.NDArray[np.float32],
        folder: Path,
        project: Project | None,
    ) -> list[Problem]:
        """Fill in the rows of the images that could be read; returns what failed of them."""
        execution = project.execution if project else ExecutionParams()
        with tempfile.TemporaryDirectory(prefix="headstart-") as made_for_this:
            here = Path(made_for_this)
            places = Places(
                root=EVERYWHERE,
                backbone=folder,
                images=here / "images.parquet",
                embeddings=here / "embeddings.h5",
                runs=here / "runs",
                store=self._store(project),
            )
            dataset.write_images(places.images, _distinct(rows))
            problems = _extracted(places, execution)
            if len(problems) < len({row.sha256 for row in rows}):
                cached = embeddings.open(places.embeddings)
                digests = {f"/{row.entry.path}": row.sha256 for row in rows}
                places_in_file = cached.rows(
                    dataset.digests(digests.get(path, "") for path in paths)
                )
                known = places_in_file >= 0
                made[known] = cached.take(places_in_file[known], layer=self.layer)
        failed = {one.sha256: one for one in problems}
        return [
            Problem(
                row.entry.path, row.sha256, failed[row.sha256].reason, failed[row.sha256].detail
            )
            for row in rows
            if row.sha256 in failed
        ]

    def _place(self) -> tuple[Path, Project | None]:
        """The frozen backbone's folder, and the project whose store and settings are used."""
        given = Path(os.path.expanduser(self.backbone))
        if (given / frozen.RECORD).is_file():
            folder = Path(os.path.abspath(given))
            root = folder.parents[min(2, len(folder.parents) - 1)]
            return folder, open_project(root) if (root / "params.yaml").is_file() else None
        project = open_project()
        name = os.fspath(self.backbone)
        project.backbone(name)
        folder = project.artifacts / "backbones" / name
        if not (folder / frozen.RECORD).is_file():
            listed = name in project.params.run.backbones
            first = "" if listed else f"add {name} to run.backbones in params.yaml, then "
            raise ConfigurationError(
                f"backbone {name} is not frozen yet; {first}run 'dvc repro freeze@{name}'"
            )
        return folder, project

    def _store(self, project: Project | None) -> Path:
        if self.store is not None:
            if not os.fspath(self.store):
                raise ConfigurationError("store is ''; name a folder, or None for the usual one")
            return Path(os.path.abspath(os.path.expanduser(self.store)))
        if project is not None:
            return project.store
        if given := os.environ.get("HEADSTART_STORE"):
            return Path(os.path.abspath(os.path.expanduser(given)))
        raise ConfigurationError(
            f"{self.backbone} is in no project, so there is no store to keep its embeddings in; "
            "give FrozenBackbone a store= or set HEADSTART_STORE"
        )

    def _dim(self, record: Record) -> int:
        """Length of the wanted layer's vectors. Raises ConfigurationError."""
        if self.failed not in ("raise", "nan"):
            raise ConfigurationError(f"failed is {self.failed!r}; write 'raise' or 'nan'")
        dims = dict(zip((tap.name for tap in record.taps), record.dims, strict=True))
        if self.layer is not None and self.layer not in dims:
            raise ConfigurationError(
                f"backbone {record.name} was frozen with {', '.join(dims)}, not {self.layer!r}; "
                f"add it to backbones.{record.name}.layers, then run 'dvc repro freeze@{record.name}'"
            )
        return record.dim if self.layer is None else dims[self.layer]

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """(D,) text: the backbone's name and the number of each value."""
        record = frozen.read(self._place()[0])
        names = [f"{record.name}_{number}" for number in range(self._dim(record))]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _paths(X: Any) -> list[str]:
    """Absolute paths, of an array, a list, a column or a table of one column. Raises InputError."""
    given = np.asarray(X, dtype=object)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim != 1 or len(given) == 0:
        raise InputError(
            f"X has the shape {given.shape}; give the paths of one or more image files, (N,) or (N, 1)"
        )
    return [_path(at, one) for at, one in enumerate(given)]


def _path(at: int, given: Any) -> str:
    if not isinstance(given, str | os.PathLike):
        raise InputError(
            f"X holds a {type(given).__name__} in row {at}; it takes paths of image files, as text"
        )
    path = os.path.abspath(os.path.expanduser(os.fspath(given)))
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"the path in row {at} is not UTF-8: {path!r}; rename the file") from None
    return path


def _read(paths: Iterable[str]) -> tuple[list[Row], list[Problem]]:
    """Each file once: hashed where it is an image, a problem where it is not."""
    entries = tuple(Entry(path.removeprefix("/"), label="") for path in dict.fromkeys(paths))
    return read_all(Listing(EVERYWHERE, entries, problems=()))


def _distinct(rows: list[Row]) -> Images:
    first = {row.sha256: row for row in sorted(rows, key=lambda row: (row.sha256, row.entry.path))}
    return Images(
        dataset.digests(first),
        tuple(row.entry.path for row in first.values()),
        tuple(row.bytes for row in first.values()),
    )


def _extracted(places: Places, execution: ExecutionParams) -> list[Problem]:
    """What could not be embedded."""
    every = places.runs / f"extract-{frozen.read(places.backbone).name}.problems.csv"
    try:
        extract(places, execution, max_failed=1.0)
    except InputError:
        if not every.is_file():
            raise
        return dataset.read_problems(every)  # not one image of them could be
    return dataset.read_problems(places.problems)
