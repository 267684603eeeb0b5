"""The parts of fine-tuning by themselves: folded heads, blocks, rates, what is drawn, what is kept."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from pipeline import fitting, heads
from pipeline.backbones import bare
from pipeline.cli import finetune
from pipeline.errors import ConfigurationError
from pipeline.finetuning import blocks, folding, memory, optimising, outcome, pictures
from pipeline.finetuning.blocks import Block
from pipeline.finetuning.network import copied, followed, learn, moving
from pipeline.finetuning.optimising import eased
from pipeline.images import Preprocessing
from pipeline.params import FinetuneParams, HeadParams
from pipeline.prediction import logits as head_logits
from pipeline.prediction import predict, soften

AT = "params.yaml: finetune.mine"
DIM = 12
FOLDING = [
    ("logistic", None), ("logistic", "none"), ("logistic", ["pca:5"]), ("logistic", ["whiten:4"]),
    ("logistic", ["centre", "l2"]), ("logistic", ["standardise", "power", "pca:6", "l2"]),
    ("linear_svm", None), ("ridge", None), ("lda", None), ("nearest_mean", None),
    ("nearest_mean", "standardise"),
]  # fmt: skip


def entry(**keys) -> FinetuneParams:
    return FinetuneParams(backbone="b", head="h", **keys)


def fitted(kind: str, enhance, classes: int):
    """A head on random vectors, the vectors, and others."""
    random = np.random.default_rng(3)
    X = random.normal(1, 2, (90, DIM)).astype(np.float32)
    y = (X[:, :classes] + random.normal(0, 1, (90, classes))).argmax(axis=1)
    recipe = heads.recipe(kind, HeadParams(kind=kind, enhance=enhance))
    rows = np.arange(len(y))
    ground = fitting.Ground(X, y, rows)
    at = fitting.setting(recipe, ground, rows, recipe.default or 0.0)
    with fitting.alone_on_a_thread():
        pipeline = fitting.fit(recipe, ground, rows, at).pipeline
    return pipeline, random.normal(1, 2, (400, DIM)).astype(np.float32)


def test_folded__kinds_that_the_command_proposes__are_those_that_fold():
    folding_kinds = []
    for kind in sorted(set(heads.HEADS) - {"vote", "stack"}):  # which are made of others
        with suppress(folding.InexpressibleError):
            folding.folded(fitted(kind, None, 3)[0], DIM)
            folding_kinds.append(kind)
    assert folding_kinds == sorted(finetune.FOLDING)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("kind", "enhance"), FOLDING)
def test_folded__says_what_the_head_says(kind, enhance, classes):
    pipeline, X = fitted(kind, enhance, classes)
    for temperature in (None, 2.5):
        head = folding.folded(pipeline, DIM, temperature)
        with torch.inference_mode():
            made = head(torch.from_numpy(X)).double().numpy()
        codes, _ = predict(pipeline, X, temperature)
        assert np.mean(made.argmax(axis=1) == codes) >= 0.9975
        expected = soften(head_logits(pipeline, X), temperature or 1.0)
        np.testing.assert_allclose(soften(made, 1.0), expected, atol=2e-5)
    assert head.get_submodule(folding.LINEAR).weight.shape[0] == classes


def test_folded__linear_steps__leave_one_layer():
    pipeline, _ = fitted("logistic", ["standardise", "pca:6"], 3)
    assert len(folding.folded(pipeline, DIM)) == 1
    pipeline, _ = fitted("nearest_mean", None, 3)
    assert [type(one).__name__ for one in folding.folded(pipeline, DIM)] == [
        "Fixed",
        "Unit",
        "Linear",
    ]


@pytest.mark.parametrize("kind", ["knn", "rbf_svm", "mlp"])
def test_folded__head_that_is_not_linear__is_refused_by_its_name(kind):
    pipeline, _ = fitted(kind, None, 3)
    with pytest.raises(folding.InexpressibleError, match=type(pipeline[-1]).__name__):
        folding.folded(pipeline, DIM)


def test_unit_and_root__zero_vector__has_zero_and_a_finite_gradient():
    for layer in (folding.Unit(), folding.SignedRoot()):
        given = torch.zeros(1, 3, requires_grad=True)
        layer(given).sum().backward()
        assert torch.isfinite(given.grad).all()
        assert torch.equal(layer(given), torch.zeros(1, 3))


MODELS = {
    "timm/tf_efficientnet_lite0": (17, "conv_stem", "blocks.6.0"),
    "timm/test_vit": (7, "cls_token", "blocks.5"),
    "timm/test_mambaout": (8, "stem", "head"),
    "timm/densenet121": (59, "features.conv0", "features.denseblock4.denselayer16"),
    "timm/convnext_atto": (13, "stem", "stages.3.blocks.1"),
    "timm/inception_v4": (20, "features.0", "features.21"),
    "timm/cs3darknet_s": (10, "stem", "stages.3"),
    "torchvision/resnet18": (9, "conv1", "layer4.1"),
    "torchvision/vit_b_16": (13, "conv_proj", "encoder.layers.encoder_layer_11"),
    "torchvision/mobilenet_v3_small": (14, "features.0", "classifier.0"),
}


@pytest.mark.parametrize("model", MODELS)
def test_blocks__have_every_parameter_once_in_forward_order(model):
    body = bare.built(model, "at").body
    listed = blocks.blocks(body)
    names = [name for block in listed for name in block.parameters]
    assert sorted(names) == sorted(name for name, _ in body.named_parameters())
    assert (len(listed), listed[0].name, listed[-1].name) == MODELS[model]
    for block in listed:  # what `headstart finetune groups` prints can be written under unfreeze
        assert blocks.trained([block.name], listed, AT) == [block]


LISTED = [Block(name, (f"{name}.weight",)) for name in ("stem", "layer1.0", "layer1.1", "layer2.0")]


@pytest.mark.parametrize(
    ("unfreeze", "names"),
    [
        ("head", []),
        ("last:1", ["layer2.0"]),
        ("last:2", ["layer1.1", "layer2.0"]),
        ("all", ["stem", "layer1.0", "layer1.1", "layer2.0"]),
        (["layer1"], ["layer1.0", "layer1.1"]),
        (["layer2.0", "stem"], ["stem", "layer2.0"]),
    ],
)
def test_trained__unfreeze__names_blocks(unfreeze, names):
    assert [block.name for block in blocks.trained(unfreeze, LISTED, AT)] == names


def test_trained__names_that_are_none__are_refused_with_near_misses():
    with pytest.raises(ConfigurationError, match=r"unknown block 'layer2\.1'; did you mean"):
        blocks.trained(["layer2.1"], LISTED, AT)
    with pytest.raises(ConfigurationError, match=r"'headstart finetune groups mine' lists them"):
        blocks.trained(["stm"], LISTED, AT)
    with pytest.raises(ConfigurationError, match=r"'last:5': it has 4 blocks; write all"):
        blocks.trained("last:5", LISTED, AT)


def test_moved_at__gradual__begins_with_the_head_and_ends_with_all_by_half():
    gradual = entry(unfreeze="all", gradual=True, epochs=8)
    counts = [len(blocks.moved_at(LISTED, gradual, epoch)) for epoch in range(8)]
    assert counts == [0, 1, 2, 3, 4, 4, 4, 4]
    assert blocks.moved_at(LISTED, gradual, 1) == LISTED[-1:]
    assert blocks.moved_at(LISTED, entry(), 0) == LISTED


def test_rates__fall_towards_the_images_and_the_heads_is_higher():
    found = blocks.rates(LISTED, entry(layer_decay=0.5, head_lr_factor=10.0))
    assert found == {
        "stem": 0.125,
        "layer1.0": 0.25,
        "layer1.1": 0.5,
        "layer2.0": 1.0,
        "fitted head": 10.0,
    }


def two_blocks() -> torch.nn.Module:
    return torch.nn.ModuleDict({block: torch.nn.Linear(2, 2) for block in ("first", "second")})


def network(body: torch.nn.Module) -> torch.nn.Module:
    """Named as `Network` names its parts."""
    made = torch.nn.Module()
    made.tapped = torch.nn.Module()
    made.tapped.network = body
    made.head = folding.chained([], torch.nn.Linear(2, 3))
    return made


def machinery(**keys) -> optimising.Machinery:
    listed = [Block(name, (f"{name}.weight", f"{name}.bias")) for name in ("first", "second")]
    return optimising.made(network(two_blocks()), listed, listed[1:], entry(**keys), 10)


def test_made__biases_do_not_decay_and_frozen_blocks_are_absent():
    made = machinery(weight_decay=0.3, layer_decay=0.5)
    told = [
        (g["weight_decay"], g["params"][0].ndim, g["lr_scale"]) for g in made.optimizer.param_groups
    ]
    assert told == [(0.3, 2, 1.0), (0.0, 1, 1.0), (0.3, 2, 10.0), (0.0, 1, 10.0)]
    assert not any("first" in name for name in made.parameters)


def test_made__a_block_that_is_itself_called_head__is_trained_beside_the_fitted_one():
    body = bare.built("timm/test_mambaout", "at").body
    listed = blocks.blocks(body)
    own = blocks.trained(["head"], listed, AT)
    assert [block.name for block in own] == ["head"]
    assert blocks.trained("head", listed, AT) == []
    made = optimising.made(network(body), listed, own, entry(), 10)
    names = [f"tapped.network.{one}" for one in own[0].parameters]
    assert made.parameters == [*names, "head.linear.weight", "head.linear.bias"]
    told = {group["lr_scale"] for group in made.optimizer.param_groups}
    assert told == {1.0, entry().head_lr_factor}
    table = blocks.groups(body, 10, entry(unfreeze="last:1"), AT)
    assert [(one.name, one.frozen) for one in table[-2:]] == [
        ("head", False),
        ("fitted head", False),
    ]


def test_warmup__where_nobody_says__is_an_epoch_of_several():
    assert [entry(epochs=epochs).warmup for epochs in (1, 2, 9)] == [0, 1, 1]
    assert entry(epochs=9, warmup_epochs=0).warmup == 0


@pytest.mark.parametrize("schedule", ["constant", "step", "plateau", "cosine"])
def test_set_rates__warm_up_rises_then_the_schedule_is_followed(schedule):
    keys = {"schedule": schedule, "epochs": 6, "warmup_epochs": 1, "lr": 0.5}
    made = machinery(**keys)
    rates = [optimising.set_rates(made, entry(**keys), at, 10, [1.0]) for at in range(60)]
    np.testing.assert_allclose(rates[:9], 0.5 * np.arange(1, 10) / 10, rtol=1e-6)
    assert rates[15] == pytest.approx(0.5, rel=0.2)
    last = {"constant": 0.5, "step": 0.005, "plateau": 0.5, "cosine": 0.0}[schedule]
    assert rates[-1] == pytest.approx(last, abs=2e-3)
    head, body = made.optimizer.param_groups[-1], made.optimizer.param_groups[0]
    assert head["lr"] == pytest.approx(10 * body["lr"])


def test_set_rates__is_told_by_its_arguments_alone():
    keys = {"schedule": "cosine", "epochs": 4, "warmup_epochs": 0}
    gone_through, jumped = machinery(**keys), machinery(**keys)
    for at in range(30):
        through = optimising.set_rates(gone_through, entry(**keys), at, 10)
    assert through == optimising.set_rates(jumped, entry(**keys), 29, 10)


def test_eased__falls_after_epochs_that_are_no_better():
    assert eased([]) == eased([3.0, 2.0, 1.0]) == eased([1.0, 2.0]) == 1.0
    assert eased([1.0, 2.0, 2.0]) == pytest.approx(0.1)


def test_mixing__mixes_images_and_shares_of_classes():
    images, y = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    assert optimising.mixing(entry(), 3) is None
    for keys in ({"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.3, "cutmix": 0.3}):
        mixed, shares = optimising.mixing(entry(**keys), 3)(images, y)
        assert mixed.shape == images.shape
        assert shares.shape == (6, 3)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))


def test_learn__whatever_has_statistics__rests_unless_they_follow():
    from timm.layers import EvoNorm2dB0

    body = torch.nn.Sequential(EvoNorm2dB0(3), torch.nn.BatchNorm2d(3), torch.nn.GroupNorm(1, 3))
    images = torch.rand(4, 3, 8, 8)
    for follow in (False, True):
        before = copied(followed(body))
        assert set(before) == {
            "0.running_var", "1.running_mean", "1.running_var", "1.num_batches_tracked",
        }  # fmt: skip
        learn(body, statistics=follow)
        body(images)
        same = [torch.equal(before[name], values) for name, values in followed(body).items()]
        assert not any(same) if follow else all(same)
    assert set(moving(body, ["2.weight"], statistics=True)) == {*before, "2.weight"}


def test_room__is_one_budget_of_all_that_is_decoded():
    room = memory.Room(100)
    photo = np.zeros((4, 4, 3), np.uint8)  # 48 bytes
    listed = pictures.Listed(list("abc"), list("abc"), np.zeros(3, np.int64))
    first, second = (pictures.Decoded(None, listed, None, room) for _ in range(2))
    for decoded in (first, second):
        decoded._read = lambda place: photo
    assert first[0] is photo
    assert second[0] is photo
    assert second[1] is photo
    assert (len(first.kept), len(second.kept), room.left) == (1, 1, 4)
    assert second.full
    assert not first.full
    assert 0 < memory.room().left < 1e15


def test_has_run_out__knows_what_torch_and_cuda_say():
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):
        assert memory.has_run_out(error)
    assert not memory.has_run_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.has_run_out(ValueError("out of memory"))


def test_order__is_told_by_seed_and_epoch_and_drops_what_fills_no_step():
    first = pictures.order(20, 6, 0, 0)
    assert [len(step) for step in first] == [6, 6, 6]
    assert first == pictures.order(20, 6, 0, 0)
    assert first not in (pictures.order(20, 6, 0, 1), pictures.order(20, 6, 1, 0))
    assert sorted(pictures.order(4, 6, 0, 0)[0]) == [0, 1, 2, 3]


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "trivial"])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_augmentation__gives_crops_that_seed_epoch_and_digest_tell(augment, interpolation):
    recipe = Preprocessing(20, 16, interpolation, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    shape = (16, 16, 3) if augment in ("none", "flip") else (20, 30, 3)
    photo = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    listed = pictures.Listed(["a", "b"], ["aa", "bb"], np.array([0, 1]))
    decoded = pictures.Decoded(None, listed, None, 0, {0: photo, 1: photo})
    transform = pictures.augmentation(augment, recipe)
    made = [pictures.Augmented(decoded, transform, 0, epoch)[0][0] for epoch in (*range(8), 0)]
    assert all(one.shape == (16, 16, 3) and one.dtype == torch.uint8 for one in made)
    assert torch.equal(made[0], made[-1])
    differing = any(not torch.equal(made[0], one) for one in made[1:-1])
    assert differing == (augment != "none")
    if augment == "none":
        assert np.array_equal(made[0].numpy(), photo)


def test_augmentation__workers__change_nothing():
    recipe = Preprocessing(20, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    photo = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    listed = pictures.Listed(["a"] * 4, ["aa", "bb", "cc", "dd"], np.arange(4))
    decoded = pictures.Decoded(None, listed, None, 0, dict.fromkeys(range(4), photo))
    dataset = pictures.Augmented(decoded, pictures.augmentation("trivial", recipe), 5, 1)
    places = [[3, 1], [0, 2]]
    alone, beside = (list(pictures.steps(dataset, places, workers)) for workers in (0, 2))
    for (one, y), (other, z) in zip(alone, beside, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(y, z)


def test_between__ends_are_exact_and_counters_are_the_bests():
    start = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    best = {"w": torch.tensor([2.0, 6.0]), "n": torch.tensor(9)}
    assert outcome.between(start, best, 0.0) is start
    assert outcome.between(start, best, 1.0) is best
    middle = outcome.between(start, best, 0.5)
    assert middle["w"].tolist() == [1.5, 4.0]
    assert middle["n"] == 9
