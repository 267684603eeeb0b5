"""What a file may cost: small files that claim much, measured in a process of their own."""

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.images import MAX_PIXELS, decode
from tests.conftest import ROOT
from tests.image_files import (
    BITS,
    COMPRESSION,
    COUNTS,
    LENGTH,
    OFFSETS,
    PHOTOMETRIC,
    ROWS_PER_STRIP,
    SAMPLES,
    bmp,
    chunk,
    noise,
    png,
    png_of,
    saved,
    tiff,
    webp,
)
from tests.image_files import WIDTH as TIFF_WIDTH

SIDE = 10_000
assert SIDE**2 == MAX_PIXELS

MEASURE = """
import json, resource, sys, time
from pipeline.errors import ImageError
from pipeline.images import decode
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
contents = [open(path, "rb").read() for path in sys.argv[1:]]
decode(contents[0])
before, outcomes, start = peak(), [], time.perf_counter()
for content in contents[1:]:
    try:
        outcomes.append(list(decode(content).shape))
    except ImageError as error:
        outcomes.append(error.reason)
print(json.dumps([outcomes, peak() - before, time.perf_counter() - start]))
"""
"""Decodes the first file to be warm, then the others: outcomes, growth of the peak, seconds."""


def measured(folder: Path, contents: list[bytes]) -> tuple[list, float, float]:
    """Outcome of each, megabytes by which the peak grew, seconds."""
    paths = []
    warm = png_of(noise(), 8, 0)
    for number, content in enumerate([warm, *contents]):
        paths.append(folder / str(number))
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes, growth, seconds = json.loads(done.stdout)
    return outcomes, growth / 1e6, seconds


