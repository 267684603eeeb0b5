"""Measure, side by side: `python -m benchmarks [PART ...]` writes results.json and results.md.

A part's rows replace those it had; the others stay. --quick tries the code and writes nothing.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import (
    extraction,
    heads,
    images,
    incremental,
    machine,
    memory,
    models,
    pipeline_overhead,
    predict,
    reading,
    rivals,
    scale,
    table,
    workers,
)
from benchmarks.desk import FULL, QUICK, Desk
from benchmarks.table import Row
from pipeline import files

HERE = Path(__file__).parent
PARTS: dict[str, Callable[[Desk], list[Row]]] = {
    "overhead": pipeline_overhead.measure,
    "extraction": extraction.measure,
    "peers": rivals.measure,
    "incremental": incremental.measure,
    "predict": predict.measure,
    "reading": reading.measure,
    "memory": memory.measure,
    "heads": heads.measure,
    "scale": scale.measure,
    "workers": workers.measure,
    "models": models.measure,
}
ONLY_ASKED = ("models",)
"""Hours, and no speed: measured where it is named."""

SHOWN = ("onnxruntime-gpu", "onnxruntime", "pillow", "numpy", "scikit-learn", "torch", "dvc")
"""Packages whose versions stand with the results."""


def main() -> None:
    """Measure in a temporary folder; the results go beside this file, part by part."""
    parser = _parser()
    given = parser.parse_args()
    if unknown := sorted(set(given.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; choose of {', '.join(PARTS)}")
    with TemporaryDirectory(prefix="headstart-bench-") as folder:
        desk = Desk(Path(folder), QUICK if given.quick else FULL, given.photos)
        for name in given.parts or [part for part in PARTS if part not in ONLY_ASKED]:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            begun = time.perf_counter()
            rows = PARTS[name](desk)
            part = {"machine": _machine(time.perf_counter() - begun), "rows": rows}
            print(table.page({name: part}), flush=True)
            if not given.quick:
                _keep(name, part)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"all but models, or of {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few images, few runs, no results kept"
    )
    parser.add_argument(
        "--photos",
        type=Path,
        default=images.source(),
        help="folder of JPEG photos to begin with (HEADSTART_BENCH_PHOTOS, or generated ones)",
    )
    return parser


def _keep(name: str, part: dict[str, Any]) -> None:
    path = HERE / "results.json"
    parts = json.loads(path.read_bytes()) if path.exists() else {}
    parts[name] = part
    files.write_json(path, parts)
    ordered = {part: parts[part] for part in PARTS if part in parts}
    files.write_bytes(HERE / "results.md", table.page(ordered).encode())


def _machine(seconds: float) -> dict[str, Any]:
    python, found = platform.python_version(), machine.versions(SHOWN)
    return {**machine.about(), "python": python, "versions": found, "seconds": seconds}


if __name__ == "__main__":
    main()
