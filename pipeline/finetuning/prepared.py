"""A run before its first step: its images, its network, and the check that it starts where the head stands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import cgroups, dataset, embeddings, features, files, frozen, heads
from pipeline.backbones.source import Locate
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError
from pipeline.features import Images
from pipeline.finetuning import blocks, memory, pictures, ranks, scoring, start
from pipeline.finetuning.course import Course
from pipeline.finetuning.memory import Room
from pipeline.finetuning.network import Network, reached
from pipeline.finetuning.pictures import Decoded, Listed
from pipeline.finetuning.start import Beginning, Reference
from pipeline.frozen import FrozenBackbone
from pipeline.heads import Fitted, Record
from pipeline.images.views import Views
from pipeline.params import BackboneParams, FinetuneParams
from pipeline.vectors import check_fit


@dataclass(frozen=True)
class Material:
    """What a run is made of. root: folder that paths of images are relative to; backbone: frozen;
    origin: its entry in params.yaml; fitted, record: of the head; cached: the backbone's embeddings.
    """

    labels: Labels
    cached: Embeddings
    root: Path
    backbone: FrozenBackbone
    origin: BackboneParams
    fitted: Fitted
    record: Record

    @property
    def beginning(self) -> Beginning:
        """What of it the network is made of."""
        return Beginning(self.backbone, self.origin, self.fitted, self.record)


def read(artifacts: Path, root: Path, entry: FinetuneParams, origin: BackboneParams) -> Material:
    """What the stages before left of an entry. Raises IntegrityError."""
    fitted, record = heads.load(artifacts / "heads" / entry.backbone, entry.head)
    return Material(
        labels=dataset.read_labels(artifacts / "dataset" / "labels.parquet"),
        cached=embeddings.open(artifacts / "embeddings" / f"{entry.backbone}.h5"),
        root=root,
        backbone=frozen.load(artifacts / "backbones" / entry.backbone),
        origin=origin,
        fitted=fitted,
        record=record,
    )


@dataclass(frozen=True)
class Place:
    """Where a run writes, and mechanics that change no result on a CPU.

    folder: artifacts/finetuned/<name>, tracked; runs: artifacts/runs; device: auto, cpu or cuda;
    workers: processes that decode, None for as many as suit the device; every: seconds
    between two savings of an unfinished run; processes: that train together, None for one a GPU.
    """

    folder: Path
    runs: Path
    locate: Locate
    device: str = "auto"
    workers: int | None = None
    every: float = 60.0
    processes: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A run before its first step. test: images; agreement: share of validation images on which it
    says what the fitted head does, None where it does not start there.
    """

    network: Network
    course: Course
    listed: list[blocks.Block]
    held: dict[Split, Images]
    test: Decoded
    first: scoring.Score
    reference: Reference | None
    agreement: float | None


def prepare(
    name: str,
    entry: FinetuneParams,
    given: Material,
    place: Place,
    device: torch.device,
    *,
    trial: bool = False,
) -> Prepared:
    """Build the network on its device, and see that it says what the fitted head does.

    trial: on a few images, of which one is too large a share to refuse for. Raises ConfigurationError, InputError, IntegrityError.
    """
    start.check_head(given.record, given.cached)
    held = {split: features.images(given.labels, given.cached, split) for split in Split}
    codes = _checked(held, given.fitted.classes, name)
    body = start.body(given.beginning, entry.init, entry.seed, place.locate)
    listed = blocks.blocks(body)
    chosen = blocks.trained(entry.unfreeze, listed, f"params.yaml: finetune.{name}")
    reference = _reference(name, given, held, codes) if entry.init == "head" else None
    network = start.built(given.beginning, entry, reference, body)
    formats = (torch.contiguous_format, torch.channels_last)
    network = network.to(device).to(memory_format=formats[entry.channels_last])
    chosen = _reached(network, chosen, given, name)
    room = memory.room()
    course = _course(name, entry, given, place, held, chosen, room)
    found = scoring.logits(network, course.judge, workers=course.workers)
    agreement = None
    if reference is not None:
        X = _vectors(given, held[Split.VAL])
        agreement = start.agreement(found.argmax(axis=1), reference, X)
        if not trial:
            start.check_agreement(agreement, len(found), name)
    first = scoring.score(found, codes[Split.VAL])
    test = _decoded(given, held[Split.TEST], Room())  # looked at once
    return Prepared(network, course, listed, held, test, first, reference, agreement)


