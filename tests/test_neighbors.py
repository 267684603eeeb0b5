"""Nearest images: exact ones are exact, an index finds the same, a photo gets extraction's vector."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import embeddings, neighbors
from pipeline.cli import main
from pipeline.cli import neighbors as command
from pipeline.cli.commands.neighbors import DISTANCES
from pipeline.neighbors import Search, exact, index
from pipeline.neighbors.answers import Answer, Neighbor
from pipeline.project import open_project
from pipeline.reporting import sheet
from tests.conftest import Project, make_photos, make_pixel_project
from tests.test_embeddings import write


def brute(vectors, query, k, metric, but=-1):
    """Distances in float64, at once."""
    wide, one = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(one)
        found = 1 - wide @ one / np.where(norms == 0, np.inf, norms)
    else:
        found = np.linalg.norm(wide - one, axis=1)
    if but >= 0:
        found[but] = np.inf
    order = np.argsort(found, kind="stable")[:k]
    return order, found[order]


def cloud(count: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    """Rows about 50 centres, float16."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((50, dim))[random.integers(0, 50, count)]
    return (centres + 0.6 * random.standard_normal((count, dim))).astype(np.float16)


def test_distances__are_those_of_the_command():
    assert set(exact.DISTANCES) == set(DISTANCES)


@pytest.mark.parametrize("metric", DISTANCES)
@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_nearest__whatever_the_block__is_what_float64_says(monkeypatch, metric, rows):
    vectors = cloud(500)
    monkeypatch.setattr(exact, "BLOCK_BYTES", rows * 24 * 4)
    for number in range(20):
        query = vectors[number].astype(np.float32) + np.float32(0.1)
        found, distances = exact.nearest(vectors, query, 10, metric=metric, but=number)
        wanted, true = brute(vectors, query, 10, metric, but=number)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(distances, true, atol=1e-12)


