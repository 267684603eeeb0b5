"""What every entry of a registry must hold to: a class each, subclassed by the entry's tests."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import backbones, files, frozen, runtimes
from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams
from pipeline.taps import Layer
from pipeline.tuning import Wish, tune


class BackboneContract:
    """A source of backbones. A subclass gives `entry`, and overrides nothing else.

    entry: a fixture of class scope: an entry of params.yaml that needs no network; its paths
    are absolute.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def folders(cls, entry, tmp_path_factory) -> tuple[Path, Path]:
        """The entry, frozen twice."""
        from pipeline.backbones import freezing

        folders = tuple(tmp_path_factory.mktemp(f"time{n}") / "entry" for n in (1, 2))
        for folder in folders:
            freezing.freeze("entry", entry, folder, locate=Path)
        return folders

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls, folders) -> FrozenBackbone:
        return frozen.load(folders[0])

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls, backbone) -> np.ndarray:
        """Twelve images, some of them noise, some flat."""
        crop = backbone.preprocessing.crop
        images = np.random.default_rng(0).integers(0, 256, (12, crop, crop, 3), dtype=np.uint8)
        images[3], images[7] = 0, 255
        return images

    @pytest.fixture(scope="class")
    @classmethod
    def vectors(cls, backbone, images) -> np.ndarray:
        """What the backbone makes of them, one at a time."""
        return load(backbone, 1).embed(images)

    def test_freeze__again__gives_equal_bytes(self, folders):
        first, second = (sorted(path.name for path in folder.iterdir()) for folder in folders)
        assert first == second == ["backbone.json", "model.onnx"]
        for name in first:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()

    def test_find__entry__needs_no_network_and_once_frozen_no_weights(self, folders, entry):
        assert backbones.find("entry", entry, locate=Path).download == ""
        frozen_already = backbones.already_frozen(entry, folders[0])
        assert frozen_already is not None
        assert frozen_already.folder == folders[0]
        other = entry.model_copy(update={"storage": "float32"})
        assert backbones.already_frozen(other, folders[0]) is None
        assert backbones.already_frozen(entry, folders[0].with_name("nowhere")) is None

    def test_describe__without_weights__says_what_load_gives(self, backbone, entry):
        source = backbones.check("entry", entry)
        told, loaded = source.describe(entry, "entry", Path), source.load(entry, "entry", Path)
        assert list(told.layers) == loaded.network.layers(loaded.preprocessing)
        assert (told.recipe, told.crop) == (loaded.preprocessing, loaded.preprocessing.crop)
        assert (told.licence, told.package) == (loaded.licence, loaded.package)
        assert told.layers[-1] == Layer("penultimate", (backbone.dim,))
        if hasattr(loaded.network, "module"):
            numbers = [one.numel() for one in loaded.network.module.parameters()]
            assert told.parameters == sum(numbers)

    def test_freeze__record__says_where_it_comes_from_and_holds_no_path(self, folders, entry):
        text = (folders[0] / "backbone.json").read_text()
        record = json.loads(text)
        assert record["name"] == "entry"
        assert record["fields"]["source"] == entry.source
        assert record["fields"]["runtime"] == entry.runtime
        assert record["fields"]["precision"] == entry.precision
        assert record["fields"]["storage"] == entry.storage
        assert all(isinstance(value, str) and value for value in flat(record["fields"]))
        for path in (str(folders[0].parent), str(Path.home()), str(files.__file__)):
            assert path not in text

    def test_load__frozen_folder_moved__is_the_same_backbone(self, backbone, tmp_path):
        moved = frozen.load(shutil.copytree(backbone.folder, tmp_path / "elsewhere"))
        assert moved.fingerprint == backbone.fingerprint
        assert moved.name == "entry"

    def test_embed__vectors__have_the_recorded_length_and_are_finite(self, backbone, vectors):
        assert vectors.shape == (12, backbone.dim)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()

    def test_embed__images_that_differ__have_vectors_that_differ(self, vectors):
        assert len(np.unique(vectors, axis=0)) == len(vectors)

    def test_embed__onnx__is_what_torch_makes(self, backbone, entry):
        pretrained = backbones.check("entry", entry).load(entry, "entry", Path)
        recipe, probe = backbone.preprocessing, frozen.probe_pixels(backbone.preprocessing)
        assert pretrained.preprocessing == recipe
        (expected,) = pretrained.network.embed(probe, recipe, backbone.taps)
        measured = load(backbone, None).embed(probe)
        frozen.check_drift(measured, expected, precision=entry.precision, what="onnx")

    @pytest.mark.parametrize("batch_size", [2, 5, 12, 64])
    def test_embed__batch_of_any_size__changes_no_bit(self, backbone, images, vectors, batch_size):
        assert load(backbone, batch_size).embed(images).tobytes() == vectors.tobytes()

    def test_embed__other_neighbours__change_no_bit(self, backbone, images, vectors):
        order = np.random.default_rng(1).permutation(12)
        runtime = load(backbone, 5)
        assert runtime.embed(images[order]).tobytes() == vectors[order].tobytes()
        assert runtime.embed(images[order[:7]]).tobytes() == vectors[order[:7]].tobytes()

    def test_fingerprint__each_field__is_part_of_it(self, backbone):
        seen = {backbone.fingerprint}
        for field in backbone.fields:
            seen.add(frozen.fingerprint_of({**backbone.fields, field: "changed"}))
        assert len(seen) == 1 + len(backbone.fields)

    def test_fingerprint__recipe_of_the_entry__is_part_of_it(self, backbone, entry):
        """What a user can change in params.yaml and what comes of it."""
        recipe = {
            "resize": backbone.preprocessing.resize,
            "crop": backbone.preprocessing.crop,
            "interpolation": "nearest",
            "mean": list(backbone.preprocessing.mean),
            "std": list(backbone.preprocessing.std),
        }
        given = BackboneParams(**{**entry.model_dump(), "preprocessing": recipe})
        pretrained = backbones.check("entry", given).load(given, "entry", Path)
        assert pretrained.preprocessing.interpolation == "nearest"
        assert frozen.pixel_probe(pretrained.preprocessing) != backbone.fields["pixel_probe"]

    def test_check__runtime_that_is_none__names_the_near_miss(self, entry):
        wrong = BackboneParams(**{**entry.model_dump(), "runtime": "onxx"})
        with pytest.raises(ConfigurationError, match=r"backbones\.b\.runtime: .*'onnx'"):
            backbones.check("b", wrong)

    def test_load__preprocessing_that_cannot_be__is_refused(self, backbone, entry):
        for change, said in (
            ({"crop": 999}, "larger than resize"),
            ({"std": [1, 0, 1]}, "above 0"),
        ):
            recipe = {**backbone.preprocessing.as_dict(), **change}
            recipe["std"] = [float(value) for value in recipe["std"]]
            wrong = BackboneParams(**{**entry.model_dump(), "preprocessing": recipe})
            with pytest.raises(ConfigurationError, match=said):
                backbones.check("b", wrong).load(wrong, "params.yaml: backbones.b", Path)


def load(backbone: FrozenBackbone, batch_size: int | None) -> runtimes.Runtime:
    """As a worker loads it for that wish, without looking for the fastest way."""
    runtime = runtimes.load(backbone, device="cpu")
    probe = frozen.probe_pixels(backbone.preprocessing)
    wish = Wish(cores=2, batch_size=batch_size)
    return tune(runtime, probe, wish=wish, memory=Path("none"), measure=False).runtime


def flat(fields: dict) -> list:
    """The values of the fields but for numbers, which may be anything."""
    recipe = fields["preprocessing"]
    return [value for key, value in fields.items() if key != "preprocessing"] + [
        recipe["interpolation"]
    ]
