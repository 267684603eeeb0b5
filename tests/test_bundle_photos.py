"""Bundles of real photos, from the image files on, against what the run itself predicted of them."""

import json

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest

from pipeline.frozen import preprocessing_of
from pipeline.images import preprocess
from tests.conftest import Project, make_project

pytestmark = pytest.mark.slow

HEADS = {"logistic": 1e-5, "linear_svm": 1e-5, "rbf_svm": 1e-4, "knn": 1e-4}
"""And the largest |dp| allowed."""


@pytest.fixture(scope="module")
def finished(shared_data, tmp_path_factory) -> Project:
    """ants_bees through the stages, as far as its figures."""
    project = make_project(tmp_path_factory.mktemp("photos") / "project")

    def change(params):
        params["data"]["path"] = str(shared_data / "ants_bees")
        params["run"] = {"backbones": ["efficientnet_lite0"], "heads": list(HEADS)}

    project.edit(change)
    stages = ["prepare", "freeze efficientnet_lite0", "extract efficientnet_lite0"]
    stages += [f"train efficientnet_lite0 {head}" for head in HEADS]
    for stage in [*stages, "evaluate"]:
        done = project.stage(*stage.split())
        assert done.code == 0, done.text
    return project


@pytest.mark.parametrize("head", HEADS)
def test_bundle__photos__has_the_labels_and_probabilities_of_every_test_row(
    finished, shared_data, head
):
    named = {"backbone": "efficientnet_lite0", "head": head}
    finished.edit(lambda params: params.update(bundle=named))
    done = finished.stage("bundle")
    assert done.code == 0, done.text
    model = finished.folder / "artifacts" / "model" / "model.onnx"
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    said = {
        key: json.loads(session.get_modelmeta().custom_metadata_map[key])
        for key in ("classes", "preprocessing")
    }
    table = pq.read_table(finished.folder / "artifacts/evaluation/predictions.parquet")
    rows = [row for row in table.to_pylist() if (row["head"], row["split"]) == (head, "test")]
    assert len(rows) == 153
    most = 0.0
    for row in rows:
        content = (shared_data / "ants_bees" / row["path"]).read_bytes()
        pixels = preprocess(content, preprocessing_of(said))
        label, known, embedding = session.run(None, {"images": pixels[None]})
        assert said["classes"][label[0]] == row["prediction"], row["path"]
        assert np.array_equal(embedding, embedding.astype(np.float16))
        most = max(most, abs(float(known.max()) - row["probability"]))
    print(f"{head}: max |dp| {most:.1e} on {len(rows)} photos")
    assert most <= HEADS[head]
