"""A bundle in Python: one image or many, of any kind, each as if it were alone."""

import hashlib
import json
import os
import threading
import time
from itertools import islice

import numpy as np
import onnxruntime
import psutil
import pytest
from onnx import helper, numpy_helper
from PIL import Image

from pipeline import predictor
from pipeline.errors import (
    ConfigurationError,
    ImageError,
    InputError,
    IntegrityError,
    ResourceError,
)
from pipeline.images import preprocess
from pipeline.images.views import Views, render
from pipeline.predictor import Prediction
from pipeline.predictor.stream import MOST
from tests import bundle_files
from tests.bundle_files import CLASSES, CROP, DIM, RECIPE
from tests.conftest import draw
from tests.test_decoding import spiteful  # noqa: F401 - a fixture


@pytest.fixture
def bundle(tmp_path):
    return bundle_files.tiny(tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        draw(number, number % 4).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def by_hand(bundle, pixels):
    """What onnxruntime alone makes of preprocessed pixels: label, probabilities, embedding."""
    session = onnxruntime.InferenceSession(bundle, providers=["CPUExecutionProvider"])
    return [part[0] for part in session.run(None, {"images": pixels[None]})]


def test_open__says_what_the_bundle_says(bundle):
    model = predictor.open(bundle)
    assert model.classes == CLASSES
    assert (model.bundle.preprocessing, model.bundle.dim) == (RECIPE, DIM)
    assert (model.bundle.backbone, model.bundle.head) == ("tiny", "logistic")
    assert model.bundle.record["licence"] == "none"
    assert "tiny, logistic, 3 classes" in repr(model)


def test_predict__one_image__is_what_onnxruntime_makes_of_the_same_pixels(bundle, photos):
    found = predictor.open(bundle)(photos[0])
    code, probabilities, embedding = by_hand(bundle, preprocess(photos[0].read_bytes(), RECIPE))
    assert found.label == CLASSES[code]
    assert np.array_equal(found.probabilities, probabilities)
    assert np.array_equal(found.embedding, embedding)
    assert np.array_equal(embedding, embedding.astype(np.float16))
    assert np.float32(found.probability) == probabilities.max()


def test_predict__path_bytes_array_and_image__give_the_same(bundle, photos):
    model, image = predictor.open(bundle), Image.open(photos[1])
    kinds = [photos[1], str(photos[1]), photos[1].read_bytes(), image, np.asarray(image)]
    first, *others = [model(kind) for kind in kinds]
    for other in others:
        assert np.array_equal(other.probabilities, first.probabilities)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), 7])
def test_predict__what_is_no_image__is_a_type_error(bundle, wrong):
    with pytest.raises(TypeError, match="a path, bytes or"):
        predictor.open(bundle)(wrong)


def test_predict__bad_image__raises_its_reason(bundle, photos):
    model = predictor.open(bundle)
    with pytest.raises(ImageError, match="truncated"):
        model(photos[0].read_bytes()[:-30])
    for path in ("not_there.png", photos[0].parent):
        with pytest.raises(ImageError, match="unreadable"):
            model(path)


def test_top__falls_and_holds_as_many_as_asked_for(bundle, photos):
    found = predictor.open(bundle)(photos[0])
    assert [label for label, _ in found.top(2)][0] == found.label
    values = [known for _, known in found.top(9)]
    assert values == sorted(values, reverse=True)
    assert len(values) == len(CLASSES)
    assert sum(values) == pytest.approx(1, abs=1e-6)


def test_predict__head_without_probabilities__has_a_label_alone(tmp_path, photos):
    model = predictor.open(bundle_files.tiny(tmp_path / "bare", known=False))
    known = predictor.open(bundle_files.tiny(tmp_path / "full"))
    found = model(photos[0])
    assert found.label == known(photos[0]).label
    assert (found.probabilities, found.probability, found.top(3)) == (None, None, [])


@pytest.mark.parametrize("tta", ["flip", "ten_crop"])
def test_predict__views__are_averaged(tmp_path, photos, tta):
    model = predictor.open(bundle_files.tiny(tmp_path / tta, tta=tta))
    plain = predictor.open(bundle_files.tiny(tmp_path / "plain"))
    views = render(photos[0].read_bytes(), "", RECIPE, Views(tta=tta))
    alone = [plain.run(view[None])[0].embedding for view in views]
    assert model(photos[0]).embedding == pytest.approx(np.mean(alone, axis=0), abs=2e-3)
    (streamed,) = model.predict([photos[0]])
    assert np.array_equal(streamed.embedding, model(photos[0]).embedding)


def test_predict_many__many_images__in_their_order_and_each_as_alone(bundle, photos):
    model = predictor.open(bundle, threads=3)
    alone = {path: model(path).probabilities for path in photos}
    asked = [photos[number * 5 % 6] for number in range(8 * MOST)]
    for path, found in zip(asked, model.predict(asked), strict=True):
        assert np.array_equal(found.probabilities, alone[path])


