"""Extraction: computes what is missing and no more, and writes the same bytes whatever happens."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import catalog, dataset, embeddings, extraction, frozen, index, loaded, pace, shards
from pipeline.admission import Terms
from pipeline.dataset import Images
from pipeline.decoding import Decoder, parent
from pipeline.errors import (
    ConfigurationError,
    InputError,
    IntegrityError,
    ResourceError,
    exit_status,
)
from pipeline.extraction import Places, Summary, extract
from pipeline.images import preprocess
from pipeline.params import ExecutionParams
from pipeline.store import Store
from pipeline.worker import Context
from tests.frozen_fixtures import edit_record, pixels, write_scaled
from tests.test_decoding import spiteful

__all__ = ["pixels", "spiteful"]

ROOT = Path(__file__).parents[1]


def png(seed: int) -> bytes:
    """A small picture of noise."""
    random = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(random.integers(1, 256, (18, 22, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def noise(width: int) -> bytes:
    """A picture of some width; see tests.test_decoding.SPITEFUL."""
    buffer = io.BytesIO()
    Image.effect_noise((width, 30), 60).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def places_in(base: Path, backbone: Path) -> Places:
    """The places of a project in `base`."""
    return Places(
        root=base / "photos",
        backbone=backbone,
        images=base / "images.parquet",
        embeddings=base / "embeddings" / f"{backbone.name}.h5",
        runs=base / "runs",
        store=base / "store",
    )


def write_photos(base: Path, contents: dict[str, bytes]) -> None:
    """Write the files and the table of images that lists them."""
    rows = {}
    for name, content in sorted(contents.items()):
        path = base / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        rows[hashlib.sha256(content).hexdigest()] = (name, len(content))
    names = sorted(rows)
    images = Images(
        sha256=dataset.digests(names),
        path=tuple(rows[name][0] for name in names),
        bytes=tuple(rows[name][1] for name in names),
    )
    dataset.write_images(base / "images.parquet", images)


def photos(count: int) -> dict[str, bytes]:
    return {f"{seed % 3}/{seed:03d}.png": png(seed) for seed in range(count)}


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(pace, "LEAST", 5)
    monkeypatch.setattr(pace, "MOST", 5)


@pytest.fixture
def project(pixels, tmp_path, small_shards) -> Places:
    """23 photos, none embedded yet, five a shard."""
    write_photos(tmp_path, photos(23))
    return places_in(tmp_path, shutil.copytree(pixels, tmp_path / "raw"))


def run(places: Places, *, max_failed: float = 0.0, **execution) -> Summary:
    return extract(places, ExecutionParams(threads=2, **execution), max_failed=max_failed)


def clean_run(base: Path, contents: dict[str, bytes], backbone: Path) -> bytes:
    """The tracked file of a project that never had other photos."""
    write_photos(base, contents)
    places = places_in(base, backbone)
    run(places)
    return places.embeddings.read_bytes()


def counts(summary: Summary) -> tuple[int, int, int, int]:
    return summary.images, summary.computed, summary.reused, summary.failed


def test_extract__all_missing__embeds_each_image_under_its_digest(project):
    assert counts(run(project)) == (23, 23, 0, 0)
    opened = embeddings.open(project.embeddings)
    recipe = frozen.load(project.backbone).preprocessing
    for content in photos(23).values():
        row = opened.rows(dataset.digests([hashlib.sha256(content).hexdigest()]))
        image = preprocess(content, recipe).transpose(2, 0, 1).reshape(-1)
        np.testing.assert_array_equal(opened.take(row)[0], (image / 255).astype(np.float16))
    assert dataset.read_problems(project.embeddings.with_name("raw.problems.csv")) == []


def test_extract__again__decodes_nothing_and_writes_the_same_bytes(project, monkeypatch):
    run(project)
    before = project.embeddings.read_bytes()
    project.embeddings.unlink()
    monkeypatch.setattr(parent, "_start", lambda *_: pytest.fail("started a decoder"))
    monkeypatch.setattr(loaded, "_load", lambda *_: pytest.fail("loaded the backbone"))
    assert counts(run(project)) == (23, 0, 23, 0)
    assert project.embeddings.read_bytes() == before


def test_extract__one_added_changed_or_removed__computes_just_that(project, tmp_path, monkeypatch):
    contents = photos(23)
    run(project)
    decoded = []
    real = Decoder.stream

    def counting(decoder, images, size, **how):
        decoded.extend(path for _, path in images)
        return real(decoder, images, size, **how)

    monkeypatch.setattr(Decoder, "stream", counting)
    steps = [
        ({**contents, "new/a.png": png(100)}, (24, 1, 23, 0), ["new/a.png"]),
        ({**contents, "0/000.png": png(101)}, (23, 1, 22, 0), ["0/000.png"]),
        ({name: contents[name] for name in list(contents)[1:]}, (22, 0, 22, 0), []),
    ]
    for number, (now, expected, computed) in enumerate(steps):
        decoded.clear()
        shutil.rmtree(project.root)
        write_photos(tmp_path, now)
        assert counts(run(project)) == expected
        assert decoded == computed
        file = project.embeddings.read_bytes()
        assert file == clean_run(tmp_path / f"clean{number}", now, project.backbone)


def test_extract__photos_moved_and_renamed__computes_nothing(project, tmp_path):
    run(project)
    before = project.embeddings.read_bytes()
    shutil.rmtree(project.root)
    write_photos(tmp_path, {f"moved/{n}.png": png(n) for n in range(23)})
    assert counts(run(project)) == (23, 0, 23, 0)
    assert project.embeddings.read_bytes() == before


@pytest.mark.parametrize(
    "execution",
    [
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 64},
        {"threads": 1},
        {"threads": 5},
        {"sessions": 1},
        {"threads": 4, "sessions": 2, "batch_size": 7},
    ],
    ids=str,
)
def test_extract__batch_and_threads__change_no_byte(project, tmp_path, execution):
    expected = clean_run(tmp_path / "clean", photos(23), project.backbone)
    extract(project, ExecutionParams(**{"threads": 2, **execution}), max_failed=0)
    assert project.embeddings.read_bytes() == expected


def test_extract__shards_cut_otherwise__change_no_byte(project, tmp_path, monkeypatch):
    expected = clean_run(tmp_path / "clean", photos(23), project.backbone)
    monkeypatch.setattr(pace, "LEAST", 1)
    monkeypatch.setattr(pace, "MOST", 2)
    run(project)
    assert len(list((project.store).glob("*/*.h5"))) > 10
    assert project.embeddings.read_bytes() == expected


WORKERS = """
import sys
from pathlib import Path
from pipeline.errors import exit_status
from pipeline.extraction import extract
from pipeline.params import ExecutionParams
from tests.test_extraction import counts, places_in

