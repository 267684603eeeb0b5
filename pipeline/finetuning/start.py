"""Where training starts: the backbone's weights from their source again, and the fitted head folded.

Training weights are looked up as freezing did, and are those that were frozen, or nothing starts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from pipeline import backbones, features, fitting, heads
from pipeline.backbones import random as random_source
from pipeline.backbones.network import TorchNetwork
from pipeline.backbones.source import Locate, Pretrained
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.finetuning import folding
from pipeline.finetuning.network import Network, drawing
from pipeline.finetuning.pictures import Codes, seeded
from pipeline.frozen import FrozenBackbone
from pipeline.heads import Fitted, Record
from pipeline.params import BackboneParams, FinetuneParams, HeadParams
from pipeline.prediction import predict
from pipeline.taps import Tap

AGREEMENT = 0.995
"""Share of validation images on which the network, before its first step, must say what the head does."""

_CPU = torch.device("cpu")

_WITHOUT_TORCH = ("onnx", "pixels")


@dataclass(frozen=True)
class Beginning:
    """What it starts from. backbone: as it was frozen; entry: of params.yaml, for its weights;
    fitted, record: the head's, of which only the fit on train is looked at.
    """

    backbone: FrozenBackbone
    entry: BackboneParams
    fitted: Fitted
    record: Record

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The layers that the head sees."""
        names = self.record.layers or [self.backbone.taps[0].name]
        known = {tap.name: tap for tap in self.backbone.taps}
        return tuple(known[name] for name in names)

    @property
    def dims(self) -> tuple[int, ...]:
        """Lengths of their vectors."""
        sizes = dict(zip((tap.name for tap in self.backbone.taps), self.backbone.dims, strict=True))
        return tuple(sizes[tap.name] for tap in self.taps)


@dataclass(frozen=True)
class Reference:
    """The fit that step 0 is compared with. note: where it is not the head's own, and why."""

    pipeline: Pipeline
    temperature: float | None
    note: str = ""


def body(beginning: Beginning, init: str, seed: int, locate: Locate) -> torch.nn.Module:
    """The backbone as torch has it: pretrained, or with init `random` at random numbers.

    Raises ConfigurationError (a source without a network), InputError (weights that are not
    there), IntegrityError (other weights than were frozen).
    """
    name, entry = beginning.backbone.name, beginning.entry
    at = f"params.yaml: backbones.{name}"
    check_source(entry, at)
    if init == "random":
        loaded = random_source.SOURCE.load(_random(beginning, seed), at, locate)
    else:
        loaded = backbones.check(name, entry).load(entry, at, locate)
        _check_weights(loaded, beginning.backbone)
    network = loaded.network
    if not isinstance(network, TorchNetwork):
        raise ConfigurationError(f"{at}.source: {entry.source} has no torch network to train")
    return network.module


def check_source(entry: BackboneParams, at: str) -> None:
    """Raise ConfigurationError where an entry's backbone is no torch network. at: its place."""
    if entry.source in _WITHOUT_TORCH:
        raise ConfigurationError(
            f"{at}.source: {entry.source} has no torch network to train; choose a backbone of "
            "source timm, torchvision, checkpoint or random"
        )


def architecture(entry: BackboneParams) -> str:
    """`LIBRARY/NAME` of an entry's model, as sources `checkpoint` and `random` take it."""
    libraries = ("timm", "torchvision")
    model = str(entry.model)
    return f"{entry.source}/{model}" if entry.source in libraries else model


def _random(beginning: Beginning, seed: int) -> BackboneParams:
    recipe = beginning.backbone.preprocessing.as_dict()
    return BackboneParams.model_validate(
        {
            "source": "random",
            "model": architecture(beginning.entry),
            "seed": seed,
            "preprocessing": recipe,
        }
    )


def _check_weights(loaded: Pretrained, backbone: FrozenBackbone) -> None:
    actual, frozen = loaded.network.digest(), backbone.fields["weights_sha256"]
    if actual != frozen:
        raise IntegrityError(
            f"backbones.{backbone.name}: weights_sha256 is {actual} now, {frozen} when it was frozen; "
            f"get those weights, or run 'dvc repro -f freeze@{backbone.name}'"
        )


def reference(beginning: Beginning, X: fitting.Vectors, y: Codes, name: str) -> Reference:
    """The head's fit on train, or where it cannot be folded a logistic regression fitted beside it.

    X: (N, D) float32, y: (N,) int, of the cached training images; name: of the entry.
    """
    fitted = beginning.fitted
    try:
        folding.folded(fitted.train, sum(beginning.dims), fitted.temperature)
    except folding.InexpressibleError as error:
        note = (
            f"head {beginning.record.head} ({error}) is no chain of linear layers: {name} starts "
            "from a logistic regression fitted beside it on the same training images"
        )
        return Reference(_logistic(X, y, fitted.classes), None, note)
    return Reference(fitted.train, fitted.temperature)


def _logistic(X: fitting.Vectors, y: Codes, classes: tuple[str, ...]) -> Pipeline:
    recipe = heads.recipe("logistic", HeadParams(kind="logistic"))
    rows = np.arange(len(y))
    ground = fitting.Ground(X, y, rows, classes)
    at = fitting.setting(recipe, ground, rows, float(recipe.default or 1.0))
    with fitting.alone_on_a_thread():
        return fitting.fit(recipe, ground, rows, at).pipeline


def built(
    beginning: Beginning, entry: FinetuneParams, given: Reference | None, module: torch.nn.Module
) -> Network:
    """The network before its first step. given: None for a last layer at random numbers."""
    dim, classes = sum(beginning.dims), len(beginning.fitted.classes)
    if given is not None:
        head = folding.folded(given.pipeline, dim, given.temperature)
    else:
        with drawing(seeded("head", entry.seed), _CPU):
            head = folding.chained([], torch.nn.Linear(dim, classes))
    return Network(module, beginning.taps, head, beginning.backbone.preprocessing)


def agreement(found: Codes, given: Reference, X: fitting.Vectors) -> float:
    """The share of validation images on which the network says what the fit does.

    found: (N,) what the network says; X: (N, D), the cached embeddings.
    """
    said, _ = predict(given.pipeline, X, given.temperature)
    return float(np.mean(said == found))


def check_agreement(share: float, images: int, name: str) -> None:
    """Raise IntegrityError below AGREEMENT. share: of so many validation images."""
    if share < AGREEMENT:
        raise IntegrityError(
            f"finetune.{name}: before the first step the network agrees with the fitted head on "
            f"{share:.1%} of {images} validation images ({AGREEMENT:.1%} are asked for); the "
            "cached embeddings are not of this network: run 'dvc repro -f' for freeze, extract, train"
        )


def check_head(record: Record, cached: Embeddings) -> None:
    """Raise IntegrityError where the head was fitted on other vectors than are cached."""
    found = features.fingerprints(cached, cached.layers, cached.views)
    wrong = [place for place, one in sorted(record.fingerprints.items()) if found.get(place) != one]
    if record.fingerprint != cached.fingerprint or wrong:
        raise IntegrityError(
            f"head {record.head} was fitted on other embeddings than {record.backbone} has now; "
            f"run 'dvc repro train@{record.backbone}-{record.head}'"
        )
