"""What a run is of, and what is told of it while it goes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.finetuning.blocks import Block
from pipeline.finetuning.pictures import Decoded
from pipeline.finetuning.state import Row
from pipeline.images import Preprocessing
from pipeline.params import FinetuneParams


@dataclass(frozen=True)
class Course:
    """What a run is of. chosen: blocks that are trained; learn, judge: training and validation images.

    identity: see `state.load`; folder: where the run is kept; workers: processes that decode;
    every: seconds between two savings within an epoch.
    """

    name: str
    entry: FinetuneParams
    chosen: Sequence[Block]
    learn: Decoded
    judge: Decoded
    recipe: Preprocessing
    identity: Mapping[str, Any]
    folder: Path
    workers: int = 0
    every: float = 60.0

    @property
    def step_size(self) -> int:
        """Images of a step."""
        return min(self.entry.batch_size * self.entry.accumulate, len(self.learn.listed))

    @property
    def updates(self) -> int:
        """Steps of an epoch."""
        return max(1, len(self.learn.listed) // self.step_size)

    @property
    def statistics(self) -> bool:
        """Whether BatchNorm follows the images."""
        given = self.entry.batch_norm
        return self.entry.init == "random" if given is None else given == "train"


@dataclass(frozen=True)
class Told:
    """What a watcher is told after each step, and with a row after each epoch. update: of the epoch."""

    epoch: int
    update: int
    updates: int
    loss: float
    row: Row | None = None


Watch = Callable[[Told], None]


def silent(_: Told) -> None:
    """A watcher that does nothing."""
