"""`heads`: what is fitted on a backbone's vectors, and which of them it sees."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.params.block import LayerNames

CONTROL_KINDS = ("dummy",)
"""Heads of these kinds are there to be beaten, never the best."""

Enhancement = Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] | None


class HeadParams(BaseModel):
    """One head: its kind and what it sees; the kind itself checks the options beside these.

    layers: of the backbone's, their vectors joined; None: its first, `all`, or `best`: the one, or
    all joined, with the best validation score; views: it trains on the augmented views too;
    enhance: what is done to the vectors before the classifier, in this order, None: the kind's own;
    search: the name of a grid, None: the kind's own; cv: folds of the training images that the
    option is chosen on, None: it is chosen on the validation images; calibrate: its probabilities
    are brought to the right sharpness on the validation images, None: where it has none of its own;
    seeds: how many draws of train and val its validation accuracy is told for; wanted_precision:
    below which share of right answers it should rather abstain.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    kind: str
    layers: LayerNames | Literal["all", "best"] | None = None
    views: bool = False
    enhance: Enhancement = None
    search: str | None = None
    cv: Annotated[int, Field(ge=2, le=20)] | None = None
    calibrate: bool | None = None
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    wanted_precision: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The kind's own keys."""
        return dict(self.model_extra or {})
