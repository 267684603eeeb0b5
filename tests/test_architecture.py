"""The shape of the code: which way imports point, what a stage depends on, what it may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests import closure
from tests.closure import ROOT

LEVELS = [
    {
        "cgroups",
        "children",
        "durations",
        "errors",
        "files",
        "gpus",
        "names",
        "pace",
        "root",
        "sink",
    },
    {"params"},
    {"catalog", "images", "dataset", "segments", "snapshot", "spectra", "splitting", "taps"},
    {"outputs"},
    {"architectures", "decoding", "frozen"},
    {"backbones"},
    {
        "cluster",
        "hdf5",
        "index",
        "plainness",
        "predictor",
        "probe",
        "runtimes",
        "shards",
        "store",
        "uses",
    },
    {
        "attributes",
        "embeddings",
        "features",
        "formats",
        "heads",
        "metrics",
        "prediction",
        "tuning",
        "vectors",
        "verdicts",
    },
    {"comparison", "finetuned", "tables"},
    {"exports", "interop", "neighbors"},
    {"transfer"},
    {"abstention", "admission", "calibration", "evaluation", "folds", "inspection"},
    {"fitting"},
    {"trials"},
    {"search"},
    {"candidates"},
    {"sharing"},
    {"loaded"},
    {"worker"},
    {"computing"},
    {
        "bundle",
        "changes",
        "curves",
        "extraction",
        "finetuning",
        "preparation",
        "selection",
        "summary",
        "verification",
    },
    {"planning", "ranking", "reporting"},
    {"project"},
    {"transformer"},
    {"cli", "stages"},
]
"""Lowest first; a module imports from its own level or below."""

HOMES = {
    "torch": {
        "pipeline/architectures/",
        "pipeline/backbones/",
        "pipeline/runtimes/torch.py",
        "pipeline/runtimes/streams.py",
        "pipeline/runtimes/compiling.py",
        "pipeline/cli/doctor/trial.py",
        "pipeline/finetuning/",
        "pipeline/interop.py",
        "pipeline/verification.py",
    },
    "timm": {"pipeline/architectures/", "pipeline/backbones/timm.py", "pipeline/finetuning/"},
    "torchvision": {
        "pipeline/architectures/",
        "pipeline/backbones/",
        "pipeline/finetuning/pictures.py",
        "pipeline/finetuning/optimising.py",
        "pipeline/cli/doctor/trial.py",
    },
    "onnx": {
        "pipeline/bundle/",
        "pipeline/architectures/batched.py",
        "pipeline/architectures/ends.py",
        "pipeline/architectures/exported.py",
        "pipeline/architectures/grafted.py",
        "pipeline/architectures/graphs.py",
        "pipeline/backbones/graph.py",
        "pipeline/backbones/last_layer.py",
        "pipeline/backbones/onnx_file.py",
        "pipeline/backbones/onnx_model.py",
        "pipeline/backbones/trial.py",
        "pipeline/cli/doctor/trial.py",
        "pipeline/runtimes/pruning.py",
    },
    "onnxruntime": {
        "pipeline/bundle/proof.py",
        "pipeline/predictor/sessions.py",
        "pipeline/runtimes/onnx.py",
        "pipeline/runtimes/bindings.py",
        "pipeline/runtimes/sessions.py",
        "pipeline/backbones/graph.py",
        "pipeline/backbones/onnx_model.py",
        "pipeline/cli/doctor/trial.py",
    },
    "dask": {"pipeline/cluster/scheduler.py", "pipeline/interop.py"},
    "distributed": set(),
    "faiss": {"pipeline/neighbors/index.py"},
    "h5py": {"pipeline/hdf5.py", "pipeline/plainness.py", "pipeline/cli/doctor/trial.py"},
    "jinja2": {"pipeline/reporting/"},
    "sklearn": {
        "pipeline/bundle/expressions/",
        "pipeline/curves/",
        "pipeline/heads/",
        "pipeline/candidates.py",
        "pipeline/finetuning/folding.py",
        "pipeline/finetuning/start.py",
        "pipeline/fitting.py",
        "pipeline/folds.py",
        "pipeline/trials.py",
        "pipeline/metrics/",
        "pipeline/evaluation/",
        "pipeline/inspection/suspects.py",
        "pipeline/transformer.py",
        "stages/sample.py",
    },
    "imagehash": {"pipeline/inspection/hashes.py"},
    "pandas": {"pipeline/tables.py"},
    "PIL": {
        "pipeline/images/",
        "pipeline/inspection/hashes.py",
        "pipeline/reporting/",
        "pipeline/verification.py",
        "pipeline/cli/doctor/trial.py",
        "stages/sample.py",
    },
}
"""Where a heavy library may be imported."""

SOURCES = sorted(
    str(path.relative_to(ROOT))
    for package in closure.PACKAGES
    for path in (ROOT / package).rglob("*.py")
)
STAGES = sorted(
    path.stem for path in (ROOT / "stages").glob("*.py") if not path.stem.startswith("_")
)


def dvc_stages() -> dict:
    return YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


def part_of(module: str) -> str:
    names = module.split(".")
    return "stages" if names[0] == "stages" else names[1] if len(names) > 1 else ""


def level(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


def outside_imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports when it runs, also inside functions."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_imports__point_one_way(source):
    module = source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for imported in closure.imported(ROOT / source):
        if part_of(module) and part_of(imported):
            assert level(part_of(imported)) <= level(part_of(module)), f"{module} -> {imported}"


def test_imports__have_no_cycle_between_modules():
    graph = {
        source: {
            str(closure.module_file(name).relative_to(ROOT))
            for name in sorted(closure.imported(ROOT / source))
        }
        for source in SOURCES
    }
    done: set[str] = set()

    def visit(source: str, above: tuple[str, ...]) -> None:
        round_trip = above[above.index(source) :] if source in above else ()
        if round_trip and not any(name.endswith("__init__.py") for name in round_trip):
            raise AssertionError(" -> ".join((*above, source)))
        if source in done or source in above:
            return
        for imported in graph[source]:
            visit(imported, (*above, source))
        done.add(source)

    for source in SOURCES:
        visit(source, ())


@pytest.mark.parametrize("source", SOURCES)
def test_heavy_libraries__live_in_few_places(source):
    for library in outside_imports(ROOT / source) & set(HOMES):
        homes = HOMES[library]
        assert any(
            source == home or (home[-1] == "/" and source.startswith(home)) for home in homes
        ), f"{source} imports {library}"


def test_pipeline_package__imports_nothing():
    assert not outside_imports(ROOT / "pipeline" / "__init__.py")


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml__code_deps_are_the_import_closure(stage):
    body = dvc_stages()[stage]
    body = body.get("do", body)
    listed = [dep for dep in body["deps"] if closure.is_code(dep)]
    assert listed == closure.code_deps(stage), "run 'make deps'"


def test_dvc_yaml__has_a_stage_a_module_and_runs_it():
    stages = dvc_stages()
    assert sorted(stages) == STAGES
    for name, body in stages.items():
        assert body.get("do", body)["cmd"].startswith(f"python -m stages.{name}")


def test_dvc_yaml__tracks_no_mechanics():
    for body in dvc_stages().values():
        for key in body.get("do", body).get("params", []):
            assert not key.startswith(("execution", "data.path"))


def test_closure__sees_imports_inside_functions():
    assert "pipeline/runtimes/onnx.py" in closure.closure("stages.extract")


def test_closure__heads_are_no_dep_of_extract():
    assert "pipeline/heads/__init__.py" not in closure.closure("stages.extract")


def loaded_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    ("stage", "banned"),
    [
        ("train", {"torch", "onnxruntime", "dask", "distributed", "timm", "jinja2"}),
        ("extract", {"torch", "sklearn", "dask", "distributed", "timm", "scipy"}),
        ("prepare", {"torch", "onnxruntime", "sklearn", "dask", "distributed", "h5py", "scipy"}),
        ("inspect", {"torch", "onnxruntime", "dask", "distributed", "timm", "jinja2"}),
        ("report", {"torch", "onnxruntime", "sklearn", "dask", "distributed", "scipy"}),
        ("curve", {"torch", "onnxruntime", "dask", "distributed", "timm", "jinja2"}),
        ("evaluate", {"torch", "onnxruntime", "dask", "distributed", "timm"}),
        ("bundle", {"torch", "dask", "distributed", "timm", "jinja2"}),
    ],
)
def test_import_budget(stage, banned):
    assert not loaded_by(f"stages.{stage}") & banned


def test_import_budget__of_the_command():
    assert not loaded_by("pipeline.cli") & {"torch", "onnxruntime", "sklearn", "dask", "pyarrow"}


def test_import_budget__predict__needs_onnxruntime_numpy_and_pillow_alone():
    script = (
        "import pipeline.cli.predict, pipeline.predictor.stream; print(*set(sys.modules) - known)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; known = set(sys.modules); {script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    foreign = {
        name.split(".")[0]
        for name in done.stdout.split()
        if name.split(".")[0] not in sys.stdlib_module_names
    }
    own = {"pipeline", "numpy", "PIL", "onnxruntime"}
    assert {name for name in foreign if not name.startswith("_")} == own


@pytest.mark.parametrize("stage", STAGES)
def test_stages__hold_no_logic(stage):
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    main = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
    assert not any(
        isinstance(node, ast.If | ast.For | ast.While | ast.Try) for node in ast.walk(main)
    )
    assert main.end_lineno - main.lineno < 30


def test_functions__are_short():
    lengths = [
        (node.end_lineno - node.lineno + 1, f"{source}:{node.name}")
        for source in SOURCES
        for node in ast.walk(ast.parse((ROOT / source).read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    lengths.sort()
    assert lengths[-1][0] <= 50, lengths[-1]
    assert lengths[int(len(lengths) * 0.95)][0] < 30, lengths[-10:]
