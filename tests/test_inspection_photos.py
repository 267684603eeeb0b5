"""Stage inspect on real images: planted copies, flipped labels. Figures: `pytest -m slow -rP`."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from pipeline import dataset, frozen, images, inspection, runtimes
from pipeline.dataset import Labels
from pipeline.embeddings import Embeddings
from pipeline.inspection import suspects
from tests.contracts_heads import embed
from tests.frozen_fixtures import lite0  # noqa: F401 - a fixture
from tests.test_inspection import flipped, singles

pytestmark = pytest.mark.slow

SETS = ("ants_bees", "cifar10_small")
QUERIES = 100
STRANGERS = 3
SEEDS = 5


def encoded(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def resized(picture: Image.Image) -> Image.Image:
    width, height = (round(0.6 * side) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def cropped(picture: Image.Image) -> Image.Image:
    left, top = (round(0.03 * side) for side in picture.size)
    return picture.crop((left, top, picture.width - left, picture.height - top))


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


COPIES = {
    "re-encoded": lambda picture: encoded(picture, 50),
    "resized": lambda picture: encoded(resized(picture)),
    "mirrored": lambda picture: encoded(ImageOps.mirror(picture)),
    "brightened": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.2)),
    "cropped": lambda picture: encoded(cropped(picture)),
}
"""Crops lose 6 % of width and height, and are reported apart."""


@dataclass(frozen=True)
class Photos:
    """Real images with planted copies `<original>#<kind>`, embedded by EfficientNet-Lite0."""

    root: Path
    labels: Labels
    cached: Embeddings
    originals: tuple[str, ...]

    @property
    def untouched(self) -> Labels:
        """The images as they were given, those of the folder `train` alone."""
        plain = ["#" not in path and path.startswith("train/") for path in self.labels.path]
        return self.labels.where(np.array(plain))


@pytest.fixture(scope="module", params=SETS)
def photos(request, shared_data, tmp_path_factory, lite0) -> Photos:  # noqa: F811
    source, root = shared_data / request.param, tmp_path_factory.mktemp(request.param)
    contents = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in sorted(source.rglob("*.jpg"))
    }
    chosen = np.random.default_rng(0).choice(sorted(contents), QUERIES, replace=False)
    for path in chosen:
        picture = images.opened(contents[path])
        contents |= {f"{path}#{kind}": copy(picture) for kind, copy in COPIES.items()}
    folder = chosen[0].rsplit("/", 1)[0]
    contents |= {f"{folder}/stranger#{seed}": noise(seed) for seed in range(STRANGERS)}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    labels = table(contents)
    backbone = frozen.load(lite0)
    model = runtimes.load(backbone, device="cpu")
    paths = labels.path.tolist()

    def pixels(path: str) -> np.ndarray:
        return images.preprocess(contents[path], backbone.preprocessing)

    with ThreadPoolExecutor(2) as pool:
        X = np.concatenate(
            [
                model.embed(np.stack(list(pool.map(pixels, paths[start : start + 32]))))
                for start in range(0, len(paths), 32)
            ]
        )
    first = np.unique(labels.sha256, return_index=True)[1]  # a mirrored copy may be its original
    cached = embed(root / "embeddings.h5", labels.where(first), X[first])
    return Photos(root, labels, cached, tuple(chosen))


def table(contents: dict[str, bytes]) -> Labels:
    path = np.array(sorted(contents), dtype=object)
    split = [{"train": "train", "val": "test", "test": "test"}[one.split("/")[0]] for one in path]
    return Labels(
        path,
        dataset.digests(hashlib.sha256(contents[one]).hexdigest() for one in path),
        np.array([one.split("/")[1] for one in path], dtype=object),
        np.array(split, dtype=object),
        np.array([None] * len(path), dtype=object),
    )


def test_duplicates__planted_copies__are_found_and_others_are_not(photos):
    found = inspection.inspect(photos.labels, photos.cached, [], root=photos.root)
    listed = {frozenset((one.path_a, one.path_b)) for one in found.duplicates}
    recall = {
        kind: np.mean([frozenset((path, f"{path}#{kind}")) in listed for path in photos.originals])
        for kind in COPIES
    }
    copies = {f"{path}#{kind}" for path in photos.originals for kind in COPIES if kind != "cropped"}
    false = [
        sum(path in copies for path in pair)
        for pair in listed
        if len({path.split("#")[0] for path in pair}) == 2
    ]
    four = np.mean([value for kind, value in recall.items() if kind != "cropped"])
    print(photos.root.name, recall, "four", four, "false hits", sum(false) / len(copies))
    assert four >= 0.95
    assert min(value for kind, value in recall.items() if kind != "cropped") >= 0.95
    assert sum(false) / len(copies) <= 0.05
    assert recall["cropped"] >= 0.8


def test_suspects__flipped_labels__are_in_the_lowest_tenth(photos):
    true = photos.untouched
    X = photos.cached.take(photos.cached.rows(true.sha256))
    recalls = []
    for seed in range(SEEDS):
        labels, wrong = flipped(true, 0.05, seed=seed)
        found = suspects.judge(X, labels, singles(labels)).suspects
        lowest = {one.path for one in found[: round(0.1 * len(labels.path))]}
        recalls.append(len(lowest & wrong) / len(wrong))
    print(photos.root.name, "recall in the lowest tenth", np.mean(recalls), min(recalls))
    assert np.mean(recalls) >= (0.83 if "cifar10" in photos.root.name else 0.85)
    assert min(recalls) >= 0.8


def test_outliers__what_is_no_photo__is_listed_and_few_photos_are(photos):
    given = ["#" not in path or "stranger#" in path for path in photos.labels.path]
    labels = photos.labels.where(np.array(given))
    found = inspection.inspect(labels, photos.cached, [], root=photos.root).outliers
    listed = {one.path for one in found}
    print(photos.root.name, len(listed), "of", len(labels.path), "listed as far")
    assert {path for path in labels.path if "stranger#" in path} <= listed
    assert len(listed) < 0.05 * len(labels.path)
