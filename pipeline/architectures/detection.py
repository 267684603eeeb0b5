"""The trunk of torchvision's detection models: a body and a feature pyramid, without what detects."""

from typing import Any

import torch
from torchvision.ops import FrozenBatchNorm2d

_WITHOUT_EPSILON = (
    "fasterrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)
"""Whose published weights torchvision runs with an epsilon of 0 in their batch normalisation."""

_NEWER = "_v2"
"""These have an ordinary batch normalisation; that of the others is frozen."""


class Trunk(torch.nn.Module):
    """(N, 3, H, W) -> (N, C * L): the L levels of the pyramid, each averaged, in their order."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.body = detector.backbone.body
        self.fpn = detector.backbone.fpn

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: normalised."""
        levels = self.fpn(self.body(images))
        return torch.cat([level.mean(dim=(2, 3)) for level in levels.values()], dim=1)


def detector(name: str) -> Any:
    """A detection model of torchvision, whole, as it is before any training."""
    from torchvision import models

    return models.get_model(name, weights=None, weights_backbone=None)


def as_published(name: str, whole: Any) -> Any:
    """The same detector with the batch normalisation that torchvision gives to its own weights."""
    if not name.endswith(_NEWER):
        _freeze(whole.backbone, 0.0 if name in _WITHOUT_EPSILON else 1e-5)
    return whole


def _freeze(module: torch.nn.Module, epsilon: float) -> None:
    for name, part in module.named_children():
        if isinstance(part, torch.nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(part.num_features, eps=epsilon))
        else:
            _freeze(part, epsilon)
