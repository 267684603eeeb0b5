"""`headstart store import`: the rows of an embeddings file, of another project too, into the store."""

import secrets
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from pipeline import catalog, dataset, embeddings, extraction, frozen, uses
from pipeline.cli.wording import counted
from pipeline.dataset import Digests, Images
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.extraction import Places
from pipeline.frozen import FrozenBackbone
from pipeline.outputs import Output
from pipeline.params import ExecutionParams
from pipeline.project import Project, open_project
from pipeline.store import Store

SHARD_ROWS = 4096


def run(file: str, *, compared: int) -> int:
    """Take in what the store lacks of a file's rows, once some of them were made here as well.

    compared: how many, at most. A file tells what made it, not that it did: so images that this project
    has are embedded here and compared. Raises IntegrityError where the file is of no backbone of
    this project, or its vectors lie further from those made here than the precision allows.
    """
    path, project = Path(file), open_project()
    if not path.is_file():
        raise ConfigurationError(f"{file} is not a file; give the path of a .h5")
    cached = embeddings.open(path)
    backbone = _backbone(path, cached, project)
    ours = _ours(path, cached, project)
    outputs = [one for one in backbone.outputs if _has(cached, one)]
    if len(cached.sha256) > 100 * SHARD_ROWS:
        print("headstart: a large file; this takes some minutes", file=sys.stderr)
    for output in outputs:
        _check_finite(path, cached, output)
    number, least, most = _compare(path, cached, backbone, outputs, ours, project, compared)
    uses.note(project.store, backbone)
    for output in outputs:
        rows = _take_in(cached, output, project.store)
        print(
            f"{backbone.name}: {output.dataset}: {counted(rows, 'row')} of {len(cached.sha256)} "
            f"taken in, {len(cached.sha256) - rows} were there"
        )
    print(
        f"{len(ours)} of them are images of this project; {number} {'was' if number == 1 else 'were'} "
        f"embedded here and compared: cosine {least:.6f}, max |d| / RMS {most:.1e}"
    )
    return 0


def _backbone(path: Path, cached: Embeddings, project: Project) -> FrozenBackbone:
    """The frozen backbone of this project that makes such vectors. Raises IntegrityError."""
    folder = project.artifacts / "backbones"
    names = [name for name in project.params.backbones if (folder / name / frozen.RECORD).is_file()]
    known = [frozen.read(folder / name) for name in names]
    for one in known:
        if one.fingerprint == cached.fingerprint:
            return frozen.load(one.folder)
    name = str(cached.attributes["backbone"])
    for one in known:
        if one.name == name:
            what = "; ".join(uses.differences(one.fields, cached.attributes["fingerprint_fields"]))
            raise IntegrityError(f"{path} is not of this project's backbone {name}: {what}")
    raise IntegrityError(
        f"{path} is of fingerprint {cached.fingerprint}, which no frozen backbone of this project has "
        f"({', '.join(names) or 'none is frozen'}); add its backbone to params.yaml, run 'dvc repro freeze'"
    )


def _ours(path: Path, cached: Embeddings, project: Project) -> Digests:
    """The images of this project that the file has. Raises InputError where there are none."""
    images = catalog.opened(project.artifacts / "dataset" / "images.parquet")
    found = [some[cached.rows(some) >= 0] for some in images.digests()]
    ours = np.concatenate(found) if found else dataset.digests([])
    if len(ours) == 0:
        raise InputError(
            f"{path} has none of this project's {counted(images.rows, 'image')}, so nothing tells whether "
            "its rows are right; nothing was taken in"
        )
    return ours


def _has(cached: Embeddings, output: Output) -> bool:
    there = {one["dataset"]: one["fingerprint"] for one in cached.attributes["outputs"]}
    return there.get(output.dataset) == output.fingerprint


