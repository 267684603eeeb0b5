"""The docs say what is there, and their commands run."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS
from pipeline import backbones, cli, formats, heads, metrics, ranking, runtimes
from pipeline.params import DataParams, ExecutionParams, HeadParams, Params, SplitParams
from tests.conftest import ROOT
from tests.doc_blocks import blocks
from tests.docs_desk import Reader
from tests.docs_projects import SETTINGS, Library
from tests.test_architecture import STAGES

DOCS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
EVERYTHING = "\n".join(DOCS.values())
DECISIONS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted((ROOT / "docs/decisions").glob("*.md"))
}
BLOCKS = {page: blocks(page, text) for page, text in (DOCS | DECISIONS).items()}

ELSEWHERE = {
    (
        "docs/benchmarks.md",
        "PYTHONPATH=. python -m benchmarks.gpu",
    ): "minutes, and a GPU; tests/test_gpu_benchmark.py runs it small",
    (
        "docs/predict.md",
        "#include <onnxruntime_cxx_api.h>",
    ): "onnxruntime's header for C++ is in no package for Python",
}
"""Blocks that no reader of these tests can type, by page and first line, and why."""


@pytest.mark.parametrize(
    "name",
    [
        *heads.HEADS, *backbones.SOURCES, *formats.FORMATS, *runtimes.RUNTIMES, *STAGES,
        *ranking.SCORES,
        *DataParams.model_fields, *SplitParams.model_fields, *ExecutionParams.model_fields,
        *HeadParams.model_fields, *Params.model_fields,
    ],
)  # fmt: skip
def test_docs__mention_every_entry_stage_and_key(name):
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`|^## .*\b{name}\b", EVERYTHING, re.MULTILINE)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_docs__mention_every_metric(name):
    assert name.replace("_", " ") in EVERYTHING.lower() or f"`{name}`" in EVERYTHING


def test_docs__mention_every_subcommand():
    listed = re.findall(r"^    (\w+)\b", cli.parser().format_help(), re.MULTILINE)
    assert {"check", "results", "embeddings"} <= set(listed)
    for name in listed:
        assert f"headstart {name}" in EVERYTHING


def reason_codes() -> set[str]:
    """The reason in each call of `ImageError`, `Problem` and `.problem`, and `reason`'s answers."""
    place = {"ImageError": 0, "problem": 0, "Problem": 2}
    found = set()
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", None))
                wanted = place.get(name)
                if wanted is not None and len(node.args) > wanted:
                    found |= texts(node.args[wanted])
            if isinstance(node, ast.FunctionDef) and node.name == "reason":
                returned = [n.value for n in ast.walk(node) if isinstance(n, ast.Return)]
                found |= {code for pair in returned for code in texts(pair.elts[0])}
    return found


def texts(node: ast.expr) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def test_docs__table_of_reasons__has_every_code_and_no_other():
    rows = DOCS["docs/images.md"].split("## Reasons")[1]
    listed = set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE))
    assert {"empty", "truncated", "changed", "conflicting_labels", "outside_root"} <= listed
    assert reason_codes() == listed


def test_docs__links_to_files_lead_somewhere():
    for name, text in DOCS.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_readme__maps_every_folder():
    folders = {
        path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")
    } - {"build", "dist", "dvc_plots"}
    for folder in folders:
        if not folder.endswith(".egg-info") and not folder.startswith("__"):
            assert f"{folder}/" in DOCS["README.md"], folder


def test_makefile__every_verb_has_a_line_of_help():
    help_text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for verb in ("repro", "test", "test-all", "check", "bench", "deps"):
        assert re.search(rf"^{verb} ", help_text, re.MULTILINE)


def test_pyproject__names_every_package():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in ("pipeline", "stages")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(named) == there


def pages(*, slow: bool) -> list[str]:
    """Pages that have a block of that kind."""
    return [page for page, found in BLOCKS.items() if any(one.slow == slow for one in found)]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Library:
    return Library(tmp_path_factory.mktemp("settings"))


def read(page: str, library: Library, folder: Path, *, slow: bool) -> None:
    """Type what a page says."""
    reader = Reader(library, folder)
    for block in BLOCKS[page]:
        if (page, block.first) not in ELSEWHERE and (slow or not block.slow):
            reader.read(block)


@pytest.mark.parametrize("page", pages(slow=False))
def test_docs__blocks_of_a_page__do_what_they_say(page, library, tmp_path):
    read(page, library, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(slow=True))
def test_docs__slow_blocks_of_a_page__do_what_they_say(page, library, tmp_path):
    read(page, library, tmp_path, slow=True)


def test_docs__blocks_run_elsewhere__are_still_there():
    there = {(block.page, block.first) for found in BLOCKS.values() for block in found}
    assert ELSEWHERE.keys() <= there


def test_docs__settings__are_each_asked_for():
    asked = {block.attributes.get("in", "ran") for found in BLOCKS.values() for block in found}
    assert asked == SETTINGS.keys()


def test_docs__parts_of_the_benchmarks__exist():
    named = re.findall(r"make bench PARTS=\"?([\w ]+)", EVERYTHING)
    assert named
    assert {part for parts in named for part in parts.split()} <= PARTS.keys()
