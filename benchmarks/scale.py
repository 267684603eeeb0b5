"""A million rows: what listing, assembly and the driver's memory take, and how they grow.

`python -m benchmarks.scale list|assemble BACKBONE STORE IMAGES OUT` is what is timed: a process
that says, as JSON, what it took.
"""

import filecmp
import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from benchmarks import desk as desks
from benchmarks.desk import Desk
from benchmarks.table import Row, row
from pipeline import catalog, dataset, embeddings, files, frozen, index
from pipeline.dataset import Images
from pipeline.store import Store
from tests.conftest import ROOT, Project, make_project, use_pixels

BACKBONE = "raw"
FOLDER = 1000
"""Images in each folder."""

SEED = 5
HEADER = b"P6 8 8 255\n"
PIXELS = 8 * 8 * 3
PAPER = 100_000_000
"""Images for which the last rows are worked out, not measured."""

MIB = 1 << 20


@dataclass(frozen=True)
class Took:
    """What a process says of itself. peak: bytes of its highest resident set."""

    seconds: float
    peak: float
    missing: int = 0


@dataclass(frozen=True)
class Sized:
    """What was measured of one number of images; seconds and bytes.

    extract: the run that computed; images_per_second: of it; again: a run with nothing to do;
    kept, listed, file: bytes of the shards, their index and the tracked file.
    """

    images: int
    images_per_second: float
    extract: Took
    again: Took
    nothing: list[Took]
    some: list[Took]
    unlisted: Took
    assemble: list[Took]
    kept: int
    listed: int
    file: int


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    folder = desk.folder / "scale"
    sizes = desk.scale.sizes
    named = list(images(folder / "images", sizes[-1]))
    project = _project(folder)
    results = []
    for count in sizes:
        print(f"  {count} images ...", file=sys.stderr, flush=True)
        results.append(_sized(project, folder, dict(named[:count]), desk.scale.runs))
    shutil.rmtree(folder)
    return rows(results)


def images(folder: Path, count: int) -> Iterator[tuple[str, str]]:
    """Write so many small distinct pictures; (sha256, path) of each."""
    random = np.random.default_rng(SEED)
    for start in range(0, count, FOLDER):
        place = folder / f"{start // FOLDER:06d}"
        place.mkdir(parents=True)
        pixels = random.bytes(FOLDER * PIXELS)
        for number in range(min(FOLDER, count - start)):
            content = HEADER + pixels[number * PIXELS : (number + 1) * PIXELS]
            (place / f"{number:03d}.ppm").write_bytes(content)
            yield sha256(content).hexdigest(), f"{place.name}/{number:03d}.ppm"


def rows(results: list[Sized]) -> list[Row]:
    """The table of all sizes, how they grow, and what follows for PAPER images."""
    made = [one for result in results for one in _measured(result)]
    before, last = results[-2:]
    grown = f"from {before.images} to {last.images} images"
    for what, name in (("listing", "nothing"), ("assembly", "assemble")):
        growth = exponent(before, last, name)
        expected = "median <= 1.1"
        note = "1: as the images; 0: not at all"
        made.append(
            row(
                f"{what} grows as images ** x, {grown}",
                [growth],
                unit="x",
                expected=expected,
                note=note,
            )
        )
    for what, name in (("computing", "extract"), ("nothing to compute", "again")):
        peaks = [getattr(one, name).peak / MIB for one in (last, before)]
        made.append(
            row(
                f"driver's peak memory, {last.images} images, {what}",
                peaks[:1],
                unit="MiB",
                expected="ratio <= 1.1",
                beside=f"{before.images} images",
                beside_runs=peaks[1:],
            )
        )
    return [*made, *_on_paper(last)]


def exponent(before: Sized, after: Sized, name: str) -> float:
    """The power of the number of images that seconds grow with."""
    seconds = [min(took.seconds for took in getattr(one, name)) for one in (before, after)]
    return math.log(seconds[1] / seconds[0]) / math.log(after.images / before.images)


def _measured(one: Sized) -> list[Row]:
    def timed(what: str, runs: list[Took], note: str = "") -> Row:
        each = f"{1e6 * min(took.seconds for took in runs) / one.images:.2f} us an image"
        peak = max(took.peak for took in runs) / MIB
        text = f"{each}, peak {peak:.0f} MiB{note}"
        return row(f"{what}, {one.images} images", [took.seconds for took in runs], note=text)

    rate = f"; {one.images_per_second:.0f} images/s"
    return [
        timed("extract", [one.extract], f"{rate}, the images of the line before it reused"),
        timed("extract again, nothing to compute, the whole process", [one.again]),
        timed("list, nothing missing", one.nothing),
        timed("list, 1 % missing", one.some),
        timed("list without the index, which is made", [one.unlisted]),
        timed("assemble", one.assemble),
        row(
            f"the store, {one.images} images",
            [one.kept / MIB],
            unit="MiB",
            note=f"{one.kept / one.images:.0f} bytes an image; index {one.listed / one.images:.1f}; "
            f"tracked file {one.file / one.images:.0f}",
        ),
    ]


