"""Layers and views from freezing to the tracked file: each made once, equal to a clean run's."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from pipeline import embeddings, frozen, pace, runtimes, taps
from pipeline.architectures import tapped
from pipeline.backbones import freezing
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.images import Preprocessing, preprocess
from pipeline.images.views import CLEAN, Views, render
from pipeline.params import BackboneParams, PreprocessingParams
from pipeline.taps import Layer, Tap
from tests.test_extraction import counts, photos, places_in, run, write_photos
from tests.test_freezing_torch import entry, weights_file

AT = "params.yaml: backbones.b"
SMALL = {"resize": 48, "crop": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
SMALL_PARAMS = PreprocessingParams.model_validate(SMALL)
RECIPE = Preprocessing(48, 32, "bicubic", (0.5,) * 3, (0.25,) * 3)
SEVERAL = ["penultimate", "layer2", "layer3@max", "layer4.0.conv1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random ones, whose normalisation does something, as that of trained ones."""
    path = weights_file("timm", "test_resnet", tmp_path_factory.mktemp("weights"))
    state, chance = torch.load(path, weights_only=True), torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1, generator=chance)
        if name.endswith("running_var") or ".bn" in name and name.endswith("weight"):
            tensor.uniform_(0.5, 2, generator=chance)  # timm's own begin at 0 in some places
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def freeze(weights, tmp_path_factory):
    """Freezes the small network with some keys; the same keys once."""
    made: dict[str, Path] = {}

    def of(**keys) -> Path:
        name = repr(sorted(keys.items()))
        if name not in made:
            folder = tmp_path_factory.mktemp("frozen") / "b"
            given = entry(weights, preprocessing=SMALL, **{"runtime": "onnx", **keys})
            given = BackboneParams.model_validate(given.model_dump())
            freezing.freeze("b", given, folder, locate=Path)
            made[name] = folder
        return made[name]

    return of


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of 12 photos, five a shard; called with a frozen folder."""
    monkeypatch.setattr(pace, "LEAST", 5)
    monkeypatch.setattr(pace, "MOST", 5)
    write_photos(tmp_path, photos(12))

    def of(folder: Path):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        return places_in(tmp_path, shutil.copytree(folder, tmp_path / "b"))

    return of


def reference(weights: Path) -> torch.nn.Module:
    model = timm.create_model("test_resnet").eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_freeze__several_layers__are_what_the_network_itself_makes(weights, freeze, runtime):
    backbone = frozen.load(freeze(layers=SEVERAL, runtime=runtime))
    probe = frozen.probe_pixels(RECIPE)
    made = runtimes.load(backbone, device="cpu", layers=range(4)).embed(probe)
    ends = np.cumsum([one.dim for one in backbone.outputs])[:-1]
    model = reference(weights)
    images = (torch.from_numpy(probe.copy()).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        early = model.layer2(
            model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(images)))))
        )
        late = model.layer3(early)
        expected = [
            model.forward_head(model.forward_features(images), pre_logits=True),
            early.mean(dim=(2, 3)),
            late.amax(dim=(2, 3)),
            model.layer4[0].conv1(late).mean(dim=(2, 3)),
        ]
    for vectors, wanted in zip(np.split(made, ends, axis=1), expected, strict=True):
        np.testing.assert_allclose(vectors, wanted.numpy(), rtol=1e-3, atol=1e-4)
    assert [one.dataset for one in backbone.outputs] == [
        "embeddings",
        "layers/layer2",
        "layers/layer3@max",
        "layers/layer4.0.conv1",
    ]


def test_freeze__layer_that_keeps_onnxruntime_from_fusing__is_told_in_the_fingerprint(
    freeze, weights, tmp_path, capsys
):
    """A convolution's output is fused with the normalisation behind it, unless it is tapped."""
    alone, several = frozen.load(freeze()), frozen.load(freeze(layers=SEVERAL))
    joint = {one.tap.name: one.jointly for one in several.layers}
    assert joint["layer2"] == joint["layer3@max"] == ()  # what lies before is the same
    assert joint["penultimate"] == tuple(sorted(SEVERAL))
    assert several.fingerprint != alone.fingerprint
    assert several.fields["jointly"] == sorted(SEVERAL)
    given = entry(weights, preprocessing=SMALL_PARAMS, runtime="onnx", layers=SEVERAL)
    freezing.freeze("b", given, tmp_path / "b", locate=Path)
    said = capsys.readouterr().err
    assert "b: onnxruntime computes penultimate, layer4.0.conv1 with other bits" in said or (
        "b: onnxruntime computes penultimate with other bits" in said
    )
    with_two = frozen.load(freeze(layers=["layer2", "penultimate"]))
    assert with_two.outputs[0].fingerprint == several.outputs[1].fingerprint


