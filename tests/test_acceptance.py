"""The default run on real images, end to end: what the README's tables say. Minutes long."""

import numpy as np
import pytest

from pipeline import dataset, embeddings
from tests.conftest import Project, make_project

pytestmark = pytest.mark.slow
BACKBONE = "efficientnet_lite0"


def default_run(folder, data=None) -> Project:
    project = make_project(folder)
    if data is not None:
        project.edit(lambda params: params["data"].update(path=str(data)))
    project.repro()
    return project


def accuracy(project: Project, head: str) -> float:
    test = project.json("evaluation/metrics.json")[BACKBONE][head]["test"]
    low, high = test["accuracy_ci95"]
    assert low < test["accuracy"] < high
    return test["accuracy"]


def test_digits__logistic_on_embeddings__reaches_93_percent(tmp_path):
    project = default_run(tmp_path / "digits")
    assert accuracy(project, "logistic") >= 0.93
    assert "logistic" in project.headstart("results").out
    assert (project.folder / "artifacts" / "report.html").stat().st_size > 10_000


def test_ants_bees__published_split__reaches_94_percent_and_lists_the_stray_gif(
    tmp_path, shared_data
):
    project = default_run(tmp_path / "ants", shared_data / "ants_bees")
    assert accuracy(project, "logistic") >= 0.94
    assert project.json("evaluation/metrics.json")[BACKBONE]["logistic"]["test"]["n"] == 153
    folder = project.folder / "artifacts"
    problems = dataset.read_problems(folder / "dataset" / "problems.csv")
    assert [(p.path, p.reason) for p in problems] == [
        ("train/ants/imageNotFound.gif", "unsupported_format")
    ]
    cached = embeddings.open(folder / "embeddings" / f"{BACKBONE}.h5")
    assert cached.vectors.shape == (397, 1280)
    assert cached.vectors.dtype == np.float16


def test_cifar10_small__runs_and_is_far_above_chance(tmp_path, shared_data):
    project = default_run(tmp_path / "cifar", shared_data / "cifar10_small")
    assert accuracy(project, "logistic") >= 0.72
