"""`data`: which images, and how they are split."""

from typing import Annotated

from pydantic import Field

from pipeline.params.block import Block


class SplitParams(Block):
    """How the data is split where it does not split itself; fractions of what is split."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = 0
    group: str | None = None


class DataParams(Block):
    """Which images, and how they are split."""

    path: Annotated[str, Field(min_length=1)]
    format: str | None = None
    split: SplitParams = SplitParams()
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.01
