"""Stage inspect: what is found in planted data, and that nothing odd stops it."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from pipeline import dataset, files, inspection
from pipeline.dataset import Labels, Problem
from pipeline.inspection import duplicates, hashes, nearness, outliers, suspects
from pipeline.inspection.hashes import Hashes
from pipeline.inspection.nearness import Limits, Signs
from pipeline.inspection.units import units
from tests import closure
from tests.conftest import draw, edit_yaml, make_project
from tests.contracts_heads import embed, toy_labels, toy_vectors

FILES = ("suspects.csv", "duplicates.csv", "outliers.csv", "summary.json")


def no_hashes(count: int) -> Hashes:
    nothing = np.zeros((count, 64), np.float32)
    return Hashes(nothing, nothing, 0, 0)


def random_hashes(count: int, *, seed: int = 0) -> Hashes:
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), (2, count, 64))
    return Hashes(signs[0], signs[1], 0, 0)


def signs(X: np.ndarray, hashed: Hashes | None = None, split: np.ndarray | None = None) -> Signs:
    X = np.asarray(X, np.float32)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    return Signs(
        unit,
        np.ones(len(X), bool),
        hashed or no_hashes(len(X)),
        np.zeros(len(X), np.int64) if split is None else split,
    )


def apart(count: int, dim: int = 64, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def pairs_of(found: nearness.Nearness) -> set[tuple[int, int]]:
    return set(zip(found.pairs.left.tolist(), found.pairs.right.tolist(), strict=True))


# --- near copies


def test_compare__tiles_of_any_size__are_what_all_products_give(monkeypatch):
    monkeypatch.setattr(nearness, "ROWS", 7)
    monkeypatch.setattr(nearness, "COLUMNS", 16)
    X = apart(90)
    X[40:60] = X[:20] + 0.2 * apart(20, seed=1)
    given = signs(X, random_hashes(90))
    given.hashes.plain[80] = given.hashes.mirrored[3]
    found = nearness.compare(given)
    cosine = given.unit.astype(np.float64) @ given.unit.T.astype(np.float64)
    plain = (64 - given.hashes.plain @ given.hashes.plain.T) / 2
    turned = (64 - given.hashes.plain @ given.hashes.mirrored.T) / 2
    near = (cosine > 0.9) | (plain <= 8) | (turned <= 8)
    right, left = np.nonzero(np.tril(near, -1))
    assert pairs_of(found) == set(zip(left.tolist(), right.tolist(), strict=True))
    assert (3, 80) in pairs_of(found) and len(pairs_of(found)) >= 20
    np.fill_diagonal(cosine, -1)
    expected = 1 - np.sort(cosine, axis=1)[:, -10]
    np.testing.assert_allclose(found.distance, expected, atol=1e-5)


def test_compare__all_images_alike__asks_for_more_than_usual():
    X = 4 + apart(200, 64)  # cosine of any two about .94
    X[150] = X[20] * 1.0001
    found = nearness.compare(signs(X))
    assert 0.95 < found.limits.cosine < 1
    assert (20, 150) in pairs_of(found)
    assert len(pairs_of(found)) < 5  # of 19,900 that have a cosine above .90


def test_compare__hashes_alike__asks_for_fewer_bits_than_usual():
    hashed = random_hashes(200)
    hashed.plain[:, :44] = 1  # 20 bits tell them apart: ten are within eight of many others
    hashed.plain[150] = hashed.plain[20]
    found = nearness.compare(signs(apart(200), hashed))
    assert found.limits == Limits(0.9, nearness.SMALLEST_DISTANCE)
    assert (20, 150) in pairs_of(found)
    assert len(pairs_of(found)) < 20


def test_compare__a_few_copies_of_every_image__leave_the_limits_as_they_are():
    X = np.repeat(apart(40), 5, axis=0) + 0.01 * apart(200, seed=1)
    found = nearness.compare(signs(X))
    assert found.limits.cosine == nearness.COSINE
    assert len(pairs_of(found)) == 40 * 10


def test_compare__many_equal_images__writes_few_pairs_and_none_is_alone():
    count = 3000
    split = np.arange(count) % 3
    found = nearness.compare(signs(np.ones((count, 8)), split=split))
    assert len(found.pairs.left) < 5 * count
    assert set(found.pairs.right.tolist()) == set(range(1, count))
    last = found.pairs.left[found.pairs.right == count - 1]
    assert {0, 1, 2} <= set(last.tolist())  # one of each split, or a leak would be hidden


@pytest.mark.parametrize("count", [0, 1, 2])
def test_compare__hardly_an_image__is_compared(count):
    found = nearness.compare(signs(np.ones((count, 4)).reshape(count, 4)))
    assert pairs_of(found) == ({(0, 1)} if count == 2 else set())
    assert len(found.distance) == count
    assert np.isnan(found.distance).tolist() == ([False, False] if count == 2 else [True] * count)


def test_compare__unusable_vector__is_near_nothing_and_no_ones_neighbour():
    X = np.tile(apart(1, 8), (60, 1)) + 0.1 * apart(60, 8, seed=1)
    given = signs(X)
    given.usable[7] = False
    given.unit[7] = 0
    found = nearness.compare(given)
    assert not any(7 in pair for pair in pairs_of(found))
    assert np.flatnonzero(np.isnan(found.distance)).tolist() == [7]
    assert (np.delete(found.distance, 7) < 0.1).all()


def test_similarity__of_what_is_within_the_limits__is_the_highest_and_says_by_what():
    column = np.arange(4, dtype=np.int64)
    pairs = nearness.Pairs(
        column,
        column + 4,
        np.array([0.95, 0.95, 0.5, 0.99], np.float32),
        np.array([30, 0, 30, 30], np.float32),
        np.array([30, 30, 8, 30], np.float32),
    )
    similarity, by = pairs.similarity(Limits())
    np.testing.assert_allclose(similarity, [0.95, 1.0, 1 - 8 / 64, 0.99], atol=1e-6)
    assert by.tolist() == [0, 1, 2, 0]


# --- perceptual hashes


def photo(seed: int = 0) -> Image.Image:
    """Soft shapes, as photos have, 200 x 160."""
    small = np.random.default_rng(seed).integers(0, 200, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((200, 160), Image.Resampling.BICUBIC)


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def distances(a: Image.Image, b: Image.Image) -> tuple[float, float]:
    """Bits in which the hashes differ, upright and mirrored."""
    (plain, _), (other, mirrored) = hashes.phash(a), hashes.phash(b)
    return (64 - plain @ other) / 2, (64 - plain @ mirrored) / 2


@pytest.mark.parametrize("seed", range(5))
def test_phash__picture_saved_anew__stays_and_a_mirrored_one_is_known(seed):
    original = photo(seed)
    for copy in (
        Image.open(io.BytesIO(jpeg(original, 50))),
        original.resize((120, 96)),
        ImageEnhance.Brightness(original).enhance(1.2),
    ):
        assert distances(original, copy)[0] <= nearness.DISTANCE
    assert distances(original, ImageOps.mirror(original))[1] <= nearness.DISTANCE
    assert min(distances(original, photo(seed + 100))) > nearness.DISTANCE


def test_phash__is_the_librarys_own():
    import imagehash

    plain, mirrored = hashes.phash(photo())
    assert (plain > 0).tolist() == imagehash.phash(photo()).hash.ravel().tolist()
    assert set(np.abs(mirrored)) == {1.0}


def write_images(root: Path, contents: dict[str, bytes]) -> dataset.Digests:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return dataset.digests(hashlib.sha256(content).hexdigest() for content in contents.values())


def test_read__gone_changed_broken_and_flat__are_counted_and_have_no_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(hashes, "_AT_ONCE", 2)
    grey = jpeg(Image.new("RGB", (40, 40), "grey"))
    contents = {
        "a.jpg": jpeg(photo()),
        "b.jpg": jpeg(photo(1)),
        "c.jpg": jpeg(photo(2)),
        "d.jpg": b"no image",
        "e.jpg": grey,
    }
    sha256 = write_images(tmp_path, contents)
    (tmp_path / "b.jpg").unlink()
    (tmp_path / "c.jpg").write_bytes(jpeg(photo(3)))
    read = hashes.read(tmp_path, list(contents), sha256)
    assert read.there.tolist() == [True, False, False, False, False]
    assert (read.unreadable, read.flat) == (3, 1)


# --- duplicates


def table(*rows: tuple[str, str, str, str]) -> Labels:
    """path, content, label, split."""
    columns = [np.array(column, dtype=object) for column in zip(*sorted(rows), strict=True)]
    path, content, label, split = columns
    sha256 = dataset.digests(hashlib.sha256(one.encode()).hexdigest() for one in content)
    return Labels(path, sha256, label, split, np.array([None] * len(rows), dtype=object))


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def test_exact__same_bytes__are_paired_with_the_first_and_with_what_prepare_left_out():
    labels = table(
        ("a/1", "x", "a", "test"), ("a/2", "x", "a", "test"), ("a/3", "x", "a", "test"),
        ("b/1", "y", "b", "train"),
    )  # fmt: skip
    problems = [
        Problem("c/1", digest("x"), "duplicate_across_splits", "left out of train"),
        Problem("d/1", digest("z"), "conflicting_labels", ""),
        Problem("e/1", digest("z"), "conflicting_labels", ""),
        Problem("f/1", digest("y"), "truncated", ""),
    ]
    found = [
        (one.path_a, one.path_b, one.split_a, one.split_b, one.label_a, one.label_b)
        for one in duplicates.exact(labels, problems)
    ]
    assert found == [
        ("a/1", "a/2", "test", "test", "a", "a"),
        ("a/1", "a/3", "test", "test", "a", "a"),
        ("a/1", "c/1", "test", "left out", "a", "a"),
        ("d/1", "e/1", "left out", "left out", "", ""),
    ]
    assert {(one.kind, one.by, one.similarity) for one in duplicates.exact(labels, problems)} == {
        ("exact", "sha256", 1.0)
    }


def test_ordered__leaks_come_first_then_two_labels_then_the_most_similar():
    one = duplicates.Duplicate("a", "b", 0.91, "near", "cosine", "train", "test", "x", "x")
    weak = replace(one, split_b="train", similarity=0.92)
    strong = replace(one, split_b="train", similarity=0.99)
    torn = replace(one, split_b="train", label_b="y")
    left_out = replace(one, split_b=duplicates.LEFT_OUT, similarity=1.0)
    wanted = [one, torn, left_out, strong, weak]
    assert duplicates.ordered([weak, left_out, strong, torn, one]) == wanted
    assert [two.leaks for two in wanted] == [True, False, False, False, False]


# --- outliers


def test_outliers__far_nan_and_constant__are_named_apart_broken_first():
    rows = [(f"a/{row:02d}", str(row), "a", "train") for row in range(60)]
    X = 1 + 0.1 * apart(60, 8)
    X[5], X[6, 2], X[7, 1], X[8] = 3.0, np.nan, np.inf, -apart(1, 8)
    nan, constant = outliers.broken(X)
    X[nan | constant] = 1
    given = replace(signs(X), usable=~(nan | constant))
    found = outliers.outliers(table(*rows), nearness.compare(given).distance, nan, constant)
    assert [(one.path, one.kind) for one in found[:4]] == [
        ("a/06", "nan"), ("a/07", "nan"), ("a/05", "constant"), ("a/08", "far"),
    ]  # fmt: skip
    assert found[0].score is None and found[3].score > 10
    assert len(found) < 8


def test_outliers__few_images_or_all_the_same__list_none():
    none = np.zeros(30, bool)
    rows = [(f"a/{row:02d}", str(row), "a", "train") for row in range(30)]
    same = np.full(30, 1e-7) * np.arange(30)
    assert outliers.outliers(table(*rows), same, none, none) == []
    few = np.array([0.1] * 9 + [0.9])
    assert outliers.outliers(table(*rows[:10]), few, none[:10], none[:10]) == []


def test_broken__backbone_of_one_number__is_not_constant():
    nan, constant = outliers.broken(np.ones((3, 1), np.float32))
    assert not nan.any() and not constant.any()


# --- suspects


def flipped(labels: Labels, share: float, *, seed: int) -> tuple[Labels, set[str]]:
    """The same with a share of labels made another; the paths of those."""
    random = np.random.default_rng(seed)
    classes = sorted(set(labels.label))
    label = labels.label.copy()
    rows = random.choice(len(label), round(share * len(label)), replace=False)
    for row in rows:
        label[row] = random.choice([name for name in classes if name != label[row]])
    return replace(labels, label=label), set(labels.path[rows])


def singles(labels: Labels) -> np.ndarray:
    return np.arange(len(labels.path))


def test_judge__flipped_labels__are_the_worst_and_the_true_one_is_suggested():
    true = toy_labels(300, 3)
    X = toy_vectors(true, 24)
    labels, wrong = flipped(true, 0.05, seed=1)
    found = suspects.judge(X, labels, singles(labels)).suspects
    lowest = found[:15]
    assert len({one.path for one in lowest} & wrong) >= 14
    names = dict(zip(true.path, true.label, strict=True))
    assert all(one.suggested == names[one.path] for one in lowest if one.path in wrong)
    scores = [one.score for one in found]
    assert scores == sorted(scores)
    assert len(found) >= 30  # the lowest tenth at least


def test_judge__copy_with_the_same_wrong_label__does_not_vouch_for_it():
    labels = toy_labels(200, 2)
    X = toy_vectors(labels, 200, apart=0.15)  # so many dimensions that a head knows each by heart
    wrong = np.flatnonzero(labels.label == "a")[:6]
    label = labels.label.copy()
    label[wrong] = "b"
    paths = np.array([f"{path}.copy" for path in labels.path[wrong]], dtype=object)
    both = Labels(
        np.concatenate([labels.path, paths]),
        np.concatenate([labels.sha256, labels.sha256[wrong]]),
        np.concatenate([label, label[wrong]]),
        np.concatenate([labels.split, labels.split[wrong]]),
        np.concatenate([labels.group, labels.group[wrong]]),
    )
    X = np.concatenate([X, X[wrong]])

    def mean_score(together: np.ndarray) -> float:
        found = suspects.judge(X, both, together)
        scores = {one.path: one.score for one in found.suspects}
        return float(np.mean([scores.get(path, 1.0) for path in both.path[wrong]]))

    none = nearness.compare(signs(np.empty((0, 4)))).pairs
    tied = units(both, duplicates.first_of_each(both), none)
    assert mean_score(tied) < mean_score(np.arange(len(X))) - 0.1


def test_judge__small_class__is_left_out_with_a_line_and_one_class_is_no_error():
    labels = toy_labels(40, 2)
    label = labels.label.copy()
    label[:3] = "rare"
    few = replace(labels, label=label)
    judged = suspects.judge(toy_vectors(labels, 8), few, singles(few))
    assert judged.rows == 37
    assert judged.notes == (
        "class 'rare' has 3 of the 5 independent images that judging its labels takes",
    )
    assert "rare" not in {one.label for one in judged.suspects}
    label[:] = "only"
    judged = suspects.judge(toy_vectors(labels, 8), replace(labels, label=label), singles(labels))
    assert judged.suspects == () and "fewer than two classes" in judged.notes[0]


def test_judge__one_unit_has_nearly_all_of_a_class__is_no_error():
    labels = toy_labels(60, 2)
    together = singles(labels)
    together[np.flatnonzero(labels.label == "a")[:26]] = 0
    judged = suspects.judge(toy_vectors(labels, 8), labels, together)
    assert 0 < judged.rows <= 60


def test_units__groups_bytes_and_near_copies__are_one_and_a_film_is_not():
    labels = table(*[(f"a/{row:02d}", str(row // 2), "a", "train") for row in range(40)])
    group = labels.group.copy()
    group[[0, 4]] = "patient"
    labels = replace(labels, group=group)
    images = duplicates.first_of_each(labels)  # 20, two paths each
    left = np.array([5, 10, 11, 12, 13, 14])
    pairs = nearness.compare(signs(np.empty((0, 4)))).pairs
    pairs = replace(pairs, left=left, right=left + 1)  # a pair, and a film of six images
    of = units(labels, images, pairs)
    assert of[0] == of[1] == of[4] == of[5]
    assert of[10] == of[11] == of[12] == of[13]
    assert of[20] == of[21]
    assert len(set(of[20:32].tolist())) == 6  # 12 of 40 rows tied would leave no folds
    assert len(set(of.tolist())) == 20 - 1 - 1


# --- all of it


@pytest.fixture
def desk(tmp_path):
    """A project of 60 images with made-up embeddings of a backbone `toy` that is no control."""
    project = make_project(tmp_path / "project")
    edit_yaml(
        project.folder / "params.yaml",
        lambda params: (
            params["backbones"].update(toy={"source": "random", "model": "timm/x"}),
            params["data"].update(path="photos"),
        ),
    )
    labels = toy_labels(60, 3)
    contents = {path: jpeg(photo(row)) for row, path in enumerate(labels.path)}
    contents["a/00000.png"] = jpeg(photo(1))  # what b/00001.png shows, at another quality
    labels = replace(labels, sha256=write_images(project.folder / "photos", contents))
    folder = project.folder / "artifacts"
    dataset.write_labels(folder / "dataset" / "labels.parquet", labels)
    dataset.write_problems(folder / "dataset" / "problems.csv", [])
    return project, labels, folder


def inspected(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def toy_file(folder: Path, labels: Labels, X: np.ndarray, **options):
    first = duplicates.first_of_each(labels)
    keep = np.isin(labels.path, first.path)
    return embed(folder / "embeddings" / "toy.h5", labels.where(keep), X[keep], **options)


def test_stage__writes_four_files_the_same_twice_and_for_any_number_of_threads(desk, monkeypatch):
    project, labels, folder = desk
    X = toy_vectors(labels, 12)
    cached = toy_file(folder, labels, X)
    results = []
    for cores in (1, 3):
        monkeypatch.setattr(nearness, "cores", lambda cores=cores: cores)
        monkeypatch.setattr(hashes, "cores", lambda cores=cores: cores)
        monkeypatch.setattr(suspects, "cores", lambda cores=cores: cores)
        found = inspection.inspect(labels, cached, [], root=project.folder / "photos")
        inspection.write(folder / "inspect" / str(cores), found)
        results.append(inspected(folder / "inspect" / str(cores)))
    done = project.stage("inspect", "toy")
    assert done.code == 0, done.text
    assert "inspected 59 images with toy" in done.out
    assert "1 exact" in done.out and "labels: another is likelier" in done.out
    assert results == [inspected(folder / "inspect" / "toy")] * 2


def test_stage__columns_and_counts__are_what_the_guide_says(desk):
    project, labels, folder = desk
    toy_file(folder, labels, toy_vectors(labels, 12))
    assert project.stage("inspect", "toy").code == 0
    folder = folder / "inspect" / "toy"
    heads = {name: (folder / name).read_text().splitlines()[0] for name in FILES[:3]}
    guide = (closure.ROOT / "docs" / "inspect.md").read_text()
    assert heads["suspects.csv"] == "path,label,suggested,score,split,probability"
    assert heads["duplicates.csv"].startswith("path_a,path_b,similarity,kind,by,")
    assert heads["outliers.csv"] == "path,label,score,split,kind,distance"
    for header in heads.values():
        assert all(f"`{column}`" in guide for column in header.split(","))
    summary = json.loads((folder / "summary.json").read_bytes())
    assert all(f"`{key}`" in guide for key in summary)
    assert summary["rows"] == 60 and summary["images"] == 59
    assert summary["exact"] == 1 and summary["images_unread"] == 0
    assert summary["suspects_listed"] == len(files.read_csv(folder / "suspects.csv"))


def test_inspect__images_gone__compares_embeddings_alone_and_says_so(desk):
    project, labels, folder = desk
    X = toy_vectors(labels, 12)
    X[7] = X[9] * 1.001
    cached = toy_file(folder, labels, X)
    found = inspection.inspect(labels, cached, [], root=folder / "nowhere")
    assert {labels.path[7], labels.path[9]} in [
        {one.path_a, one.path_b} for one in found.duplicates
    ]
    assert "59 images gone or changed" in inspection.describe(found)
    for limit, told in ((0.9, "0.9"), (0.953217, "0.953217"), (0.999, "0.999"), (0.9996, "0.9996")):
        stricter = replace(found, summary={**found.summary, "cosine_above": limit})
        assert f"cosine above {told}, or" in inspection.describe(stricter)


def test_inspect__control__has_headers_and_no_rows(desk):
    _, labels, folder = desk
    cached = toy_file(folder, labels, toy_vectors(labels, 12), source="random")
    found = inspection.inspect(labels, cached, [], root=folder)
    assert inspection.describe(found) == "toy is a control: its files have no rows"
    inspection.write(folder / "inspect" / "toy", found)
    lines = {name: (folder / "inspect/toy" / name).read_text().count("\n") for name in FILES[:3]}
    assert set(lines.values()) == {1}
    assert not json.loads((folder / "inspect/toy/summary.json").read_bytes())["inspected"]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("classes", [1, 2])
def test_inspect__hardly_an_image__is_no_error(tmp_path, count, classes):
    labels = toy_labels(3, classes, splits=("train",))
    X = toy_vectors(labels, 4)
    whole = embed(tmp_path / "toy.h5", labels, X)
    cached = replace(whole, sha256=whole.sha256[:count], vectors=whole.vectors[:count])
    found = inspection.inspect(labels, cached, [], root=tmp_path)
    assert found.summary["images"] == count
    assert found.summary["rows_without_embedding"] == 3 - count
    assert found.suspects == () and len(found.outliers) == 0
    assert "inspected" in inspection.describe(found)
    inspection.write(tmp_path / "out", found)


def test_inspect__broken_vectors__are_listed_and_judged_by_nobody(desk):
    project, labels, folder = desk
    X = toy_vectors(labels, 12)
    X[20], X[21, 3] = 2.0, np.nan
    found = inspection.inspect(
        labels, toy_file(folder, labels, X), [], root=project.folder / "photos"
    )
    assert [(one.path, one.kind) for one in found.outliers[:2]] == [
        (labels.path[21], "nan"), (labels.path[20], "constant"),
    ]  # fmt: skip
    assert found.summary["nan_vectors"] == found.summary["constant_vectors"] == 1
    assert not {labels.path[20], labels.path[21]} & {one.path for one in found.suspects}


def test_inspect__test_images__have_no_suspects_but_duplicates(desk):
    project, labels, folder = desk
    X = toy_vectors(labels, 12)
    test, train = (np.flatnonzero(labels.split == split)[5] for split in ("test", "train"))
    X[test] = X[train]
    cached = toy_file(folder, labels, X)
    found = inspection.inspect(labels, cached, [], root=project.folder / "photos")
    assert {one.split for one in found.suspects} <= {"train", "val"}
    first = found.duplicates[0]
    assert {first.path_a, first.path_b} == {labels.path[test], labels.path[train]}
    assert first.leaks and found.summary["across_splits"] == 1


def test_dvc__inspection_needs_no_head_and_no_parameter():
    params = "pipeline/params/"  # whose shape is that of the whole file
    deps = [dep for dep in closure.code_deps("inspect") if not dep.startswith(params)]
    assert not [dep for dep in deps if "heads" in dep or "selection" in dep or "train" in dep]
    assert not [dep for dep in deps if "cluster" in dep]


def test_draw__pictures_of_the_other_tests__are_no_copies_of_each_other():
    """Noise hashes at random: a project of drawn photos has nothing to report."""
    plain = np.array([hashes.phash(draw(seed, seed % 4))[0] for seed in range(36)])
    away = (64 - plain @ plain.T) / 2
    assert (away[np.triu_indices(36, 1)] > 2).all()
