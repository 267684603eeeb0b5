"""The bundle of a finished run: which head, one file, what it says of itself, how it is proven."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline import bundle, dataset, embeddings, features, files, frozen, heads
from pipeline.bundle import expressions, record
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.images.views import Views, render
from pipeline.prediction import predict
from tests.bundle_desk import CROP, DIMS, RECIPE, Desk, run
from tests.frozen_fixtures import edit_record

KEYS = {
    "format_version", "backbone", "head", "kind", "source", "fingerprint", "fingerprints", "layers",
    "dim", "storage", "precision", "runtime", "classes", "preprocessing", "tta", "pixel_probe",
    "enhance", "temperature", "abstention", "licence", "weights", "metrics", "hashes", "best", "skipped",
}  # fmt: skip
"""Of the record, a contract with whoever reads it."""


def blocks(card: str, language: str) -> list[str]:
    """The code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Desk:
    """Four heads on one backbone, and two controls. Not to be changed."""
    sources = {"tiny": "onnx", "untrained": "random"}
    kinds = ("logistic", "linear_svm", "knn", "dummy")
    return Desk(tmp_path_factory.mktemp("finished"), kinds=kinds, sources=sources).build()


def bundled(desk: Desk, named=None, kinds=None) -> bundle.Made:
    """What the stage does, into the desk's artifacts."""
    made = bundle.bundle(desk.artifacts, list(desk.sources), list(kinds or desk.kinds), named)
    bundle.write(desk.artifacts / "model", made)
    return made


def pixels_of(desk: Desk, paths) -> np.ndarray:
    """Preprocessed as extraction does: with views (N, V, 16, 16, 3)."""
    views = Views(tta=desk.tta)
    each = [render(desk.photos[path], "", RECIPE, views) for path in paths]
    return np.stack(each) if desk.tta else np.concatenate(each)


def expected(desk: Desk, made: bundle.Made):
    """Labels, probabilities and vectors of all photos, by scikit-learn on the cached rows; their pixels."""
    labels = dataset.read_labels(desk.artifacts / "dataset" / "labels.parquet")
    said = made.record
    cached = embeddings.open(desk.artifacts / "embeddings" / f"{said['backbone']}.h5")
    X = features.gather(cached, said["layers"], [(cached.rows(labels.sha256), 0)])
    fitted, _ = heads.load(desk.artifacts / "heads" / said["backbone"], said["head"])
    return *predict(fitted.train_val, X, fitted.temperature), X, pixels_of(desk, labels.path)


def agrees(desk: Desk, made: bundle.Made) -> float:
    """The file against scikit-learn from the pixels on; the largest |dp|."""
    labels, probabilities, X, pixels = expected(desk, made)
    label, known, embedding = run(desk.artifacts / "model" / "model.onnx", pixels)
    np.testing.assert_array_equal(embedding, X)
    np.testing.assert_array_equal(label, labels)
    assert (label.dtype, known.dtype, embedding.dtype) == (np.int64, np.float32, np.float32)
    return float(np.abs(known - probabilities).max())


def test_bundle__default__is_the_best_by_validation__and_no_control(finished):
    made = bundled(finished)
    best = json.loads((finished.artifacts / "evaluation" / "metrics.json").read_bytes())["best"]
    assert {key: made.record[key] for key in ("backbone", "head")} == {
        key: best[key] for key in ("backbone", "head")
    }
    assert made.record["best"] == {key: best[key] for key in ("backbone", "head")}
    assert made.record["skipped"] == []


@pytest.mark.parametrize("kind", ["logistic", "linear_svm", "knn", "dummy"])
def test_bundle__named_head__says_from_pixels_what_scikit_learn_says_of_cached_rows(finished, kind):
    made = bundled(finished, ("tiny", kind))
    assert (made.record["head"], made.record["best"]["head"]) == (kind, kind)
    assert agrees(finished, made) <= (1e-5 if kind in ("logistic", "linear_svm") else 1e-4)
    assert made.figures["probe"]["same_bits"] is True
    assert made.figures["head_alone"]["rows"] == 3 * 26


def test_bundle__named_control__is_bundled(finished):
    made = bundled(finished, ("untrained", "logistic"))
    assert (made.record["backbone"], made.record["source"]) == ("untrained", "random")
    assert agrees(finished, made) <= 1e-5


