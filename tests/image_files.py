"""Image files written byte by byte, so that a test knows the pixels without asking a decoder."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}}

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
"""EXIF orientation -> what turns the stored pixels upright."""

ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]  # fmt: skip
"""(first row, first column, row step, column step) of the seven passes of an interlaced PNG."""


def noise(height: int = 13, width: int = 19, channels: int = 0, seed: int = 0, dtype="u1"):
    """(H, W) or (H, W, C) of the dtype's whole range."""
    shape = (height, width, channels) if channels else (height, width)
    info = np.iinfo(dtype)
    random = np.random.default_rng(seed)
    return random.integers(info.min, info.max, shape, dtype, endpoint=True)


def saved(image: Image.Image, format: str, **options) -> bytes:
    """What Pillow writes."""
    file = io.BytesIO()
    image.save(file, format, **{**LOSSLESS.get(format, {}), **options})
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block that says how the image is turned, and nothing else."""
    entry = struct.pack("<HHIHH", ORIENTATION, 3, 1, orientation, 0)
    return b"II*\0\x08\0\0\0\x01\0" + entry + bytes(4)


def packed(values: np.ndarray, bits: int) -> bytes:
    """(H, W) unsigned values in rows of `bits` bits a value, each row filled up to whole bytes."""
    if bits == 8:
        return values.astype("u1").tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    flat = ((values[..., None].astype(np.int64) >> shifts) & 1).astype(np.uint8)
    return np.packbits(flat.reshape(len(values), -1), axis=1).tobytes()


# --- PNG


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(
    width: int, height: int, bits: int, colour: int, rows: bytes, *extra: bytes, interlaced=False
) -> bytes:
    """A PNG of filtered rows; extra: chunks between the header and the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + body


def png_of(values: np.ndarray, bits: int, colour: int, *extra: bytes, interlaced=False) -> bytes:
    """A PNG of (H, W) or (H, W, C) values, colour being PNG's colour type."""
    passes = [values[r::dr, c::dc] for r, c, dr, dc in ADAM7] if interlaced else [values]
    rows = b"".join(_unfiltered(part, bits) for part in passes if part.size)
    height, width = values.shape[:2]
    return png(width, height, bits, colour, rows, *extra, interlaced=interlaced)


def _unfiltered(values: np.ndarray, bits: int) -> bytes:
    flat = values.reshape(len(values), -1)
    lines = [packed(row[None], bits) if bits < 16 else row.astype(">u2").tobytes() for row in flat]
    return b"".join(b"\0" + line for line in lines)


# --- TIFF

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
OFFSETS, SAMPLES, ROWS_PER_STRIP, COUNTS, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
COLOUR_MAP, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 320, 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, SUBSAMPLING = 338, 339, 530


def tiff(parts: Sequence[bytes], tags: dict, *, order: str = "<", big: bool = False) -> bytes:
    """A TIFF of the parts (strips or tiles, as they are stored) and tags: number -> value(s)."""
    place, counted = (TILE_OFFSETS, TILE_COUNTS) if TILE_WIDTH in tags else (OFFSETS, COUNTS)
    head = 16 if big else 8
    starts = np.cumsum([head, *map(len, parts)])[:-1]
    tags = {place: tuple(map(int, starts)), counted: tuple(map(len, parts)), **tags}
    body = b"".join(parts) + bytes(sum(map(len, parts)) % 2)
    wide = "Q" if big else "I"
    entry, inline = (20, 8) if big else (12, 4)
    directory, beside = b"", b""
    after = head + len(body) + (8 if big else 2) + entry * len(tags) + (8 if big else 4)
    for tag, value in sorted(tags.items()):
        kind, count, content = _tag(value, order)
        if len(content) > inline:
            place_of = after + len(beside)
            beside += content + bytes(len(content) % 2)
            content = struct.pack(order + wide, place_of)
        directory += struct.pack(order + "HH" + wide, tag, kind, count)
        directory += content.ljust(inline, b"\0")
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    version = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    header = (b"II" if order == "<" else b"MM") + version
    header += struct.pack(order + wide, head + len(body))
    return header + body + count + directory + bytes(8 if big else 4) + beside


def _tag(value, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, bytes):
        return 7, len(value), value
    values = value if isinstance(value, tuple) else (value,)
    kind, letter = (3, "H") if max(values) < 65536 else (4, "I")
    return kind, len(values), struct.pack(f"{order}{len(values)}{letter}", *values)


