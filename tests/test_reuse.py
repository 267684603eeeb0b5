"""Another repository uses what this one embedded: by DVC's remote, its API, and the store."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project, make_pixel_project

TRAIN = """\
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import embeddings

cached = embeddings.open(Path("raw.h5"))
labels = pq.read_table("labels.parquet").to_pandas()
rows = cached.rows(labels["sha256"].to_numpy().astype("S64"))
X, y = cached.take(rows), labels["label"].to_numpy()
seen, test = labels["split"] != "test", labels["split"] == "test"
order = np.argsort(labels["sha256"][seen].to_numpy(), kind="stable")
model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-4, max_iter=1000))
model.fit(X[seen][order], y[seen][order])
accuracy = float((model.predict(X[test]) == y[test]).mean())
Path("metrics.json").write_text(json.dumps({"accuracy": accuracy}))
"""

DVC_YAML = """\
stages:
  train:
    cmd: python train.py
    deps: [train.py, raw.h5, labels.parquet]
    metrics: [metrics.json]
"""

READ = """\
import hashlib, sys
import dvc.api
from dvc.api import DVCFileSystem
path, repo, rev = sys.argv[1:]
with dvc.api.open(path, repo=repo, rev=rev, mode="rb") as file:
    print(hashlib.sha256(file.read()).hexdigest())
DVCFileSystem(repo, rev=rev).get_file(path, "fetched.h5")
"""


def ok(project: Project, *command: object, **options) -> str:
    """Run a command that must succeed; its output."""
    done = project.run(*map(str, command), **options)
    assert done.code == 0, f"{command}: {done.text}"
    return done.text


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Project:
    """A finished project whose photos and artifacts are in a remote of its own, tagged v1."""
    base = tmp_path_factory.mktemp("reuse")
    project = make_pixel_project(base / "first")
    ok(project, "dvc", "add", "-q", "photos")
    project.repro()
    ok(project, "dvc", "remote", "add", "-q", "-d", "team", base / "remote")
    ok(project, "git", "add", "-A")
    ok(project, "git", "commit", "-qm", "a finished run")
    ok(project, "git", "tag", "v1")
    ok(project, "dvc", "push", "-q")
    return project


@pytest.fixture
def second(tmp_path) -> Project:
    """An empty git and DVC repository."""
    project = Project(tmp_path / "second")
    project.folder.mkdir()
    ok(project, "git", "init", "-q")
    ok(project, "git", "config", "user.email", "tests@example.com")
    ok(project, "git", "config", "user.name", "tests")
    ok(project, "dvc", "init", "-q")
    return project


def contents(folder: Path) -> dict[str, str]:
    """The digest of every artifact that DVC tracks."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "artifacts").rglob("*"))
        if path.is_file() and not {"runs", ".store"} & set(path.relative_to(folder).parts)
    }


def test_clone_and_pull__bring_everything_back(first, tmp_path):
    clone = Project(tmp_path / "clone")
    ok(first, "git", "clone", "-q", first.folder, clone.folder)
    ok(clone, "dvc", "pull", "-q")
    assert contents(clone.folder) == contents(first.folder)
    verified = clone.headstart("embeddings", "verify", "artifacts/embeddings/raw.h5")
    assert verified.code == 0, verified.text
    assert verified.out.endswith(": ok\n")
    assert clone.repro() == []


def test_second_repository__imports__trains__and_gets_the_same_accuracy(first, second):
    for name in ("embeddings/raw.h5", "dataset/labels.parquet"):
        ok(second, "dvc", "import", "-q", first.folder, f"artifacts/{name}", "--rev", "v1")
    (second.folder / "train.py").write_text(TRAIN)
    (second.folder / "dvc.yaml").write_text(DVC_YAML)
    ok(second, "dvc", "repro", env={"PYTHONPATH": str(ROOT)})
    theirs = first.json("evaluation/metrics.json")["raw"]["logistic"]["test"]
    ours = json.loads((second.folder / "metrics.json").read_text())
    assert theirs["n"] >= 6
    assert ours["accuracy"] == theirs["accuracy"]
    assert "up to date" in ok(second, "dvc", "repro", env={"PYTHONPATH": str(ROOT)})


def test_import__update__brings_the_new_revision(first, second, tmp_path):
    source = Project(tmp_path / "source")
    shutil.copytree(first.folder, source.folder, symlinks=True)
    ok(second, "dvc", "import", "-q", source.folder, "artifacts/embeddings/raw.h5")
    before = (second.folder / "raw.h5").read_bytes()
    shutil.copy(source.folder / "photos/cat/000.png", source.folder / "photos/cat/again.png")
    with (source.folder / "photos/cat/again.png").open("ab") as file:
        file.write(b"\0")  # another file, so another row
    ok(source, "dvc", "add", "-q", "photos")
    source.repro("extract@raw")
    ok(source, "git", "add", "-A")
    ok(source, "git", "commit", "-qm", "one more photo")
    ok(source, "dvc", "push", "-q")
    ok(second, "dvc", "update", "-q", "raw.h5.dvc")
    after = (second.folder / "raw.h5").read_bytes()
    assert after != before
    assert after == (source.folder / "artifacts/embeddings/raw.h5").read_bytes()


def test_get__api__and_file_system__give_the_same_bytes(first, second):
    path, wanted = (
        "artifacts/embeddings/raw.h5",
        contents(first.folder)["artifacts/embeddings/raw.h5"],
    )
    ok(second, "dvc", "get", "-q", first.folder, path, "--rev", "v1", "-o", "got.h5")
    printed = ok(second, "python", "-W", "ignore", "-c", READ, path, first.folder, "v1")
    assert printed.split()[-1] == wanted
    for name in ("got.h5", "fetched.h5"):
        assert hashlib.sha256((second.folder / name).read_bytes()).hexdigest() == wanted


def test_second_headstart_project__embeds_nothing_that_the_first_has(first, tmp_path):
    second = make_pixel_project(tmp_path / "second")
    shutil.copy(second.folder / "photos/cat/000.png", second.folder / "photos/cat/new.png")
    with (second.folder / "photos/cat/new.png").open("ab") as file:
        file.write(b"\0")
    second.repro("prepare", "freeze@raw")
    ok(second, "dvc", "import", "-q", first.folder, "artifacts/embeddings/raw.h5", "-o", "team.h5")
    taken = second.headstart("store", "import", "team.h5")
    assert taken.code == 0, taken.text
    assert "36 rows of 36 taken in, 0 were there" in taken.out
    second.repro()
    run = second.json("runs/extract-raw.json")
    assert (run["images"], run["computed"], run["reused"]) == (37, 1, 36)