@pytest.mark.parametrize("metric", DISTANCES)
def test_nearest__equal_vectors_anywhere__come_in_the_order_of_rows(metric, monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_BYTES", 37 * 24 * 4)
    vectors = np.tile(cloud(10), (30, 1))
    found, distances = exact.nearest(vectors, vectors[3].astype(np.float32), 30, metric=metric)
    assert found.tolist() == list(range(3, 300, 10))
    assert len(set(distances.tolist())) == 1


def test_nearest__rows_without_direction_or_number__do_no_harm():
    vectors = cloud(30)
    vectors[4], vectors[5, 2], vectors[6, 1] = 0, np.nan, np.inf
    query = vectors[7].astype(np.float32)
    found, distances = exact.nearest(vectors, query, 40)
    assert sorted(found) == sorted(set(range(30)) - {5, 6})
    assert dict(zip(found.tolist(), distances.tolist(), strict=True))[4] == 1
    _, same = exact.nearest(vectors, np.zeros(24, np.float32), 3)
    assert same.tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """20,000 embeddings."""
    return embeddings.open(write(tmp_path_factory.mktemp("many") / "raw.h5", 20_000))


def test_search__beyond_the_limit__an_index_is_made_once_and_finds_the_same(many, tmp_path):
    by_index = Search(many, tmp_path, limit=10_000)
    by_scan = Search(many, tmp_path, limit=10_000, everything=True)
    hits = 0
    for row in range(0, 20_000, 1000):
        query = many.take(np.array([row]))[0] * np.float32(1.1)
        found, distances = by_index.nearest(query, 10, but=row)
        wanted, true = by_scan.nearest(query, 10, but=row)
        hits += len(set(found) & set(wanted))
        assert row not in found
        both = np.isin(found, wanted)
        np.testing.assert_array_equal(distances[both], true[np.isin(wanted, found)])
    assert hits >= 0.7 * 200  # noise in 24 dimensions has no cells to find; see 0036
    assert by_scan.notes == []
    assert "20,000 images are more than 10,000: by an index" in by_index.notes[0]
    assert len(by_index.notes) == 1
    digest = many.attributes["sha256"]["embeddings"]
    (kept,) = tmp_path.iterdir()
    assert kept.name == f"index-raw-{digest[:32]}.faiss"
    before = kept.stat().st_ino
    Search(many, tmp_path, limit=10_000).nearest(many.take(np.array([0]))[0], 1)
    assert kept.stat().st_ino == before


def test_search__index_of_other_embeddings_or_damaged__is_made_anew(many, tmp_path):
    other = tmp_path / f"index-raw-{'a' * 32}.faiss"
    of_another = tmp_path / f"index-raw_b-{'a' * 32}.faiss"
    for path in (other, of_another):
        path.write_bytes(b"old")
    digest = many.attributes["sha256"]["embeddings"]
    damaged = tmp_path / f"index-raw-{digest[:32]}.faiss"
    damaged.write_bytes(b"no index")
    query = many.take(np.array([5]))[0]
    found, _ = Search(many, tmp_path, limit=10_000).nearest(query, 1)
    assert found.tolist() == [5]
    assert sorted(tmp_path.iterdir()) == sorted([damaged, of_another])
    assert damaged.stat().st_size > 100_000


@pytest.mark.parametrize("metric", DISTANCES)
def test_search__without_an_index_for_it__looks_at_all_and_says_how_long(
    many, tmp_path, monkeypatch, metric
):
    monkeypatch.setitem(sys.modules, "faiss", None)
    search = Search(many, tmp_path, metric, limit=10_000)
    query = many.take(np.array([5]))[0]
    assert search.nearest(query, 1)[0].tolist() == [5]
    why = "faiss is not installed" if metric == "cosine" else "the index is for cosine"
    assert re.search(rf"{why}.*: looked at every one, \d+\.\d s an image", search.notes[0])
    assert list(tmp_path.iterdir()) == []


def test_index__clustered_vectors__are_nearly_all_found(tmp_path):
    vectors = cloud(20_000, dim=32)
    kept = index.opened(vectors, tmp_path, "raw", "b" * 64)
    hits = 0
    for row in range(50):
        query = vectors[row].astype(np.float32)
        found, _ = exact.ranked(vectors, query, index.candidates(kept, query, 200), 10)
        hits += len(set(found) & set(brute(vectors, query, 10, "cosine")[0]))
    assert hits >= 0.97 * 500


def make_extracted(folder: Path, name: str = "raw", **entry) -> Project:
    """36 photos on raw pixels, embedded, nothing trained; one of them lies at two paths.

    name, entry: of the backbone.
    """
    made = make_pixel_project(folder)
    shutil.copy(made.folder / "photos/cat/000.png", made.folder / "photos/cat/copy.png")

    def call(params):
        params["backbones"][name] = {"source": "pixels", **entry}
        params["run"]["backbones"] = [name]

    made.edit(call)
    for stage in (["prepare"], ["freeze", name], ["extract", name]):
        done = made.stage(*stage)
        assert done.code == 0, done.text
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """See `make_extracted`."""
    return make_extracted(tmp_path_factory.mktemp("neighbors") / "project")


@pytest.fixture
def ask(project, monkeypatch, capsys):
    """Run the command in the project: exit code, stdout, stderr."""
    monkeypatch.chdir(project.folder)

    def run(*words: str):
        with pytest.raises(SystemExit) as ended:
            main(["neighbors", *words])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return run


def lines(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_command__cached_image_by_any_name__is_marked_and_not_counted(ask, project):
    cached = embeddings.open(project.folder / "artifacts/embeddings/raw.h5")
    answers = []
    (first,) = lines(ask("photos/dog/003.png", "-k", "4", "--format", "jsonl")[1])
    for said in ("dog/003.png", first["sha256"], first["sha256"].upper()):
        (answer,) = lines(ask(said, "-k", "4", "--format", "jsonl")[1])
        answers.append({**answer, "path": ""})
    assert answers == [{**first, "path": ""}] * 3
    assert first["same"]["paths"] == ["dog/003.png"]
    assert first["same"]["distance"] == 0
    assert len(first["neighbors"]) == 4
    row = int(cached.rows(np.array([first["sha256"]], "S64"))[0])
    wanted, true = brute(cached.vectors, cached.vectors[row].astype("f4"), 4, "cosine", but=row)
    found = [one["sha256"] for one in first["neighbors"]]
    assert found == cached.sha256[wanted].astype("U64").tolist()
    np.testing.assert_allclose([one["distance"] for one in first["neighbors"]], true, atol=1e-9)
    assert all(one["label"] == one["paths"][0].split("/")[0] for one in first["neighbors"])


def test_command__photo_that_is_not_cached__gets_the_vector_of_extraction(ask, project, tmp_path):
    image = Image.open(project.folder / "photos/owl/005.png")
    image.save(tmp_path / "same pixels.bmp")
    code, out, _ = ask(str(tmp_path / "same pixels.bmp"), "-k", "2", "--format", "jsonl")
    (answer,) = lines(out)
    assert code == 0
    assert answer["same"] is None
    nearest = answer["neighbors"][0]
    assert nearest["paths"] == ["owl/005.png"]
    assert nearest["distance"] == pytest.approx(0, abs=1e-12)


def test_command__views_averaged__are_averaged_of_a_photo_too(tmp_path, monkeypatch, capsys):
    project = make_extracted(tmp_path / "project", tta="ten_crop", storage="float32")
    Image.open(project.folder / "photos/owl/005.png").save(tmp_path / "new.bmp")
    monkeypatch.chdir(project.folder)
    with pytest.raises(SystemExit):
        main(["neighbors", str(tmp_path / "new.bmp"), "-k", "1", "--format", "jsonl"])
    (nearest,) = lines(capsys.readouterr().out)[0]["neighbors"]
    assert nearest["paths"] == ["owl/005.png"]
    assert nearest["distance"] < 1e-12


def test_command__table__says_label_split_path_and_copies(ask):
    code, out, _ = ask("photos/cat/001.png", "cat/copy.png", "-k", "3")
    assert code == 0
    first, second = out.split("\n\n")
    assert first.splitlines()[0] == "photos/cat/001.png"
    assert first.splitlines()[1].split() == ["cosine", "label", "split", "path"]
    assert first.splitlines()[2].endswith("cat/001.png  (the same image)")
    assert [line.split()[0] for line in first.splitlines()[3:]] == ["1", "2", "3"]
    assert "cat/000.png and 1 more  (the same image)" in second


def test_command__bad_images__are_told_and_the_others_answered(ask, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    words = (str(tmp_path / "bad.jpg"), "gone.png", "cat/001.png")
    code, out, _ = ask(*words, "--format", "jsonl", "-k", "1")
    assert code == 0
    assert [one.get("error", "") for one in lines(out)] == ["truncated", "unreadable", ""]
    code, out, err = ask(*words[:2])
    assert (code, out) == (3, "")
    assert err.startswith(f"headstart: error: {words[0]}: truncated (")
    assert "and so are 1 more; give other images" in err
    code, _, err = ask(words[2], "--backbone", "row")
    assert code == 2
    assert "unknown backbone 'row'; did you mean 'raw'?" in err
    code, _, err = ask(words[2], "--backbone", "efficientnet_lite0")
    assert code == 3
    assert "run 'dvc repro extract@efficientnet_lite0'" in err


def test_command__frozen_again_since__is_refused_for_photos_alone(ask, project, tmp_path):
    draws = make_photos(tmp_path / "new", ["x"], 1) / "x/000.png"
    Image.open(draws).rotate(90).save(tmp_path / "new.png")
    embedded = project.folder / "artifacts/embeddings/raw.h5"
    kept = embedded.read_bytes()
    embedded.unlink()
    try:
        write(embedded)
        code, _, err = ask(str(tmp_path / "new.png"))
    finally:
        embedded.write_bytes(kept)
    assert code == 4
    assert "is another backbone than the embeddings are of: fingerprint" in err


def test_default__is_the_best_then_the_first_that_is_no_control(project, tmp_path):
    opened = open_project(project.folder)
    assert command._default(opened) == "raw"
    listed = opened.params.run.model_copy(update={"backbones": ["raw", "efficientnet_lite0"]})
    wider = opened.params.model_copy(update={"run": listed})
    elsewhere = replace(opened, root=tmp_path, params=wider)
    assert command._default(elsewhere) == "efficientnet_lite0"
    said = tmp_path / "artifacts/evaluation/metrics.json"
    said.parent.mkdir(parents=True)
    for text, name in (
        ('"raw"', "raw"),
        ('"gone"', "efficientnet_lite0"),
        ("", "efficientnet_lite0"),
    ):
        said.write_text(f'{{"best": {{"backbone": {text}}}}}')
        assert command._default(elsewhere) == name


def test_sheet__is_one_file_with_every_picture_and_nothing_from_elsewhere(ask, tmp_path):
    path = tmp_path / "sheet.html"
    code, _, err = ask("cat/001.png", "dog/002.png", "gone.png", "-k", "3", "--html", str(path))
    assert code == 0
    assert f"pictures in {path}" in err
    text = path.read_text()
    assert text.count('<img src="data:image/jpeg;base64,') == 2 * (1 + 1 + 3)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "http://" not in text
    assert "https://" not in text
    assert text.count('class="same"') == 2
    assert "unreadable: no such file" in text


def test_sheet__names_from_anywhere__are_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'\udcff.png"
    one = Neighbor("a" * 64, 0.25, (evil, "b"), evil, evil)
    answers = [Answer(evil, "b" * 64, "", one, (one,)), Answer(evil, error=("unreadable", evil))]
    sheet.write(tmp_path / "s.html", answers, root=tmp_path, subtitle=evil)
    text = (tmp_path / "s.html").read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    assert "no picture" in text


def test_sheet__folder_in_its_place__is_told(ask, tmp_path):
    code, _, err = ask("cat/001.png", "--html", str(tmp_path))
    assert code == 2
    assert "is a folder; give a file's name" in err


def test_package__says_what_its_modules_are():
    listed = set(re.findall(r"^ *(\w+)  +\w", neighbors.__doc__, re.MULTILINE))
    there = {path.stem for path in Path(neighbors.__file__).parent.glob("[a-z]*.py")}
    assert listed == there
