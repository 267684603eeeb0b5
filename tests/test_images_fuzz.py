"""Broken files, thousands of them: pixels or an ImageError, whatever the damage."""

import json
import random
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.mutations import MUTATIONS, all_kinds, mutated


def surveyed(count: int, seed: int) -> dict:
    """The report of a process of its own, so that a crash is seen and memory can be measured."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutations", str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def check(report: dict, count: int) -> None:
    assert report["others"] == []
    assert sum(report["outcomes"].values()) == count
    assert report["slowest"] < 5  # processor seconds
    assert report["resident"][1] < report["resident"][0] + 40  # megabytes
    assert report["peak"] < 2000 + 200  # 18 bytes for each of 100 million pixels, and Python


def test_mutated__same_seed__is_the_same_damage():
    contents = all_kinds()
    first, second = (
        [mutated(contents, dice) for _ in range(50)]
        for dice in (random.Random(3), random.Random(3))
    )
    assert first == second
    assert len(set(first) - set(contents)) > 45


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutation__of_every_kind_of_file__changes_most(mutation):
    contents, dice = all_kinds(), random.Random(1)
    changed = sum(mutation(bytearray(content), dice) != content for content in contents)
    assert changed > 0.7 * len(contents)


def test_decode__500_mutated_files__are_pixels_or_an_image_error():
    report = surveyed(500, seed=7)
    check(report, 500)
    assert report["outcomes"]["decoded"] > 50
    reasons = {"truncated", "corrupt", "not_an_image", "unsupported_format", "too_many_pixels"}
    assert set(report["outcomes"]) >= reasons


@pytest.mark.slow
def test_decode__10000_mutated_files__are_pixels_or_an_image_error():
    check(surveyed(10_000, seed=1), 10_000)
