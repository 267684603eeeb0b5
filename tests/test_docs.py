"""The docs say what is there, and their commands run."""

import ast
import re
import shlex
import subprocess
import tomllib

import pytest

from pipeline import backbones, cli, formats, heads, metrics, ranking, runtimes
from pipeline.params import DataParams, ExecutionParams, HeadParams, Params, SplitParams
from tests.conftest import ROOT, make_photos, make_project, use_pixels
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


def commands() -> list[str]:
    """Lines after `$ ` in console blocks, each once, in the order of the docs."""
    blocks = re.findall(r"```console\n(.*?)```", EVERYTHING, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(line[2:] for line in lines if line.startswith("$ ")))


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


def test_readme__commands_run(tmp_path):
    """Every command in a console block; `make` verbs are asked what they would do."""
    project = make_project(tmp_path / "project")
    make_photos(project.folder / "photos")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (project.folder / name).write_text((ROOT / name).read_text())

    def change(params):
        use_pixels(params)
        params["backbones"]["efficientnet_lite0"] = params["backbones"]["raw"]
        params["run"]["backbones"] = ["efficientnet_lite0"]  # the name that the docs use
        params["data"]["path"] = "photos"

    project.edit(change)
    project.repro()
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "run"]):
        assert project.run(*command).code == 0
    listed = commands()
    assert len(listed) >= 8
    for command in listed:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            done = project.run("make", "-n", *words[1:])
        elif words[0] in ("cd", "git", "source", "."):
            continue  # fetching the repository and entering the environment
        elif words[:2] == ["dvc", "exp"]:
            continue  # test_pipeline.py sweeps and queues, at length
        else:
            done = project.run("bash", "-c", command)
        assert done.code == 0, f"{command}: {done.text}"
