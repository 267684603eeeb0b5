"""What an image file's bytes say before anything is decoded."""

from collections.abc import Iterator

from pipeline.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""What is decoded, by Pillow's names; PPM stands for PBM, PGM and PPM."""

SNIFF_BYTES = 32
"""How many leading bytes `sniff` needs."""

_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}
_RAW = "a camera's raw file; export it as JPEG or PNG"
_OTHERS = {
    b"GIF8": "GIF",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"P7\n": "PAM",
    b"Pf\n": "PFM",
    b"PF\n": "PFM",
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"FUJIFILMCCD-RAW": _RAW,
    b"MM\0+": "big-endian BigTIFF; save it as PNG",
    b"IIU\0": _RAW,
    b"IIR": _RAW,
    b"version https://git-lfs": "a Git LFS pointer; run 'git lfs pull'",
    b"<": "HTML or XML text",
    b"PK\x03\x04": "a zip archive",
}
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_TURNING_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_LONGEST_TEXT = 2**16
_MOST_CHUNKS = 2**20


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
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0") and head[8:10] != b"CR":
        return "TIFF"
    if len(head) > 2 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    raise ImageError("unsupported_format", _other(head))


def _other(head: bytes) -> str:
    if head[:4] == b"II*\0":
        return _RAW
    if head[4:8] == b"ftyp":
        return _RAW if head[8:11] == b"crx" else "HEIC, AVIF or another ISO media file"
    for magic, name in _OTHERS.items():
        if head.startswith(magic) or (magic.isascii() and head.lstrip().startswith(magic)):
            return name
    return f"not one of {', '.join(FORMATS)}"


def webp_canvas(content: bytes) -> tuple[int, int]:
    """Width and height of a WebP file; (0, 0) where its header does not say.

    libwebp takes memory for the canvas when a file is opened, so the size is read before that.
    """
    kind, body = content[12:16], content[20:30]
    if kind == b"VP8X" and len(body) == 10:
        width, height = (int.from_bytes(body[i : i + 3], "little") + 1 for i in (4, 7))
        return width, height
    if kind == b"VP8L" and body[:1] == b"\x2f":
        sides = int.from_bytes(body[1:5], "little")
        return (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8))
        return width, height
    return 0, 0


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height that a PNG's header claims; (0, 0) where it does not stand first."""
    if png[12:16] != b"IHDR" or len(png) < 24:
        return 0, 0
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def without_metadata(png: bytes) -> bytes:
    """A PNG's pixels, and what says how they are turned.

    Colour profiles and texts are no part of the rule, and Pillow refuses the whole file where
    one is damaged or unpacks to more than a megabyte. Raises ImageError `corrupt` where there
    are more than _MOST_CHUNKS chunks.
    """
    kept, copied_to = bytearray(), 0
    for number, (start, end) in enumerate(_png_chunks(png)):
        if number == _MOST_CHUNKS:
            raise ImageError("corrupt", f"a PNG of more than {_MOST_CHUNKS} chunks")
        if not _is_about_pixels(png, start, end):
            kept += png[copied_to:start]
            copied_to = end
    return bytes(kept + png[copied_to:]) if copied_to else png


def _png_chunks(png: bytes) -> Iterator[tuple[int, int]]:
    """(start, end) of each chunk; what is no chunk is left to the decoder to complain about."""
    start = 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        yield start, min(end, len(png))
        start = end


def _is_about_pixels(png: bytes, start: int, end: int) -> bool:
    kind = png[start + 4 : start + 8]
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return end - start <= _LONGEST_TEXT and png.startswith(_TURNING_TEXTS, start + 8, end)
    return kind in _PIXEL_CHUNKS or not kind[:1].islower()


def with_all_colours(bmp: bytes) -> bytes:
    """A BMP that does not say its colour table has two entries.

    Pillow takes black and white for one bit a pixel, though 4 or 8 are stored.
    """
    long_header = int.from_bytes(bmp[14:18], "little") >= 40
    if long_header and bmp[28:30] in (b"\4\0", b"\x08\0") and bmp[46:50] == b"\2\0\0\0":
        return bmp[:46] + bytes(4) + bmp[50:]
    return bmp
