"""Write scikit-learn's bundled digits as PNG files: -> artifacts/sample/{train,test}/<digit>/."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from pipeline import files
from pipeline.errors import exit_status, leave
from pipeline.project import SAMPLE, open_project

TEST_SHARE = 0.3
SEED = 0


def main() -> None:
    with files.replacing(open_project().root / SAMPLE) as folder:
        count = write_digits(folder)
    print(f"{count} digits of 8x8 pixels under {SAMPLE}")


def write_digits(folder: Path) -> int:
    """Write the 1,797 digits, 8x8 grey PNG, 30 % of each class as test; returns how many."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 17 levels, 0..16
    rows = range(len(digits.target))
    test = set(
        train_test_split(rows, test_size=TEST_SHARE, random_state=SEED, stratify=digits.target)[1]
    )
    for row in rows:
        split = "test" if row in test else "train"
        path = folder / split / str(digits.target[row]) / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row]).save(path)
    return len(rows)


if __name__ == "__main__":
    leave(exit_status(main))
