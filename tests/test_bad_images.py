"""Bad images among good ones, through prepare and extract: each is listed, the others are untouched."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import dataset, embeddings, preparation
from pipeline.dataset import Problem
from pipeline.extraction import Places, extract
from pipeline.formats import list_data
from pipeline.params import ExecutionParams, SplitParams
from tests.bad_images import AFTER, BEFORE, CONTENTS, ODD_BUT_GOOD, TAMPERED, jpeg
from tests.frozen_fixtures import lite0, pixels

__all__ = ["lite0", "pixels"]


def run(root: Path, base: Path, backbone: Path, tamper=lambda: None, max_failed=0.9):
    """Prepare and extract `root`; (problems of prepare, problems of extract, vectors by digest)."""
    prepared = preparation.prepare(
        list_data(root), SplitParams(val=0.2, test=0.2, seed=0, group=None)
    )
    preparation.write(prepared, base / "dataset")
    tamper()
    places = Places(
        root=root,
        backbone=backbone,
        images=base / "dataset" / "images.parquet",
        embeddings=base / "embeddings" / "b.h5",
        runs=base / "runs",
        store=base / "store",
    )
    summary = extract(places, ExecutionParams(), max_failed=max_failed)
    problems = dataset.read_problems(places.problems)
    opened = embeddings.open(places.embeddings)
    assert summary.images == summary.computed + summary.failed
    assert summary.images == len(opened.sha256) + len(problems) == len(prepared.images.sha256)
    vectors = dict(zip(opened.sha256.tolist(), np.array(opened.vectors), strict=True))
    return prepared, problems, vectors


def add_bad(root: Path, label: str) -> None:
    """One file of each kind, in the folder of a class."""
    folder = root / label
    for name, (content, _, _) in CONTENTS.items():
        (folder / name).write_bytes(content)
    for number, name in enumerate(TAMPERED):
        (folder / name).write_bytes(jpeg(200 + number))
    for name, content in ODD_BUT_GOOD.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")


def tamper(folder: Path) -> None:
    for name, (befall, _) in TAMPERED.items():
        befall(folder / name)


def check_bad_among(good: Path, label: str, backbone: Path, tmp_path: Path) -> None:
    """The good images' vectors are those of a run without the bad, which are all listed."""
    _, none, expected = run(good, tmp_path / "good", backbone)
    assert none == []
    root = tmp_path / "mixed data"
    shutil.copytree(good, root)
    add_bad(root, label)
    prepared, after, vectors = run(
        root, tmp_path / "mixed", backbone, tamper=lambda: tamper(root / label)
    )
    listed = {p.path.removeprefix(f"{label}/"): p.reason for p in prepared.problems}
    want = {name: reason for name, (_, when, reason) in CONTENTS.items() if when == BEFORE}
    gone = {"dangling.jpg": "unreadable"}
    stray = {p.path: p.reason for p in list_and_prepare(good)}
    assert listed == {**want, **gone, **{k.removeprefix(f"{label}/"): v for k, v in stray.items()}}
    want = {name: reason for name, (_, when, reason) in CONTENTS.items() if when == AFTER}
    want |= {name: reason for name, (_, reason) in TAMPERED.items()}
    assert {p.path.removeprefix(f"{label}/"): p.reason for p in after} == want
    assert len(vectors) == len(expected) + len(ODD_BUT_GOOD)
    for sha256, vector in expected.items():
        np.testing.assert_array_equal(vectors[sha256], vector)


def list_and_prepare(root: Path) -> tuple[Problem, ...]:
    return preparation.prepare(list_data(root), SplitParams()).problems


@pytest.fixture
def photos(tmp_path) -> Path:
    root = tmp_path / "photos"
    for number in range(24):
        path = root / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return root


def test_bad_images__among_good_ones__are_listed_and_change_no_other_vector(
    photos, pixels, tmp_path
):
    check_bad_among(photos, "a", pixels, tmp_path)


@pytest.mark.slow
def test_bad_images__among_ants_and_bees__change_no_other_vector(shared_data, lite0, tmp_path):
    check_bad_among(shared_data / "ants_bees", "train/ants", lite0, tmp_path)


# any mixture

KINDS = ["good", *CONTENTS, *TAMPERED, *ODD_BUT_GOOD]
FILES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from("abc"), st.integers(0, 30)), max_size=25
)


def put(root: Path, mixture) -> dict[str, str]:
    """Write the mixture on top of a few good images a class; path -> kind."""
    kinds = {f"{label}/base{n}.jpg": "good" for label in "abc" for n in range(4)}
    for number, path in enumerate(kinds):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(jpeg(1000 + number))
    for number, (kind, label, seed) in enumerate(mixture):
        path = f"{label}/{number} {kind}"[:250]
        content = CONTENTS[kind][0] if kind in CONTENTS else ODD_BUT_GOOD.get(kind, jpeg(seed))
        (root / path).write_bytes(content)
        kinds[path] = kind
    return kinds


@settings(deadline=None, max_examples=12)
@given(FILES)
def test_rows__any_mixture_of_files__add_up(pixels, mixture):
    """distinct sha256 = rows embedded + rows listed; each file is labelled or listed, or both."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        kinds = put(root, mixture)

        def befall():
            for path, kind in kinds.items():
                if kind in TAMPERED:
                    TAMPERED[kind][0](root / path)

        prepared, after, vectors = run(root, Path(folder), pixels, befall)
    labelled = dict(zip(prepared.labels.path, prepared.labels.sha256, strict=True))
    listed = [problem.path for problem in prepared.problems]
    assert sorted([*labelled, *listed]) == sorted(kinds)
    failed = {problem.sha256.encode() for problem in after}
    assert not failed & set(vectors)
    assert failed | set(vectors) == set(prepared.images.sha256.tolist())
    wrong = {*TAMPERED, *(kind for kind, (_, when, _) in CONTENTS.items() if when == AFTER)}
    images = zip(prepared.images.sha256.tolist(), prepared.images.path, strict=True)
    assert failed == {sha256 for sha256, path in images if kinds[path] in wrong}


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(FILES)
def test_rows__300_mixtures__add_up(pixels, mixture):
    test_rows__any_mixture_of_files__add_up.hypothesis.inner_test(pixels, mixture)
