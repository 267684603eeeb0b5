"""Image files broken in many ways, each kind of damage by itself or several at once.

python -m tests.mutations 10000 7 [folder]    decodes so many, from that seed, and prints a report
"""

import gc
import json
import random
import re
import resource
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.errors import ImageError
from pipeline.images import decode
from pipeline.images.headers import sniff

SIDES = (0, 1, 2, 7, 8, 9, 16, 17, 63, 64, 65, 100, 255, 256, 257, 1000, 4096, 9_999, 10_001, 20_000, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)  # fmt: skip
"""Widths, heights and lengths to claim."""


def flipped(content: bytearray, dice: random.Random) -> bytes:
    for _ in range(dice.randrange(1, 9)):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def flipped_in_header(content: bytearray, dice: random.Random) -> bytes:
    end = min(len(content), 160)
    for _ in range(dice.randrange(1, 4)):
        content[dice.randrange(end)] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
    return bytes(content)


def overwritten(content: bytearray, dice: random.Random) -> bytes:
    start, length = dice.randrange(len(content)), dice.randrange(1, 65)
    run = dice.choice((bytes(length), b"\xff" * length, dice.randbytes(length)))
    return bytes(content[:start]) + run + bytes(content[start + length :])


def cut(content: bytearray, dice: random.Random) -> bytes:
    return bytes(content[: dice.randrange(len(content))])


def lengthened(content: bytearray, dice: random.Random) -> bytes:
    return bytes(content) + dice.choice((bytes(999), dice.randbytes(99), bytes(content)))


def repeated(content: bytearray, dice: random.Random) -> bytes:
    start, place = dice.randrange(len(content)), dice.randrange(len(content))
    content[place:place] = content[start : start + dice.randrange(200)]
    return bytes(content)


def other_length(content: bytearray, dice: random.Random) -> bytes:
    """The length of a PNG chunk, RIFF chunk, JPEG segment or TIFF tag, or some number anywhere."""
    kind = sniff(content[:32])
    order, size = (">", 4) if kind == "PNG" else ("<", 4)
    if kind == "PNG":
        places = [match.start() - 4 for match in re.finditer(rb"[A-Za-z]{4}", content)]
    elif kind == "WEBP":
        places = [match.end() for match in re.finditer(rb"VP8[ LX]|ANMF|ANIM|EXIF|RIFF", content)]
    elif kind == "JPEG":
        places = [match.end() for match in re.finditer(rb"\xff[\xc0-\xfe]", content)]
        order, size = ">", 2
    else:
        places = list(range(4, max(5, len(content) - 4)))
    place = max(0, dice.choice(places or [0]))
    value = dice.choice(SIDES) & (256**size - 1)
    content[place : place + size] = struct.pack(order + ("I" if size == 4 else "H"), value)
    return bytes(content)


def other_size(content: bytearray, dice: random.Random) -> bytes:
    """Another width, height or both in the header."""
    kind = sniff(content[:32])
    sides = [dice.choice(SIDES) for _ in range(2)]
    if kind == "PPM":
        numbers = re.compile(rb"\b\d+ \d+\b")
        return numbers.sub(b"%d %d" % tuple(sides), bytes(content), count=1)
    for place, letter in zip(_side_places(kind, bytes(content)), sides, strict=False):
        if dice.random() < 0.7:
            at, code = place
            room = struct.calcsize(code)
            content[at : at + room] = struct.pack(code, letter & (256**room - 1))
    return bytes(content)


def _side_places(kind: str, content: bytes) -> list[tuple[int, str]]:
    """(offset, struct code) of the width and the height."""
    if kind == "PNG":
        return [(16, ">I"), (20, ">I")]
    if kind == "BMP":
        return [(18, "<I"), (22, "<I")]
    if kind == "JPEG":
        frame = re.search(rb"\xff[\xc0\xc2]", content)
        return [(frame.start() + 7, ">H"), (frame.start() + 5, ">H")] if frame else []
    if kind == "WEBP":
        return {b"VP8X": [(24, "<H"), (27, "<H")], b"VP8 ": [(26, "<H"), (28, "<H")]}.get(
            content[12:16], [(21, "<H"), (23, "<H")]
        )
    order = "<" if content[:2] == b"II" else ">"
    places = []
    for tag in random.Random(len(content)).sample((256, 257, 278, 322, 323, 277, 258, 339), 2):
        entry = content.rfind(struct.pack(order + "H", tag))
        places.append((max(0, entry + 8), order + "H"))
    return places


