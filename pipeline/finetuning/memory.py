"""Memory: how much of it decoded images may take, and what is done where it runs out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch

from pipeline import cgroups
from pipeline.errors import ResourceError
from pipeline.finetuning import ranks

SHARE = 0.4
"""Of what is free, for the decoded images of a run."""


@dataclass
class Room:
    """What the images of one run may take together. left: bytes."""

    left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def take(self, size: int) -> bool:
        """Whether so many bytes were left; they are taken then."""
        with self._lock:
            fits = size <= self.left
            self.left -= size if fits else 0
        return fits


def room() -> Room:
    """What is free now, a part of it for each process that trains."""
    left = cgroups.memory_left()
    free = psutil.virtual_memory().available
    return Room(int(SHARE * (free if left is None else min(free, left))) // ranks.count())


def has_run_out(error: BaseException) -> bool:
    """Whether the GPU, or this machine, had too little memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "ALLOC_FAILED" in text
    )


def give_back() -> None:
    """Let go what torch holds of a GPU's memory for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def enough() -> Iterator[None]:
    """Within, what is not helped by fewer images a pass is a ResourceError where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not has_run_out(error):
            raise
        raise ResourceError(
            "there is no memory for one image at a time; end what else uses it, or unfreeze fewer blocks"
        ) from error
