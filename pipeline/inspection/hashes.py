"""Perceptual hashes of images, upright and mirrored: what stays when a picture is saved anew."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from pipeline import files, images
from pipeline.cgroups import cores
from pipeline.dataset import Digests
from pipeline.errors import ImageError, is_shortage

BITS = 64

SIDE = 32
"""Pixels a side of what pHash looks at."""

FLAT = 2.0
"""Standard deviation, in levels of grey, below which a picture shows nothing to hash: the signs
of its frequencies are those of rounding."""

_AT_ONCE = 4096
"""Images whose outcome waits to be taken, at most."""

Bits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hashes:
    """pHash of N images. plain, mirrored: (N, 64) float32 of -1 and 1, a row of 0 where none.

    unreadable: how many are gone, changed or cannot be decoded; flat: how many show nothing.
    """

    plain: Bits
    mirrored: Bits
    unreadable: int
    flat: int

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        """(N,) which have one."""
        return np.asarray(self.plain[:, 0] != 0)


def read(root: Path, paths: Sequence[str], sha256: Digests) -> Hashes:
    """Hash the images below `root`, decoded as for a backbone, on every core.

    One that is gone, cannot be decoded, or has other bytes than sha256 (N,) S64 says is counted.
    """
    plain = np.zeros((len(paths), BITS), np.float32)
    mirrored = np.zeros_like(plain)
    unreadable = flat = 0
    digests = sha256.astype("U64")

    def hashed(row: int) -> tuple[Bits, Bits] | None:
        picture = _small(root / paths[row], str(digests[row]))
        return None if picture is None else phash(picture)

    with (
        ThreadPoolExecutor(cores()) as pool,  # Pillow's decoders release the interpreter's lock
        tqdm(total=len(paths), unit="img", disable=None, desc="hashing") as bar,
    ):
        for start in range(0, len(paths), _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, len(paths)))
            for row, pair in zip(some, pool.map(hashed, some), strict=True):
                bar.update()
                if pair is None:
                    unreadable += 1
                else:
                    plain[row], mirrored[row] = pair
                    flat += not pair[0].any()
    return Hashes(plain, mirrored, unreadable, flat)


def phash(picture: Image.Image) -> tuple[Bits, Bits]:
    """The pHash (Zauner 2010) of a picture and of its mirror image, (64,) float32 of -1 and 1 each.

    Both 0 where the picture is FLAT.
    """
    small = _shrunk(picture)
    if np.asarray(small).std() < FLAT:
        return np.zeros(BITS, np.float32), np.zeros(BITS, np.float32)
    plain, mirrored = (
        imagehash.phash(one).hash.ravel() for one in (small, small.transpose(_MIRROR))
    )
    return _signs(plain), _signs(mirrored)


_MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def _signs(bits: npt.NDArray[np.bool_]) -> Bits:
    return np.where(bits, np.float32(1), np.float32(-1))


def _shrunk(picture: Image.Image) -> Image.Image:
    """As pHash itself makes it, which leaves this as it is."""
    return picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _small(path: Path, sha256: str) -> Image.Image | None:
    """The image made small; None where it cannot be had, or is another by now."""
    try:
        with files.open_plain(path) as file:
            content = file.read()
        if files.sha256_of_bytes(content) != sha256:
            return None
        return _shrunk(images.opened(content))
    except ImageError:
        return None
    except OSError as error:
        if is_shortage(error):
            raise
        return None