def flat_png(width: int, height: int, bits: int, colour: int, *extra: bytes) -> bytes:
    """A whole PNG of zeros, packed a row at a time."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row, packing = bytes(1 + (width * bits * samples + 7) // 8), zlib.compressobj(1)
    rows = b"".join(packing.compress(row) for _ in range(height)) + packing.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def lossless_webp(width: int, height: int) -> bytes:
    return webp(b"VP8L", struct.pack("<BI", 0x2F, width - 1 | height - 1 << 14) + bytes(40))


def lossy_webp(width: int, height: int) -> bytes:
    sides = b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return webp(b"VP8 ", bytes(3) + sides + bytes(40))


def animation(width: int, height: int, frames: int = 1) -> bytes:
    """A WebP whose canvas is as large as said and whose frames are 4 x 4."""
    still = saved(Image.fromarray(noise(4, 4, 3)), "WEBP")
    canvas = struct.pack("<I", 2) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]  # fmt: skip
    frame = bytes(6) + b"\3\0\0\3\0\0" + bytes(4) + still[12:]
    parts = [(b"VP8X", canvas), (b"ANIM", bytes(6)), *[(b"ANMF", frame)] * frames]
    return b"RIFF" + _riff(parts)


def _riff(parts) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for k, c in parts)  # fmt: skip
    return struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int, **options) -> bytes:
    content = saved(Image.fromarray(noise(4, 4, 3)), "JPEG", **options)
    start = content.index(b"\xff\xc2" if options else b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def small_tiff(compression: int, **tags) -> bytes:
    """10 x 10 pixels of red, green and blue, but for what the tags say."""
    named = {int(name[1:]): value for name, value in tags.items()}
    whole = {
        TIFF_WIDTH: 10, LENGTH: 10, BITS: (8, 8, 8), SAMPLES: 3, PHOTOMETRIC: 2,
        COMPRESSION: compression, **named,
    }  # fmt: skip
    return tiff([zlib.compress(bytes(300))], whole)


def above(width: int, height: int) -> list[bytes]:
    """A file of each format that claims so many pixels and holds next to none."""
    return [
        png(width, height, 8, 2, b""),
        png(width, height, 1, 0, b""),
        jpeg(min(width, 65500), min(height, 65500)),
        jpeg(min(width, 65500), min(height, 65500), progressive=True),
        lossless_webp(min(width, 16383), min(height, 16383)),
        lossy_webp(min(width, 16383), min(height, 16383)),
        animation(width, height),
        bmp(width, height, 24, bytes(64)),
        bmp(width, -height, 8, bytes(64)),
        small_tiff(8, t256=width, t257=height, t278=height),
        small_tiff(1, t256=width, t257=height, t278=height),
        f"P6 {width} {height} 255\n".encode() + bytes(64),
        f"P2 {width} {height} 200\n".encode() + b"1 " * 64,
    ]


@pytest.mark.parametrize(
    ("width", "height"), [(SIDE, SIDE + 1), (16383, 16383), (20_000, 20_000), (65_500, 65_500)]
)
def test_decode__beyond_the_ceiling__is_refused_in_every_format_before_it_costs_memory(
    tmp_path, width, height
):
    outcomes, grown, seconds = measured(tmp_path, above(width, height))
    assert set(outcomes) == {"too_many_pixels"}
    assert grown < 50
    assert seconds < 5


def test_decode__png_of_a_million_empty_chunks__costs_no_memory(tmp_path):
    """Listed as what it is, whatever size its header claims."""
    many = chunk(b"teXt", b"") * 1_500_000
    contents = [
        flat_png(side, side, 8, 0).replace(chunk(b"IEND", b""), many + chunk(b"IEND", b""))
        for side in (8, 20_000)
    ]
    outcomes, growth, _ = measured(tmp_path, contents)
    assert outcomes == ["corrupt", "too_many_pixels"]
    assert growth < 50


def test_decode__whole_png_of_20000_by_20000__costs_no_memory(tmp_path):
    content = flat_png(20_000, 20_000, 1, 0)
    outcomes, grown, _ = measured(tmp_path, [content])
    assert outcomes == ["too_many_pixels"]
    assert grown < 50


@pytest.mark.parametrize(("width", "height"), [(1_000_001, 1), (1, 1_000_001), (10**8, 1)])
def test_decode__side_longer_than_a_row_can_be__is_too_many_pixels_and_no_lack_of_memory(
    width, height
):
    for content in (png(width, height, 8, 0, b""), small_tiff(8, t256=width, t257=height)):
        with pytest.raises(ImageError, match=r"too_many_pixels: .* pixels a side"):
            decode(content)


def test_decode__longest_row__is_decoded_upright_and_turned():
    row = np.zeros((1, 1_000_000), "u1")
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0" + bytes(4))
    assert decode(png_of(row, 8, 0)).shape == (1, 1_000_000, 3)
    assert decode(png_of(row, 8, 0, turned)).shape == (1_000_000, 1, 3)


def test_decode__texts_and_profiles_that_unpack_to_much__are_not_unpacked(tmp_path):
    grey = noise()
    packing = zlib.compressobj(1)
    bomb = b"".join(packing.compress(bytes(10**6)) for _ in range(300)) + packing.flush()
    megabyte = zlib.compress(bytes(10**6))
    extras = [
        [chunk(b"zTXt", b"k\0\0" + bomb)],
        [chunk(b"iCCP", b"k\0\0" + bomb)],
        [chunk(b"iTXt", b"k\0\1\0\0\0" + bomb)],
        [chunk(b"tEXt", b"k%d\0" % n + bytes(10**5)) for n in range(100)],
        [chunk(b"zTXt", b"k%d\0\0" % n + megabyte) for n in range(300)],
    ]
    contents = [png_of(grey, 8, 0, *extra) for extra in extras]
    outcomes, grown, seconds = measured(tmp_path, contents)
    assert outcomes == [[*grey.shape, 3]] * len(contents)
    assert grown < 50
    assert seconds < 5


COMPRESSIONS = {"raw": 1, "lzw": 5, "jpeg": 7, "deflate": 8, "packbits": 32773, "zstd": 50000}


def test_decode__tiff_whose_tiles_claim_gigabytes__is_corrupt_and_costs_no_memory(tmp_path):
    contents = [
        small_tiff(number, t322=26_000, t323=26_000)
        for name, number in COMPRESSIONS.items()
        if name != "raw"
    ]
    outcomes, grown, _ = measured(tmp_path, contents)
    assert set(outcomes) == {"corrupt"}
    assert grown < 50


def test_decode__tiff_whose_strips_claim_gigabytes__costs_no_memory(tmp_path):
    contents = [
        small_tiff(number, **tags)
        for number in COMPRESSIONS.values()
        for tags in ({"t278": 2**32 - 1}, {"t278": 10, "t279": 2**31 - 10}, {"t278": 1})
    ]
    _, grown, seconds = measured(tmp_path, contents)
    assert grown < 50
    assert seconds < 5


def test_decode__tiff_of_many_strips_in_one_place__costs_no_memory(tmp_path):
    many = {TIFF_WIDTH: 10, LENGTH: 10, BITS: (8, 8, 8), SAMPLES: 3, PHOTOMETRIC: 2, COMPRESSION: 1}
    many |= {ROWS_PER_STRIP: 10, OFFSETS: (8,) * 300_000, COUNTS: (30,) * 300_000}
    outcomes, grown, _ = measured(tmp_path, [tiff([bytes(300)], many)])
    assert outcomes == [[10, 10, 3]]
    assert grown < 50


def test_decode__animation_of_many_frames__costs_its_first(tmp_path):
    frames = [Image.fromarray(noise(64, 64, 3, seed)) for seed in range(2)]
    moving = saved(frames[0], "PNG", save_all=True, append_images=frames[1:] * 200)
    pages = saved(frames[0], "TIFF", save_all=True, append_images=frames[1:] * 200)
    content = animation(64, 64, frames=20_000)
    outcomes, grown, seconds = measured(tmp_path, [content, moving, pages])
    assert outcomes == [[64, 64, 3]] * 3
    assert grown < 50
    assert seconds < 5


def at_the_ceiling() -> dict[str, bytes]:
    """Files of few bytes whose pixels are as many as may be."""
    size = (SIDE, SIDE)
    red = Image.new("RGB", size, (200, 8, 7))
    turned = chunk(b"eXIf", b"II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0" + bytes(4))
    palette, alphas = chunk(b"PLTE", bytes(768)), chunk(b"tRNS", bytes(range(256)))
    made = {
        "png-grey16": flat_png(*size, 16, 0),
        "png-rgba": flat_png(*size, 8, 6),
        "png-palette-alpha": flat_png(*size, 8, 3, palette, alphas),
        "png-turned": flat_png(*size, 8, 2, turned),
        "jpeg": saved(red, "JPEG"),
        "jpeg-progressive": saved(red, "JPEG", progressive=True),
        "webp": saved(red, "WEBP"),
        "webp-lossy": saved(red, "WEBP", lossless=False, method=0),
        "webp-rgba": saved(Image.new("RGBA", size, (9, 8, 7, 100)), "WEBP"),
        "webp-canvas": animation(*size),
    }
    for mode in ("1", "LA", "I", "I;16", "F", "LAB", "YCbCr", "CMYK"):
        content = saved(Image.new(mode, size), "TIFF", compression="tiff_deflate")
        made[f"tiff-{mode}"] = content
    return made


@pytest.mark.slow
def test_decode__at_the_ceiling__costs_10_bytes_a_pixel_and_18_for_webp(tmp_path):
    for name, content in at_the_ceiling().items():
        outcomes, grown, _ = measured(tmp_path, [content])
        assert outcomes == [[SIDE, SIDE, 3]], name
        limit = 18.2 if name.startswith("webp") else 10.2
        assert grown * 1e6 / MAX_PIXELS < limit, (name, grown)
