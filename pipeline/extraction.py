"""What is missing -> shards -> cluster -> store -> the tracked embeddings file."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline import admission, catalog, dataset, embeddings, files, frozen, uses
from pipeline.admission import Terms
from pipeline.catalog import Catalog
from pipeline.cluster import is_here
from pipeline.computing import compute
from pipeline.dataset import Digests, Problem
from pipeline.errors import ConfigurationError, InputError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Array
from pipeline.pace import Pace
from pipeline.store import LostRowsError, Store
from pipeline.summary import Summary, process_start
from pipeline.worker import Context, Shard

if TYPE_CHECKING:
    from pipeline.params import ExecutionParams

SAMPLED = 100
"""Missing images among which some are looked for that a worker must have as well."""

MEASURED = {"cpu": 2000, "cuda": 50_000, "compiled": 1_000_000}
"""By device, images from which on it pays to look for the fastest way to run the backbone.

A GPU's batch takes some seconds to find, and compiling for it up to some minutes.
"""

SHARD_BYTES = 64 << 20
"""Of vectors, at most: a worker holds a shard's until it is stored."""

ROUNDS = 3
"""How often the file is begun where rows turn out damaged or gone as it is written."""


@dataclass(frozen=True)
class Places:
    """Where an extraction reads and writes; all absolute.

    root: the data root; backbone: folder of the frozen backbone; images: images.parquet;
    embeddings: the tracked .h5, whose neighbour .problems.csv is written too; runs: untracked
    notes; store: the embedding store.
    """

    root: Path
    backbone: Path
    images: Path
    embeddings: Path
    runs: Path
    store: Path

    @classmethod
    def of(cls, name: str, *, artifacts: Path, root: Path, store: Path) -> "Places":
        """Those of the backbone of that name, as the stages lay them out below `artifacts`."""
        return cls(
            root=root,
            backbone=artifacts / "backbones" / name,
            images=artifacts / "dataset" / "images.parquet",
            embeddings=artifacts / "embeddings" / f"{name}.h5",
            runs=artifacts / "runs",
            store=store,
        )

    @property
    def problems(self) -> Path:
        """The list of what could not be embedded."""
        return self.embeddings.with_name(f"{self.embeddings.stem}.problems.csv")


Stores = list[Store]
"""One for each of the backbone's outputs, in their order."""


@dataclass(frozen=True)
class _Run:
    """What does not change while an extraction lasts."""

    places: Places
    backbone: FrozenBackbone
    images: Catalog
    execution: "ExecutionParams"

    def refreshed(self) -> "Stores":
        """The store of each output as it is now, every shard that no index has read checked."""
        stores = [Store(self.places.store, one.fingerprint) for one in self.backbone.outputs]
        for store in stores:
            store.refresh()
        return stores


def extract(places: Places, execution: "ExecutionParams", *, max_failed: float) -> Summary:
    """Embed what the store does not have yet, then write the tracked file.

    max_failed: share of the images that may fail. Raises InputError where more do (the list
    is then in `runs`), IntegrityError where the backbone or this machine is not what the
    record says. What is in the store stays, so a rerun goes on from there. Rows that are found
    damaged as the file is written are computed anew, and it is begun again.
    """
    backbone = frozen.load(places.backbone)
    run = _Run(places, backbone, catalog.opened(places.images), execution)
    summary, problems = Summary(images=run.images.rows), list[Problem]()
    changed = uses.note(places.store, backbone)
    for left in reversed(range(ROUNDS)):
        try:
            stores = run.refreshed()
            groups = _groups(run, _lacking(run.images, stores, problems))
            if groups and changed:
                print(f"headstart: {changed}", file=sys.stderr)
            for group in groups:
                _tell(run, group)
                problems += _compute(run, group, summary)
            if groups:
                stores = run.refreshed()  # shards seen long ago are checked again
            summary.reused = max(0, summary.images - summary.computed - len(problems))
            _refuse_failures(problems, backbone.name, places, max_failed, summary)
            _write(run, stores, problems)
            break
        except LostRowsError:
            if not left:
                raise
            where, changed = places.store / backbone.fingerprint, None
            print(f"headstart: {where} lost rows during the run; looking again", file=sys.stderr)
    summary.finish()
    files.write_json(places.runs / f"extract-{backbone.name}.json", asdict(summary))
    return summary


@dataclass(frozen=True)
class _Group:
    """Images that lack the same outputs: those that are to be made of them, by their datasets.

    images: (N,) bool, which they are.
    """

    outputs: tuple[str, ...]
    images: Array


def _tell(run: _Run, group: _Group) -> None:
    """Say what is made where it is not all that the backbone gives."""
    if len(group.outputs) < len(run.backbone.outputs):
        count, names = int(group.images.sum()), ", ".join(group.outputs)
        print(f"headstart: {run.backbone.name}: of {count} images only {names}", file=sys.stderr)


def _lacking(images: Catalog, stores: Stores, problems: list[Problem]) -> Array:
    """(N, outputs) bool: what is to be computed: no shard has it, and the image did not fail."""
    failed = np.sort(_digests_of(problems))
    parts = list[Array]()
    for some in images.digests(stores[0].rows_at_once):
        well = dataset.positions(failed, some) < 0
        parts.append(np.stack([store.missing(some) & well for store in stores], axis=1))
    return np.concatenate(parts) if parts else np.empty((0, len(stores)), bool)