def main():
    base, backbone, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    execution = ExecutionParams(workers=workers, threads=1)
    print(counts(extract(places_in(base, backbone), execution, max_failed=0.5)))

if __name__ == "__main__":
    sys.exit(exit_status(main))
"""

FAILING = f"""
from pipeline.decoding import parent
parent.CPU_SECONDS, parent.CLOCK_SECONDS = 0.5, 2.0  # a spawned worker runs this as well
{WORKERS}"""


def run_python(folder: Path, program: str, *arguments: object) -> subprocess.CompletedProcess:
    script = folder / "main.py"
    script.write_text(program)
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}".strip(":")},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_extract__two_dask_workers__change_no_byte(pixels, tmp_path):
    write_photos(tmp_path, photos(80))
    done = run_python(tmp_path, WORKERS, tmp_path, pixels, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(80, 80, 0, 0)"
    made = places_in(tmp_path, pixels).embeddings.read_bytes()
    assert made == clean_run(tmp_path / "clean", photos(80), pixels)


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline import dataset, extraction, hdf5, pace, worker
from pipeline.params import ExecutionParams
from tests.test_extraction import places_in

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(number, last_words):
    calls = []
    def patched(real):
        def call(*arguments, **named):
            calls.append(None)
            if len(calls) == number:
                last_words(*arguments)
                die()
            return real(*arguments, **named)
        return call
    return patched

def half(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])

KILLS = {
    "a shard half written": (Path, "write_bytes", 5, half),
    "a shard not yet renamed": (os, "replace", 3, lambda *_: None),
    "a batch computed": (worker, "_stored", 5, lambda *_: None),
    "the tracked file not sealed": (hdf5, "seal", 1, lambda *_: None),
    "the tracked file renamed": (dataset, "write_problems", 1, lambda *_: None),
}

def main():
    place, name, number, last_words = KILLS[sys.argv[3]]
    setattr(place, name, at_call(number, last_words)(getattr(place, name)))
    pace.LEAST = pace.MOST = 8
    places = places_in(Path(sys.argv[1]), Path(sys.argv[2]))
    extraction.extract(places, ExecutionParams(threads=1), max_failed=0)

main()
"""

