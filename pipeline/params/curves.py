"""`curve`: what a learning curve is measured with."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.block import Block, Count
from pipeline.params.heads import HeadParams

SHOTS = (1, 2, 5, 10, 20, 50)
"""Images a class of a learning curve, where its entry has none."""

CURVE_HEAD = HeadParams(kind="logistic", enhance=["centre", "l2"])
"""Standard deviations of ten images are noise: where few are drawn, standardising hurts."""


class CurveParams(Block):
    """A learning curve: how good a head is by the number of images that it is trained on.

    backbones: names of run.backbones, None: all of them; head: an entry as under heads; shots:
    images a class, rising, `all` of them last; seeds: draws of each number.
    """

    backbones: Annotated[list[str], Field(min_length=1)] | None = None
    head: HeadParams = CURVE_HEAD
    shots: Annotated[list[Count | Literal["all"]], Field(min_length=1)] = [*SHOTS, "all"]
    seeds: Annotated[int, Field(ge=1, le=100)] = 5
