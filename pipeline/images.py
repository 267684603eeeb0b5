"""Bytes -> (H, W, 3) uint8 pixels: the only place that decodes an image.

The rule, in this order: the first frame; EXIF orientation applied; 16-bit grey divided by
257 and rounded; 32-bit integers clipped to 0..65535 and treated the same; floats in 0..1
times 255, else clipped to 0..255; alpha composed on white; palette, grey, CMYK and YCbCr to
RGB as Pillow converts them.
"""

import io
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.errors import ImageError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""Pillow's names of what is decoded; every other plugin stays shut."""

MAX_PIXELS = 100_000_000
"""Ceiling on width x height, checked before decoding and on what resizing would make."""

SNIFF_BYTES = 32
"""How many leading bytes `sniff` needs."""

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_TRANSPOSE: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations, but for 1, the upright one."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own net below ours, for sizes a frame announces
warnings.filterwarnings("ignore", module=r"PIL\.")  # on odd metadata; what matters is raised

_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}
_OTHERS = {
    b"GIF8": "GIF",
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"version https://git-lfs": "a Git LFS pointer; run 'git lfs pull'",
    b"<": "HTML or XML text",
    b"PK\x03\x04": "a zip archive",
}


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its images.

    The shorter side is resized to `resize` pixels, the centre `crop` x `crop` is cut out, and
    the model sees `(pixels / 255 - mean) / std` by channel. The cut is made here, the
    arithmetic inside the frozen model.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


def sniff(head: bytes) -> str:
    """The format (one of FORMATS) that a file's first SNIFF_BYTES bytes announce.

    Raises ImageError `empty` or `unsupported_format`.
    """
    if not head:
        raise ImageError("empty", "the file has no bytes")
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    raise ImageError("unsupported_format", _other(head))


def _other(head: bytes) -> str:
    if head[4:8] == b"ftyp":
        return "HEIC, AVIF or another ISO media file"
    for magic, name in _OTHERS.items():
        if head.lstrip().startswith(magic):
            return name
    return f"not one of {', '.join(FORMATS)}"


def decode(content: bytes) -> Pixels:
    """Decode by the rule above. Returns (H, W, 3) uint8; raises ImageError with its reason."""
    return np.asarray(_decode(content))


def preprocess(content: bytes, recipe: Preprocessing) -> Pixels:
    """Decode, resize and centre-crop. Returns (crop, crop, 3) uint8; raises ImageError.

    Equal, pixel for pixel, to torchvision's Resize and CenterCrop on a Pillow image.
    """
    image = _decode(content)
    width, height = _resized(image.width, image.height, recipe.resize)
    if width * height > MAX_PIXELS:
        raise ImageError(
            "too_many_pixels",
            f"{image.width}x{image.height} would be resized to {width}x{height}",
        )
    image = image.resize((width, height), INTERPOLATIONS[recipe.interpolation])
    left, top = _before(width, recipe.crop), _before(height, recipe.crop)
    return np.asarray(image.crop((left, top, left + recipe.crop, top + recipe.crop)))


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _before(size: int, crop: int) -> int:
    """Where a centred crop begins; negative where it is larger and black fills it up."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def _decode(content: bytes) -> Image.Image:
    sniff(content[:SNIFF_BYTES])
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image.width, image.height)
            image.load()
            return _to_rgb(_upright(image))
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_many_pixels", str(error)) from None
    except Exception as error:  # noqa: BLE001 - decoders raise far more than OSError on broken bytes
        raise ImageError(*_reason(content, error)) from None


def _reason(content: bytes, error: Exception) -> tuple[str, str]:
    message = str(error) or type(error).__name__
    cut = ("truncated", "not enough image data", "unexpected end", "not enough data", "eof")
    if any(words in message.lower() for words in cut):
        return "truncated", message
    if (announced := _announced_bytes(content)) > len(content):
        return "truncated", f"{len(content)} of at least {announced} bytes are there"
    if isinstance(error, UnidentifiedImageError):
        return "not_an_image", "the header is there, an image is not"
    return "corrupt", message


def _announced_bytes(content: bytes) -> int:
    """How long the header says the file is, at least: Pillow does not notice for these two."""
    if content.startswith(b"RIFF"):
        return 8 + int.from_bytes(content[4:8], "little")
    if content.startswith(b"II*\0"):
        return int.from_bytes(content[4:8], "little")
    if content.startswith(b"MM\0*"):
        return int.from_bytes(content[4:8], "big")
    return 0


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageError(
            "too_many_pixels", f"{width}x{height} is more than {MAX_PIXELS // 10**6} megapixels"
        )


def _upright(image: Image.Image) -> Image.Image:
    """EXIF orientation applied. Unreadable metadata says nothing about the pixels."""
    try:
        method = _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001 - as many kinds as there are ways to break it
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = _to_8_bit(values)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[values == clear] = 255
        image = Image.fromarray(grey)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(values: npt.NDArray[Any]) -> Pixels:
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise ImageError("corrupt", "a float image with NaN or infinite values")
        top = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
        return np.clip(np.rint(values * top), 0, 255).astype(np.uint8)
    clipped = np.clip(values.astype(np.int64), 0, 65535)
    return ((clipped + 128) // 257).astype(np.uint8)
