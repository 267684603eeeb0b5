"""What the benchmarks are made of, but for the measuring: photos, rounds, rows, progress lines."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import environments, heads, images, measuring, progress, rivals, scale, table
from benchmarks.__main__ import PARTS
from benchmarks.ceiling import ceiling
from benchmarks.desk import QUICK, Desk
from benchmarks.incremental import SIGKILLED, _kill
from pipeline import search
from pipeline.images import decode
from tests.conftest import ROOT


def test_images__written__other_bytes_and_the_same_pixels(tmp_path):
    originals = [images.generated(seed, (64, 48)) for seed in range(2)]
    images.write(originals, tmp_path, range(300))
    contents = [path.read_bytes() for path in images.paths(tmp_path)]
    assert len({hashlib.sha256(content).digest() for content in contents}) == 300
    for number, content in enumerate(contents):
        assert np.array_equal(decode(content), decode(originals[number % 2]))


def test_images__written_further__adds_to_those_that_are_there(tmp_path):
    originals = [images.generated(0, (16, 16))]
    images.write(originals, tmp_path, range(4))
    before = {path: path.read_bytes() for path in images.paths(tmp_path)}
    images.write(originals, tmp_path, range(4, 6))
    after = {path: path.read_bytes() for path in images.paths(tmp_path)}
    assert len(after) == 6
    assert before.items() <= after.items()


def test_images__originals__are_those_of_the_folder_in_order(tmp_path):
    contents = [images.generated(seed, (16, 16)) for seed in range(2)]
    for name, content in zip(("b.jpg", "a/c.JPEG"), contents, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "no.jpg").write_bytes(b"text")
    assert images.originals(tmp_path) == contents[::-1]


def test_images__a_folder_without_photos__is_refused(tmp_path):
    with pytest.raises(ValueError, match="--photos"):
        images.originals(tmp_path)


def test_images__no_folder__photos_are_made_all_different():
    assert len(set(images.originals(None))) == images.GENERATED


def test_interleaved__every_round_runs_each_once_in_another_order():
    order = []
    subjects = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    measured = measuring.interleaved(subjects, 3)
    assert "".join(order) == "abcbcacab"
    assert measured == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_rate__counts_what_the_threads_did():
    calls = []
    measured = measuring.rate(lambda call: calls.append(call) or 3, threads=2, seconds=0.05)
    assert sorted(calls) == list(range(len(calls)))
    assert 0 < measured <= 3 * len(calls) / 0.05


def test_ceiling__is_what_one_core_takes_for_both():
    assert ceiling(200, 600) == pytest.approx(150)


def test_row__has_medians_ratio_and_verdict():
    made = table.row("x", [4, 1, 2], expected="ratio <= 0.5", beside="y", beside_runs=[3, 9, 5])
    assert (made["median"], made["median beside"], made["ratio"]) == (2, 5, 0.4)
    assert made["met"] == "yes"
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize(
    ("expected", "met"),
    [
        ("median <= 2", "yes"),
        ("median < 2", "no"),
        ("median >= 2.5", "no"),
        ("ratio >= 1", "not shown"),
        ("", ""),
    ],
)
def test_row__expectation__is_compared_with_what_it_names(expected, met):
    assert table.row("x", [2], expected=expected)["met"] == met


def test_row__expectation_that_cannot_be_read__is_refused():
    with pytest.raises(ValueError, match="twice as fast"):
        table.row("x", [2], expected="twice as fast")


def test_page__shows_every_row_and_the_columns_that_are_used():
    machine = {"date": "2026-01-02", "cpu": "C", "cores": 2, "python": "3.11", "seconds": 61.2}
    machine["versions"] = {"numpy": "2.0"}
    rows = [table.row("a | b", [1234.5, 2]), table.row("c", [], note="does not run: because")]
    page = table.page({"part": {"machine": machine, "rows": rows}})
    assert "2026-01-02, C, 2 cores, Python 3.11, numpy 2.0; 61 s." in page
    assert "| what | unit | median | runs | note |" in page
    assert "| a \\| b | s | 618 | 1234 2 |  |" in page
    assert "| c | s |  |  | does not run: because |" in page


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("2 threads:  25%|##   | 1000/4000 [00:04<00:12, 250.0img/s]", (0.25, 12)),
        ("1,000 of 4,000 images, 250/s, 1:02 left", (0.25, 62)),
        ("4000/4000 images, 1:00:00 left", (1, 3600)),
        ("3 of 4, 9 s left", (0.75, 9)),
        ("2 threads:   0%|     | 0/4000 [00:00<?, ?img/s]", None),
        ("efficientnet_lite0: 4000 images, 4000 computed", None),
    ],
)
def test_progress__line__says_share_and_seconds_left(line, shown):
    parsed = progress.parse(line)
    assert parsed == (None if shown is None else progress.Shown(*shown))


def test_progress__errors__are_shares_of_what_was_really_left():
    lines = [(0.5, "5/100, 0:99 left"), (1, "10/100, 0:12 left"), (2, "19/100, 0:99 left")]
    lines += [(5, "50/100, 0:05 left"), (9, "90/100, 0:03 left"), (10, "100/100, 0:00 left")]
    assert progress.errors(lines, end=10) == pytest.approx([2.5 / 9, 0, 1.5])


def test_progress__watch__sees_lines_as_a_terminal_does(tmp_path):
    script = "import sys; print(sys.stderr.isatty()); print('1/2\\r2/2', file=sys.stderr); exit(3)"
    watched = progress.watch([sys.executable, "-c", script], tmp_path, {})
    assert watched.code == 3
    assert [text for _, text in watched.lines] == ["True", "1/2", "2/2"]


def test_kill__ends_the_process_at_once():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    _kill(process)
    assert process.returncode == SIGKILLED


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "ERROR: first\nERROR: No matching distribution found for x\n",
            "No matching distribution found for x",
        ),
        ("Traceback\nOSError: /home/me/a.so: no such file", "OSError: ... no such file"),
        ("ERROR: Could not fetch https://index/simple/x: gone", "Could not fetch ... gone"),
        ("", "no word"),
    ],
)
def test_environments__reason__is_one_line_without_paths(text, reason):
    assert environments.reason(text) == reason


def test_environments__package_that_is_not_there__says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "environments")
    monkeypatch.setattr(environments, "FREE_GIB", 0)
    with pytest.raises(environments.InstallError, match=r"\w"):
        environments.python("none", ["--no-index", "headstart-package-that-is-nowhere"])


def test_environments__too_little_disk__says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "FREE_GIB", 10**9)
    with pytest.raises(environments.InstallError, match="GiB of disk"):
        environments.python("none", ["x"])


def test_peers__each_has_a_script():
    scripts = {path.stem for path in rivals.SCRIPTS.glob("*.py")} - {"__init__", "given"}
    assert {peer.script for peer in rivals.PEERS} == scripts


def test_scale__images__are_distinct_readable_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "FOLDER", 10)
    named = dict(scale.images(tmp_path / "a", 25))
    assert len(named) == 25
    for sha256, path in named.items():
        content = (tmp_path / "a" / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        assert decode(content).shape == (8, 8, 3)
    assert dict(scale.images(tmp_path / "b", 25)) == named


def sized(images: int, seconds: float, peak: float) -> scale.Sized:
    """What a run of so many images might have measured."""
    took = scale.Took(seconds, peak * scale.MIB)
    return scale.Sized(
        images=images,
        images_per_second=1000,
        extract=took,
        again=took,
        nothing=[took, took],
        some=[took],
        unlisted=took,
        assemble=[took],
        kept=1600 * images,
        listed=40 * images,
        file=1600 * images,
    )


@pytest.mark.parametrize(
    ("power", "peak", "met"), [(0.5, 105, "yes"), (1, 109, "yes"), (2, 120, "no")]
)
def test_scale__rows__tell_growth_and_what_it_comes_to(power, peak, met):
    rows = scale.rows([sized(100, 1, 100), sized(10_000, 1 * 100**power, peak)])
    told = {row["what"]: row for row in rows}
    for what in ("listing", "assembly"):
        growth = told[f"{what} grows as images ** x, from 100 to 10000 images"]
        assert growth["median"] == pytest.approx(power)
        assert growth["met"] == met
    memory = told["driver's peak memory, 10000 images, nothing to compute"]
    assert (memory["median"], memory["median beside"], memory["met"]) == (peak, 100, met)
    paper = told["on paper, 100000000 images: assemble"]
    assert paper["median"] == pytest.approx(10_000 * 100**power)
    assert "not measured: 10000 times" in paper["note"]


@pytest.mark.slow
def test_scale__few_images__are_measured(tmp_path):
    few = replace(QUICK, sizes=(50, 150), runs=1)
    rows = scale.measure(Desk(tmp_path, few, None))
    told = {row["what"]: row["median"] for row in rows}
    assert told["list, 1 % missing, 150 images"] > 0
    assert told["the store, 150 images"] * scale.MIB > 150 * 768 * 2
    assert not (tmp_path / "scale").exists()


def test_heads__noted_fits__repeat_by_scikit_learn_alone(tmp_path):
    labels, cached = heads._written(tmp_path, 400, ("train",) * 4 + ("val",))
    noted, record = heads._noted(labels, cached)
    assert record.rows == {"train": 320, "val": 80}
    assert [one.C for one in noted if one.rows == 400] == [record.choice["C"]]
    starts = [one for one in noted if one.start]
    assert {one.tolerance for one in starts} == {search.PATH_TOLERANCE}
    assert len(starts) > 3
    X = np.array(cached.vectors[:320], dtype=np.float32)
    again = starts[0].repeat(X, np.arange(320) % 10)
    assert again.C == starts[0].C


def test_heads__vectors__are_of_ten_classes_that_can_be_told():
    X, y = heads.vectors(500)
    assert (X.shape, X.dtype) == ((500, heads.DIM), np.float16)
    assert np.isfinite(X).all()
    assert list(np.bincount(y)) == [50] * 10
    assert np.array_equal(X, heads.vectors(500)[0])


@pytest.mark.slow
def test_heads__few_images__are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(heads, "SETS", {"few": 300})
    rows = heads.measure(Desk(tmp_path, replace(QUICK, rows=600, runs=1), None))
    told = {row["what"]: row for row in rows}
    of_c = "C of 45 values, made ones like few, 240 rows"
    assert told[f"{of_c}: steps from that of the best of 45 independent fits"]["met"] == "yes"
    assert told[f"{of_c}: log loss beyond that of the best of 45 independent fits"]["met"] == "yes"
    assert told["`stages.train`, 600 x 1280, 10 classes, on one core"]["ratio"] > 0


def test_docs__name_every_part():
    text = (ROOT / "docs/benchmarks.md").read_text()
    for name in PARTS:
        assert f"## {name}" in text
