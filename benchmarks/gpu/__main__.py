"""Measure on a GPU: `python -m benchmarks.gpu` writes gpu-results.json and .md beside this folder.

Needs torch, torchvision, timm and what decodes and stores; no DVC, Dask, pydantic or network. From
a bare checkout, in its root: PYTHONPATH=. python -m benchmarks.gpu. --quick tries the code on
tiny models and keeps nothing, unless --out says where. See docs/benchmarks.md.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import machine
from benchmarks.gpu import measured
from benchmarks.gpu.measured import Bench
from benchmarks.gpu.page import page, ratios
from benchmarks.gpu.subjects import FULL, QUICK, Subject, freeze
from pipeline import files, frozen
from pipeline.errors import HeadstartError

OUT = Path(__file__).parents[1] / "gpu-results.json"
SHOWN = ("torch", "torchvision", "timm", "onnxruntime", "onnxruntime-gpu", "pillow", "numpy")
COMPILING = 75.0
"""Seconds that compiling a backbone may take; without them left, none is begun."""


def main() -> None:
    """Measure row by row; what is there when time is up is written."""
    parser = _parser()
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu tries the code without one")
    begun = time.monotonic()
    deadline = begun + 60 * given.minutes
    with TemporaryDirectory(prefix="headstart-gpu-") as folder, measured.lenient():
        bench, subjects = _prepared(given, Path(folder))
        decode: dict[int, float] = {}
        rows = [_row(bench, subject, decode, deadline) for subject in subjects]
        if given.device == "cuda":
            _compile(bench, rows, subjects, deadline)
    results = {
        "machine": {**_machine(given.device), "seconds": time.monotonic() - begun},
        "notes": _notes(given.device, given.photos),
        "rows": rows,
    }
    print(page(results), flush=True)
    out = given.out or (None if given.quick else OUT)
    if out is not None:
        files.write_json(out, results)
        files.write_bytes(out.with_suffix(".md"), page(results).encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny models, few images")
    every = tuple(measured.TOLERANCE)
    parser.add_argument("--precisions", nargs="+", choices=every, default=every)
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos to begin with")
    parser.add_argument("--images", type=int, help="photos to embed at most, 20,000 unless told")
    parser.add_argument(
        "--minutes", type=float, default=7.0, help="what is not begun by then is not"
    )
    parser.add_argument("--out", type=Path, help=f"{OUT.name} unless told; a .md goes beside it")
    return parser


def _prepared(given: argparse.Namespace, folder: Path) -> tuple[Bench, list[Subject]]:
    """Photos written and backbones frozen."""
    cores = len(os.sched_getaffinity(0))
    _say("writing photos ...")
    count = given.images or (48 if given.quick else 20_000)
    photos = measured.write_photos(folder, count, given.photos)
    bench = Bench(folder, photos, given.device, cores, 0.1 if given.quick else 3.0)
    subjects = [
        replace(subject, precision=precision)
        for subject in (QUICK if given.quick else FULL)
        for precision in given.precisions
    ]
    if _onnx_runs_on(given.device):
        exact = [subject for subject in subjects if subject.precision == "float32"]
        subjects += [replace(subject, runtime="onnx") for subject in exact]
    _say("freezing backbones with random weights ...")
    freeze(subjects, folder / "backbones", threads=cores)
    return bench, subjects


def _onnx_runs_on(device: str) -> bool:
    """Whether onnxruntime is here, with a provider for the device."""
    try:
        import onnxruntime
    except ImportError:
        return False
    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    return wanted in onnxruntime.get_available_providers()


def _row(
    bench: Bench, subject: Subject, decode: dict[int, float], deadline: float
) -> dict[str, Any]:
    """All figures of one backbone. decode: images a second by crop, measured once each."""
    row: dict[str, Any] = {
        "backbone": subject.title,
        "runtime": subject.runtime,
        "precision": subject.precision,
    }
    if time.monotonic() > deadline:
        return {**row, "error": "not measured: time was up"}
    _say(f"measuring {subject.name} ...")
    try:
        return {**row, **_figures(bench, subject, decode)}
    except (HeadstartError, torch.cuda.OutOfMemoryError) as error:
        return {**row, "error": " ".join(str(error).split())}
    finally:
        if bench.device == "cuda":
            torch.cuda.empty_cache()


def _figures(bench: Bench, subject: Subject, decode: dict[int, float]) -> dict[str, Any]:
    backbone = frozen.load(bench.folder / "backbones" / subject.name)
    found = measured.tuned(bench, backbone)
    row: dict[str, Any] = {"batch": found.setting.batch_size}
    drift = measured.parity(found, backbone)
    row |= {"parity: cosine": drift["cosine"], "max d / RMS": drift["relative"]}
    row["within"] = drift["within"]
    if subject.runtime == "torch":
        row["device alone"] = measured.on_the_device(found, subject.crop)
    row["forward alone"] = measured.forward_alone(bench, found, subject.crop)
    del found  # the run loads its own
    if subject.crop not in decode:
        decode[subject.crop] = measured.decode_alone(bench, backbone)
    row["decode alone"] = decode[subject.crop]
    slower = min(row["forward alone"], row["decode alone"])
    count = min(len(bench.photos), max(2000, int(2.5 * bench.seconds * slower)))
    run = measured.end_to_end(bench, backbone, count)
    row |= {"end to end": run["images_per_second"], "images": run["images"]}
    row |= {"verdict": run["verdict"], "phases": run["phases"]}
    return row | ratios(row)


def _compile(
    bench: Bench, rows: Sequence[dict[str, Any]], subjects: Sequence[Subject], deadline: float
) -> None:
    """Add what compiling would bring to the rows for which there is time, shorter floats first."""
    pairs = sorted(
        zip(rows, subjects, strict=True), key=lambda pair: pair[1].precision == "float32"
    )
    for row, subject in pairs:
        if "device alone" not in row or time.monotonic() + COMPILING > deadline:
            continue
        _say(f"compiling {subject.name} ...")
        backbone = frozen.load(bench.folder / "backbones" / subject.name)
        found = measured.tuned(bench, backbone)
        begun = time.monotonic()
        try:
            fast = measured.on_the_device(found, subject.crop, compiled=True)
        except Exception as error:  # compilers fail in many ways; the rest stands
            row["compiling failed"] = " ".join(str(error).split())[:300]
            continue
        row["compiled / eager"] = fast / row["device alone"]
        row["compile seconds"] = time.monotonic() - begun


def _notes(device: str, photos: Path | None) -> list[str]:
    """What one must know to read the rows."""
    notes = [
        "weights are random; photos are "
        + (f"from {photos.name}" if photos else "made, from seeds")
        + ", JPEG, read from the page cache",
        "no drift stopped a row; `within` is what the product would say",
    ]
    if device == "cuda" and not _onnx_runs_on("cuda"):
        notes.append(
            "onnxruntime has no CUDA provider here: the figures are the torch runtime's, and "
            "IOBinding was not seen to run"
        )
    if device == "cpu":
        notes.append("no GPU: what is meant for one was not seen to run")
    return notes


def _machine(device: str) -> dict[str, Any]:
    named = "no GPU"
    if device == "cuda":
        count = torch.cuda.device_count()
        named = f"{count} x {torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
    found = {"Python": platform.python_version(), **machine.versions(SHOWN)}
    return {**machine.about(), "device": named, "versions": found}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