def test_bundle__twice__has_the_same_bytes(finished):
    contents = []
    for _ in range(2):
        bundled(finished)
        folder = finished.artifacts / "model"
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"model.onnx", "model.json", "README.md"}
    text = contents[0]["model.json"].decode() + contents[0]["README.md"].decode()
    assert str(finished.artifacts) not in text


def test_bundle__in_another_process__has_the_same_bytes(finished):
    made = bundled(finished)
    code = (
        "import hashlib, pathlib; from pipeline import bundle\n"
        f"made = bundle.bundle(pathlib.Path({str(finished.artifacts)!r}), "
        f"{list(finished.sources)}, {list(finished.kinds)})\n"
        "print(hashlib.sha256(made.content).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=None
    )
    assert done.stdout.strip() == files.sha256_of_bytes(made.content)


def test_bundle__file__is_one_onnx_model_of_the_frozen_ones_versions(finished):
    bundled(finished)
    path = finished.artifacts / "model" / "model.onnx"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    like = onnx.load(finished.artifacts / "backbones" / "tiny" / "model.onnx")
    assert (model.ir_version, model.opset_import) == (like.ir_version, like.opset_import)
    assert [one.name for one in model.graph.input] == ["images"]
    assert [one.name for one in model.graph.output] == ["label", "probabilities", "embedding"]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions and not model.producer_name and not model.doc_string
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    made = {name for node in model.graph.node for name in node.output}
    assert not [name for name in made if "high" in name]  # a layer that the head does not see
    assert [path.name for path in path.parent.iterdir() if path.name.startswith(".")] == []


def test_bundle__record__is_in_the_metadata_and_beside_it(finished):
    made = bundled(finished, ("tiny", "linear_svm"))
    folder = finished.artifacts / "model"
    said = json.loads((folder / "model.json").read_bytes())
    assert said == made.record
    assert (said.pop("file"), said.pop("sha256")) == (
        "model.onnx",
        files.sha256_of(folder / "model.onnx"),
    )
    assert set(said) == KEYS
    props = {one.key: one.value for one in onnx.load(folder / "model.onnx").metadata_props}
    assert set(props) == KEYS
    for key, value in said.items():
        as_json = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert props[key] == (value if isinstance(value, str) else as_json)


def test_bundle__record__says_what_it_is_made_of(finished):
    said = bundled(finished, ("tiny", "linear_svm")).record
    backbone = frozen.read(finished.artifacts / "backbones" / "tiny")
    of_head = heads.load_record(finished.artifacts / "heads" / "tiny", "linear_svm")
    assert (said["fingerprint"], said["layers"], said["dim"]) == (
        backbone.fingerprint, ["low"], DIMS[0],
    )  # fmt: skip
    assert said["fingerprints"] == {"embeddings": backbone.fingerprint}
    assert said["classes"] == ["class 0", "class 1", "class 2"]
    assert said["preprocessing"] == RECIPE.as_dict()
    assert said["pixel_probe"] == backbone.fields["pixel_probe"]
    assert (said["temperature"], said["kind"]) == (of_head.temperature, "linear_svm")
    assert said["licence"] == "CC0"
    assert said["hashes"]["head"] == of_head.sha256
    assert said["hashes"]["backbone"] == backbone.file_sha256
    assert set(said["hashes"]["embeddings"]) == {"embeddings", "sha256"}
    metrics = json.loads((finished.artifacts / "evaluation" / "metrics.json").read_bytes())
    for split in ("val", "test"):
        of_split = metrics["tiny"]["linear_svm"][split]
        assert said["metrics"][split] == {key: of_split[key] for key in record.METRICS}


def test_bundle__abstention__is_the_heads(tmp_path):
    desk = Desk(tmp_path, options={"wanted_precision": 0.9}).build()
    said = bundled(desk).record["abstention"]
    of_head = heads.load_record(tmp_path / "heads" / "tiny", "logistic").abstention
    assert said == {key: of_head[key] for key in ("wanted", "threshold", "sure")}
    assert said["wanted"] == 0.9
    assert f"below {said['threshold']:.4f}" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("layers", [["high"], ["high", "low"], "all"])
def test_bundle__layers__are_joined_as_for_training(tmp_path, layers):
    desk = Desk(tmp_path, options={"layers": layers}, kinds=("logistic", "knn")).build()
    for kind in desk.kinds:
        made = bundled(desk, ("tiny", kind))
        assert made.record["layers"] == (["low", "high"] if layers == "all" else layers)
        assert agrees(desk, made) <= (1e-5 if kind == "logistic" else 1e-4)
        assert set(made.record["fingerprints"]) <= {"embeddings", "layers/high"}