KILLS = {  # what dies, and the images that are in the store then
    "a shard half written": 8,  # two notes, the probe, a shard, and half of another
    "a shard not yet renamed": 16,
    "a batch computed": 48,
    "the tracked file not sealed": 80,
    "the tracked file renamed": 80,
}


def test_extract__killed_again_and_again__goes_on_and_writes_the_bytes_of_a_calm_run(
    pixels, tmp_path
):
    write_photos(tmp_path, photos(80))
    places = places_in(tmp_path, pixels)
    held = []
    for kill in KILLS:
        done = run_python(tmp_path, KILLED, tmp_path, pixels, kill)
        assert done.returncode == -signal.SIGKILL, done.stderr
        store = Store(places.store, frozen.load(pixels).fingerprint)
        store.refresh()
        images = dataset.read_images(places.images)
        held.append(int((~store.missing(images.sha256)).sum()))
        assert places.embeddings.exists() == (kill == "the tracked file renamed")
    assert held == list(KILLS.values())
    assert counts(run(places)) == (80, 0, 80, 0)
    assert places.embeddings.read_bytes() == clean_run(tmp_path / "clean", photos(80), pixels)


def spoil(project: Places, tmp_path: Path) -> dict[str, str]:
    """Photos that cannot be embedded, each in its way; the reason by path."""
    contents = photos(23)
    contents["bad/cut.png"] = png(200)[:400]
    contents["bad/empty.png"] = b""
    contents["bad/text.jpg"] = b"<html>not found</html>"
    contents["bad/header.png"] = b"\x89PNG\r\n\x1a\n" + bytes(50)
    write_photos(tmp_path, contents)
    (project.root / "0/000.png").write_bytes(png(201))
    (project.root / "1/001.png").unlink()
    (project.root / "2/002.png").unlink()
    (project.root / "2/002.png").mkdir()
    return {
        "bad/cut.png": "truncated",
        "bad/empty.png": "empty",
        "bad/text.jpg": "unsupported_format",
        "bad/header.png": "not_an_image",
        "0/000.png": "changed",
        "1/001.png": "unreadable",
        "2/002.png": "unreadable",
    }


def test_extract__images_that_fail__are_listed_and_the_rest_embedded(project, tmp_path):
    reasons = spoil(project, tmp_path)
    summary = run(project, max_failed=0.5)
    assert counts(summary) == (27, 20, 0, 7)
    problems = dataset.read_problems(project.embeddings.with_name("raw.problems.csv"))
    assert {problem.path: problem.reason for problem in problems} == reasons
    assert all(problem.detail for problem in problems)
    images = dataset.read_images(project.images)
    opened = embeddings.open(project.embeddings)
    rows = {*opened.sha256.tolist(), *(problem.sha256.encode() for problem in problems)}
    assert rows == set(images.sha256.tolist())
    assert len(opened.sha256) + len(problems) == len(images.sha256)
    assert counts(run(project, max_failed=0.5)) == (27, 0, 20, 7)


def test_extract__all_images_that_are_looked_for_at_a_time_fail__the_rest_is_written(
    pixels, tmp_path, monkeypatch
):
    monkeypatch.setattr(catalog, "_READ_ROWS", 4)
    monkeypatch.setattr(index, "LOOKUP_ROWS", 4)
    monkeypatch.setattr(index, "LOOKUP_ROWS_A_SEGMENT", 1)
    contents = photos(9)
    last = max(contents, key=lambda name: hashlib.sha256(contents[name]).hexdigest())
    write_photos(tmp_path, contents)
    (tmp_path / "photos" / last).write_bytes(b"")
    places = places_in(tmp_path, pixels)
    assert counts(run(places, max_failed=0.5)) == (9, 8, 0, 1)
    assert len(embeddings.open(places.embeddings).sha256) == 8


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_extract__images_that_crash_and_hang_a_decoder__cost_themselves_alone(
    spiteful, pixels, tmp_path, workers
):
    contents = photos(40)
    for name, width in {"crash": 101, "loop": 102, "sleep": 103}.items():
        contents[f"bad/{name}.png"] = noise(width)
    write_photos(tmp_path, contents)
    done = run_python(tmp_path, FAILING, tmp_path, pixels, workers)
    assert done.stdout.strip() == "(43, 40, 0, 3)", done.stderr
    places = places_in(tmp_path, pixels)
    reasons = {p.path: p.reason for p in dataset.read_problems(places.problems)}
    assert reasons == {
        "bad/crash.png": "crashed",
        "bad/loop.png": "timeout",
        "bad/sleep.png": "timeout",
    }
    assert places.embeddings.read_bytes() == clean_run(tmp_path / "clean", photos(40), pixels)