def tiff_of(
    values: np.ndarray,
    photometric: int,
    *,
    order: str = "<",
    bits: int | None = None,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    planar: bool = False,
    compression: int = 1,
    fill_order: int = 1,
    big: bool = False,
    **tags,
) -> bytes:
    """A TIFF of (H, W) or (H, W, C) values.

    rows: a strip; tile: (height, width) instead of strips; compression: 1, 8 (deflate) or 32773
    (PackBits); tags: by the names above in lower case, or `tag_N`.
    """
    bits = bits or values.dtype.itemsize * 8
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    planes = [values[..., i] for i in range(samples)] if planar else [values]
    parts = [
        _filled(_compressed(_samples(part, bits, order), compression, len(part)), fill_order)
        for plane in planes
        for part in (_tiles(plane, *tile) if tile else _strips(plane, rows or height))
    ]
    named = {
        int(name[4:]) if name.startswith("tag_") else globals()[name.upper()]: value
        for name, value in tags.items()
    }
    shape = (
        {TILE_LENGTH: tile[0], TILE_WIDTH: tile[1]} if tile else {ROWS_PER_STRIP: rows or height}
    )
    kind = {"f": 3, "i": 2}.get(values.dtype.kind, 1)
    described = {
        WIDTH: width, LENGTH: height, BITS: (bits,) * samples, COMPRESSION: compression,
        PHOTOMETRIC: photometric, SAMPLES: samples, PLANAR: 2 if planar else 1,
        SAMPLE_FORMAT: (kind,) * samples, FILL_ORDER: fill_order, **shape,
    }  # fmt: skip
    return tiff(parts, {**described, **named}, order=order, big=big)


def _strips(values: np.ndarray, rows: int) -> list[np.ndarray]:
    return [values[start : start + rows] for start in range(0, len(values), rows)]


def _tiles(values: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    tiles = []
    for row in range(0, values.shape[0], height):
        for column in range(0, values.shape[1], width):
            tile = np.zeros((height, width, *values.shape[2:]), values.dtype)
            part = values[row : row + height, column : column + width]
            tile[: part.shape[0], : part.shape[1]] = part
            tiles.append(tile)
    return tiles


def _samples(values: np.ndarray, bits: int, order: str) -> bytes:
    flat = values.reshape(len(values), -1)
    if bits < values.dtype.itemsize * 8:
        return packed(flat, bits)
    return flat.astype(flat.dtype.newbyteorder(order)).tobytes()


def _filled(content: bytes, fill_order: int) -> bytes:
    if fill_order == 1:
        return content
    return np.packbits(np.unpackbits(np.frombuffer(content, "u1")), bitorder="little").tobytes()


def _compressed(content: bytes, compression: int, rows: int) -> bytes:
    if compression == 8:
        return zlib.compress(content)
    if compression == 32773:
        size = len(content) // rows
        lines = [content[start : start + size] for start in range(0, len(content), size)]
        return b"".join(_pack_bits(line) for line in lines)
    return content


def _pack_bits(line: bytes) -> bytes:
    pieces = [line[start : start + 128] for start in range(0, len(line), 128)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


# --- BMP


def bmp(
    width: int,
    height: int,
    bits: int,
    rows: bytes,
    *,
    palette: bytes = b"",
    compression: int = 0,
    masks: Sequence[int] = (),
    header: int = 40,
    colours: int = 0,
) -> bytes:
    """A BMP; height negative: top row first; masks: red, green, blue (and alpha) bit fields."""
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(rows), 0, 0, colours, 0)  # fmt: skip
        info += struct.pack(f"<{len(masks)}I", *masks)
        info = info.ljust(header, b"\0")
    offset = 14 + len(info) + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset)
    return head + info + palette + rows


def bmp_rows(values: np.ndarray, bits: int, *, top_down: bool = False) -> bytes:
    """Rows as a BMP stores them: bottom-up, each filled up to 4 bytes."""
    ordered = values if top_down else values[::-1]
    flat = ordered.reshape(len(ordered), -1)
    lines = [packed(row[None], bits) if bits < 8 else row.tobytes() for row in flat]
    return b"".join(line + bytes(-len(line) % 4) for line in lines)


# --- WebP


def webp(kind: bytes, content: bytes) -> bytes:
    """A WebP file of one chunk."""
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body