def test_freeze__same_fingerprint__means_the_same_bits_from_another_file(tmp_path):
    """What is told of shapes in a file decides what onnxruntime fuses: a part of it must tell it too."""
    found = []
    for number, layers in enumerate(
        (["penultimate"], ["penultimate", "blocks.0"], ["penultimate", "blocks.5"])
    ):
        given = BackboneParams(source="random", model="timm/test_vit", layers=layers)
        freezing.freeze("b", given, tmp_path / str(number), locate=Path)
        found.append(frozen.load(tmp_path / str(number)))
    probe = frozen.probe_pixels(found[0].preprocessing)
    first, *others = (runtimes.load(one, device="cpu").embed(probe).tobytes() for one in found)
    for made, backbone in zip(others, found[1:], strict=True):
        first_alone = not backbone.layers[0].jointly
        assert (backbone.fingerprint == found[0].fingerprint) == first_alone
        assert made == first


def test_freeze__layers_beside_each_other__change_no_fingerprint_and_no_bit(freeze):
    alone, several = frozen.load(freeze()), frozen.load(freeze(layers=SEVERAL[:3]))
    assert several.fingerprint == alone.fingerprint
    assert {one.jointly for one in several.layers} == {()}
    probe = frozen.probe_pixels(RECIPE)
    ours = runtimes.load(several, device="cpu").embed(probe)
    assert ours.tobytes() == runtimes.load(alone, device="cpu").embed(probe).tobytes()
    second = runtimes.load(several, device="cpu", layers=(1,)).embed(probe)
    both = runtimes.load(several, device="cpu", layers=(0, 1)).embed(probe)
    assert both[:, several.dim :].tobytes() == second.tobytes()


@pytest.mark.parametrize("more", [{"views": 2}, {"tta": "flip"}, {"tta": "ten_crop"}, {"seed": 3}])
def test_freeze__views_and_averaging__are_told_apart_by_the_fingerprints(freeze, more):
    plain, other = frozen.load(freeze()), frozen.load(freeze(**more))
    assert (other.fingerprint != plain.fingerprint) == ("tta" in more)
    views = more.get("views", 0)
    assert [one.view for one in other.outputs] == [*range(views + 1)]
    assert len({one.fingerprint for one in other.outputs}) == views + 1


def test_extract__layer_added__computes_that_layer_alone_and_equals_a_clean_run(
    freeze, project, tmp_path
):
    places = project(freeze())
    assert counts(run(places)) == (12, 12, 0, 0)
    first = frozen.load(places.backbone).outputs[0]
    shards = sorted((places.store / first.fingerprint).glob("*.h5"))
    before = [(path.name, path.stat().st_mtime_ns) for path in shards]

    places = project(freeze(layers=["penultimate", "layer2"]))
    backbone = frozen.load(places.backbone)
    second = backbone.outputs[1]
    assert counts(run(places)) == (12, 12, 0, 0)
    assert [(path.name, path.stat().st_mtime_ns) for path in shards] == before
    assert len(list((places.store / second.fingerprint).glob("*.h5"))) == 3
    assert counts(run(places)) == (12, 0, 12, 0)

    clean = tmp_path / "clean"
    write_photos(clean, photos(12))
    there = places_in(clean, places.backbone)
    run(there)
    assert there.embeddings.read_bytes() == places.embeddings.read_bytes()

    opened = embeddings.open(places.embeddings)
    assert (opened.layers, opened.views) == (("penultimate", "layer2"), 0)
    rows = opened.rows(opened.sha256)
    assert opened.take(rows, layer="layer2").shape == (12, second.dim)
    assert opened.fingerprint_of("layer2") == second.fingerprint
    with pytest.raises(ConfigurationError, match="unknown layer 'layer3'; did you mean 'layer2'"):
        opened.take(rows, layer="layer3")


