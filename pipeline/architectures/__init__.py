"""Models without their weights, by source and name. One function and one line in ARCHITECTURES a source.

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
        return ARCHITECTURES[source](name).eval()
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


def torchvision_model(name: str) -> "torch.nn.Module":
    """A classification model of torchvision, whole."""
    from torchvision import models

    module: torch.nn.Module = models.get_model(name, weights=None, **_TRAINED_WITH.get(name, {}))
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


def _timm(name: str) -> "torch.nn.Module":
    return timm_without_classifier(timm_model(name))


def _torchvision(name: str) -> "torch.nn.Module":
    if is_detector(name):
        from pipeline.architectures import detection

        return detection.Trunk(detection.as_published(name, detection.detector(name)))
    module, _ = torchvision_parts(torchvision_model(name), "backbone.json: fields")
    return without_training_parts(module)


def without_training_parts(module: "torch.nn.Module") -> "torch.nn.Module":
    """The same model of torchvision's without what only its training uses."""
    for part in _TRAINING_ONLY:
        if hasattr(module, part):
            setattr(module, part, None)
    return module


def _named(name: str) -> "torch.nn.Module":
    from pipeline.architectures import named

    return named.parts(name).body


def pixels(name: str) -> "torch.nn.Module":  # noqa: ARG001 - there is one
    """No layers at all: the pixels in a row."""
    import torch

    return torch.nn.Flatten()


ARCHITECTURES: dict[str, Callable[[str], "torch.nn.Module"]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "pixels": pixels,
    "random": _named,
    "checkpoint": _named,
}
