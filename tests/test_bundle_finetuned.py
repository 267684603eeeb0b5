"""The bundle of a fine-tuned model: its own file, what it says of itself, when it is taken."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import bundle, evaluation, files, finetuned, heads
from pipeline.dataset import Split
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.evaluation import Result, tables
from pipeline.metrics import Scored
from pipeline.params import BackboneParams, FinetuneParams
from tests.bundle_desk import CROP, RECIPE, Desk, run

ENTRY = FinetuneParams(backbone="tiny", head="logistic")
ORIGINS = {"tiny": BackboneParams(source="onnx", model="tiny")}


def network(classes: int) -> bytes:
    """(N, 16, 16, 3) uint8 -> label, probabilities, embedding (N, 3): the mean of each colour."""
    random = np.random.default_rng(0)
    constants = {
        "most": np.array(255, np.float32),
        "weight": random.normal(size=(3, classes)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["real", "most"], ["share"]),
        helper.make_node("ReduceMean", ["share"], ["embedding"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["embedding", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", CROP, CROP, 3])
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3]),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tuned", [given], outputs, tensors)
    version = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[version], ir_version=8)
    return model.SerializeToString(deterministic=True)


def tune(desk: Desk, name: str = "mine", *, onnx_file: bytes | None = None, right: bool = True):
    """A fine-tuned model's folder, which says what is right of every image, or what is wrong."""
    labels, classes = desk._labels(), tuple(f"class {at}" for at in range(desk.classes))
    folder = desk.artifacts / "finetuned" / name
    folder.mkdir(parents=True)
    results = []
    for split in (Split.VAL, Split.TEST):
        of_split = labels.where(labels.split == str(split))
        y = np.searchsorted(classes, of_split.label.astype(str))
        predicted = y if right else (y + 1) % len(classes)
        known = np.full((len(y), len(classes)), 0.01)
        known[np.arange(len(y)), predicted] = 0.98
        scored = Scored(y, predicted, known, len(classes))
        results.append(Result("tiny", name, split, of_split, scored, classes, False))
    tables.write_predictions(folder / finetuned.PREDICTIONS, results)
    np.save(folder / finetuned.PROBABILITIES, np.concatenate([r.scored.known for r in results]))
    (folder / finetuned.WEIGHTS).write_bytes(b"weights")
    content = network(desk.classes) if onnx_file is None else onnx_file
    (folder / finetuned.ONNX).write_bytes(content)
    head = heads.load_record(desk.artifacts / "heads" / "tiny", "logistic")
    record = {
        "name": name, "backbone": "tiny", "head": "logistic", "classes": list(classes),
        "entry": ENTRY.model_dump(), "started_from": {"head_sha256": head.sha256},
        "onnx": "written" if content else "no operator for it", "tta": None, "layers": ["low"],
        "weights_sha256": "0" * 64, "preprocessing": RECIPE.as_dict(),
    }  # fmt: skip
    finetuned.seal(folder, record)
    judged = evaluation.evaluate(desk.artifacts, desk.sources, list(desk.kinds))
    judged += evaluation.answered(desk.artifacts, {name: ENTRY}, ORIGINS)
    evaluation.write(desk.artifacts / "evaluation", judged)


def made(desk: Desk, **options):
    finetune = {"mine": ENTRY}
    return bundle.bundle(desk.artifacts, ["tiny"], list(desk.kinds), finetune=finetune, **options)


@pytest.fixture
def desk(tmp_path) -> Desk:
    """A run whose head was fitted with hardly any freedom, so that it errs on val."""
    return Desk(tmp_path / "artifacts", kinds=("logistic", "dummy"), options={}).build()


def test_bundle__named_model__is_its_own_file_with_the_record_inside(desk, tmp_path):
    tune(desk)
    found = made(desk, named=("tiny", "mine"))
    bundle.write(tmp_path / "model", found)
    model = onnx.load(tmp_path / "model" / "model.onnx")
    said = json.loads((tmp_path / "model" / "model.json").read_bytes())
    assert {one.key for one in model.metadata_props} == said.keys() - {"file", "sha256"}
    assert (said["head"], said["kind"], said["dim"]) == ("mine", "finetuned", 3)
    assert said["sha256"] == files.sha256_of(tmp_path / "model" / "model.onnx")
    backbone = json.loads((desk.artifacts / "backbones" / "tiny" / "backbone.json").read_bytes())
    assert said["fingerprint"] != backbone["fingerprint"], "its vectors are others"
    pixels = np.random.default_rng(1).integers(0, 256, (5, CROP, CROP, 3), dtype=np.uint8)
    own = desk.artifacts / "finetuned" / "mine" / "model.onnx"
    for ours, theirs in zip(run(tmp_path / "model" / "model.onnx", pixels), run(own, pixels), strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)


def test_bundle__twice__has_the_same_bytes(desk):
    tune(desk)
    first, second = (made(desk, named=("tiny", "mine")) for _ in range(2))
    assert (first.content, first.record, first.card) == (second.content, second.record, second.card)


def test_card__of_a_model__says_that_the_backbone_was_trained_and_whether_it_was_worth_it(desk):
    tune(desk)
    card = made(desk, named=("tiny", "mine")).card
    assert "both trained on the images of train" in card
    assert "was not trained on them" not in card
    assert "mine on tiny differs from logistic" in card


def test_bundle__default__is_the_model_where_it_is_better_on_validation__else_the_head(tmp_path):
    for right, chosen in ((False, "logistic"), (True, "mine")):
        desk = Desk(tmp_path / chosen, kinds=("logistic",)).build()
        tune(desk, right=right)
        val = json.loads((desk.artifacts / "evaluation" / "metrics.json").read_bytes())["tiny"]
        better = val["mine"]["val"]["accuracy"] > val["logistic"]["val"]["accuracy"]
        assert made(desk).record["head"] == ("mine" if better else "logistic")
        assert better <= right


def test_bundle__network_that_onnx_cannot_express__is_skipped_with_its_reason(desk):
    tune(desk, onnx_file=b"")
    with pytest.raises(ConfigurationError, match="no operator for it"):
        made(desk, named=("tiny", "mine"))


@pytest.mark.parametrize("file", [finetuned.ONNX, finetuned.RECORD])
def test_bundle__folder_not_as_recorded__is_refused(desk, file):
    tune(desk)
    path = desk.artifacts / "finetuned" / "mine" / file
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="finetune@mine"):
        made(desk, named=("tiny", "mine"))