def test_embeddings_verify__file_of_fewer_layers_than_the_backbone__is_refused(
    freeze, project, tmp_path
):
    from pipeline.cli.embeddings import verify

    places = project(freeze())
    run(places)
    beside = tmp_path / "artifacts" / "embeddings" / "b.h5"
    beside.parent.mkdir(parents=True)
    shutil.copy(places.embeddings, beside)
    folder = tmp_path / "artifacts" / "backbones" / embeddings.open(beside).attributes["backbone"]
    shutil.copytree(freeze(layers=["penultimate", "layer2"]), folder)
    with pytest.raises(IntegrityError, match=r"is not of the backbone .*layers/layer2 is"):
        verify(str(beside))


def test_extract__layer_and_photos_added_at_once__computes_each_missing_part_once(
    freeze, project, tmp_path, monkeypatch
):
    from pipeline import extraction

    asked = []
    real = extraction.compute

    def noted(shards, context, *rest, **named):
        asked.append((context.outputs, named["total"]))
        return real(shards, context, *rest, **named)

    monkeypatch.setattr(extraction, "compute", noted)
    run(project(freeze()))
    places = project(freeze(layers=["penultimate", "layer2"]))
    write_photos(tmp_path, photos(15))
    assert counts(run(places)) == (15, 15, 0, 0)
    assert asked[1:] == [(("embeddings", "layers/layer2"), 3), (("layers/layer2",), 12)]


def test_extract__views__are_the_vectors_of_augmented_pixels(freeze, project):
    places = project(freeze(views=2, layers=["penultimate", "layer2"]))
    run(places)
    backbone, opened = frozen.load(places.backbone), embeddings.open(places.embeddings)
    assert (opened.views, opened.layers) == (2, ("penultimate", "layer2"))
    assert sorted(opened.arrays) == sorted(one.dataset for one in backbone.outputs)
    runtime = runtimes.load(backbone, device="cpu", layers=(0, 1))
    for name, content in photos(12).items():
        sha256 = hashlib.sha256(content).hexdigest()
        views = render(content, sha256, RECIPE, Views(augmented=(1, 2)))
        assert (views[0] == preprocess(content, RECIPE)).all()
        expected = runtime.embed(views).astype(np.float16)
        row = opened.rows(np.array([sha256], "S64"))
        for view in range(3):
            for layer, part in (
                ("penultimate", expected[view, : backbone.dim]),
                ("layer2", expected[view, backbone.dim :]),
            ):
                assert (opened.of(layer, view)[row[0]] == part).all(), (name, view, layer)


@pytest.mark.parametrize("tta", ["flip", "five_crop", "ten_crop"])
def test_extract__averaging__is_the_mean_over_its_views(freeze, project, tta):
    places = project(freeze(tta=tta))
    run(places)
    backbone, opened = frozen.load(places.backbone), embeddings.open(places.embeddings)
    runtime = runtimes.load(backbone, device="cpu")
    content = photos(12)["1/004.png"]
    sha256 = hashlib.sha256(content).hexdigest()
    views = render(content, sha256, RECIPE, Views(tta=tta))
    expected = runtime.embed(views).astype(np.float64).mean(axis=0)
    row = opened.rows(np.array([sha256], "S64"))
    np.testing.assert_allclose(opened.take(row)[0], expected, rtol=2e-3, atol=1e-4)