def test_extract__too_many_fail__exits_3_with_the_list_and_no_file(project, tmp_path, capsys):
    reasons = spoil(project, tmp_path)
    code = exit_status(lambda: run(project, max_failed=0.25) and 0)
    printed = capsys.readouterr().err
    assert code == InputError.exit_code == 3
    assert printed.count("\n") == 1
    assert "7 of 27 images cannot be embedded" in printed
    assert "data.max_failed 0.25" in printed
    assert "artifacts/runs/extract-raw.problems.csv" in printed
    listed = dataset.read_problems(project.runs / "extract-raw.problems.csv")
    assert {problem.path: problem.reason for problem in listed} == reasons
    assert not project.embeddings.exists()
    shutil.rmtree(project.root)
    write_photos(tmp_path, photos(23))
    assert counts(run(project)) == (23, 3, 20, 0)  # mended: only what failed is computed
    assert not (project.runs / "extract-raw.problems.csv").exists()


def test_extract__as_many_fail_as_may__goes_on(pixels, tmp_path):
    """29 of 100 is 0.29, though 0.29 * 100 is less than 29."""
    write_photos(tmp_path, photos(100))
    places = places_in(tmp_path, pixels)
    for path in sorted(places.root.rglob("*.png"))[:29]:
        path.unlink()
    with pytest.raises(InputError, match="29 of 100"):
        run(places, max_failed=0.28)
    assert counts(run(places, max_failed=0.29)) == (100, 0, 71, 29)


def test_extract__data_folder_gone__is_one_line_and_only_where_it_is_needed(project):
    run(project)
    moved = project.root.rename(project.root.with_name("elsewhere"))
    assert counts(run(project)) == (23, 0, 23, 0)
    shutil.rmtree(project.store)
    with pytest.raises(ConfigurationError, match=r"photos is not there any more.*data\.path"):
        run(project)
    moved.rename(project.root)
    assert counts(run(project)) == (23, 23, 0, 0)


def test_extract__every_image_fails__stops_whatever_may_fail(project):
    for path in project.root.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="23 of 23 images cannot be embedded"):
        run(project, max_failed=1.0)


def test_extract__machine_short_of_memory__is_not_blamed_on_the_image(project, monkeypatch):
    def short(_, images, *__, **___):
        raise ResourceError(f"{images[0][1]} cannot be read: memory ran out")

    monkeypatch.setattr(Decoder, "stream", short)
    with pytest.raises(ResourceError, match="memory ran out"):
        run(project, max_failed=1.0)


def test_extract__value_beyond_float16__asks_for_float32_storage(project, tmp_path):
    raw = frozen.load(project.backbone)
    scaled = write_scaled(tmp_path / "scaled", raw, scale=300)
    places = replace(project, backbone=scaled.folder)
    with pytest.raises(ConfigurationError) as error:
        run(places)
    assert "set backbones.scaled.storage: float32" in str(error.value)
    assert "than float16 holds" in str(error.value)
    wide = write_scaled(tmp_path / "wide", raw, scale=300, storage="float32")
    assert counts(run(replace(project, backbone=wide.folder))) == (23, 23, 0, 0)
    opened = embeddings.open(project.embeddings)
    assert opened.vectors.dtype == np.float32
    assert opened.vectors.max() > np.finfo(np.float16).max


def test_extract__backbone_that_makes_nan_of_an_image__is_refused_with_the_image(project, tmp_path):
    """Neither stored nor listed: the backbone is wrong, not the image."""
    black = io.BytesIO()
    Image.new("RGB", (20, 20)).save(black, "PNG")
    write_photos(tmp_path, {**photos(5), "black.png": black.getvalue()})
    backbone = write_scaled(tmp_path / "scaled", frozen.load(project.backbone), scale=1)
    with pytest.raises(IntegrityError, match="scaled makes NaN or infinity of image") as error:
        run(replace(project, backbone=backbone.folder), max_failed=1.0)
    assert hashlib.sha256(black.getvalue()).hexdigest() in str(error.value)