def _groups(run: _Run, lacking: Array) -> list[_Group]:
    """Those that lack something; most outputs first, which is what new images lack."""
    if lacking.shape[1] == 1:
        patterns, which = np.array([[False], [True]]), lacking[:, 0].astype(int)
    else:
        patterns, which = np.unique(lacking, axis=0, return_inverse=True)
    datasets = [output.dataset for output in run.backbone.outputs]
    groups = [
        _Group(tuple(np.array(datasets)[pattern].tolist()), which.reshape(-1) == number)
        for number, pattern in enumerate(patterns)
        if pattern.any()
    ]
    found = [group for group in groups if group.images.any()]
    return sorted(found, key=lambda group: (-len(group.outputs), group.outputs))


def _digests_of(problems: list[Problem]) -> Digests:
    return dataset.digests(problem.sha256 for problem in problems)


def _write(run: _Run, stores: Stores, problems: list[Problem]) -> None:
    """Write the tracked file and the list of what is not in it."""
    failed, images = _digests_of(problems), run.images
    embeddings.write(
        run.places.embeddings,
        run.backbone,
        images.digests(but=failed),
        [store.blocks(images.digests(store.rows_at_once, but=failed)) for store in stores],
        rows=images.rows - len(failed),
    )
    dataset.write_problems(run.places.problems, problems)


def _check_root(root: Path) -> None:
    """One line for a disk that is not mounted, rather than one for each of its images."""
    if not root.is_dir():
        raise ConfigurationError(
            f"params.yaml: data.path: {root} is not there any more, and images in it are still to "
            "be embedded; bring it back or correct data.path"
        )


def _context(run: _Run, group: _Group) -> Context:
    execution = run.execution
    return Context(
        root=str(run.places.root),
        backbone=str(run.places.backbone),
        store=str(run.places.store),
        device=execution.device,
        threads=_number(execution.threads) if is_here(execution) else None,
        sessions=_number(execution.sessions),
        batch_size=_number(execution.batch_size),
        measure=tuple(name for name, least in MEASURED.items() if group.images.sum() >= least),
        terms=_terms(run, group.images),
        outputs=group.outputs,
    )


def _terms(run: _Run, missing: Array) -> Terms:
    """What other processes than this one must have to take part."""
    fields = json.dumps(run.backbone.fields, sort_keys=True)
    if is_here(run.execution):
        return Terms(fields)
    some = list(islice(run.images.sized(missing), SAMPLED))
    return Terms(
        fields,
        versions=admission.versions(str(run.backbone.fields["runtime"])),
        sample=admission.sample(run.places.root, some),
        outputs=tuple((one.dataset, one.fingerprint) for one in run.backbone.outputs),
    )


def _number(wish: int | str) -> int | None:
    return wish if isinstance(wish, int) else None


def _compute(run: _Run, group: _Group, summary: Summary) -> list[Problem]:
    """Run the shards of what is missing; adds to `summary` and returns what failed."""
    _check_root(run.places.root)
    total = int(group.images.sum())
    most = _most_images(run.backbone, group.outputs)

    def shards(context: Context, pace: Pace) -> Iterator[Shard]:
        left = group.images
        if pace.done:  # begun again, with what a GPU that ran out of memory has left to do
            left = left & _lacking(run.images, run.refreshed(), []).any(axis=1)
        return _shards(run.images, left, context, pace, most)

    report = run.places.runs / f"dask-{run.backbone.name}.html"
    tally = compute(shards, _context(run, group), run.execution, total=total, report=report)
    problems = sorted(tally.problems.values())
    summary.add(
        Summary(
            images=run.images.rows,
            computed=total - len(problems),
            failed=len(problems),
            start_seconds=tally.began - process_start(),
            phases=tally.phases,
            verdict=tally.verdict,
        )
    )
    return problems


def _most_images(backbone: FrozenBackbone, datasets: tuple[str, ...]) -> int:
    """Of a shard, so that the vectors made of them fit into SHARD_BYTES."""
    dims = sum(one.dim for one in backbone.outputs if one.dataset in datasets)
    return max(1, SHARD_BYTES // (dims * np.dtype(backbone.storage).itemsize))


def _shards(
    images: Catalog, missing: Array, context: Context, pace: Pace, most: int
) -> Iterator[Shard]:
    """Cut as they are asked for, so that the pace so far tells their size, up to `most` images."""
    named = images.named(missing)
    left = int(missing.sum())
    while some := tuple(islice(named, min(most, pace.shard_size(left)))):
        yield Shard(context, some)
        left -= len(some)


def _refuse_failures(
    problems: list[Problem], name: str, places: Places, max_failed: float, summary: Summary
) -> None:
    path = places.runs / f"extract-{name}.problems.csv"
    failed, total = len(problems), summary.images
    if failed < total and failed / total <= max_failed:
        path.unlink(missing_ok=True)
        return
    dataset.write_problems(path, problems)
    raise InputError(
        f"{failed} of {total} images cannot be embedded{dataset.left_out(problems)}, more than "
        f"data.max_failed {max_failed:g} allows; see artifacts/runs/{path.name}, "
        "mend them or raise data.max_failed"
    )
