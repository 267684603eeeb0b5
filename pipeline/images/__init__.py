"""Bytes -> (H, W, 3) uint8 pixels: the only place that decodes an image.

The rule, in this order:

* the first frame (of an animated PNG the still image that it shows elsewhere);
* EXIF orientation applied, or else XMP's;
* 16-bit grey divided by 257 and rounded, 12-bit grey likewise to 0..255; 32-bit and signed
  integers clipped to 0..65535 and treated the same; floats in 0..1 times 255, else clipped to
  0..255; inverted where a TIFF says that white is zero;
* of 16-bit colour, and of grey with 16-bit alpha, the high byte; a clear colour's likewise;
* alpha, and a clear grey, colour or palette entry, composed on white;
* palette, grey, CMYK, YCbCr and Lab to RGB as Pillow converts them; the CMYK of a JPEG is
  inverted first, as Adobe stores it. Colour profiles and gamma are ignored.

docs/images.md has the tables.
"""

import io
import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.errors import ImageError
from pipeline.images import headers, tiff
from pipeline.images.complaints import is_out_of_memory, reason
from pipeline.images.grey import Grey, to_8_bits
from pipeline.images.headers import SNIFF_BYTES, sniff

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 100_000_000
"""Ceiling on width x height, checked before decoding and on what resizing would make."""

MAX_SIDE = 1_000_000
"""Ceiling on width and on height: no row that Pillow cannot hold."""

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

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # not its factory: of an MPO, the JPEG it begins with
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
"""One a format; Pillow's other plugins are never asked."""

_STRIP_PIXELS = 2**22
"""Pixels converted at a time, so that a large image costs little more than itself."""


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


def decode(content: bytes) -> Pixels:
    """Decode by the rule above. Returns (H, W, 3) uint8; raises ImageError with its reason."""
    return np.asarray(opened(content))


def preprocess(content: bytes, recipe: Preprocessing) -> Pixels:
    """Decode, resize and centre-crop. Returns (crop, crop, 3) uint8; raises ImageError.

    Equal, pixel for pixel, to torchvision's Resize and CenterCrop on a Pillow image.
    """
    image = resized(opened(content), recipe)
    left, top = _before(image.width, recipe.crop), _before(image.height, recipe.crop)
    return np.asarray(image.crop((left, top, left + recipe.crop, top + recipe.crop)))


def resized(image: Image.Image, recipe: Preprocessing) -> Image.Image:
    """An opened image, its shorter side as the recipe has it. Raises ImageError."""
    width, height = _resized(image.width, image.height, recipe.resize)
    if width * height > MAX_PIXELS:
        raise ImageError(
            "too_many_pixels",
            f"{image.width}x{image.height} would be resized to {width}x{height}",
        )
    return image.resize((width, height), INTERPOLATIONS[recipe.interpolation])


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def _before(size: int, crop: int) -> int:
    """Where a centred crop begins; negative where it is larger and black fills it up."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def opened(content: bytes) -> Image.Image:
    """The image, decoded by the rule above, mode RGB. Raises ImageError."""
    format = sniff(content[:SNIFF_BYTES])
    try:
        with _parsed(content, format) as image:
            _check_size(image.width, image.height)
            grey = Grey()
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                grey = tiff.made_readable(image)
            if isinstance(image, PngImagePlugin.PngImageFile):
                _scale_clear_value(image)
            image.load()
            return _to_rgb(_upright(image), grey)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise far more than OSError on broken bytes
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from None
        raise ImageError(*reason(content, format, error)) from None


def _parsed(content: bytes, format: str) -> ImageFile.ImageFile:
    """The file with its header read and nothing decoded."""
    if format == "WEBP":
        _check_size(*headers.webp_canvas(content))
    elif format == "PNG":
        _check_size(*headers.png_size(content))
        content = headers.without_metadata(content)
    elif format == "BMP":
        content = headers.with_all_colours(content)
    return _PLUGINS[format](io.BytesIO(content))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 10**6} megapixels"
    elif max(width, height) > MAX_SIDE:
        limit = f"{MAX_SIDE} pixels a side"
    else:
        return
    raise ImageError("too_many_pixels", f"{width}x{height} is more than {limit}; make it smaller")


def _scale_clear_value(image: PngImagePlugin.PngImageFile) -> None:
    """PNG names the clear value as stored; Pillow compares it with the pixels that it scaled."""
    raw = image.tile[0].args if image.tile else None
    clear = image.info.get("transparency")
    if raw in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = (clear & 3) * 85 if raw == "L;2" else (clear & 15) * 17
    elif raw == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _upright(image: Image.Image) -> Image.Image:
    """Orientation applied. Unreadable metadata says nothing about the pixels."""
    try:
        method = _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001 - as many kinds as there are ways to break it
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image, grey: Grey) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        grey = replace(grey, unit=_is_unit(image))
    rows = max(1, _STRIP_PIXELS // image.width)
    if image.height <= rows:
        return _strip_to_rgb(image, grey)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_strip_to_rgb(strip, grey), (0, top))
    return rgb


def _strip_to_rgb(image: Image.Image, grey: Grey) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        pixels = to_8_bits(values, grey)
        if isinstance(clear := image.info.get("transparency"), int):
            pixels[values == clear] = 255
        image = Image.fromarray(pixels)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_unit(image: Image.Image) -> bool:
    low, high = cast("tuple[float, float]", image.getextrema())
    return low >= 0 and high <= 1
