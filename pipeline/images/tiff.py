"""What TIFF allows and Pillow passes over: grey of many kinds, planes, tiles, thumbnails."""

from PIL import ImageFile, TiffImagePlugin

from pipeline.errors import ImageError
from pipeline.images.grey import Grey

_SUBFILE, _BITS, _PHOTOMETRIC, _SUBSAMPLING, _SAMPLE_FORMAT, _DNG = 254, 258, 262, 530, 339, 50706
_WHITE_IS_ZERO, _SEPARATE, _SIGNED = 0, 2, 2

_TILE_PIXELS = 2**24
"""Tiles up to this size are let pass whatever the size of the image."""

_NATIVE = {"F;32BF": "F;32F", "I;32BS": "I;32S", "I;16BS": "I;16S"}
"""Raw modes that Pillow asks for where libtiff has already put the bytes in order."""


def made_readable(image: TiffImagePlugin.TiffImageFile) -> Grey:
    """Refuse what would be decoded wrong, correct what Pillow gets wrong; before loading.

    Raises ImageError `unsupported_format`, `unsupported_mode` or `corrupt`.
    """
    tags = image.tag_v2
    if _DNG in tags or tags.get(_SUBFILE, 0) & 1:
        raise ImageError(
            "unsupported_format",
            "a TIFF that begins with a thumbnail, as cameras' raw files do; export it as JPEG or PNG",
        )
    bits, kind = tags.get(_BITS, (1,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0]
    _refuse_what_is_read_wrong(image, kind)
    _refuse_oversized_tiles(image)
    image.tile = [_corrected(tile, image, bits) for tile in image.tile]
    return Grey(
        white=4095 if bits == 12 else 65535,
        unsigned=bits == 32 and kind == 1,
        inverted=tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO,
    )


def _refuse_what_is_read_wrong(image: TiffImagePlugin.TiffImageFile, kind: int) -> None:
    separate = image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) == _SEPARATE
    raw = image.info["compression"] == "raw"
    wrong = {
        "signed 8-bit grey": image.mode == "L" and kind == _SIGNED,
        "grey or palette and alpha, or Lab, in planes": (
            separate and image.mode in ("LA", "La", "PA", "LAB")
        ),
        "uncompressed YCbCr with coarser colour": (
            raw and image.mode == "YCbCr" and image.tag_v2.get(_SUBSAMPLING, (1, 1)) != (1, 1)
        ),
    }
    for name, found in wrong.items():
        if found:
            raise ImageError("unsupported_mode", f"a TIFF of {name}; save it as PNG")


def _refuse_oversized_tiles(image: TiffImagePlugin.TiffImageFile) -> None:
    """Memory is taken for a whole tile, however small the image that is cut from it."""
    width = image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 0)
    height = image.tag_v2.get(TiffImagePlugin.TILELENGTH, 0)
    if width * height > max(_TILE_PIXELS, 4 * image.width * image.height):
        raise ImageError(
            "corrupt", f"tiles of {width}x{height} for {image.width}x{image.height} pixels"
        )


def _corrected(
    tile: ImageFile._Tile, image: TiffImagePlugin.TiffImageFile, bits: int
) -> ImageFile._Tile:
    """A tile descriptor with the raw mode that its bytes have."""
    if not isinstance(tile.args, tuple):
        return tile
    raw, *rest = tile.args
    if tile.codec_name == "libtiff":
        raw = _NATIVE.get(raw, raw)
    elif bits == 16 and len(raw) == 1:  # one plane of several
        raw += ";16L" if image.tag_v2.prefix == b"II" else ";16B"
    return tile._replace(args=(raw, *rest))
