"""What turns gradients into other weights: loss, mixing, optimiser, schedule, average."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchvision.transforms import v2

from pipeline.finetuning.blocks import HEAD, Block, rates
from pipeline.finetuning.network import Network, State
from pipeline.params import FinetuneParams

MOMENTUM = 0.9
STEPS = 3
"""How many rates the schedule `step` has."""

DECAY = 0.1
"""Each is that share of the one before, as after a plateau."""

PATIENCE = 1
"""Epochs without a lower validation loss that `plateau` waits beyond the first."""

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Machinery:
    """What a step uses and changes beside the network. names: of what may be trained, by block.

    scaler: of a GPU's short floats; average: of the weights, where one is kept.
    """

    optimizer: torch.optim.Optimizer
    scheduler: Any
    scaler: torch.amp.GradScaler
    average: ModelEmaV3 | None
    names: Mapping[str, tuple[str, ...]]

    @property
    def parameters(self) -> list[str]:
        """Names of all that may be trained."""
        return [name for listed in self.names.values() for name in listed]


def made(
    network: Network,
    listed: Sequence[Block],
    chosen: Sequence[Block],
    entry: FinetuneParams,
    updates: int,
) -> Machinery:
    """For a network on its device. updates: steps an epoch; listed, chosen: all blocks, those trained."""
    names = {
        block.name: tuple(f"tapped.network.{one}" for one in block.parameters) for block in chosen
    }
    names[HEAD] = ("head.linear.weight", "head.linear.bias")
    optimizer = create_optimizer_v2(
        _groups(network, names, rates(listed, entry), entry),
        opt=entry.optimizer,
        lr=entry.lr,
        momentum=MOMENTUM,
        weight_decay=entry.weight_decay,
    )
    on_gpu = next(network.parameters()).is_cuda
    scaler = torch.amp.GradScaler("cuda", enabled=on_gpu and entry.precision == "amp")
    average = None if entry.ema is None else ModelEmaV3(network, decay=entry.ema, use_warmup=True)
    return Machinery(optimizer, _scheduler(optimizer, entry, updates), scaler, average, names)


def _groups(
    network: Network,
    names: Mapping[str, Sequence[str]],
    scale: Mapping[str, float],
    entry: FinetuneParams,
) -> list[dict[str, Any]]:
    """Of each block its matrices, which decay, and its biases and norms, which do not.

    With L2-SP the head alone decays: the backbone is pulled to its start, not to zero (Li 2018).
    """
    own = dict(network.named_parameters())
    found = []
    for block, listed in names.items():
        parameters = [own[name] for name in listed]
        for decays in (True, False):
            some = [one for one in parameters if (one.ndim > 1) == decays]
            if some:
                pulled = entry.l2_sp > 0 and block != HEAD
                decay = entry.weight_decay if decays and not pulled else 0.0
                found.append({"params": some, "lr_scale": scale[block], "weight_decay": decay})
    return found


def _scheduler(optimizer: torch.optim.Optimizer, entry: FinetuneParams, updates: int) -> Any:
    """timm's, told every step; `plateau` is its constant one, times what `eased` says."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="constant" if entry.schedule == "plateau" else entry.schedule,
        num_epochs=entry.epochs,
        decay_epochs=max(1, -(-entry.epochs // STEPS)),
        decay_rate=DECAY,
        warmup_epochs=entry.warmup,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )
    return scheduler


def set_rates(
    machinery: Machinery,
    entry: FinetuneParams,
    update: int,
    updates: int,
    losses: Sequence[float] = (),
) -> float:
    """Set the rates for a step, counted from 0 over all epochs; returns that of the last block.

    losses: validation losses of the epochs so far. Nothing but these arguments has a say, so a
    resumed run needs no state of a schedule. Warm-up is linear towards the full rate; the schedule is
    counted from the first step, so that after warm-up it stands where it would without (timm's way).
    """
    warm = update < entry.warmup * updates
    machinery.scheduler.step_update(update + 1 if warm else update)
    factor = eased(losses) if entry.schedule == "plateau" else 1.0
    for group in machinery.optimizer.param_groups:
        group["lr"] *= factor
    first = machinery.optimizer.param_groups[-1]
    return float(first["lr"] / first["lr_scale"])


def eased(losses: Sequence[float]) -> float:
    """What torch's ReduceLROnPlateau makes of a rate of 1 after these epochs, one after another."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=DECAY, patience=PATIENCE)
    for loss in losses:
        scheduler.step(loss)
    return float(optimizer.param_groups[0]["lr"])


def mixing(
    entry: FinetuneParams, classes: int
) -> Callable[[torch.Tensor, torch.Tensor], Batch] | None:
    """(N, 3, H, W) and (N,) -> the same mixed by MixUp (Zhang 2018) or CutMix (Yun 2019), if either is
    asked for. Classes of mixed images are (N, K) shares.
    """
    kinds = [
        make(alpha=alpha, num_classes=classes)
        for make, alpha in ((v2.MixUp, entry.mixup), (v2.CutMix, entry.cutmix))
        if alpha
    ]
    if not kinds:
        return None
    chosen: Callable[[torch.Tensor, torch.Tensor], Batch] = v2.RandomChoice(kinds)
    return chosen


def pull(network: Network, start: State, strength: float) -> torch.Tensor:
    """L2-SP (Li 2018): half the squared distance of the trained backbone from its start, times strength."""
    own = dict(network.named_parameters())
    apart = [
        (own[name] - kept).square().sum()
        for name, kept in start.items()
        if not name.startswith("head.") and name in own and own[name].requires_grad
    ]
    return (
        strength / 2 * torch.stack(apart).sum()
        if apart
        else torch.zeros((), device=network.mean.device)
    )