def with_right_checksums(content: bytes) -> bytes:
    """A PNG whose chunks' checksums are put right, so that the damage behind them is reached."""
    whole, start = bytearray(content), 8
    while start + 12 <= len(whole):
        length = int.from_bytes(whole[start : start + 4], "big")
        end = start + 8 + length
        if end + 4 > len(whole):
            break
        whole[end : end + 4] = struct.pack(">I", zlib.crc32(whole[start + 4 : end]))
        start = end + 4
    return bytes(whole)


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytes], ...] = (
    flipped, flipped_in_header, overwritten, cut, lengthened, repeated, other_length, other_size,
)  # fmt: skip


def mutated(contents: list[bytes], dice: random.Random) -> bytes:
    """One of the contents, damaged once to three times; one time in nine, spliced with another."""
    content = dice.choice(contents)
    if dice.randrange(9) == 0:
        other = dice.choice(contents)
        content = content[: dice.randrange(len(content))] + other[dice.randrange(len(other)) :]
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        try:
            content = dice.choice(MUTATIONS)(bytearray(content), dice) or content
        except ImageError:
            break  # no format any more, so no header to edit
    if content.startswith(b"\x89PNG") and dice.random() < 0.5:
        return with_right_checksums(content)
    return content


def all_kinds() -> list[bytes]:
    """One file of every kind that the golden tests have, of every format the same chance."""
    from PIL import Image

    from tests.image_files import noise, saved, tiff_of
    from tests.test_images_golden import CASES, JPEGS, REFUSED, TURNED

    pool = [content for content, _ in [*CASES.values(), *TURNED.values()]] + list(REFUSED.values())
    red, inks = Image.fromarray(noise(37, 53, 3)), Image.fromarray(noise(16, 24, 4), "CMYK")
    pool += [saved(red, "JPEG", **options) for options in JPEGS]
    pool += [saved(inks, "JPEG"), saved(red.convert("L"), "JPEG")]
    pool += [saved(red, "MPO", save_all=True, append_images=[red])]
    pool += [saved(red, "WEBP", lossless=False, quality=q) for q in (5, 60, 95)]
    pool += [saved(red, "TIFF", compression=name) for name in ("jpeg", "tiff_lzw")]
    pool += [saved(red, format, save_all=True, append_images=[red.rotate(9)] * 3) for format in ("PNG", "WEBP", "TIFF")]  # fmt: skip
    pool += [tiff_of(noise(channels=3), 6, compression=8, subsampling=(1, 1))]
    by_format: dict[str, list[bytes]] = {}
    for content in pool:
        by_format.setdefault(sniff(content[:32]), []).append(content)
    most = max(map(len, by_format.values()))
    return [group[i % len(group)] for group in by_format.values() for i in range(most)]


def survey(count: int, seed: int, folder: Path | None = None) -> dict:
    """Decode `count` mutated files; what is no ImageError, or slow, is written to `folder`.

    slowest: processor seconds, since other work on the machine is no fault of a file; resident
    (after each half) and peak: megabytes.
    """
    contents, dice = all_kinds(), random.Random(seed)
    outcomes, others, slowest, resident = Counter(), [], 0.0, []
    for number in range(count):
        content = mutated(contents, dice)
        start = time.process_time()
        try:
            decoded = decode(content)
            assert decoded.ndim == 3
            assert decoded.shape[2] == 3
            assert decoded.size <= 3 * 10**8
            outcomes["decoded"] += 1
        except ImageError as error:
            assert "\n" not in str(error)
            outcomes[error.reason] += 1
        except BaseException:
            others.append(traceback.format_exc().splitlines()[-1][:300])
            if folder:
                (folder / f"other-{number}").write_bytes(content)
        seconds = time.process_time() - start
        if seconds > 2 and folder:
            (folder / f"slow-{number}").write_bytes(content)
        slowest = max(slowest, seconds)
        if (number + 1) % max(1, count // 2) == 0:
            decoded = None
            gc.collect()
            resident.append(psutil.Process().memory_info().rss / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "outcomes": dict(outcomes.most_common()),
        "others": others,
        "slowest": slowest,
        "resident": resident,
        "peak": peak,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    print(json.dumps(survey(int(sys.argv[1]), int(sys.argv[2]), folder)))