def _reached(
    network: Network, chosen: list[blocks.Block], given: Material, name: str
) -> list[blocks.Block]:
    """The blocks of those that the head sees; nothing of the others would be trained.

    Raises ConfigurationError where it sees none.
    """
    names = reached(network, given.backbone.preprocessing.crop)
    seen = [b for b in chosen if any(f"tapped.network.{one}" in names for one in b.parameters)]
    beyond = ", ".join(block.name for block in chosen if block not in seen)
    if chosen and not seen:
        raise ConfigurationError(
            f"params.yaml: finetune.{name}.unfreeze: {beyond} come after the layers that the head sees, so "
            f"nothing of them would be trained; 'headstart finetune groups {name}' lists earlier ones"
        )
    if beyond and ranks.own() == 0:
        print(f"headstart: finetune.{name}: not trained, as the head does not see it: {beyond}")
    return seen


def _vectors(given: Material, images: Images) -> features.Vectors:
    """What the head sees of images, from the cache."""
    layers = [tap.name for tap in given.beginning.taps]
    return features.gather(given.cached, layers, [(images.rows, 0)])


def _reference(
    name: str, given: Material, held: dict[Split, Images], codes: dict[Split, pictures.Codes]
) -> Reference:
    X = _vectors(given, held[Split.TRAIN])
    found = start.reference(given.beginning, X, codes[Split.TRAIN], name)
    if found.note and ranks.own() == 0:
        print(f"headstart: {found.note}", flush=True)
    return found


def _checked(
    held: dict[Split, Images], classes: tuple[str, ...], name: str
) -> dict[Split, pictures.Codes]:
    """Classes of training and validation images. Raises InputError where there are too few of either."""
    for split, why in ((Split.TRAIN, "learn from"), (Split.VAL, "stop by")):
        if not len(held[split].rows):
            raise InputError(
                f"finetune.{name}: no {split} image has an embedding, so there is nothing to {why}; "
                "see the problems.csv beside the embeddings"
            )
    codes = {split: held[split].codes(classes) for split in (Split.TRAIN, Split.VAL)}
    check_fit(np.zeros((len(codes[Split.TRAIN]), 1)), codes[Split.TRAIN], classes)
    return codes


def _course(
    name: str,
    entry: FinetuneParams,
    given: Material,
    place: Place,
    held: dict[Split, Images],
    chosen: list[blocks.Block],
    room: Room,
) -> Course:
    recipe = given.backbone.preprocessing
    seen = _listed(held[Split.TRAIN], given.fitted.classes)
    learn = pictures.to_learn(given.root, seen, recipe, entry.augment, room)
    judge = _decoded(given, held[Split.VAL], room)
    on_gpu = device_of(place.device).type == "cuda"
    cores = max(1, cgroups.cores() // ranks.count())
    workers = (cores if on_gpu else 0) if place.workers is None else place.workers
    for decoded in (judge, learn) if workers else ():
        decoded.fill(workers)
    identity = _identity(entry, given, held, on_gpu=on_gpu)
    folder = place.runs / f"finetune-{name}"
    return Course(name, entry, chosen, learn, judge, recipe, identity, folder, workers, place.every)


def _identity(
    entry: FinetuneParams, given: Material, held: dict[Split, Images], *, on_gpu: bool
) -> dict[str, Any]:
    """All that an unfinished run depends on, by the words of a message."""
    rows = [
        [str(split), list(held[split].labels.sha256.astype("U64")), list(held[split].labels.label)]
        for split in (Split.TRAIN, Split.VAL)
    ]
    return {
        **entry.model_dump(),
        "backbone fingerprint": given.backbone.fingerprint,
        "head sha256": given.record.sha256,
        "images": files.sha256_of_json(rows),
        "device": "cuda" if on_gpu else "cpu",
        "torch": str(torch.__version__),
    }


def _listed(images: Images, classes: tuple[str, ...]) -> Listed:
    sha256 = images.labels.sha256.astype("U64").tolist()
    return Listed(images.labels.path.tolist(), sha256, images.codes(classes))


def _decoded(given: Material, images: Images, room: Room) -> Decoded:
    listed = _listed(images, given.fitted.classes)
    views = views_of(given.backbone)
    return pictures.to_score(given.root, listed, given.backbone.preprocessing, views, room)


def views_of(backbone: FrozenBackbone) -> Views:
    return Views(tta=backbone.fields.get("tta"))


def processes_of(place: Place, entry: FinetuneParams, device: torch.device, images: int) -> int:
    """How many train together: each has an image of a step at least. images: to train on."""
    wanted = torch.cuda.device_count() if device.type == "cuda" else 1
    return max(1, min(place.processes or wanted, entry.batch_size * entry.accumulate, images))


def device_of(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "execution.device is cuda, but torch sees no GPU here; write auto or cpu"
        )
    on_gpu = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")
