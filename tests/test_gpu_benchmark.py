"""The GPU machine's benchmark: runs where little is installed, and tells what it could not see."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from benchmarks.gpu import measured
from benchmarks.gpu.measured import TOLERANCE, Execution
from benchmarks.gpu.page import page, ratios
from pipeline import frozen
from pipeline.params import ExecutionParams
from tests.conftest import ROOT

NOT_THERE = ("pydantic", "ruamel", "dvc", "dask", "distributed")

BLOCKING = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_THERE}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""

ROW = {
    "backbone": "b",
    "runtime": "torch",
    "precision": "float32",
    "batch": 128,
    "forward alone": 1000.0,
    "decode alone": 500.0,
    "end to end": 450.0,
    "within": True,
    "verdict": "decode-bound: so it is",
}
MACHINE = {
    "date": "2026-01-01",
    "device": "no GPU",
    "cpu": "x",
    "cores": 2,
    "versions": {"torch": "2"},
    "seconds": 1.0,
}


def run(folder, *arguments: str) -> subprocess.CompletedProcess:
    """The benchmark, in this process's Python without what the GPU machine has not."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(BLOCKING)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "precisions",
    [("bfloat16",), pytest.param(tuple(TOLERANCE), marks=pytest.mark.slow)],
    ids="+".join,
)
def test_gpu__quick_on_the_cpu_without_pydantic_dvc_or_dask__measures_all(tmp_path, precisions):
    out = tmp_path / "gpu.json"
    told = ["--precisions", *precisions, "--images", "32", "--out", str(out)]
    done = run(tmp_path, "--device", "cpu", "--quick", *told)
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_bytes())
    names = [(row["runtime"], row["precision"]) for row in results["rows"]]
    assert names[: len(precisions)] == [("torch", precision) for precision in precisions]
    assert names[len(precisions) :] == [("onnx", "float32")] * ("float32" in precisions)
    for row in results["rows"]:
        assert "error" not in row
        assert row["images"] == 32
        assert row["end to end"] > 0
        assert row["/ slower of the two"] >= row["/ forward"] > 0
        assert row["within"] is True  # the same CPU that froze it
        assert ": " in row["verdict"]
    shown = out.with_suffix(".md").read_text()
    assert shown.strip() == done.stdout.strip()
    assert "what is meant for one was not seen to run" in shown
    assert results["machine"]["versions"]["torch"]


@pytest.mark.skipif("os.path.exists('/dev/nvidia0')", reason="there is a GPU")
def test_gpu__no_gpu__says_so_at_once(tmp_path):
    done = run(tmp_path, "--quick")
    assert done.returncode == 2
    assert "torch sees no GPU here; --device cpu" in done.stderr


def test_execution__keys__are_those_of_params_yaml():
    ours, real = asdict(Execution("auto")), ExecutionParams().model_dump()
    assert ours.keys() == real.keys()
    assert {key for key in ours if ours[key] != real[key]} == {"workers", "store"}


def test_lenient__afterwards__tolerance_is_as_it_was():
    with measured.lenient():
        assert frozen.TOLERANCE["float32"][1] > 1e9
    assert frozen.TOLERANCE == TOLERANCE
    assert TOLERANCE["float32"] == (0.9999, 1e-3)


def test_page__row__has_its_ratios_and_a_failed_one_its_reason():
    failed = {**dict(list(ROW.items())[:3]), "precision": "float16", "error": "no memory | none"}
    rows = [{**ROW, **ratios(ROW)}, failed]
    shown = page({"machine": MACHINE, "notes": ["a note"], "rows": rows})
    assert ratios(ROW) == {"/ forward": 0.45, "/ slower of the two": 0.9}
    cells = [line.count(" | ") for line in shown.splitlines() if line.startswith("| ")]
    assert len(set(cells)) == 1
    assert "* b, torch, float32: decode-bound: so it is" in shown
    assert "* b, torch, float16: no memory | none" in shown
    assert "* a note" in shown