@pytest.mark.parametrize("tta", ["flip", "five_crop", "ten_crop"])
def test_bundle__test_time_views__are_averaged_inside(tmp_path, tta):
    desk = Desk(tmp_path, tta=tta, options={"layers": "all"}).build()
    made = bundled(desk)
    assert made.record["tta"] == tta
    assert made.record["pixel_probe"] == frozen.pixel_probe(RECIPE)
    assert agrees(desk, made) <= 1e-5
    (given,) = onnx.load(tmp_path / "model" / "model.onnx").graph.input
    sides = [side.dim_value for side in given.type.tensor_type.shape.dim]
    assert sides == [0, len(Views(tta=tta)), CROP, CROP, 3]
    label, *_ = run(tmp_path / "model" / "model.onnx", pixels_of(desk, list(desk.photos)[:1]))
    assert label.shape == (1,)


def test_bundle__two_classes__and_no_probabilities__has_label_and_embedding(tmp_path):
    desk = Desk(tmp_path, classes=2, kinds=("ridge",), options={"calibrate": False}).build()
    made = bundled(desk)
    labels, none, X, pixels = expected(desk, made)
    assert none is None
    label, embedding = run(tmp_path / "model" / "model.onnx", pixels)
    np.testing.assert_array_equal(label, labels)
    np.testing.assert_array_equal(embedding, X)
    assert "labels alone" in made.card
    assert "probabilities" not in blocks(made.card, "python")[0]


def test_bundle__best_is_not_proven__the_next_is_bundled_with_a_line(finished, monkeypatch, capsys):
    best = bundled(finished).record
    fitted, _ = heads.load(finished.artifacts / "heads" / best["backbone"], best["head"])
    kind = type(fitted.train_val[-1])
    right = expressions.CLASSIFIERS[kind]

    def wrong(nodes, classifier, x):
        answer = right(nodes, classifier, x)
        decision = answer.decision and nodes.add("Mul", answer.decision, nodes.real(1.1))
        softer = answer.probabilities and nodes.add("Sqrt", answer.probabilities)
        return expressions.Answer(answer.classes, decision, softer)

    monkeypatch.setitem(expressions.CLASSIFIERS, kind, wrong)
    made = bundled(finished)
    (skipped,) = made.record["skipped"]
    assert {key: skipped[key] for key in ("backbone", "head")} == made.record["best"]
    assert made.record["best"] == best["best"]
    assert made.record["head"] != best["head"]
    assert re.fullmatch("(in float32 )?its probabilities lie .*", skipped["reason"])
    assert agrees(finished, made) <= 1e-4
    bundle.warn(made)
    line = capsys.readouterr().err
    assert line.startswith(f"headstart: warning: {made.record['head']} on tiny is bundled, not the")
    assert skipped["reason"] in line
    assert line.count("\n") == 1
    assert f"{best['head']} on tiny did better on the validation images" in made.card


def test_bundle__named_that_cannot_be_expressed__is_exit_code_2_and_replaces_nothing(
    finished, monkeypatch
):
    bundled(finished, ("tiny", "knn"))
    before = (finished.artifacts / "model" / "model.onnx").read_bytes()
    monkeypatch.delitem(expressions.CLASSIFIERS, LogisticRegression)
    with pytest.raises(ConfigurationError) as refused:
        bundled(finished, ("tiny", "logistic"))
    line = str(refused.value)
    assert refused.value.exit_code == 2
    assert "bundle: ONNX cannot express logistic on tiny: no expression for Logistic" in line
    assert "\n" not in line
    assert (finished.artifacts / "model" / "model.onnx").read_bytes() == before


def test_bundle__nothing_but_controls__is_a_folder_that_says_so(finished, capsys):
    desk = Desk(finished.artifacts, sources={"untrained": "random"}, kinds=("logistic", "dummy"))
    made = bundled(desk)
    assert {path.name for path in (desk.artifacts / "model").iterdir()} == {
        "model.json",
        "README.md",
    }
    said = json.loads((desk.artifacts / "model" / "model.json").read_bytes())
    assert (said["file"], said["best"]) == (None, None)
    assert said["reason"] == "every head of the run is a control"
    bundle.warn(made)
    assert "nothing is bundled: every head of the run is a control" in capsys.readouterr().err
    assert made.card.startswith("# No model\n")


