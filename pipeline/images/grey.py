"""Grey of more than 8 bits to grey of 8."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ImageError


@dataclass(frozen=True)
class Grey:
    """How the values of an image are to be read.

    white: the integer that is white; unsigned: 32 bits without a sign, held as signed;
    inverted: white is zero; unit: a float image whose values all lie in 0..1.
    """

    white: int = 65535
    unsigned: bool = False
    inverted: bool = False
    unit: bool = False


def to_8_bits(values: npt.NDArray[Any], grey: Grey) -> npt.NDArray[np.uint8]:
    """Integers or floats of any shape to 0..255; raises ImageError where one is no number."""
    floats = values.dtype.kind == "f"
    scaled = _from_floats(values, grey) if floats else _from_integers(values, grey)
    return np.subtract(255, scaled, dtype=np.uint8) if grey.inverted else scaled


def _from_floats(values: npt.NDArray[Any], grey: Grey) -> npt.NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise ImageError("corrupt", "a float image with NaN or infinite values")
    rounded: npt.NDArray[np.float32] = np.rint(values * 255 if grey.unit else values)
    return np.clip(rounded, 0, 255).astype(np.uint8)


def _from_integers(values: npt.NDArray[Any], grey: Grey) -> npt.NDArray[np.uint8]:
    if grey.unsigned:
        values = values.view(np.uint32)
    clipped = np.clip(values, 0, grey.white)
    if values.size <= grey.white:
        return _scaled(clipped, grey.white)
    looked_up: npt.NDArray[np.uint8] = _scaled(np.arange(grey.white + 1), grey.white)[clipped]
    return looked_up


def _scaled(values: npt.NDArray[Any], white: int) -> npt.NDArray[np.uint8]:
    whole = values.astype(np.int64)
    scaled: npt.NDArray[np.int64] = (whole * 255 + white // 2) // white
    return scaled.astype(np.uint8)
