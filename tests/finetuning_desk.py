"""A small world to fine-tune in: generated photos of three kinds, a tiny network, cached vectors, heads."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import embeddings, files, finetuning, frozen, heads, selection
from pipeline.backbones import SOURCES, freezing
from pipeline.dataset import Labels, digests, read_labels, write_labels
from pipeline.finetuning import Material, Place
from pipeline.images.views import Views, render
from pipeline.params import BackboneParams, FinetuneParams, HeadParams

CROP = 48
RECIPE = {"resize": 52, "crop": CROP, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
ORIGIN = BackboneParams(
    source="random",
    model="timm/test_resnet",
    seed=1,
    preprocessing=RECIPE,
    storage="float32",
    runtime="torch",
)
SPLITS = {"train": 12, "val": 8, "test": 8}
KINDS = ("dots", "plain", "stripes")

QUICK = {
    "backbone": "tiny", "head": "logistic", "epochs": 2, "batch_size": 12, "lr": 1e-3,
    "warmup_epochs": 0, "augment": "flip", "patience": None, "wise_ft": False,
}  # fmt: skip


KILLED = {
    "unfreeze": "last:2",
    "epochs": 3,
    "ema": 0.9,
    "batch_size": 9,
    "mixup": 0.2,
    "optimizer": "adamw",
}
"""An entry with everything that has a state; an epoch has four steps."""


def entry(**keys) -> FinetuneParams:
    return FinetuneParams(**{**QUICK, **keys})


def draw(kind: str, random: np.random.Generator) -> Image.Image:
    """A picture of noise and, but for `plain`, a pattern in it."""
    size = (60, 70)
    pixels = random.integers(60, 130, (*size, 3))
    if kind == "stripes":
        pixels[:: int(random.integers(4, 7))] += 110
    if kind == "dots":
        pixels[random.random(size) < 0.1] += 110
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Desk:
    """Photos in a folder, the frozen network and its vectors."""

    folder: Path
    labels: Labels
    origin: BackboneParams

    @property
    def backbone(self) -> frozen.FrozenBackbone:
        return frozen.load(self.folder / "backbones" / "tiny")

    @property
    def cached(self) -> embeddings.Embeddings:
        return embeddings.open(self.folder / "tiny.h5")

    def material(self, head: str = "logistic", **keys) -> Material:
        """What a run is made of, its head fitted if it was not yet."""
        name = head if not keys else f"{head}_{files.sha256_of_json(keys)[:8]}"
        folder = self.folder / "heads" / "tiny"
        if not (folder / f"{name}.json").exists():
            made = selection.train(name, HeadParams(kind=head, **keys), self.labels, self.cached)
            heads.save(folder, *made)
        fitted, record = heads.load(folder, name)
        photos = self.folder / "photos"
        return Material(
            self.labels, self.cached, photos, self.backbone, self.origin, fitted, record
        )

    def place(self, out: Path, **keys) -> Place:
        return Place(out / "mine", out / "runs", Path, device="cpu", workers=0, **keys)

    def run(
        self, out: Path, *, head="logistic", watch=finetuning.silent, every=60.0, of=None, **keys
    ):
        """Fine-tune; returns the record. of: keys of the head's entry."""
        given, place = self.material(head, **(of or {})), self.place(out, every=every)
        return finetuning.run("mine", entry(**keys), given, place, watch)


def _photos(folder: Path) -> Labels:
    random, rows = np.random.default_rng(0), []
    for split, count in SPLITS.items():
        for kind in KINDS:
            for number in range(count):
                path = folder / split / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(kind, random).save(path)
                rows.append(
                    (path.relative_to(folder).as_posix(), files.sha256_of(path), kind, split)
                )
    rows.sort()
    path, sha256, label, split = (
        np.array(column, dtype=object) for column in zip(*rows, strict=True)
    )
    return Labels(path, digests(sha256), label, split, np.full(len(rows), None, dtype=object))


def make(folder: Path, **keys) -> Desk:
    """keys: of the backbone's entry that differ."""
    labels = _photos(folder / "photos")
    write_labels(folder / "labels.parquet", labels)
    origin = BackboneParams(**{**ORIGIN.model_dump(exclude_none=True), **keys})
    freezing.freeze("tiny", origin, folder / "backbones" / "tiny", locate=Path)
    backbone = frozen.load(folder / "backbones" / "tiny")
    network = SOURCES[origin.source].load(origin, "tiny", Path).network
    by_digest = dict(zip(labels.sha256, labels.path, strict=True))
    ordered, views = np.array(sorted(by_digest)), Views(tta=origin.tta)
    photos = [(folder / "photos" / by_digest[digest]).read_bytes() for digest in ordered]
    recipe = backbone.preprocessing
    pixels = np.concatenate([render(photo, "", recipe, views) for photo in photos])
    made = network.embed(pixels, recipe, backbone.taps)
    made = [one.reshape(len(ordered), len(views), -1).mean(axis=1) for one in made]
    embeddings.write(
        folder / "tiny.h5", backbone, [ordered], [[one] for one in made], rows=len(ordered)
    )
    return Desk(folder, labels, origin)


def opened(folder: Path) -> Desk:
    """A desk that `make` made."""
    return Desk(folder, read_labels(folder / "labels.parquet"), ORIGIN)


@dataclass
class Killer:
    """A watcher that ends the process after so many steps, as the system does when memory is out."""

    after: int

    def __call__(self, told: finetuning.Told) -> None:
        self.after -= told.row is None
        if self.after == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":  # desk, out, steps to live: a run that is killed
    import sys

    opened(Path(sys.argv[1])).run(
        Path(sys.argv[2]), watch=Killer(int(sys.argv[3])), every=0.0, **KILLED
    )