def test_bundle__torch_only__is_skipped_by_what_its_file_is(tmp_path):
    desk = Desk(tmp_path).build()
    folder = tmp_path / "backbones" / "tiny"
    (folder / "model.onnx").rename(folder / "model.safetensors")
    edit_record(folder, lambda said: said.update(file="model.safetensors"))
    made = bundled(desk)
    (skipped,) = made.record["skipped"]
    assert "model.safetensors is no ONNX graph" in skipped["reason"]
    assert made.record["reason"] == "ONNX can express no head of the run"
    assert skipped["reason"] in made.card


@pytest.mark.parametrize("taken", ["label", "embedding", "head.matmul", "join.cast"])
@pytest.mark.parametrize("tta", [None, "flip"])
def test_bundle__names_within_the_frozen_file_that_are_ours__do_no_harm(tmp_path, tta, taken):
    desk = Desk(tmp_path, tta=tta, model={"taken": taken}).build()
    assert agrees(desk, bundled(desk)) <= 1e-5


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("evaluation/metrics.json", "evaluate"),
        ("evaluation/transfer.json", "evaluate"),
        ("dataset/summary.json", "prepare"),
        ("heads/tiny/logistic.joblib", "train@tiny-logistic"),
        ("embeddings/tiny.h5", "extract@tiny"),
        ("backbones/tiny/model.onnx", "freeze@tiny"),
    ],
)
def test_bundle__damaged_artifact__is_one_line_that_names_it(tmp_path, path, stage):
    desk = Desk(tmp_path).build()
    place = tmp_path / path
    place.write_bytes(place.read_bytes()[:-20] + b"\x00" * 20)
    with pytest.raises(IntegrityError) as refused:
        bundled(desk)
    line = str(refused.value)
    assert path.rpartition("/")[2].split(".")[0] in line
    assert stage in line
    assert not (tmp_path / "model").exists()


def test_bundle__head_of_other_embeddings__is_refused(tmp_path):
    desk = Desk(tmp_path).build()
    for ending in ("h5",):
        (tmp_path / "embeddings" / f"tiny.{ending}").unlink()
    other = Desk(tmp_path / "other", sources={"tiny": "random"}).build()
    (other.artifacts / "embeddings" / "tiny.h5").rename(tmp_path / "embeddings" / "tiny.h5")
    with pytest.raises(IntegrityError, match="fingerprint is .*, the embeddings have"):
        bundled(desk)


def test_card__tells_data_figures_limits_and_licence(finished):
    card = bundled(finished, ("tiny", "linear_svm")).card
    for said in (
        "# linear_svm on tiny: 3 classes of images",
        "| class 1 | 14 | 6 | 6 |",
        "| all | 42 | 18 | 18 |",
        "| accuracy | ",
        "sharpness at temperature",
        "Fewer than ten test images: class 0, class 1, class 2.",
        "Licence: CC0.",
    ):
        assert said in card
    assert card.endswith("\n")
    assert "@" not in "".join(blocks(card, "cpp") + blocks(card, "js"))


def test_card__transfer_that_hurts__is_said(tmp_path):
    desk = Desk(tmp_path).build()
    path = tmp_path / "evaluation" / "transfer.json"
    verdict = {"backbone": "tiny", "verdict": "hurts", "sentence": "tiny hurts: -3 points"}
    files.write_json(path, [verdict])
    assert "do not use this model" in bundled(desk).card


@pytest.mark.parametrize("tta", [None, "flip", "ten_crop"])
def test_card__its_python_says_the_same_of_image_files(tmp_path, tta):
    desk = Desk(tmp_path, tta=tta).build()
    made = bundled(desk)
    (program,) = blocks(made.card, "python")
    names = []
    for number, (_, content) in enumerate(list(desk.photos.items())[::9]):
        names.append(f"{number}.png")
        (tmp_path / "model" / names[-1]).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", program, *names],
        cwd=tmp_path / "model", capture_output=True, text=True, check=True,
    )  # fmt: skip
    pixels = pixels_of(desk, list(desk.photos)[::9])
    label, known, _ = run(tmp_path / "model" / "model.onnx", pixels)
    for line, name, code, row in zip(done.stdout.splitlines(), names, label, known, strict=True):
        assert line == f"{name} class {code} {row.max()!s}"
