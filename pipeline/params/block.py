"""A mapping of params.yaml, and the values that several of them have."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
LayerNames = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class Block(BaseModel):
    """A mapping of params.yaml: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