def test_predict_many__batches__change_no_bit(bundle, photos, monkeypatch):
    alone = predictor.open(bundle)
    monkeypatch.setattr(predictor, "LARGE", 0)
    batched = predictor.open(bundle)
    assert (alone.batch, batched.batch) == (1, 8)
    for one, other in zip(alone.predict(photos), batched.predict(photos), strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)


def test_predict_many__bad_images__stand_in_their_place(bundle, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:-30])
    (tmp_path / "notes.txt").write_text("no image")
    asked = [
        photos[0], tmp_path / "empty.jpg", photos[1], tmp_path / "cut.png", tmp_path / "none.jpg",
        tmp_path / "notes.txt", tmp_path, photos[2],
    ]  # fmt: skip
    found = list(predictor.open(bundle).predict([*photos, *asked]))[len(photos) :]
    reasons = [one.reason if isinstance(one, ImageError) else "" for one in found]
    assert reasons == [
        "", "empty", "", "truncated", "unreadable", "unsupported_format", "unreadable", "",
    ]  # fmt: skip


def test_predict_many__image_that_crashes_its_decoder__costs_itself_alone(
    bundle,
    photos,
    tmp_path,
    spiteful,  # noqa: F811
):
    Image.new("RGB", (101, 40)).save(tmp_path / "crash.png")
    Image.new("RGB", (102, 40)).save(tmp_path / "hang.png")
    asked = [*photos, tmp_path / "crash.png", *photos, tmp_path / "hang.png", *photos]
    found = list(predictor.open(bundle, threads=2).predict(asked))
    assert [one.reason for one in found if isinstance(one, ImageError)] == ["crashed", "timeout"]
    assert isinstance(found[6], ImageError)
    assert sum(isinstance(one, Prediction) for one in found) == 3 * len(photos)


def test_predict_many__relative_paths__are_those_of_the_current_folder(bundle, photos, monkeypatch):
    model = predictor.open(bundle)
    monkeypatch.chdir(photos[0].parent)
    (found,) = model.predict([photos[0].name])
    assert isinstance(found, Prediction)


def test_predict_many__images_of_all_kinds__keep_their_places(bundle, photos):
    kinds = [photos[0], b"no image", np.asarray(Image.open(photos[1])), str(photos[2]), photos[3]]
    kinds += [photos[4].read_bytes()] * 40
    model = predictor.open(bundle)
    found = list(model.predict(iter(kinds)))
    assert isinstance(found.pop(1), ImageError)
    known = [model(photo).probabilities for photo in photos[:4]]
    known += [model(photos[4]).probabilities] * 40
    assert np.array_equal([one.probabilities for one in found], known)


def test_predict_many__no_path__gives_nothing(bundle):
    assert list(predictor.open(bundle).predict([])) == []


def test_predict_many__endless_paths__are_taken_as_answers_are(bundle, photos):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield photos[0]

    model = predictor.open(bundle, threads=2)
    assert len(list(islice(model.predict(endless()), 100))) == 100
    assert len(taken) < 100 + 8 * MOST


def test_predict_many__left_before_its_end__ends_its_children_and_can_be_called_again(
    bundle, photos
):
    model = predictor.open(bundle, threads=2)
    before = set(psutil.Process().children())
    found = model.predict(photos * 20)
    next(found)
    assert set(psutil.Process().children()) - before
    found.close()
    until = time.monotonic() + 10
    while [c for c in set(psutil.Process().children()) - before if c.status() != "zombie"]:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert len(list(model.predict(photos))) == len(photos)


def test_predict_many__two_at_once__do_not_end_each_others_children(bundle, photos):
    model = predictor.open(bundle, threads=2)
    one, other = model.predict(photos * 20), model.predict(photos * 20)
    next(one), next(other)
    one.close()
    assert len(list(other)) == 20 * len(photos) - 1


def test_predict_many__two_threads_that_begin_at_once__have_children_of_their_own(
    bundle, monkeypatch
):
    model = predictor.open(bundle)
    make, others = predictor._decoders, list[object]()  # noqa: SLF001
    between = threading.Event()

    def slowly(said):
        between.set()
        time.sleep(0.2)  # the other thread comes now
        return make(said)

    monkeypatch.setattr(predictor, "_decoders", slowly)
    other = threading.Thread(target=lambda: (between.wait(), others.append(model.lend())))
    other.start()
    mine = model.lend()
    other.join()
    assert mine is not others[0]


def test_run__not_finite__is_an_error_of_that_image_alone(tmp_path, photos):
    whole = bundle_files.tiny_model()
    divide = next(node for node in whole.graph.node if node.op_type == "Div")
    divide.input[:] = ["real", "real"]  # NaN where a pixel is 0
    model = predictor.open(bundle_files.write(whole, tmp_path / "odd"))
    black, white = (np.full((CROP, CROP, 3), level, np.uint8) for level in (0, 255))
    found = model.run(np.stack([black, white, black]))
    assert [isinstance(one, Prediction) for one in found] == [False, True, False]
    assert found[0].reason == "not_finite"
    with pytest.raises(ImageError, match="not_finite"):
        model(black)