def _on_paper(last: Sized) -> list[Row]:
    """The figures of the largest size, multiplied: nothing here was measured."""
    times = PAPER / last.images
    note = f"not measured: {times:.0f} times the figure of {last.images} images"
    figures = {
        "list, nothing missing": (min(took.seconds for took in last.nothing), "s"),
        "list without the index": (last.unlisted.seconds, "s"),
        "assemble": (min(took.seconds for took in last.assemble), "s"),
        "the store": (last.kept / MIB / 1024, "GiB"),
        "its index": (last.listed / MIB / 1024, "GiB"),
        "the tracked file": (last.file / MIB / 1024, "GiB"),
    }
    return [
        row(f"on paper, {PAPER} images: {what}", [times * figure], unit=unit, note=note)
        for what, (figure, unit) in figures.items()
    ]


def _project(folder: Path) -> Project:
    project = make_project(folder / "project")

    def change(params: dict) -> None:
        use_pixels(params)
        params["data"]["path"] = str(folder / "images")

    project.edit(change)
    desks.stage(project, "freeze", BACKBONE)
    return project


def _sized(project: Project, folder: Path, named: dict[str, str], runs: int) -> Sized:
    artifacts, store = project.folder / "artifacts", folder / "store"
    listed = artifacts / "dataset" / "images.parquet"
    _write(listed, named)
    extract = _extract(project, store)
    rate = desks.noted(project, BACKBONE)["images_per_second"]
    again = _extract(project, store)
    if desks.noted(project, BACKBONE)["reused"] != len(named):
        raise RuntimeError("a run with nothing to do computed something")
    more = folder / "more.parquet"
    others = (sha256(f"other {n}".encode()).hexdigest() for n in range(len(named) // 100))
    _write(more, named | dict.fromkeys(others, "none"))
    backbone = artifacts / "backbones" / BACKBONE
    tracked = artifacts / "embeddings" / f"{BACKBONE}.h5"

    def ask(verb: str, images: Path = listed) -> Took:
        return _ask(verb, backbone, store, images, folder / tracked.name)

    nothing, some = ([ask("list", path) for _ in range(runs)] for path in (listed, more))
    if {one.missing for one in some} != {len(named) // 100}:
        raise RuntimeError("what is missing was not found")
    assemble = [ask("assemble") for _ in range(runs)]
    if not filecmp.cmp(folder / tracked.name, tracked, shallow=False):
        raise RuntimeError("assembled again, the file is another")
    sizes = {ending: _bytes(store, ending) for ending in (".h5", index.ENDING)}
    for path in store.glob(f"*/*{index.ENDING}"):
        path.unlink()
    return Sized(
        images=len(named),
        images_per_second=rate,
        extract=extract,
        again=again,
        nothing=nothing,
        some=some,
        unlisted=ask("list"),
        assemble=assemble,
        kept=sizes[".h5"],
        listed=sizes[index.ENDING],
        file=tracked.stat().st_size,
    )


def _write(path: Path, named: dict[str, str]) -> None:
    names = sorted(named)
    paths = tuple(named[name] for name in names)
    size = len(HEADER) + PIXELS
    dataset.write_images(path, Images(dataset.digests(names), paths, (size,) * len(names)))


def _bytes(store: Path, ending: str) -> int:
    return sum(path.stat().st_size for path in store.glob(f"*/*{ending}"))


def _extract(project: Project, store: Path) -> Took:
    """A whole run; its own process's peak, not its children's."""
    begun, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        desks.command(BACKBONE),
        cwd=project.folder,
        env=desks.environment(store),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        while process.poll() is None:
            peak = max(peak, peak_of(process.pid))
            time.sleep(0.02)
        if process.returncode:
            raise RuntimeError(process.stderr.read().decode())
    return Took(time.perf_counter() - begun, peak)


def peak_of(process: int | str) -> float:
    """Bytes of its highest resident set so far; 0 where it has gone."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * float(found[1]) if found else 0.0


def _ask(verb: str, *paths: Path) -> Took:
    command = [sys.executable, "-m", "benchmarks.scale", verb, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Took(**json.loads(done.stdout))


def main(verb: str, backbone: Path, store: Path, listed: Path, out: Path) -> None:
    """List what is missing, or write the tracked file; say what it took."""
    record = frozen.load(backbone)
    begun = time.perf_counter()
    there = Store(store, record.fingerprint)
    there.refresh()
    known = catalog.opened(listed)
    missing = 0
    if verb == "list":
        missing = sum(int(there.missing(some).sum()) for some in known.digests(there.rows_at_once))
    else:
        begun = time.perf_counter()
        blocks = there.blocks(known.digests(there.rows_at_once))
        embeddings.write(out, record, known.digests(), [blocks], rows=known.rows)
    took = {"seconds": time.perf_counter() - begun, "peak": peak_of("self"), "missing": missing}
    print(files.json_text(took))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
