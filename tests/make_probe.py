"""Makes the probe's images, once; run again it makes a new probe, and so new fingerprints.

python -m tests.make_probe pipeline/probe
"""

import struct
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.image_files import bmp, bmp_rows, chunk, png_of, tiff_of

ORIENTATION = 0x0112


def scene(seed: int, height: int, width: int) -> Image.Image:
    """A smooth gradient with stripes and discs, so that a network has something to tell apart."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    corners = random.uniform(0, 255, (3, 3))
    pixels = x[..., None] * corners[0] + y[..., None] * corners[1] + (1 - x)[..., None] * corners[2]
    pixels = pixels * 0.5
    angle, pitch = random.uniform(0, np.pi), random.uniform(0.05, 0.2)
    stripes = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / pitch) > 0.3
    pixels[stripes] += random.uniform(-60, 60, 3)
    for _ in range(4):
        row, column, radius = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.05, 0.25)
        pixels[(y - row) ** 2 + (x - column) ** 2 < radius**2] = random.uniform(0, 255, 3)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def save_all(folder: Path) -> None:
    """Write the probe's images to `folder`."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    scene(1, 64, 96).save(folder / "rgb.jpg", quality=85)
    scene(2, 90, 70).save(folder / "progressive.jpg", quality=90, progressive=True, subsampling=0)
    scene(3, 330, 420).save(folder / "large.jpg", quality=60)
    scene(4, 64, 80).convert("CMYK").save(folder / "cmyk.jpg", quality=85)
    scene(5, 60, 100).save(folder / "rotated.jpg", quality=85, exif=exif)
    scene(6, 48, 48).convert("L").save(folder / "grey.jpg", quality=80)
    scene(7, 40, 56).save(folder / "rgb.png")
    grey = np.asarray(scene(8, 40, 40).convert("L")).astype(np.uint16)
    Image.fromarray(grey * 257 - grey // 3).save(folder / "grey16.png")
    palette = scene(9, 48, 64).quantize(32)
    palette.save(folder / "palette.png", transparency=3)
    alpha = scene(10, 40, 48).convert("RGBA")
    alpha.putalpha(scene(11, 40, 48).convert("L"))
    alpha.save(folder / "alpha.png")
    scene(12, 72, 64).save(folder / "lossy.webp", quality=80)
    scene(13, 24, 32).save(folder / "rgb.bmp")
    scene(14, 32, 32).save(folder / "lzw.tiff", compression="tiff_lzw")
    for name, content in corrected().items():
        (folder / name).write_bytes(content)


def corrected() -> dict[str, bytes]:
    """Kinds that Pillow by itself reads wrong: a change in how they are corrected shows here."""
    grey = [np.asarray(scene(seed, 40, 48).convert("L")) for seed in range(15, 20)]
    colour = np.asarray(scene(20, 40, 48)).astype(np.uint16) * 256 + 7
    clear = chunk(b"tRNS", struct.pack(">H", 5))
    clear16 = chunk(b"tRNS", struct.pack(">3H", *colour[9, 9]))
    planes = colour[:, ::-1].copy()
    floats = (grey[2] / np.float32(255)).astype(np.float32)
    two = (grey[3] > 90).astype(np.uint8)
    black_white = bytes(4) + b"\xff" * 4
    return {
        "white_is_zero.tiff": tiff_of(grey[0].astype(np.uint16) * 200, 0),
        "clear4.png": png_of(grey[1] >> 4, 4, 0, clear),
        "clear16.png": png_of(colour, 16, 2, clear16),
        "floats.tiff": tiff_of(floats, 1, order=">", compression=8),
        "two_colours.bmp": bmp(48, 40, 8, bmp_rows(two, 8), palette=black_white, colours=2),
        "planes16.tiff": tiff_of(planes, 2, planar=True),
        "twelve_bits.tiff": tiff_of(grey[4].astype(np.uint16) * 16, 1, bits=12),
    }


if __name__ == "__main__":
    save_all(Path(sys.argv[1]))
