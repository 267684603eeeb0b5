"""One step: the gradient of its images, in as many passes as memory asks for, and other weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pipeline.finetuning import ranks
from pipeline.finetuning.network import Network, State, drawing
from pipeline.finetuning.optimising import Machinery, mixing, pull
from pipeline.finetuning.pictures import seeded
from pipeline.params import FinetuneParams


@dataclass(frozen=True)
class Step:
    """What makes steps of a run. start: the tensors that training changes, before it did."""

    network: Network
    machinery: Machinery
    entry: FinetuneParams
    start: State

    def gradients(
        self,
        pixels: torch.Tensor,
        y: torch.Tensor,
        *,
        passes: int,
        number: int,
        of: int | None = None,
    ) -> tuple[float, int]:
        """Mean loss of a step's images, and how many were right; gradients are in the parameters.

        pixels: (N, H, W, 3) uint8, y: (N,) int64, on the network's device; passes: parts they are
        computed in; number: of the step, which tells what is drawn; of: images of the whole step, where
        other processes have the rest of them. Loss and gradients are then shares of a sum.
        """
        device = self.network.mean.device
        self.machinery.optimizer.zero_grad(set_to_none=True)
        drawn = ("step", number, *([ranks.own()] if ranks.own() else []))
        with drawing(seeded(self.entry.seed, *drawn), device):
            total, right = 0.0, 0
            for images, wanted, classes in self._parts(pixels, y, -(-len(y) // passes)):
                loss, logits = self._pass(images, wanted, of or len(y))
                total += loss
                right += int((logits.argmax(dim=1) == classes).sum())
        if self.entry.l2_sp:
            self._backward(pull(self.network, self.start, self.entry.l2_sp) / ranks.count())
        return total, right

    def _parts(
        self, pixels: torch.Tensor, y: torch.Tensor, size: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Images of each pass, what is wanted of them, and their classes.

        Where images are mixed with each other that is of the whole step, which is floats at once then.
        """
        mix = mixing(self.entry, self.network.last.out_features)
        given, wanted = (pixels, y) if mix is None else mix(self.network.normalise(pixels), y)
        for at in range(0, len(y), size):
            part = slice(at, at + size)
            images = given[part] if mix else self.network.normalise(given[part])
            if self.entry.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            yield images, wanted[part], y[part]

    def _pass(
        self, images: torch.Tensor, wanted: torch.Tensor, count: int
    ) -> tuple[float, torch.Tensor]:
        """Their share of the loss of `count` images, and their logits."""
        with self._short():
            logits = self.network(images).float()
        smoothing = self.entry.label_smoothing
        loss = cross_entropy(logits, wanted, label_smoothing=smoothing, reduction="sum") / count
        self._backward(loss)
        return float(loss.detach()), logits.detach()

    def _backward(self, loss: torch.Tensor) -> None:
        if loss.requires_grad:
            self.machinery.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _short(self) -> AbstractContextManager[Any]:
        """Short floats on a GPU, where they are asked for."""
        on_gpu = self.network.mean.device.type == "cuda"
        wanted = on_gpu and self.entry.precision == "amp"
        return torch.autocast("cuda", torch.float16) if wanted else nullcontext()

    def change(self, number: int) -> None:
        """Clip the gradient, change the weights, and let their average follow. number: of the step."""
        machinery = self.machinery
        if self.entry.clip is not None:
            machinery.scaler.unscale_(machinery.optimizer)
            given = [one for one in self.network.parameters() if one.grad is not None]
            torch.nn.utils.clip_grad_norm_(given, self.entry.clip)
        machinery.scaler.step(machinery.optimizer)
        machinery.scaler.update()
        if machinery.average is not None:
            machinery.average.update(self.network, step=number + 1)
