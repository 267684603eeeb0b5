"""What a worker does, and on which terms it takes part."""

import gc
import json
import os
import shutil
import socket
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import admission, frozen, loaded, worker
from pipeline.admission import Terms
from pipeline.cluster import Seat
from pipeline.decoding import Stopped
from pipeline.errors import ClusterError
from pipeline.worker import Context, Shard
from tests.frozen_fixtures import edit_record, pixels
from tests.test_extraction import photos, write_photos

__all__ = ["pixels"]


@pytest.fixture
def context(pixels, tmp_path) -> Context:
    write_photos(tmp_path, photos(8))
    backbone = shutil.copytree(pixels, tmp_path / "raw")
    fields = json.dumps(frozen.load(backbone).fields, sort_keys=True)
    return Context(
        root=str(tmp_path / "photos"),
        backbone=str(backbone),
        store=str(tmp_path / "store"),
        device="cpu",
        threads=1,
        sessions=None,
        batch_size=None,
        measure=(),
        terms=Terms(fields, admission.versions("onnx"), (("0/000.png", size(tmp_path)),)),
    )


def size(base: Path) -> int:
    return os.stat(base / "photos" / "0" / "000.png").st_size


@pytest.fixture(autouse=True)
def stopped():
    yield
    worker.stop()


def refusal(context: Context) -> str:
    with pytest.raises(ClusterError) as error:
        worker.ready(context, Seat(1))
    return str(error.value)


def test_ready__same_versions_images_and_backbone__is_ready(context):
    assert worker.ready(context, Seat(1)) == worker.Ready(1, 4, "cpu")


def test_ready__threads_of_the_seat__are_taken_where_params_say_nothing(context):
    auto = replace(context, threads=None)
    assert worker.ready(auto, Seat(3)).slots == 3


@pytest.mark.parametrize("name", ["python", "headstart", "pillow", "onnxruntime", "distributed"])
def test_ready__another_version__is_refused_with_both(context, name):
    here = dict(context.terms.versions)
    other = tuple({**here, name: "0.0.1"}.items())
    said = refusal(replace(context, terms=replace(context.terms, versions=other)))
    assert said == f"{name} {here[name]} there, 0.0.1 here; install there what is installed here"


def test_versions__code_of_headstart__is_part_of_them(tmp_path, monkeypatch):
    before = dict(admission.versions("onnx"))
    copy = shutil.copytree(Path(admission.__file__).parent, tmp_path / "pipeline")
    monkeypatch.setattr(admission, "_CODE", copy)
    assert dict(admission.versions("onnx")) == before
    (copy / "heads.py").write_text("# other\n")
    assert dict(admission.versions("onnx"))["headstart"] != before["headstart"]


def test_versions__of_a_runtime__name_its_library():
    assert dict(admission.versions("torch"))["torch"][0].isdigit()
    assert dict(admission.versions("onnx"))["onnxruntime"][0].isdigit()


def test_ready__worker_with_another_backbone__is_refused_with_both(context):
    fields = json.loads(context.terms.fields)
    other = json.dumps({**fields, "storage": "float32"}, sort_keys=True)
    said = refusal(replace(context, terms=replace(context.terms, fields=other)))
    assert "is another backbone on" in said
    assert "storage is float16, was float32; give both the same folder" in said


def test_ready__worker_whose_backbone_gives_other_layers__is_refused_with_both(context):
    """Its rows would lie under fingerprints that the run never asks for."""
    here = frozen.load(Path(context.backbone)).fingerprint
    outputs = (("embeddings", here), ("layers/x", "0" * 64))
    said = refusal(replace(context, terms=replace(context.terms, outputs=outputs)))
    assert "is another backbone on" in said
    assert "layers/x is absent, was 000000000000; give both the same folder" in said


def test_ready__worker_without_the_images__is_named_and_blames_none(context):
    said = refusal(replace(context, root=str(Path(context.root, "not mounted"))))
    assert f"not mounted is not there on {socket.gethostname()}; mount" in said


def test_ready__folder_with_other_images__is_refused(context):
    image = Path(context.root, "0", "000.png")
    before = image.stat().st_size
    image.write_bytes(b"12345")
    assert f"0/000.png is 5 bytes there, {before} bytes here; mount" in refusal(context)
    image.unlink()
    assert "0/000.png is not readable (No such file or directory)" in refusal(context)


def test_sample__images_that_are_not_as_recorded__are_no_terms(context):
    root = Path(context.root)
    (root / "0" / "000.png").write_bytes(b"12345")
    listed = [("0/000.png", 99), ("0/003.png", (root / "0/003.png").stat().st_size), ("no.png", 1)]
    assert admission.sample(root, listed) == (listed[1],)


