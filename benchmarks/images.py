"""Photos enough to measure on: few of them, many times, each file other bytes and the same pixels."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_SOI = b"\xff\xd8"
_APP0 = b"\xff\xe0"
_COMMENT = b"\xff\xfe\x00\x06"
"""A COM segment of four bytes, which follow."""

GENERATED = 24
SIZE = (500, 375)


def source() -> Path | None:
    """The folder of photos to begin with: HEADSTART_BENCH_PHOTOS, or the tests' real ones."""
    given = os.environ.get("HEADSTART_BENCH_PHOTOS")
    if given:
        return Path(given)
    from tests.conftest import real_images  # not where photos are made, on a bare machine

    photos = real_images() / "ants_bees"
    return photos if photos.is_dir() else None


def originals(folder: Path | None) -> list[bytes]:
    """The JPEG files below `folder`, in the order of their paths; without one, generated ones.

    Raises ValueError where the folder holds none.
    """
    if folder is None:
        return [generated(seed) for seed in range(GENERATED)]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    found = [content for path in paths if (content := path.read_bytes()).startswith(_SOI)]
    if not found:
        raise ValueError(f"no JPEG file below {folder}; name another folder with --photos")
    return found


def generated(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    """A JPEG whose spectrum falls off like a photo's, so that decoding costs about as much."""
    random = np.random.default_rng(seed)
    width, height = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    fall = 1 / np.maximum(np.hypot(rows, columns), 1 / max(size))
    planes = []
    for _ in range(3):
        noise = np.fft.fft2(random.standard_normal((height, width)))
        plane = np.fft.ifft2(noise * fall).real
        planes.append(128 + 50 * (plane - plane.mean()) / plane.std())
    pixels = np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=92)
    return content.getvalue()


def marked(content: bytes, number: int) -> bytes:
    """The JPEG with a comment that says `number`: other bytes, other sha256, the same pixels."""
    at = len(_SOI)
    if content[at : at + 2] == _APP0:  # JFIF wants its segment first
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return content[:at] + _COMMENT + number.to_bytes(4, "big") + content[at:]


def write(originals: Sequence[bytes], folder: Path, numbers: range) -> None:
    """A file a number, in two class folders by turns."""
    for name in ("even", "odd"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        content = marked(originals[number % len(originals)], number)
        (folder / ("even", "odd")[number % 2] / f"{number:06d}.jpg").write_bytes(content)


def paths(folder: Path) -> list[Path]:
    """The files that `write` made, by number."""
    return sorted(folder.rglob("*.jpg"), key=lambda path: path.name)
