"""An image -> a thumbnail that stands in the page as a data: URI."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipeline import files, images
from pipeline.errors import ImageError

SIDE = 160
"""Longest side of a thumbnail, in pixels."""
TINY = 64
"""Images of no longer side than this are shown with their pixels as squares."""


@dataclass(frozen=True)
class Picture:
    """A thumbnail. uri: a JPEG as data: URI; tiny: it wants to be shown enlarged."""

    uri: str
    width: int
    height: int
    tiny: bool


def thumbnail(path: Path, sha256: str) -> Picture | None:
    """The image at `path`, made small; None where it is gone, changed or cannot be decoded."""
    try:
        content = path.read_bytes() if path.is_file() else b""
        if files.sha256_of_bytes(content) != sha256:
            return None
        image = Image.fromarray(images.decode(content))
    except (OSError, ImageError):
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85, optimize=True, subsampling=0)
    text = base64.b64encode(buffer.getvalue()).decode()
    tiny = max(image.size) <= TINY
    return Picture(f"data:image/jpeg;base64,{text}", image.width, image.height, tiny)