def test_extract__vectors_that_are_long__are_stored_a_few_images_a_shard(
    freeze, project, monkeypatch
):
    from pipeline import extraction

    places = project(freeze(layers=["layer2@flatten"]))
    backbone = frozen.load(places.backbone)
    monkeypatch.setattr(extraction, "SHARD_BYTES", 2 * 2 * backbone.dim)  # of two images
    assert counts(run(places)) == (12, 12, 0, 0)
    assert len(list((places.store / backbone.fingerprint).glob("*.h5"))) == 6


def test_extract__view_added__keeps_the_others(freeze, project):
    run(project(freeze(views=1)))
    places = project(freeze(views=2))
    before = set(places.store.rglob("*.h5"))
    assert counts(run(places)) == (12, 12, 0, 0)
    new = {path.parent.name for path in places.store.rglob("*.h5") if path not in before}
    assert new == {frozen.load(places.backbone).outputs[2].fingerprint}


def test_render__augmented_views__depend_on_seed_number_and_digest_alone():
    content = photos(12)["0/003.png"]
    sha256 = hashlib.sha256(content).hexdigest()

    def one(number: int, *, seed: int = 0, name: str = sha256) -> bytes:
        return render(content, name, RECIPE, Views(False, None, (number,), seed)).tobytes()

    together = render(content, sha256, RECIPE, Views(True, None, (1, 2), 0))
    assert [view.tobytes() for view in together[1:]] == [one(1), one(2)]
    assert len({one(1), one(2), one(1, seed=1), one(1, name="0" * 64)}) == 4
    assert together.shape == (3, 32, 32, 3)


def test_render__crops__are_those_of_torchvision():
    from PIL import Image
    from torchvision.transforms import v2

    content = photos(12)["2/005.png"]
    import io

    image = Image.open(io.BytesIO(content)).convert("RGB")
    whole = v2.Resize(48, v2.InterpolationMode.BICUBIC)(image)
    left, right, lower, last, centre = (np.asarray(part) for part in v2.FiveCrop(32)(whole))
    ours = render(content, "0" * 64, RECIPE, Views(tta="ten_crop"))
    theirs = [centre, left, right, lower, last]
    np.testing.assert_array_equal(ours[:5], np.stack(theirs))
    np.testing.assert_array_equal(ours[5:], np.stack([part[:, ::-1] for part in theirs]))
    flipped = render(content, "0" * 64, RECIPE, Views(tta="flip"))
    np.testing.assert_array_equal(flipped, np.stack([centre, centre[:, ::-1]]))
    assert (render(content, "0" * 64, RECIPE, CLEAN)[0] == centre).all()


LAYERS = [
    Layer("conv", (8, 6, 6)),
    Layer("swin", (6, 6, 8)),
    Layer("tokens", (37, 8)),
    Layer("patches", (36, 8)),
    Layer("last", (8, 1, 1)),
    Layer("vector", (8,)),
    Layer("penultimate", (8,)),
]


@pytest.mark.parametrize(
    ("text", "pooling", "expected"),
    [
        ("penultimate", None, ("penultimate", "default")),
        ("penultimate", "max", ("penultimate", "default")),
        ("conv", None, ("conv", "avg")),
        ("conv", "gem", ("conv", "gem")),
        ("conv@flatten", "gem", ("conv", "flatten")),
        ("tokens", None, ("tokens", "cls")),
        ("tokens@patch_mean", None, ("tokens", "patch_mean")),
        ("patches", None, ("patches", "patch_mean")),
        ("vector", "max", ("vector", "flatten")),
        ("pooled", None, ("patches", "patch_mean")),
        ("pooled@max", None, ("patches", "max")),
    ],
)
def test_resolve__layer__has_the_pooling_that_suits_it(text, pooling, expected):
    (tap,) = taps.resolve([text], pooling, LAYERS, AT)
    assert (tap.name, tap.layer, tap.pooling) == (text, *expected)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["comv"], "no layer 'comv'; did you mean 'conv'"),
        (["zzz"], "'headstart backbones show b' lists them"),
        (["conv@mean"], "no pooling 'mean'; choose of avg, max"),
        (["conv@cls"], "pooling cls does not suit its shape"),
        (["patches@cls"], "pooling cls does not suit"),
        (["penultimate@max"], "is one vector already; write penultimate"),
        (["conv", "conv@avg"], "'conv' and 'conv@avg' are the same; delete one"),
    ],
)
def test_resolve__layer_that_cannot_be__is_one_line_with_what_to_write(texts, words):
    with pytest.raises(ConfigurationError) as error:
        taps.resolve(texts, None, LAYERS, AT)
    assert words in str(error.value)
    assert str(error.value).startswith(f"{AT}.layers: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "pooling", "expected"),
    [
        ((4, 3, 3), "avg", lambda x: x.mean((2, 3))),
        ((4, 3, 3), "max", lambda x: x.amax((2, 3))),
        ((4, 3, 3), "gem", lambda x: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)),
        ((3, 3, 4), "avg", lambda x: x.mean((1, 2))),
        ((4, 3, 3), "flatten", lambda x: x.flatten(1)),
        ((10, 4), "cls", lambda x: x[:, 0]),
        ((10, 4), "patch_mean", lambda x: x[:, 1:].mean(1)),
        ((11, 4), "patch_mean", lambda x: x[:, 2:].mean(1)),
        ((10, 4), "avg", lambda x: x.mean(1)),
        ((4,), "flatten", lambda x: x),
    ],
)
def test_pooled__each_pooling__is_its_formula(shape, pooling, expected):
    made = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tapped.pooled(made, pooling), expected(made))


