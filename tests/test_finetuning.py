"""Fine-tuning as a whole, on a tiny network: where it starts, what moves, what it writes, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline import backbones, files, finetuned, finetuning, frozen
from pipeline.backbones import freezing, onnx_model
from pipeline.dataset import Split
from pipeline.errors import ConfigurationError, InputError, IntegrityError, ResourceError
from pipeline.evaluation import tables
from pipeline.finetuning import outcome, start
from pipeline.finetuning.network import Network
from pipeline.images import preprocess
from pipeline.images.views import Views, render
from pipeline.params import BackboneParams
from tests import finetuning_desk
from tests.finetuning_desk import Desk


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return finetuning_desk.make(tmp_path_factory.mktemp("desk"))


@pytest.fixture(autouse=True)
def quick_export(request, monkeypatch):
    """An export takes seconds; only what is about it makes one."""
    if "exported" not in request.fixturenames:
        monkeypatch.setattr(outcome, "write_onnx", lambda *_: "left out by a test")


@pytest.fixture
def exported():
    """Asked for where model.onnx is wanted."""


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "mine" / finetuned.WEIGHTS)


def original(desk: Desk) -> dict[str, torch.Tensor]:
    network = backbones.SOURCES["random"].load(desk.origin, "b", Path).network
    return {f"backbone.{name}": one for name, one in network.module.state_dict().items()}


def moved(desk: Desk, out: Path) -> set[str]:
    """Tensors of the backbone that are not as they were."""
    now = weights(out)
    return {name for name, one in original(desk).items() if not torch.equal(now[name], one)}


def rows(out: Path) -> list[dict]:
    return files.read_csv(out / "mine" / finetuned.HISTORY)


@pytest.mark.parametrize("head", ["logistic", "linear_svm", "ridge", "lda", "nearest_mean"])
def test_run__head_that_folds__starts_where_it_stands(desk, tmp_path, head):
    record = desk.run(tmp_path, head=head, unfreeze="head", epochs=1)
    assert record["started_from"]["agreement"] >= start.AGREEMENT
    assert record["started_from"]["note"] == ""


def test_run__head_that_does_not_fold__starts_from_a_logistic_and_says_so(desk, tmp_path, capsys):
    record = desk.run(tmp_path, head="knn", unfreeze="head", epochs=1)
    said = capsys.readouterr().out
    assert "KNeighborsClassifier" in said
    assert "starts from a logistic regression fitted beside it" in said
    assert record["started_from"]["note"] in said
    assert record["started_from"]["agreement"] == 1.0


def test_run__network_that_is_not_what_was_cached__does_not_start(desk, tmp_path, monkeypatch):
    monkeypatch.setattr(Network, "normalise", lambda _, pixels: pixels.permute(0, 3, 1, 2).float())
    with pytest.raises(
        IntegrityError, match=r"agrees with the fitted head on \d+\.\d% of 24"
    ) as error:
        desk.run(tmp_path)
    assert error.value.exit_code == 4
    assert not (tmp_path / "mine").exists()


def test_run__layers_joined_and_views_averaged__start_where_the_head_stands(tmp_path, exported):
    many = finetuning_desk.make(tmp_path / "desk", layers=["layer3", "penultimate"], tta="flip")
    record = many.run(tmp_path, of={"layers": "all"}, unfreeze="last:2", epochs=1)
    assert record["layers"] == ["layer3", "penultimate"]
    assert record["started_from"]["agreement"] == 1.0
    assert record["onnx"] == "written"
    views = Views(tta="flip")
    photos = [many.folder / "photos" / path for path in many.labels.path if path.startswith("val")]
    recipe = many.backbone.preprocessing
    pixels = np.stack([render(photo.read_bytes(), "", recipe, views) for photo in photos])
    _, known, embedding = onnx_model.run(tmp_path / "mine" / finetuned.ONNX, pixels)
    val, _ = finetuned.load(tmp_path / "mine").answers(many.labels)
    place = {path: at for at, path in enumerate(val.labels.path)}
    expected = [val.probabilities[place[f"val/{p.parent.name}/{p.name}"]] for p in photos]
    np.testing.assert_allclose(known, expected, atol=1e-4)
    assert embedding.shape[1] == sum(many.backbone.dims)


def test_run__blocks_behind_what_the_head_sees__are_refused(tmp_path, capsys):
    early = finetuning_desk.make(tmp_path / "desk", layers=["layer3", "penultimate"])
    with pytest.raises(
        ConfigurationError, match="layer4.0 come after the layers that the head sees"
    ):
        early.run(tmp_path, unfreeze="last:1", epochs=1)
    capsys.readouterr()
    record = early.run(tmp_path, unfreeze="last:2", epochs=1)
    assert record["trained_blocks"] == ["layer3.0"]
    assert "not trained, as the head does not see it: layer4.0" in capsys.readouterr().out


UNFROZEN = {
    "head": (),
    "last:1": ("layer4",),
    "last:2": ("layer3", "layer4"),
    "all": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
}


@pytest.mark.parametrize(
    ("unfreeze", "keys"),
    [
        *((unfreeze, {"init": "fresh"}) for unfreeze in [*UNFROZEN, ["layer2", "conv1"]]),
        ("last:1", {"init": "fresh", "ema": 0.5, "clip": 1.0, "mixup": 0.2}),
        ("last:2", {"init": "fresh", "l2_sp": 0.1, "optimizer": "sgd", "schedule": "plateau"}),
    ],
)
def test_run__what_is_frozen__stays_to_the_bit_and_so_do_statistics(desk, tmp_path, unfreeze, keys):
    record = desk.run(tmp_path, unfreeze=unfreeze, epochs=1, weight_decay=0.1, **keys)
    assert record["epoch"] == 1, "the start was kept, so nothing that was trained is looked at"
    parts = UNFROZEN[unfreeze] if isinstance(unfreeze, str) else ("conv1", "bn1", "layer2")
    changed = moved(desk, tmp_path)
    assert {name.split(".")[1] for name in changed} == set(parts)
    assert not any("running" in name or "num_batches" in name for name in changed)


def test_run__batch_norm_that_follows__is_of_trained_blocks_alone(desk, tmp_path):
    desk.run(tmp_path, init="fresh", unfreeze="last:1", epochs=1, batch_norm="train")
    statistics = {name.split(".")[1] for name in moved(desk, tmp_path) if "running" in name}
    assert statistics == {"layer4"}


def test_run__gradual__lets_blocks_loose_one_after_another(desk, tmp_path):
    seen = []

    def watch(told):
        if told.row:
            saved = torch.load(tmp_path / "runs/finetune-mine/state.pt", weights_only=True)
            seen.append(saved["moving"])

    desk.run(tmp_path, unfreeze="last:2", gradual=True, epochs=4, watch=watch)
    before = original(desk)

    def loose(state) -> set[str]:
        names = [name for name in state if name.startswith("tapped.")]
        kept = {n: before["backbone." + n.removeprefix("tapped.network.")] for n in names}
        return {name.split(".")[2] for name in names if not torch.equal(state[name], kept[name])}

    assert [loose(state) for state in seen] == [set(), {"layer4"}, {"layer3", "layer4"}, {"layer3", "layer4"}]  # fmt: skip


def test_run__layer_decay__moves_early_blocks_less_than_late_ones(desk, tmp_path):
    desk.run(tmp_path, init="fresh", unfreeze="all", optimizer="sgd", lr=0.01, layer_decay=0.3)
    now, before = weights(tmp_path), original(desk)

    def drift(block: str) -> float:
        names = [
            n for n in before if n.startswith(f"backbone.{block}") and n.endswith("conv1.weight")
        ]
        apart = [float((now[n] - before[n]).norm() / before[n].norm()) for n in names]
        return float(np.mean(apart))

    assert drift("layer1") < drift("layer2") < drift("layer4")


def test_run__twice__gives_equal_bytes(desk, tmp_path):
    for out in ("a", "b"):
        desk.run(tmp_path / out, unfreeze="last:2", augment="trivial", cutmix=0.5)
    names = sorted(path.name for path in (tmp_path / "a/mine").iterdir())
    assert finetuned.WEIGHTS in names
    for name in names:
        assert (tmp_path / "a/mine" / name).read_bytes() == (
            tmp_path / "b/mine" / name
        ).read_bytes()


def test_run__other_seed__is_another_run(desk, tmp_path):
    for seed in (0, 1):
        desk.run(tmp_path / str(seed), epochs=1, seed=seed)
    one, other = weights(tmp_path / "0"), weights(tmp_path / "1")
    assert not torch.equal(one["head.linear.weight"], other["head.linear.weight"])


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "sgd", "schedule": "step", "l2_sp": 0.1},
        {"schedule": "plateau", "ema": 0.8, "clip": None},
        {"label_smoothing": 0.1, "mixup": 0.2, "accumulate": 2, "channels_last": False},
        {"augment": "crop", "schedule": "constant", "warmup_epochs": 1},
    ],
)
def test_run__settings__train_and_are_recorded(desk, tmp_path, keys):
    record = desk.run(tmp_path, unfreeze="last:1", **keys)
    assert {name: record["entry"][name] for name in keys} == keys
    history = rows(tmp_path)
    assert [row["epoch"] for row in history] == ["0", "1", "2"]
    assert np.isfinite([float(row["train_loss"]) for row in history[1:]]).all()
    assert moved(desk, tmp_path) or record["epoch"] == 0


def test_run__l2_sp__holds_weights_at_their_start(desk, tmp_path):
    far = []
    for strength in (0.0, 100.0):
        out = tmp_path / str(strength)
        desk.run(
            out, init="fresh", unfreeze="last:1", optimizer="sgd", lr=3e-3, l2_sp=strength, epochs=1
        )
        now, before = weights(out), original(desk)
        far.append(sum(float((now[name] - one).float().norm()) for name, one in before.items()))
    assert far[1] < far[0]


def test_run__fresh_head_and_random_weights__begin_worse_than_the_head(desk, tmp_path):
    first = {}
    for init in ("head", "fresh", "random"):
        keys = {"unfreeze": "all" if init == "random" else "head", "epochs": 1}
        record = desk.run(tmp_path / init, init=init, **keys)
        first[init] = float(rows(tmp_path / init)[0]["val_accuracy"])
        assert (record["started_from"]["agreement"] is None) == (init != "head")
    assert max(first["fresh"], first["random"]) < first["head"]
    assert len(moved(desk, tmp_path / "random")) == len(original(desk))


def test_run__no_epoch_better_than_the_start__keeps_it_and_stops_early(desk, tmp_path, capsys):
    record = desk.run(tmp_path, unfreeze="all", lr=0.3, optimizer="sgd", epochs=9, patience=2)
    assert (record["epoch"], record["epochs"]) == (0, 2)
    assert "stops: no epoch was better for 2, which is patience" in capsys.readouterr().out
    assert "nothing was tuned" in finetuning.describe(record)
    assert not moved(desk, tmp_path)


def test_run__wise_ft__never_ends_below_start_or_finish(desk, tmp_path):
    record = desk.run(tmp_path, unfreeze="all", wise_ft=True, epochs=3)
    history = [(float(row["val_accuracy"]), -float(row["val_loss"])) for row in rows(tmp_path)]
    kept = (record["val"]["accuracy"], -record["val"]["log_loss"])
    assert kept >= max(history[0], history[record["epoch"]])
    assert record["alpha"] in (outcome.ALPHAS if record["epoch"] else (None,))


def test_run__loss_that_is_no_number__stops_with_the_best_kept(desk, tmp_path, monkeypatch):
    inner, calls = Network.forward, []

    def broken(self, images):
        calls.append(len(images))
        return inner(self, images) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(Network, "forward", broken)
    with pytest.raises(
        IntegrityError, match=r"the loss is nan in epoch 2, step 2; lower lr"
    ) as error:
        desk.run(tmp_path, unfreeze="last:1")
    assert error.value.exit_code == 4
    kept = load_file(tmp_path / "runs/finetune-mine/best.safetensors")
    assert all(torch.isfinite(one).all() for one in kept.values())
    assert "best.safetensors has the best weights" in str(error.value)
    assert not (tmp_path / "mine").exists()
    monkeypatch.undo()
    monkeypatch.setattr(outcome, "write_onnx", lambda *_: "")
    desk.run(tmp_path, unfreeze="last:1", lr=1e-4)  # nothing is in its way


def test_run__validation_that_is_no_number__stops_with_the_best_kept(desk, tmp_path):
    """One step, whose loss was of the start: only validation tells what became of the weights."""
    with pytest.raises(
        IntegrityError, match="on validation after epoch 1; lower lr or set clip"
    ) as e:
        desk.run(
            tmp_path, unfreeze="all", optimizer="sgd", lr=1e30, clip=None, epochs=1, batch_size=36
        )
    assert e.value.exit_code == 4
    assert (tmp_path / "runs/finetune-mine/best.safetensors").exists()


def out_of_memory_above(images: int, where: str = "forward"):
    inner = getattr(Network, where)

    def forward(self, given):
        if len(given) > images:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(self, given)

    return forward


def test_run__memory_that_runs_out__halves_a_pass_and_says_so(desk, tmp_path, monkeypatch, capsys):
    desk.run(tmp_path / "whole", epochs=1, mixup=0.4)
    monkeypatch.setattr(Network, "forward", out_of_memory_above(4))
    desk.run(tmp_path / "parts", epochs=1, mixup=0.4)
    said = capsys.readouterr().out
    assert "in 2 passes of 6 images" in said
    assert "write batch_size: 3, accumulate: 4" in said
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in one:  # the same step but for rounding, whatever it is computed in
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "parts/runs/finetune-mine.json").read_text())["passes"] == 4


@pytest.mark.parametrize("where", ["forward", "of_pixels"])
def test_run__no_memory_for_one_image__is_a_resource_error(desk, tmp_path, monkeypatch, where):
    monkeypatch.setattr(Network, where, out_of_memory_above(0, where))
    with pytest.raises(ResourceError, match="no memory for one image at a time"):
        desk.run(tmp_path)


def test_run__memory_that_runs_out_in_validation__halves_what_is_looked_at_at_once(
    desk, tmp_path, monkeypatch
):
    desk.run(tmp_path / "whole", epochs=1)
    monkeypatch.setattr(Network, "of_pixels", out_of_memory_above(5, "of_pixels"))
    desk.run(tmp_path / "parts", epochs=1)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_run__statistics_after_a_pass_that_is_done_again__are_of_one_step(
    desk, tmp_path, monkeypatch
):
    """The halves of a step are two passes: what broke off before them leaves no trace."""
    asked = {"batch_norm": "train", "unfreeze": "last:1", "epochs": 1}
    desk.run(tmp_path / "halves", **asked, batch_size=6, accumulate=2)
    failures = iter([True])
    inner = Network.forward

    def forward(self, given):
        logits = inner(self, given)
        if next(failures, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return logits

    monkeypatch.setattr(Network, "forward", forward)
    desk.run(tmp_path / "again", **asked, batch_size=12, accumulate=1)
    one, other = weights(tmp_path / "halves"), weights(tmp_path / "again")
    for name in one:
        assert torch.equal(one[name], other[name]), name


def altered(desk: Desk, change) -> finetuning.Material:
    """The material with other labels. change: given a copy of them."""
    given = desk.material()
    labels = replace(given.labels, label=given.labels.label.copy(), split=given.labels.split.copy())
    change(labels)
    return replace(given, labels=labels)


def refused(desk: Desk, out: Path, given: finetuning.Material, error: type, match: str, **keys):
    with pytest.raises(error, match=match):
        finetuning.run("mine", finetuning_desk.entry(**keys), given, desk.place(out))


def test_run__too_few_images_or_classes__are_refused(desk, tmp_path):
    def only(name):
        def change(labels):
            labels.label[:] = name

        return change

    def without(split):
        def change(labels):
            labels.split[labels.split == split] = Split.TEST

        return change

    refused(desk, tmp_path, altered(desk, only("dots")), InputError, "all of class 'dots'")
    refused(desk, tmp_path, altered(desk, without("train")), InputError, "no train image")
    refused(desk, tmp_path, altered(desk, without("val")), InputError, "no val image")


def test_run__photo_that_changed__is_named(desk, tmp_path):
    given, root = desk.material(), tmp_path / "photos"
    for path in given.labels.path:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((desk.folder / "photos" / path).read_bytes())
    (root / "train/dots/3.png").write_bytes(b"other")
    given = replace(given, root=root)
    refused(desk, tmp_path, given, InputError, r"train/dots/3\.png cannot be trained on \(changed")


def test_run__backbones_that_cannot_be_trained__are_refused(desk, tmp_path):
    given = desk.material()
    for source in ("onnx", "pixels"):
        origin = desk.origin.model_copy(update={"source": source})
        match = f"{source} has no torch network to train; choose a backbone of source timm"
        refused(desk, tmp_path, replace(given, origin=origin), ConfigurationError, match)
    other = desk.origin.model_copy(update={"seed": 7})
    match = "weights_sha256 is .* now, .* when it was frozen"
    refused(desk, tmp_path, replace(given, origin=other), IntegrityError, match)


def test_run__head_of_other_embeddings__is_refused(desk, tmp_path):
    given = desk.material()
    stale = replace(given.record, fingerprint="0" * 64)
    match = "run 'dvc repro train@tiny-logistic'"
    refused(desk, tmp_path, replace(given, record=stale), IntegrityError, match)


def test_run__block_that_is_none__is_refused_before_anything_is_written(desk, tmp_path):
    match = r"finetune\.mine\.unfreeze: unknown block 'layer5'; did you mean"
    refused(desk, tmp_path, desk.material(), ConfigurationError, match, unfreeze=["layer5"])
    assert not list(tmp_path.iterdir())


def test_run__answers__have_the_schema_of_evaluation_and_are_read_back(desk, tmp_path):
    record = desk.run(tmp_path, unfreeze="last:1")
    folder = tmp_path / "mine"
    table = pq.read_table(folder / finetuned.PREDICTIONS)
    assert table.schema.names == tables._PREDICTIONS.names
    assert set(table["head"].to_pylist()) == {"mine"}
    found = finetuned.load(folder)
    assert (found.name, found.backbone, found.classes) == ("mine", "tiny", finetuning_desk.KINDS)
    val, test = found.answers(desk.labels)
    assert (val.split, test.split) == ("val", "test")
    assert float(np.mean(val.predicted == val.labels.label)) == record["val"]["accuracy"]
    assert test.probabilities.shape == (24, 3)
    codes = test.probabilities.argmax(axis=1)
    assert [found.classes[code] for code in codes] == test.predicted.tolist()
    assert set(record["sha256"]) == {path.name for path in folder.iterdir()} - {finetuned.RECORD}


def test_answers__file_that_was_altered__is_refused(desk, tmp_path):
    desk.run(tmp_path, epochs=1)
    path = tmp_path / "mine" / finetuned.PROBABILITIES
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(IntegrityError, match=r"run 'dvc repro -f finetune@mine'"):
        list(finetuned.load(tmp_path / "mine").answers(desk.labels))
    (tmp_path / "mine" / finetuned.RECORD).write_text("{}")
    with pytest.raises(IntegrityError, match="is damaged"):
        finetuned.load(tmp_path / "mine")
    with pytest.raises(IntegrityError, match="is missing"):
        finetuned.load(tmp_path / "other")


def test_run__record__tells_nothing_of_time_or_place(desk, tmp_path):
    desk.run(tmp_path, epochs=1)
    text = (tmp_path / "mine" / finetuned.RECORD).read_text()
    assert str(tmp_path) not in text
    assert "seconds" not in text
    note = json.loads((tmp_path / "runs/finetune-mine.json").read_text())
    assert set(note["phases"]) == {"start", "train", "score", "write"}
    assert not (tmp_path / "runs/finetune-mine").exists()


def test_run__model__is_a_backbone_with_a_fingerprint_of_its_own(desk, tmp_path):
    record = desk.run(tmp_path, unfreeze="last:1")
    path = tmp_path / "mine" / finetuned.WEIGHTS
    keys = {"source": "checkpoint", "model": record["architecture"], "seed": 0}
    keys |= {"weights": f"file:{path}", "sha256": files.sha256_of(path)}
    origin = BackboneParams(**{**desk.origin.model_dump(exclude_none=True), **keys})
    freezing.freeze("again", origin, tmp_path / "again", locate=Path)
    again = frozen.load(tmp_path / "again")
    assert again.fields["weights_sha256"] == record["weights_sha256"]
    assert again.fingerprint != desk.backbone.fingerprint


def test_run__onnx__says_what_the_record_says(desk, tmp_path, exported):
    record = desk.run(tmp_path, unfreeze="last:1", epochs=1)
    assert record["onnx"] == "written"
    val, _ = finetuned.load(tmp_path / "mine").answers(desk.labels)
    pixels = np.stack(
        [
            preprocess((desk.folder / "photos" / path).read_bytes(), desk.backbone.preprocessing)
            for path in val.labels.path
        ]
    )
    label, known, embedding = onnx_model.run(tmp_path / "mine" / finetuned.ONNX, pixels)
    np.testing.assert_allclose(known, val.probabilities, atol=1e-4)
    assert [finetuning_desk.KINDS[int(code)] for code in label] == val.predicted.tolist()
    assert embedding.shape == (24, desk.backbone.dim)


def test_groups__tell_what_is_trained_and_how_fast(desk):
    entry = finetuning_desk.entry(unfreeze="last:2", lr=0.1, layer_decay=0.5)
    found = finetuning.groups("mine", entry, desk.origin, dim=desk.backbone.dim, classes=3)
    assert [group.name for group in found][-3:] == ["layer3.0", "layer4.0", "fitted head"]
    assert [group.rate for group in found] == pytest.approx([0, 0, 0, 0.05, 0.1, 1.0])
    assert [group.frozen for group in found] == [True, True, True, False, False, False]
    assert found[-1].parameters == 3 * desk.backbone.dim + 3
