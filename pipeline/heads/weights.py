"""Class weights: how much an image counts in a fit, by its class."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, PositiveFloat

from pipeline.errors import ConfigurationError
from pipeline.heads.recipe import Setting
from pipeline.names import unknown


def _as_text(name: object) -> object:
    return str(name) if type(name) is int else name  # YAML reads the folder 7 as a number


ClassName = Annotated[str, BeforeValidator(_as_text)]
ClassWeight = Literal["balanced"] | dict[ClassName, PositiveFloat] | None
"""balanced: rows over those of the class; a mapping: classes that it does not name weigh 1."""


def by_code(weight: ClassWeight, at: Setting) -> Literal["balanced"] | dict[int, float] | None:
    """What scikit-learn takes as `class_weight`.

    Raises ConfigurationError, near misses named, of which `heads.recipe` names the entry.
    """
    if not isinstance(weight, Mapping):
        return weight
    if strange := [name for name in weight if name not in at.classes]:
        raise ConfigurationError(f"class_weight: {unknown('class', strange[0], at.classes)}")
    return {code: weight.get(name, 1.0) for code, name in enumerate(at.classes)}
