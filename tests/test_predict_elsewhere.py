"""A bundle where training's libraries are not: a bare Python, JavaScript, C++; and docs/predict.md as it stands."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import predictor
from pipeline.images import preprocess
from tests import bundle_files
from tests.conftest import ROOT, draw, make_project
from tests.frozen_fixtures import lite0  # noqa: F401 - a fixture

PAGE = (ROOT / "docs" / "predict.md").read_text()
BARE = ("numpy", "pillow")


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def run(*command, cwd: Path, env=None, patience=600) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False,
        timeout=patience,
    )  # fmt: skip


@pytest.fixture
def desk(tmp_path) -> Path:
    """A project's folder with a bundle, and the photos that docs/predict.md names."""
    (tmp_path / "params.yaml").touch()
    bundle_files.tiny(tmp_path / "artifacts" / "model")
    for name in ("photo.jpg", "new/1.jpg", "new/2.jpg", "more/1.png", "archive/a/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        draw(len(name), 1).save(tmp_path / name)
    shutil.copy(tmp_path / "artifacts/model/model.onnx", tmp_path / "model.onnx")
    return tmp_path


def test_page__commands__run_as_they_stand(desk):
    command = f"{sys.executable} -c 'from pipeline.cli import main; main()'"
    lines = [line for line in block("sh").splitlines() if line]
    assert len(lines) >= 4
    for line in lines:
        real = line.replace("headstart", command)
        done = run(
            "bash", "-ec", real, cwd=desk, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        )
        assert (done.returncode, done.stderr) == (0, ""), line
    assert (desk / "labels.csv").read_text().startswith("path,label,probability,label_1,")


def test_page__python__runs_as_it_stands(desk):
    done = run(sys.executable, "-c", block("python"), cwd=desk, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Prediction(") == 2


def test_page__options__are_those_of_the_command():
    from pipeline import cli

    commands = cli.parser()._subparsers._group_actions[0].choices
    options = {word for word in commands["predict"]._option_string_actions if word.startswith("--")}
    for option in options - {"--help"}:
        assert option in PAGE, option


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(24):
        draw(number, number % 4, (300, 260)).save(folder / f"{number:02d}.png")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory, lite0) -> Path:  # noqa: F811
    """A bundle of EfficientNet-Lite0 and a linear head."""
    return bundle_files.of_frozen(lite0, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The folder of an environment with this project, onnxruntime, numpy and Pillow, and no more."""
    folder = tmp_path_factory.mktemp("bare")
    source = folder / "source"
    source.mkdir()
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    pip = [folder / "env/bin/python", "-m", "pip", "install", "-q", "--no-deps"]
    pinned = [f"{name}=={version(name)}" for name in BARE]
    for wanted in ([*pinned, "onnxruntime"], [source]):
        done = run(*pip, *wanted, cwd=folder)
        if done.returncode:
            pytest.skip(f"no package index here: {done.stderr.strip().splitlines()[-1][:120]}")
    return folder / "env"


@pytest.mark.slow
def test_predict__onnxruntime_numpy_and_pillow_alone__give_the_same(bare, real, photos, tmp_path):
    listed = run(bare / "bin/python", "-m", "pip", "list", "--format", "json", cwd=tmp_path)
    names = {one["name"].lower() for one in json.loads(listed.stdout)}
    assert names - {"pip", "setuptools"} == {"headstart", "numpy", "onnxruntime", "pillow"}
    command = ["predict", "--model", real, "--format", "jsonl", "--probabilities", photos]
    done = run(bare / "bin/headstart", *command, cwd=tmp_path, env={})
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows.pop()["error"] == "not_an_image"
    predict = predictor.open(real)
    for row in rows:
        found = predict(row["path"])
        assert row["label"] == found.label
        told = np.float32(list(row["probabilities"].values()))
        assert np.abs(told - found.probabilities).max() <= 1e-5
    again = run(bare / "bin/headstart", "predict", "--help", cwd=tmp_path, env={})
    assert again.returncode == 0


@pytest.mark.slow
def test_predict__without_pyarrow__parquet_is_one_line(bare, real, photos, tmp_path):
    command = ["predict", "--model", real, "--output", "out.parquet", photos]
    done = run(bare / "bin/headstart", *command, cwd=tmp_path, env={})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install pyarrow" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "most"), [("onnxruntime-node", 1e-5), ("onnxruntime-web", 1e-4)]
)
def test_bundle__in_javascript__gives_the_same_of_the_same_pixels(
    real, photos, tmp_path, package, most
):
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm here")
    (tmp_path / "package.json").write_text('{"private": true}')
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", package]
    done = run(*words, cwd=tmp_path)
    if done.returncode:
        pytest.skip(f"no npm registry here: {done.stderr.strip().splitlines()[-1][:120]}")
    predict = predictor.open(real)
    recipe = predict.bundle.preprocessing
    pixels = np.stack([preprocess(path.read_bytes(), recipe) for path in photos.glob("*.png")])
    (tmp_path / "pixels.bin").write_bytes(pixels.tobytes())
    for path in (real, real.with_name("model.json")):
        shutil.copy(path, tmp_path)
    (tmp_path / "go.mjs").write_text(block("js").replace("onnxruntime-node", package))
    done = run("node", "go.mjs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told, known = json.loads(done.stdout.splitlines()[-1]), predict.run(pixels)
    assert told["labels"] == [one.label for one in known]
    there = np.float32(told["probabilities"]).reshape(len(pixels), -1)
    assert np.abs(there - np.stack([one.probabilities for one in known])).max() <= most


def test_page__cpp__compiles_and_gives_the_same(desk, tmp_path):
    header = next(
        (
            path
            for folder in ("/usr/include", "/usr/local/include", "/opt/onnxruntime/include")
            for path in Path(folder).glob("**/onnxruntime_cxx_api.h")
        ),
        None,
    )
    if header is None or shutil.which("g++") is None:
        pytest.skip("no onnxruntime_cxx_api.h or no g++ here")
    (tmp_path / "go.cpp").write_text(block("cpp"))
    built = run(
        "g++", "-std=c++17", "go.cpp", "-o", "go", f"-I{header.parent}", "-lonnxruntime",
        cwd=tmp_path,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    predict = predictor.open(desk / "model.onnx")
    pixels = preprocess((desk / "photo.jpg").read_bytes(), predict.bundle.preprocessing)
    (tmp_path / "pixels.bin").write_bytes(pixels.tobytes())
    done = run("./go", desk / "model.onnx", "pixels.bin", bundle_files.CROP, cwd=tmp_path)
    assert predict.classes[int(done.stdout)] == predict(desk / "photo.jpg").label


@pytest.mark.slow
def test_predict__ants_and_bees__says_what_evaluate_says(tmp_path, shared_data):
    photos, backbone = shared_data / "ants_bees", "efficientnet_lite0"
    project = make_project(tmp_path / "project")

    def change(params):
        params["data"]["path"] = str(photos)
        params["run"] = {"backbones": [backbone], "heads": ["logistic"]}

    project.edit(change)
    trained = ("train", backbone, "logistic")
    for stage in (
        ("prepare",),
        ("freeze", backbone),
        ("extract", backbone),
        trained,
        ("evaluate",),
    ):
        done = project.stage(*stage)
        assert done.code == 0, done.text
    artifacts = project.folder / "artifacts"
    frozen, head = artifacts / "backbones" / backbone, artifacts / "heads" / backbone
    bundle_files.of_logistic(frozen, head / "logistic.joblib", artifacts / "model")
    rows = pq.read_table(artifacts / "evaluation" / "predictions.parquet").to_pylist()
    tested = {str(photos / row["path"]): row for row in rows if row["split"] == "test"}
    (project.folder / "list").write_text("\n".join(tested))
    done = project.headstart("predict", "--files-from", "list", "--device", "cpu")
    assert done.code == 0, done.err
    told = [json.loads(line) for line in done.out.splitlines()]
    assert len(told) == len(tested) == 153
    for row in told:
        known = tested[row["path"]]
        assert row["label"] == known["prediction"]
        assert abs(row["probability"] - known["probability"]) <= 1e-5