def test_embed_shard__backbone_frozen_anew__is_loaded_anew(context):
    """A Dask worker outlives runs; what it has loaded may be of yesterday."""
    worker.ready(context, Seat(1))
    before = dict(loaded._kept)
    fields = json.loads(context.terms.fields)
    edit_record(Path(context.backbone), lambda record: record["fields"].update(package="raw 2"))
    edit_record(
        Path(context.backbone),
        lambda record: record.update(fingerprint=frozen.fingerprint_of(record["fields"])),
    )
    terms = replace(context.terms, fields=json.dumps({**fields, "package": "raw 2"}))
    worker.ready(replace(context, terms=terms), Seat(1))
    assert len(loaded._kept) == len(before) + 1


def test_ready__same_run_with_another_batch__lets_go_of_the_model_it_had(context):
    """Where a GPU is too small for a batch, it would not hold the model twice either."""
    worker.ready(context, Seat(1))
    halved = replace(context, batch_size=2)
    worker.ready(halved, Seat(1))
    assert [kept for kept, _ in loaded._kept] == [halved]


def test_ready__model_that_an_error_holds_on_to__is_gone_before_another_is_loaded(
    context, monkeypatch
):
    worker.ready(context, Seat(1))
    (model,) = loaded._kept.values()
    circle: list = [model]
    circle.append(circle)
    held, alive, real = weakref.ref(model), [], loaded._load
    gc.collect()  # what has lived through that is old, and looked at seldom
    del model, circle
    monkeypatch.setattr(loaded, "_load", lambda *given: (alive.append(held()), real(*given))[1])
    worker.ready(replace(context, batch_size=2), Seat(1))
    assert alive == [None]


def test_ready__many_runs_with_one_worker__keep_the_last_few(context, tmp_path):
    for number in range(loaded.MOST + 3):
        worker.ready(replace(context, store=str(tmp_path / f"store{number}")), Seat(1))
    assert len(loaded._kept) == loaded.MOST
    assert next(reversed(loaded._kept))[0].store.endswith(str(loaded.MOST + 2))


def test_ready__stopped_while_it_loads__is_loaded_anew_by_the_next(context, monkeypatch):
    real = loaded._load

    def slow(*arguments):
        model = real(*arguments)
        worker.stop()
        return model

    monkeypatch.setattr(loaded, "_load", slow)
    with pytest.raises(Stopped):
        worker.ready(context, Seat(1))
    monkeypatch.setattr(loaded, "_load", real)
    worker.ready(context, Seat(1))
    assert not loaded.get(context, Seat(1)).decoders.closed


def shard_of(context: Context, count: int) -> Shard:
    return Shard(context, tuple((f"{number:064x}", f"{number}.png") for number in range(count)))


@pytest.mark.parametrize("count", [2, 3, 8, 9, 16, 100, 1000])
def test_parts__of_a_shard__are_its_images_in_order_and_fewer_each(context, count):
    shard = shard_of(context, count)
    parted = worker.parts(shard)
    assert 2 <= len(parted) <= worker.PARTS
    assert tuple(image for part in parted for image in part.images) == shard.images


def test_parts__single_image__is_as_small_as_can_be(context):
    assert worker.parts(shard_of(context, 1)) == []


def test_lost__single_image__is_listed_with_its_reason(context):
    result = worker.lost(shard_of(context, 1), "its worker ended 2 times")
    (problem,) = result.problems
    assert (problem.path, problem.reason, problem.detail) == (
        "0.png",
        "crashed",
        "its worker ended 2 times",
    )
    assert result.computed == 0


def test_at_work__run_that_is_long_over__makes_room_with_its_decoders(
    context, tmp_path, monkeypatch
):
    worker.ready(context, Seat(1))
    over = loaded.get(context, Seat(1))
    monkeypatch.setattr(loaded, "IDLE_SECONDS", 0.0)
    worker.ready(replace(context, store=str(tmp_path / "other")), Seat(1))
    assert over.decoders.closed
    assert len(loaded._kept) == 1


def test_at_work__shard_at_hand__holds_its_model(context, tmp_path, monkeypatch):
    monkeypatch.setattr(loaded, "IDLE_SECONDS", 0.0)
    with loaded.at_work(context, Seat(1)) as held:
        worker.ready(replace(context, store=str(tmp_path / "other")), Seat(1))
        assert not held.decoders.closed
        assert len(loaded._kept) == 2


def test_at_work__gpu__has_room_for_one_model_where_no_shard_is_at_hand(context):
    model = loaded.get(context, Seat(1))
    assert not model.spare
    gpu = SimpleNamespace(device="cuda")
    model.tuned = replace(model.tuned, runtime=gpu)
    assert model.spare
