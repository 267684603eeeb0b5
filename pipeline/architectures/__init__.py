"""Models without their weights, by source and name; one function and one line in ARCHITECTURES a source.

What loads weights builds on these (`pipeline.backbones`), and so does what runs a frozen
model.safetensors, which needs neither weights' origins nor downloads.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.names import unknown

if TYPE_CHECKING:
    import torch

_TRAINED_WITH: dict[str, dict[str, Any]] = {
    # what torchvision itself sets when it loads their weights
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": True, "init_weights": False},
}

_CLASSIFIERS = ("classifier", "fc", "head")
"""How torchvision's models call what ends in their classifier."""

_TRAINING_ONLY = ("aux1", "aux2", "AuxLogits")
"""Parts of those two that are there for training alone."""


def build(fields: dict[str, Any]) -> "torch.nn.Module":
    """The module that a fingerprint's fields speak of, in eval mode, its weights meaningless.

    (N, 3, H, W), normalised -> (N, D). Raises IntegrityError where the installed library has no
    such model.
    """
    source, name = str(fields["source"]), str(fields["architecture"])
    if source not in ARCHITECTURES:
        raise IntegrityError(f"backbone.json: {unknown('source', source, ARCHITECTURES)}")
    try:
        return ARCHITECTURES[source](name, int(fields["preprocessing"]["crop"])).eval()
    except (ValueError, RuntimeError, ConfigurationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(
            f"the installed {source} cannot build {name} ({reason}); "
            f"install {fields['package']}, with which it was frozen"
        ) from None


def timm_model(name: str) -> Any:
    """A model of timm, whole."""
    import timm

    return timm.create_model(name, pretrained=False)


def timm_without_classifier(model: Any) -> "torch.nn.Module":
    """The same model, which gives what its classifier took in."""
    model.reset_classifier(0)
    module: torch.nn.Module = model
    return module


def torchvision_model(name: str, crop: int | None = None) -> "torch.nn.Module":
    """A classification model of torchvision, whole.

    crop: of its images, in pixels, where the model is made for one size, as ViT is; None: its own.
    """
    from torchvision import models

    sized = {"image_size": crop} if crop and name.startswith("vit_") else {}
    keys = {**_TRAINED_WITH.get(name, {}), **sized}
    module: torch.nn.Module = models.get_model(name, weights=None, **keys)
    return module


def torchvision_parts(
    module: "torch.nn.Module", at: str
) -> "tuple[torch.nn.Module, torch.nn.Module | None]":
    """The same model, which gives the input of its last Linear, and that Linear.

    Where it has none, as SqueezeNet, it gives the pooled features that its last convolution takes
    in, and no classifier. at: for the ConfigurationError.
    """
    import torch

    linear = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    last = module.get_submodule(linear[-1]) if linear else None
    if last is not None and linear[-1].startswith(_CLASSIFIERS):
        parent, _, name = linear[-1].rpartition(".")
        setattr(module.get_submodule(parent), name, torch.nn.Identity())
        return module, last
    convolutions = [
        part for part in getattr(module, "classifier", ()) if hasattr(part, "kernel_size")
    ]
    if not convolutions:
        raise ConfigurationError(f"{at}.model: it has no classifier; choose another model")
    module.classifier = torch.nn.AdaptiveAvgPool2d(1)
    return module, None


def is_detector(name: str) -> bool:
    """Whether torchvision's model of that name detects objects on a feature pyramid."""
    return "_fpn" in name


def _timm(name: str, crop: int) -> "torch.nn.Module":  # noqa: ARG001 - timm's names tell the size
    return timm_without_classifier(timm_model(name))


def _torchvision(name: str, crop: int) -> "torch.nn.Module":
    if is_detector(name):
        from pipeline.architectures import detection

        return detection.Trunk(detection.as_published(name, detection.detector(name)))
    module, _ = torchvision_parts(torchvision_model(name, crop), "backbone.json: fields")
    return without_training_parts(module)


def without_training_parts(module: "torch.nn.Module") -> "torch.nn.Module":
    """The same model of torchvision's without what only its training uses."""
    for part in _TRAINING_ONLY:
        if hasattr(module, part):
            setattr(module, part, None)
    return module


def _named(name: str, crop: int) -> "torch.nn.Module":  # noqa: ARG001 - as `named.parts` made it
    from pipeline.architectures import named

    return named.parts(name).body


def pixels(name: str, crop: int) -> "torch.nn.Module":  # noqa: ARG001 - there is one, of any size
    """No layers at all: the pixels in a row."""
    import torch

    return torch.nn.Flatten()


ARCHITECTURES: dict[str, Callable[[str, int], "torch.nn.Module"]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "pixels": pixels,
    "random": _named,
    "checkpoint": _named,
}