def test_layers__what_is_the_same_for_all_images__is_none():
    class Placed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.place = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(1, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (self.conv(images) + self.place(torch.ones(1, 1, 6, 6))).mean((2, 3))

    assert tapped.layers(Placed().eval(), 8) == [
        Layer("conv", (4, 6, 6)),
        Layer("penultimate", (4,)),
    ]


def test_tapped__from_several_threads__gives_each_its_own():
    from concurrent.futures import ThreadPoolExecutor

    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True))
    both = tapped.Tapped(network, [Tap("a", "0", "avg"), Tap("b", "1", "max")]).eval()
    images = torch.randn(16, 1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = [both(each) for each in images]
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda each: [x.detach() for x in both(each)], images))
    for ours, theirs in zip(made, expected, strict=True):
        torch.testing.assert_close(tuple(ours), theirs, rtol=0, atol=0)


def test_load__older_record_without_layers__is_read(freeze, tmp_path):
    from tests.frozen_fixtures import edit_record

    folder = shutil.copytree(freeze(), tmp_path / "b")
    whole = frozen.load(folder)
    edit_record(folder, lambda record: [record.pop(key) for key in ("layers", "views", "outputs")])
    assert replace(frozen.load(folder), folder=whole.folder) == whole


def test_freeze__crop_that_the_network_cannot_take__is_one_line(tmp_path):
    given = BackboneParams(
        source="random", model="timm/vit_tiny_patch16_224", preprocessing=SMALL_PARAMS
    )
    with pytest.raises(ConfigurationError) as error:
        freezing.freeze("b", given, tmp_path / "b", locate=Path)
    said = str(error.value)
    assert said.startswith(
        f"{AT}.preprocessing: the network does not take images of 32 x 32 pixels"
    )
    assert "\n" not in said


def test_freeze__more_layers_and_views_than_a_file_can_name__is_refused(weights, tmp_path):
    given = entry(weights, layers=["penultimate", "layer2", "layer3"], views=90)
    with pytest.raises(ConfigurationError, match="3 layers in 91 views are more than 200 vectors"):
        freezing.freeze("b", given, tmp_path / "b", locate=Path)


def test_extract__one_layer_lost_that_is_made_jointly__is_made_so_again(freeze, project):
    """By the others' side it has other bits than by itself, and its fingerprint says which."""
    places = project(freeze(layers=SEVERAL))
    run(places)
    before = places.embeddings.read_bytes()
    first = frozen.load(places.backbone).outputs[0]
    assert first.fields["jointly"]
    for shard in (places.store / first.fingerprint).glob("*.h5"):
        shard.unlink()
    assert counts(run(places)) == (12, 12, 0, 0)
    assert places.embeddings.read_bytes() == before
