"""Files that are wrong, one of each kind, made on the spot."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

BEFORE = "before prepare"
AFTER = "after prepare"


def jpeg(seed: int, **options) -> bytes:
    """A picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((128, 96)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def encoded(format: str, seed: int = 7, **options) -> bytes:
    """A good picture in some format of Pillow's."""
    with Image.open(io.BytesIO(jpeg(seed))) as image:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, data: bytes) -> bytes:
    """A PNG whose header claims a size, whatever its data hold."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _float_with_nan() -> bytes:
    values = np.ones((40, 40), np.float32)
    values[3, 4] = np.nan
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    return buffer.getvalue()


def _noise_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(range(256)) * 2 + content[middle + 512 :]


CONTENTS: dict[str, tuple[bytes, str, str]] = {
    "empty.jpg": (b"", BEFORE, "empty"),
    "page.jpg": (b"<!doctype html><html>404</html>", BEFORE, "unsupported_format"),
    "text.png": (b"just some words", BEFORE, "unsupported_format"),
    "moving.jpg": (encoded("GIF"), BEFORE, "unsupported_format"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), BEFORE, "unsupported_format"),
    "pointer.jpg": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        BEFORE,
        "unsupported_format",
    ),
    "paper.jpg": (b"%PDF-1.7\n", BEFORE, "unsupported_format"),
    "cut.jpg": (jpeg(1)[:700], AFTER, "truncated"),
    "cut progressive.jpg": (jpeg(1, progressive=True)[:700], AFTER, "truncated"),
    "cut.png": (encoded("PNG")[:3000], AFTER, "truncated"),
    "cut.webp": (encoded("WEBP")[:300], AFTER, "truncated"),
    "cut.tif": (encoded("TIFF")[:3000], AFTER, "truncated"),
    "cut.bmp": (encoded("BMP")[:3000], AFTER, "truncated"),
    "cut.ppm": (encoded("PPM")[:3000], AFTER, "truncated"),
    "header.jpg": (b"\xff\xd8\xff\xe0" + bytes(80), AFTER, "not_an_image"),
    "header.png": (b"\x89PNG\r\n\x1a\n" + bytes(80), AFTER, "not_an_image"),
    "broken.png": (_noise_in_the_middle(encoded("PNG")), AFTER, "corrupt"),
    "nan.tif": (_float_with_nan(), AFTER, "corrupt"),
    "huge.png": (png_of(20_000, 20_000, b""), AFTER, "too_many_pixels"),
    "bomb.png": (png_of(60_000, 60_000, zlib.compress(bytes(10**7))), AFTER, "too_many_pixels"),
}
"""Name -> its bytes, who lists it, and the reason."""


def change(path: Path) -> None:
    """Other bytes, of a good image."""
    path.write_bytes(jpeg(99))


def vanish(path: Path) -> None:
    """Gone since prepare."""
    path.unlink()


def become_folder(path: Path) -> None:
    """A folder in its place."""
    path.unlink()
    path.mkdir()


def become_pipe(path: Path) -> None:
    """A pipe in its place, that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def become_loop(path: Path) -> None:
    """A link to itself in its place."""
    path.unlink()
    path.symlink_to(path.name)


TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed.jpg": (change, "changed"),
    "vanished.jpg": (vanish, "unreadable"),
    "now a folder.jpg": (become_folder, "unreadable"),
    "now a pipe.jpg": (become_pipe, "unreadable"),
    "now a loop.jpg": (become_loop, "unreadable"),
}
"""Good images that something befalls between prepare and extract, and the reason."""

ODD_BUT_GOOD: dict[str, bytes] = {
    "no ending": jpeg(520),
    "wrong ending.png": jpeg(521),
    "new\nline.jpg": jpeg(522),
    "bee 🐝 and ünï.jpg": jpeg(523),
    "x" * 251 + ".jpg": jpeg(524),
    "cmyk.jpg": encoded("TIFF", 525),
    "animated.webp": encoded(
        "WEBP", 526, save_all=True, append_images=[Image.new("RGB", (128, 96))]
    ),
    "trailing.jpg": jpeg(527) + b"more bytes behind the end" * 9,
    "grey 16 bit.png": encoded("PPM", 528),
}
"""Names and contents that look wrong and are not."""
