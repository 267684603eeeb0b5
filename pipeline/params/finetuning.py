"""`finetune`: where a fine-tuned model starts, and how it is trained on."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.params.block import Block, Count, LayerNames

LAST = re.compile(r"last:[1-9][0-9]{0,3}")


class FinetuneParams(Block):
    """One fine-tuned model: a backbone and a head to start from, and how both are trained on.

    init: `head` starts exactly at the fitted head, `fresh` at random numbers in its place, `random`
    at random numbers everywhere; unfreeze: `head`, `last:N` blocks, `all`, or names of blocks; gradual:
    from the last one on, over the first half of the epochs; batch_size: images a pass, accumulate:
    passes a step; optimizer, lr, schedule, warmup_epochs: of the backbone's last block, rates of
    blocks before it fall by layer_decay each, the head's is head_lr_factor times as high;
    weight_decay: of matrices alone; batch_norm: its statistics stay, or follow the images, null:
    `train` with init random alone; augment: what is done to training images; mixup, cutmix: alpha, 0 for
    none; ema: decay of the average that is kept of the weights, null for none; clip: largest norm
    of the gradient; patience: epochs without a better validation figure before it stops; wise_ft:
    whether the weights may end up between start and finish; l2_sp: pull towards the start;
    precision: amp is for GPUs, a CPU computes in float32.
    """

    backbone: str
    head: str
    init: Literal["head", "fresh", "random"] = "head"
    unfreeze: str | LayerNames = "last:1"
    gradual: bool = False
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 5
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 32
    accumulate: Annotated[int, Field(ge=1, le=65_536)] = 1
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 3e-5
    head_lr_factor: Annotated[float, Field(gt=0)] = 10.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal["constant", "step", "plateau", "cosine"] = "cosine"
    warmup_epochs: Annotated[int, Field(ge=0)] | None = None
    batch_norm: Literal["frozen", "train"] | None = None
    augment: Literal["none", "flip", "crop", "trivial"] = "crop"
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    patience: Count | None = 3
    wise_ft: bool = True
    l2_sp: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "amp"] = "amp"
    channels_last: bool = True

    @field_validator("unfreeze", mode="before")
    @classmethod
    def _named(cls, given: object) -> object:
        """A block's name by itself gets the line that says how to write it."""
        if isinstance(given, str) and given not in ("head", "all") and not LAST.fullmatch(given):
            raise ValueError(f"must be head, all, last:N or a list of blocks, [{given}]")
        return given

    @property
    def warmup(self) -> int:
        """Epochs in which the rate rises: one, where nobody says, of several."""
        return min(1, self.epochs - 1) if self.warmup_epochs is None else self.warmup_epochs