def _compare(
    path: Path,
    cached: Embeddings,
    backbone: FrozenBackbone,
    outputs: list[Output],
    ours: Digests,
    project: Project,
    compared: int,
) -> tuple[int, float, float]:
    """How many images were compared, the least cosine and the largest difference over the RMS.

    Raises IntegrityError where it is too large, InputError where no image is left to compare.
    """
    images = dataset.read_images(project.artifacts / "dataset" / "images.parquet")
    anywhere = secrets.SystemRandom()  # nobody who makes a file is to know which are looked at
    chosen = set(anywhere.sample(ours.tolist(), min(compared, len(ours))))
    places = [at for at, one in enumerate(images.sha256.tolist()) if one in chosen]
    with tempfile.TemporaryDirectory(prefix="headstart-") as made_for_this:
        made = _embedded(
            Images(
                images.sha256[places],
                tuple(images.path[at] for at in places),
                tuple(images.bytes[at] for at in places),
            ),
            Path(made_for_this),
            backbone,
            project,
        )
        rows = cached.rows(made.sha256)
        drifts = [
            frozen.check_drift(
                made.arrays[one.dataset].astype(np.float32),
                cached.arrays[one.dataset][rows].astype(np.float32),
                precision=str(backbone.fields["precision"]),
                what=f"{path}: {one.dataset}, against {counted(len(rows), 'image')} embedded here",
            )
            for one in outputs
        ]
    least, most = min(one.cosine for one in drifts), max(one.relative for one in drifts)
    return len(rows), least, most


def _embedded(images: Images, here: Path, backbone: FrozenBackbone, project: Project) -> Embeddings:
    """Some images, embedded by this machine into a store of their own. Raises InputError."""
    places = Places(
        root=project.data_root,
        backbone=backbone.folder,
        images=here / "images.parquet",
        embeddings=here / "embeddings.h5",
        runs=here / "runs",
        store=here / "store",
    )
    dataset.write_images(places.images, images)
    try:
        extraction.extract(places, ExecutionParams(workers=0), max_failed=1.0)
    except InputError:
        every = places.runs / f"extract-{backbone.name}.problems.csv"
        if not every.is_file():
            raise
        reasons = Counter(one.reason for one in dataset.read_problems(every)).most_common()
        why = ", ".join(f"{reason} {number}" for reason, number in reasons)
        raise InputError(
            f"not one of {counted(len(images.sha256), 'image')} of this project could be embedded here "
            f"({why}), so nothing was compared or taken in; bring them back or run 'dvc repro prepare'"
        ) from None
    return embeddings.open(places.embeddings)


def _check_finite(path: Path, cached: Embeddings, output: Output) -> None:
    """Raise IntegrityError where a row is not: in the store it would stay for every project."""
    bad = list[int]()
    for start in _starts(len(cached.sha256)):
        some = np.isfinite(cached.arrays[output.dataset][start : start + SHARD_ROWS])
        bad += (start + np.flatnonzero(~some.all(axis=1))).tolist()
    if bad:
        raise IntegrityError(
            f"{path}: {output.dataset}: {counted(len(bad), 'row')} {'holds' if len(bad) == 1 else 'hold'} "
            f"NaN or infinity, the first is of the image {cached.sha256[bad[0]].decode()}; have it made anew"
        )


def _take_in(cached: Embeddings, output: Output, root: Path) -> int:
    """Store the rows of an output that the store lacks; returns how many."""
    store = Store(root, output.fingerprint)
    store.refresh()
    total, vectors = 0, cached.arrays[output.dataset]
    for start in _starts(len(cached.sha256)):
        digests = cached.sha256[start : start + SHARD_ROWS]
        lacking = store.missing(digests)
        if lacking.any():
            store.put(digests[lacking], np.array(vectors[start : start + SHARD_ROWS][lacking]))
            total += int(lacking.sum())
    if total:
        store.refresh()
    return total


def _starts(rows: int) -> range:
    return range(0, rows, SHARD_ROWS)