def test_extract__backbone_that_makes_infinity_of_the_probe__is_refused(project, tmp_path):
    backbone = write_scaled(tmp_path / "scaled", frozen.load(project.backbone), scale=3e38)
    with pytest.raises(IntegrityError, match="NaN or infinity of the probe on this machine"):
        run(replace(project, backbone=backbone.folder))
    assert [path.name for path in project.store.glob("*/*.*")] == ["fields.json"]


def test_extract__machine_whose_probe_drifts__is_refused_with_the_figure(project):
    backbone = frozen.load(project.backbone)
    probe = frozen.probe_pixels(backbone.preprocessing).transpose(0, 3, 1, 2)
    theirs = (probe.reshape(len(probe), -1) / np.float32(255)).astype(np.float32)
    theirs[3, 5] += 0.01
    Store(project.store, backbone.fingerprint).put_probe(theirs)
    with pytest.raises(
        IntegrityError, match=r"max \|d\| / RMS 1\.91e-02 \(at most 0\.001\)"
    ) as error:
        run(project)
    assert "raw on this machine against" in str(error.value)
    assert not list(project.store.glob("*/*.h5"))
    (project.store / backbone.fingerprint / "probe.npy").unlink()
    assert counts(run(project)) == (23, 23, 0, 0)


def test_extract__store_deleted_under_a_worker_that_lives_on__gets_its_probe_again(project):
    run(project)
    (probe,) = project.store.glob("*/probe.npy")
    before = probe.read_bytes()
    shutil.rmtree(project.store)
    assert counts(run(project)) == (23, 23, 0, 0)
    assert probe.read_bytes() == before


