"""A way through a GPU: a batch is copied there while the one before it is worked on.

A lane belongs to one caller at a time. It has pinned memory, so that copies wait for nobody, and
two streams, one for copies and one for work; lanes of several callers overlap likewise. A few
are enough to keep a GPU at work, and bound its memory however many callers there are.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch

from pipeline.frozen import Vectors
from pipeline.images import Pixels

DEPTH = 2
"""Batches of one caller at once: one is worked on, the next is copied."""


class Slot:
    """Memory for one batch, here and on the GPU; all batches have the same shape.

    shape: (N, H, W, 3); dim: of a vector.
    """

    def __init__(self, shape: tuple[int, ...], dim: int, device: torch.device) -> None:
        self.staged = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.images = torch.empty(shape, dtype=torch.uint8, device=device)
        self.vectors = torch.empty((shape[0], dim), dtype=torch.float32, pin_memory=True)
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # to wait for `done` must not cost a core
        self.done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def take(self) -> Vectors:
        """(N, D) float32, once they are there."""
        self.done.synchronize()
        vectors: Vectors = self.vectors.numpy().copy()
        return vectors


class Lane:
    """What a caller has of one GPU. module: (N, H, W, 3) uint8 -> (N, D) float32, lies there."""

    def __init__(self, module: torch.nn.Module, device: torch.device, dim: int) -> None:
        self.module = module
        self.device = device
        self.dim = dim
        self.copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.working = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.slots: list[Slot] = []

    def embed(self, batches: Iterable[Pixels]) -> list[Vectors]:
        """The vectors of each batch, in order; all batches of one shape, also from call to call."""
        under_way = deque[Slot]()
        vectors = list[Vectors]()
        try:
            for number, batch in enumerate(batches):
                if len(under_way) == DEPTH:
                    vectors.append(under_way.popleft().take())
                under_way.append(self._launch(batch, number % DEPTH))
            vectors += [slot.take() for slot in under_way]
        except BaseException:
            self._forget()
            raise
        return vectors

    def _launch(self, batch: Pixels, number: int) -> Slot:
        """Have a batch copied, embedded and copied back; does not wait for any of it."""
        with torch.cuda.device(self.device):
            while len(self.slots) <= number:
                self.slots.append(Slot(batch.shape, self.dim, self.device))
            slot = self.slots[number]
            np.copyto(slot.staged.numpy(), batch)
            with torch.cuda.stream(self.copying):
                slot.images.copy_(slot.staged, non_blocking=True)
                slot.copied.record()
            with torch.cuda.stream(self.working), torch.inference_mode():
                self.working.wait_event(slot.copied)
                slot.vectors.copy_(self.module(slot.images), non_blocking=True)
                slot.done.record()
        return slot

    def _forget(self) -> None:
        """Wait for what is under way and give the memory back: a batch failed."""
        self.copying.synchronize()
        self.working.synchronize()
        self.slots.clear()