def test_run__embedding_that_is_not_finite__is_one_though_its_probabilities_are(tmp_path):
    """As of a neighbour or an RBF kernel infinitely far away."""
    whole = bundle_files.tiny_model()
    nodes = {node.output[0]: node for node in whole.graph.node}
    divide, gemm = nodes["scaled"], nodes["logits"]
    divide.input[:] = ["real", "real"]  # NaN where a pixel is 0
    at = list(whole.graph.node).index(gemm)
    whole.graph.node.insert(at, helper.make_node("IsNaN", ["embedding"], ["lost"]))
    whole.graph.node.insert(at + 1, helper.make_node("Cast", ["lost"], ["seen"], to=1))
    gemm.input[0] = "seen"
    model = predictor.open(bundle_files.write(whole, tmp_path / "odd"))
    (found,) = model.run(np.zeros((1, CROP, CROP, 3), np.uint8))
    assert isinstance(found, ImageError)
    assert found.reason == "not_finite"


def test_run__label_beyond_the_classes__is_refused(tmp_path):
    whole = bundle_files.tiny_model(known=False, classes=["one", "two"])
    said = next(one for one in whole.metadata_props if one.key == "classes")
    said.value = '["one"]'
    model = predictor.open(bundle_files.write(whole, tmp_path / "few"))
    images = np.random.default_rng(0).integers(0, 256, (50, CROP, CROP, 3), np.uint8)
    with pytest.raises(InputError, match="its label is 1, of 1 classes; run 'dvc repro"):
        model.run(images)


def test_run__graph_that_fails_as_it_runs__is_one_line(tmp_path, monkeypatch):
    whole = bundle_files.tiny_model()
    last = next(node for node in whole.graph.node if node.op_type == "ArgMax")
    last.output[:] = ["code"]
    whole.graph.initializer.append(numpy_helper.from_array(np.array([0]), "only"))
    whole.graph.node.append(helper.make_node("Gather", ["only", "code"], ["label"]))
    model = predictor.open(bundle_files.write(whole, tmp_path / "short"))
    images = np.random.default_rng(0).integers(0, 256, (50, CROP, CROP, 3), np.uint8)
    with pytest.raises(InputError, match="onnxruntime gave up on 1 images .*out of data bounds"):
        model.run(images)

    class Full:
        def run(self, *_):
            raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(model, "_session", Full())
    with pytest.raises(ResourceError, match="lower --threads"):
        model.run(images)


def test_decodes_alike__another_probe__is_seen(tmp_path, bundle):
    assert predictor.open(bundle).bundle.decodes_alike
    other = bundle_files.tiny(tmp_path / "other", pixel_probe="0" * 64)
    assert not predictor.open(other).bundle.decodes_alike


def test_open__device__that_is_not_there__is_one_line(bundle, monkeypatch):
    from pipeline import gpus

    monkeypatch.setattr(gpus, "count", lambda: 0)
    assert predictor.open(bundle).device == "cpu"
    with pytest.raises(ConfigurationError, match="device is cuda, but .*; write --device cpu"):
        predictor.open(bundle, device="cuda")
    with pytest.raises(ConfigurationError, match="write auto, cpu or cuda"):
        predictor.open(bundle, device="tpu")


def test_open__model_json_of_other_bytes__is_an_integrity_error(bundle):
    content = bytearray(bundle.read_bytes())
    at = content.index(np.float32(127.5).tobytes())
    content[at] ^= 1
    bundle.write_bytes(content)
    actual = hashlib.sha256(content).hexdigest()
    with pytest.raises(IntegrityError, match=f"sha256 is {actual}, model.json says .*dvc"):
        predictor.open(bundle)
    bundle.with_name("model.json").unlink()
    assert predictor.open(bundle).classes == CLASSES


@pytest.mark.parametrize(
    "beside", [b"{", b"[]", b"[" * 10**6, b"\xff", json.dumps({"file": "other.onnx"}).encode()]
)
def test_open__a_model_json_of_something_else__is_not_asked(bundle, beside):
    bundle.with_name("model.json").write_bytes(beside)
    assert predictor.open(bundle).classes == CLASSES


def test_open__pipe_beside_it__is_not_waited_for(bundle):
    bundle.with_name("model.json").unlink()
    os.mkfifo(bundle.with_name("model.json"))
    assert predictor.open(bundle).classes == CLASSES


def test_open__nothing_was_bundled__says_why(tmp_path):
    said = {"file": None, "reason": "every head of the run is a control"}
    (tmp_path / "model.json").write_text(json.dumps(said))
    with pytest.raises(ConfigurationError, match="not there: every head of the run is a control"):
        predictor.open(tmp_path / "model.onnx")