def test_extract__flipped_bit_in_a_shard__is_named_and_its_rows_computed_anew(project, capsys):
    run(project)
    before = project.embeddings.read_bytes()
    shard = sorted(project.store.glob("*/*.h5"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 8
    shard.write_bytes(content)
    assert counts(run(project)) == (23, 5, 18, 0)
    assert f"{shard} is damaged" in capsys.readouterr().err
    assert project.embeddings.read_bytes() == before
    assert counts(run(project)) == (23, 0, 23, 0)


def test_extract__damage_met_while_the_file_is_written__is_mended_in_the_same_run(
    project, tmp_path, capsys
):
    """Two shards are damaged and one is gone: one more round finds and computes all of them."""
    contents = photos(23)
    contents["bad/cut.png"] = png(200)[:400]
    write_photos(tmp_path, contents)
    run(project, max_failed=0.5)
    before = project.embeddings.read_bytes()
    spoilt = sorted(project.store.glob("*/*.h5"))[:3]
    held = sum(map(rows_of, spoilt))
    for path in spoilt[:2]:
        flip(path, 8 * (path.stat().st_size // 2))
    spoilt[2].unlink()
    capsys.readouterr()
    summary = run(project, max_failed=0.5)
    said = capsys.readouterr().err
    assert counts(summary) == (24, held, 23 - held, 1)
    assert [f"{path} is damaged" in said for path in spoilt] == [True, True, False]
    assert said.count("lost rows during the run; looking again") == 1
    assert project.embeddings.read_bytes() == before
    assert [one.path for one in dataset.read_problems(project.problems)] == ["bad/cut.png"]
    assert counts(run(project, max_failed=0.5)) == (24, 0, 23, 1)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(content)


def rows_of(shard: Path) -> int:
    shape, _ = shards.check(shard, shard.parent.name)
    return shape[0]


def test_extract__shard_lost_after_it_was_listed__is_computed_anew(project, monkeypatch, capsys):
    run(project)
    before = project.embeddings.read_bytes()
    (lost, *_) = sorted(project.store.glob("*/*.h5"))
    held, real = rows_of(lost), Store.blocks

    def blocks(store, wanted):
        monkeypatch.setattr(Store, "blocks", real)
        lost.unlink()
        return real(store, wanted)

    monkeypatch.setattr(Store, "blocks", blocks)
    summary = run(project)
    assert counts(summary) == (23, held, 23 - held, 0)
    assert summary.start_seconds > 0
    assert "lost rows during the run; looking again" in capsys.readouterr().err
    assert project.embeddings.read_bytes() == before


def test_extract__store_that_loses_rows_again_and_again__ends_with_exit_4(
    project, monkeypatch, capsys
):
    rounds, real = [], Store.blocks

    def blocks(store, wanted):
        rounds.append(None)
        flip(min(store.folder.glob("*.h5")), 9999)
        return real(store, wanted)

    run(project)
    project.embeddings.unlink()
    monkeypatch.setattr(Store, "blocks", blocks)
    assert exit_status(lambda: run(project) and 0) == 4
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("lost rows during the run; run the command again")
    assert len(rounds) == extraction.ROUNDS
    assert not project.embeddings.exists()
    assert list(project.embeddings.parent.glob(".*")) == []


def test_extract__second_round__does_not_try_what_failed_in_the_first(
    project, tmp_path, monkeypatch
):
    spoil(project, tmp_path)
    tried, real_stream, real_blocks = [], Decoder.stream, Store.blocks

    def stream(decoder, images, size, **how):
        tried.extend(path for _, path in images)
        return real_stream(decoder, images, size, **how)

    def blocks(store, wanted):
        monkeypatch.setattr(Store, "blocks", real_blocks)
        flip(min(store.folder.glob("*.h5")), 9999)
        store.refresh()
        store._checked.clear()
        return real_blocks(store, wanted)

    monkeypatch.setattr(Decoder, "stream", stream)
    monkeypatch.setattr(Store, "blocks", blocks)
    summary = run(project, max_failed=0.5)
    assert summary.images == 27
    assert summary.failed == 7
    assert tried.count("bad/cut.png") == 1
    assert len(tried) > 27
    assert len(embeddings.open(project.embeddings).sha256) == 20
    assert len(dataset.read_problems(project.problems)) == 7


def test_extract__backbone_frozen_anew_in_the_same_folder__is_loaded_anew(project, tmp_path):
    """A Dask worker outlives runs; what it has loaded may be of yesterday."""
    raw = frozen.load(project.backbone)
    folder = tmp_path / "scaled"
    largest = []
    for scale in (1, 2):
        shutil.rmtree(folder, ignore_errors=True)
        write_scaled(folder, raw, scale=scale)
        assert counts(run(replace(project, backbone=folder))) == (23, 23, 0, 0)
        largest.append(float(embeddings.open(project.embeddings).vectors.max()))
    assert largest[1] == 2 * largest[0]


def test_extract__edited_dim__names_it_with_both_values(project):
    edit_record(project.backbone, lambda record: record.update(dim=767))
    with pytest.raises(IntegrityError, match="dim is 767, but its vectors have 768 values"):
        run(project)


def test_extract__notes_of_the_run__have_the_keys_of_the_design(project):
    summary = run(project)
    notes = json.loads((project.runs / "extract-raw.json").read_bytes())
    assert set(notes) == {
        "images",
        "computed",
        "reused",
        "failed",
        "seconds",
        "start_seconds",
        "images_per_second",
        "phases",
        "verdict",
    }
    assert set(notes["phases"]) == {"read", "decode", "forward", "write", "wait"}
    assert (notes["images"], notes["computed"]) == (23, 23)
    assert all(seconds >= 0 for seconds in notes["phases"].values())
    assert notes["phases"]["decode"] > 0
    assert 0 < notes["start_seconds"] < notes["seconds"]
    rate = notes["computed"] / (notes["seconds"] - notes["start_seconds"])
    assert notes["images_per_second"] == pytest.approx(rate)
    assert summary.images_per_second == pytest.approx(rate)
    run(project)
    again = json.loads((project.runs / "extract-raw.json").read_bytes())
    assert (again["computed"], again["reused"], again["images_per_second"]) == (0, 23, 0.0)


@pytest.mark.parametrize(("images", "slots"), [(1, 1), (40, 2), (3000, 2), (100_000, 64)])
@pytest.mark.parametrize("seconds", [1e-5, 0.01, 3.0])
def test_shards__any_number_of_images__are_whole_and_within_bounds(
    tmp_path, images, slots, seconds
):
    names = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(images)]
    table = Images(dataset.digests(names), tuple(map(str, range(images))), (1,) * images)
    dataset.write_images(tmp_path / "images.parquet", table)
    listed = catalog.opened(tmp_path / "images.parquet")
    missing = np.ones(images, bool)
    missing[::7] = images < 7
    context = Context("/photos", "/raw", "/store", "cpu", None, None, None, (), Terms("{}"))
    going = pace.Pace(int(missing.sum()), slots)
    shards = []
    for shard in extraction._shards(listed, missing, context, going, 10**6):
        shards.append(shard)
        going.add(len(shard.images), len(shard.images) * seconds)
    cut = [image for shard in shards for image in shard.images]
    assert cut == [(names[row], str(row)) for row in np.flatnonzero(missing)]
    assert all(len(shard.images) <= pace.MOST for shard in shards)
    assert all(len(shard.images) >= pace.LEAST for shard in shards[:-1])
