"""`headstart predict`: what may be named, how it is told, and what becomes of what cannot be used."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli, predictor
from pipeline.cli.predict import _format, writing
from pipeline.cli.predict import paths as naming
from pipeline.cli.predict.progress import Progress
from pipeline.errors import ConfigurationError
from tests import bundle_files
from tests.bundle_files import CLASSES
from tests.conftest import ROOT, draw


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """The current folder: a project with a bundle and some images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").touch()
    bundle_files.tiny(tmp_path / "artifacts" / "model")
    for number in range(5):
        path = tmp_path / "new" / ("deep" if number > 2 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(number, number % 4).save(path)
    return tmp_path


@pytest.fixture
def predict(capfd):
    """Runs the command; (exit code, stdout, stderr)."""

    def run(*words) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["predict", *map(str, words)])
        return ended.value.code, *capfd.readouterr()

    return run


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


ALL = ["new/0.png", "new/1.png", "new/2.png", "new/deep/3.png", "new/deep/4.png"]


def test_predict__one_image__is_a_line_of_json(desk, predict):
    code, out, err = predict("new/0.png")
    found = predictor.open("artifacts/model/model.onnx")("new/0.png")
    assert (code, err) == (0, "")
    said = {"path": "new/0.png", "label": found.label, "probability": found.probability}
    assert rows(out) == [said]
    assert list(rows(out)[0]) == ["path", "label", "probability"]


def test_predict__folder__is_read_to_its_depth_in_order(desk, predict):
    (desk / "new" / ".hidden.png").write_bytes((desk / "new/0.png").read_bytes())
    (desk / "new" / "again").symlink_to(desk / "new" / "deep")
    (desk / "new" / "zz").symlink_to(desk / "new")  # in a circle
    _, out, _ = predict("new")
    told = [row["path"] for row in rows(out)]
    assert told == [*ALL[:3], "new/again/3.png", "new/again/4.png"]


def test_predict__several__come_in_the_order_they_were_named(desk, predict):
    _, out, _ = predict("new/2.png", "new/deep", "new/0.png")
    assert [row["path"] for row in rows(out)] == [ALL[2], ALL[3], ALL[4], ALL[0]]


def test_predict__pattern__is_expanded(desk, predict):
    _, out, _ = predict("new/**/[13].png")
    assert [row["path"] for row in rows(out)] == [ALL[1], ALL[3]]
    code, _, err = predict("new/*.tiff")
    assert (code, err) == (3, "headstart: error: nothing fits new/*.tiff; correct the pattern\n")


def test_predict__name_that_is_a_pattern_too__is_that_file(desk, predict):
    (desk / "new/0.png").rename(desk / "new/[0].png")
    _, out, _ = predict("new/[0].png")
    assert [row["path"] for row in rows(out)] == ["new/[0].png"]


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
@pytest.mark.parametrize("last", ["", "end"])
def test_predict__list__of_lines_or_nuls(desk, predict, separator, last):
    (desk / "list").write_bytes((separator.join(ALL) + (separator if last else "")).encode())
    _, out, _ = predict("--files-from", "list")
    assert [row["path"] for row in rows(out)] == ALL


def test_predict__list_on_stdin__comes_out_as_it_goes_in(desk):
    """Answers come while the list is still being written."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "predict", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as running:
        for _ in range(4 * 32):
            running.stdin.write("\n".join([*ALL, ""]).encode())
        running.stdin.flush()
        first = running.stdout.readline()
        running.stdin.close()
        rest = running.stdout.read()
    assert json.loads(first)["path"] == ALL[0]
    assert [row["path"] for row in rows(rest.decode())] == (ALL * 4 * 32)[1:]
    assert running.returncode == 0


def test_predict__pattern_that_fits_folders_and_what_is_in_them__tells_each_image_once(
    desk, predict
):
    _, out, _ = predict("new/**")
    assert [row["path"] for row in rows(out)] == ALL
    _, out, _ = predict("new/*")
    assert [row["path"] for row in rows(out)] == ALL


def test_predict__list_with_the_mark_of_windows__is_read(desk, predict):
    (desk / "list").write_bytes("\r\n".join(ALL).encode("utf-8-sig"))
    _, out, err = predict("--files-from", "list")
    assert ([row["path"] for row in rows(out)], err) == (ALL, "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_predict__list_in_utf16__is_one_line(desk, predict, encoding):
    text = "\r\n".join(ALL) if encoding == "utf-16" else "\ufeff" + "\r\n".join(ALL)
    (desk / "list").write_bytes(text.encode(encoding))
    code, out, err = predict("--files-from", "list")
    assert (code, out) == (3, "")
    assert err == (
        "headstart: error: the list list is UTF-16, as PowerShell writes it; save it as UTF-8\n"
    )


def test_predict__name_that_ends_in_a_return__is_kept_between_nuls(desk, predict):
    (desk / "new/0.png").rename(desk / "new/0\r")
    (desk / "list").write_bytes(b"new/0\r\0new/1.png\0")
    _, out, _ = predict("--files-from", "list")
    assert [row.get("error") for row in rows(out)] == [None, None]
    assert rows(out)[0]["path"] == "new/0\r"


@pytest.mark.parametrize("words", [("--files-from", "gone.txt"), ("gone.csv",), ("gone.parquet",)])
def test_predict__list_behind_a_link_to_nowhere__is_one_line(desk, predict, words):
    (desk / words[-1]).symlink_to("nowhere")
    code, _, err = predict(*words)
    assert (code, err) == (
        3, f"headstart: error: {words[-1]} does not exist; correct the path\n"
    )  # fmt: skip


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_predict__manifest__is_relative_to_its_own_folder(desk, predict, separator):
    lines = [("label", "Path"), ("ant", "0.png"), ("bee", "deep/3.png"), ("", "")]
    text = "\n".join(separator.join(line) for line in lines)
    (desk / "new" / "list.csv").write_text("\ufeff" + text)
    _, out, _ = predict("new/list.csv")
    assert [row["path"] for row in rows(out)] == [ALL[0], ALL[3]]


def test_predict__parquet_manifest__is_read(desk, predict):
    pq.write_table(pa.table({"path": ["1.png", None, "0.png"]}), desk / "new" / "list.parquet")
    _, out, _ = predict("new/list.parquet")
    assert [row["path"] for row in rows(out)] == [ALL[1], ALL[0]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.csv", b"file,label\n0.png,ant\n", "no column 'path' in its first line (it has file"),
        ("list.csv", b"path\n\xff\xfe.png\n", "cannot be read as CSV"),
        ("list.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_predict__manifest_that_cannot_be_read__is_one_line(desk, predict, name, content, words):
    (desk / name).write_bytes(content)
    code, _, err = predict(name)
    assert code == 3
    assert words in err
    assert err.count("\n") == 1


def test_predict__parquet_without_pyarrow__is_one_line(desk, predict, monkeypatch):
    (desk / "list.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    code, _, err = predict("list.parquet")
    assert (code, "pip install pyarrow" in err, err.count("\n")) == (2, True, 1)
    code, _, err = predict("new", "--output", "out.parquet")
    assert (code, "pip install pyarrow" in err, err.count("\n")) == (2, True, 1)
    assert not (desk / "out.parquet").exists()


def test_predict__bad_images__are_listed_and_counted(desk, predict):
    (desk / "new/empty.jpg").touch()
    (desk / "new/notes.txt").write_text("no image")
    cut = (desk / "new/0.png").read_bytes()[:-30]
    (desk / "new/cut.png").write_bytes(cut)
    (desk / "list").write_text("new/gone.png\n")
    code, out, err = predict("new", "--files-from", "list")
    told = {row["path"]: row for row in rows(out)}
    assert code == 0
    assert told["new/cut.png"] == {"path": "new/cut.png", "error": "truncated"}
    reasons = {path: row["error"] for path, row in told.items() if "error" in row}
    assert reasons == {
        "new/empty.jpg": "empty", "new/notes.txt": "unsupported_format",
        "new/cut.png": "truncated", "new/gone.png": "unreadable",
    }  # fmt: skip
    assert err.startswith("headstart: 4 of 9 could not be used: 1 ")


def test_predict__no_image_that_can_be_used__is_exit_code_3(desk, predict):
    (desk / "bad.jpg").touch()
    code, out, err = predict("bad.jpg")
    assert (code, rows(out)) == (3, [{"path": "bad.jpg", "error": "empty"}])
    assert err == "headstart: error: none of 1 images could be used (1 empty)\n"
    (desk / "none").mkdir()
    code, _, err = predict("none")
    assert (code, "no image is named" in err) == (3, True)


def test_predict__named_path_that_is_not_there__is_told_before_anything_runs(desk, predict):
    code, out, err = predict("new", "nwe", "--model", "not looked at")
    assert (code, out) == (3, "")
    assert err == "headstart: error: nwe does not exist; correct the path\n"


def test_predict__nothing_named__is_exit_code_2(desk, predict):
    code, _, err = predict()
    assert (code, err.count("\n")) == (2, 1)


def test_predict__top_and_probabilities__stand_beside_the_label(desk, predict):
    _, out, _ = predict("new/0.png", "--top", 2, "--probabilities")
    (row,) = rows(out)
    assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}
    assert len(row["top"]) == 2
    assert list(row["probabilities"]) == list(CLASSES)
    assert max(row["probabilities"].values()) == row["probability"]


def test_predict__threshold__leaves_out_the_labels_below_it(desk, predict):
    known = [row["probability"] for row in rows(predict("new")[1])]
    middle = float(np.median(known))
    _, out, err = predict("new", "--threshold", middle)
    told = rows(out)
    assert [row["abstained"] for row in told] == [one < middle for one in known]
    assert all((row["label"] is None) == row["abstained"] for row in told)
    assert [row["probability"] for row in told] == known
    assert err == "headstart: 2 of 5 below the threshold\n"


def test_predict__abstain__takes_the_threshold_of_the_bundle(desk, predict):
    bundle_files.tiny(desk / "model", abstention={"threshold": 0.9999})
    bundle_files.tiny(desk / "none", abstention={})
    _, out, _ = predict("new", "--abstain", "--model", "model/model.onnx")
    assert {row["label"] for row in rows(out)} == {None}
    code, _, err = predict("new", "--abstain", "--model", "none/model.onnx")
    assert (code, "write --threshold T" in err) == (2, True)


def test_predict__head_without_probabilities__tells_labels_alone(desk, predict):
    bundle_files.tiny(desk / "bare", known=False)
    _, out, _ = predict("new/0.png", "--model", "bare/model.onnx")
    assert list(rows(out)[0]) == ["path", "label"]
    code, _, err = predict("new/0.png", "--model", "bare/model.onnx", "--top", 3)
    assert (code, "gives no probabilities" in err) == (2, True)


def test_predict__embeddings__are_what_the_head_saw(desk, predict):
    _, out, _ = predict("new/0.png", "--embeddings")
    found = predictor.open("artifacts/model/model.onnx")("new/0.png").embedding
    assert np.array_equal(np.float32(rows(out)[0]["embedding"]), found)


def test_predict__csv__has_a_column_each(desk, predict):
    (desk / "new" / "bad.jpg").touch()
    (desk / "new/0.png").rename(desk / "new/a,\r\nb.png")
    code, out, _ = predict("new", "--format", "csv", "--top", 2, "--threshold", 0.5, "--embeddings")
    read = list(csv.DictReader(io.StringIO(out, newline="")))
    assert code == 0
    assert list(read[0])[:7] == [
        "path", "label", "probability", "abstained", "label_1", "probability_1", "label_2",
    ]  # fmt: skip
    assert [row["path"] for row in read][2:4] == ["new/a,\r\nb.png", "new/bad.jpg"]
    assert (read[3]["label"], read[3]["error"]) == ("", "empty")
    assert read[0]["label_1"] in CLASSES
    assert len([name for name in read[0] if name.startswith("e") and name[1:].isdecimal()]) == 12


def test_predict__parquet__is_typed(desk, predict, monkeypatch):
    monkeypatch.setattr(writing, "GROUP", 2)
    (desk / "new" / "bad.jpg").touch()
    code, out, _ = predict(
        "new", "--output", "out.parquet", "--probabilities", "--embeddings", "--threshold", 0.5
    )
    assert (code, out) == (0, "")
    table = pq.read_table(desk / "out.parquet")
    assert table.num_rows == 6
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert (types["probability"], types["abstained"]) == ("float", "bool")
    assert types["embedding"] == "list<element: float>"
    assert {f"p:{name}" for name in CLASSES} <= set(types)
    bad = next(row for row in table.to_pylist() if row["path"] == "new/bad.jpg")
    assert (bad["error"], bad["label"], bad["probability"]) == ("empty", None, None)


def test_predict__parquet_on_stdout__is_one_line(desk, predict):
    code, _, err = predict("new", "--format", "parquet")
    assert (code, "by --output" in err) == (2, True)


def test_predict__table__is_for_people(desk, predict):
    (desk / "new" / "bad\x1b[31m.jpg").touch()
    _, out, _ = predict("new", "--format", "table", "--top", 2)
    lines = out.splitlines()
    assert len(lines) == 6
    assert any(line.startswith("!") and "bad\\x1b[31m.jpg  empty: " in line for line in lines)
    assert "\x1b" not in out
    assert lines[0].split()[0] in CLASSES


@pytest.mark.parametrize(
    ("name", "begins"), [("o.jsonl", '{"path"'), ("o.csv", "path,"), ("o", '{"path"')]
)
def test_predict__output__is_whole_and_its_ending_tells_the_format(desk, predict, name, begins):
    code, out, _ = predict("new", "--output", name)
    assert (code, out) == (0, "")
    assert (desk / name).read_text().startswith(begins)
    assert sorted(path.name for path in desk.iterdir()) == ["artifacts", "new", name, "params.yaml"]


def test_predict__error_on_the_way__leaves_the_old_output(desk, predict):
    (desk / "list.csv").write_bytes(b"path\nnew/0.png\n" + b"\xff\n" * 5)
    (desk / "out.csv").write_text("old")
    code, _, _ = predict("list.csv", "--output", "out.csv")
    assert (code, (desk / "out.csv").read_text()) == (3, "old")
    assert sorted(path.name for path in desk.glob("*out*")) == ["out.csv"]


def test_predict__output_that_is_a_device__is_left_alone(desk, predict):
    os.mkfifo(desk / "pipe")
    for name in ("pipe", "new"):
        code, _, err = predict("new/0.png", "--output", name)
        assert (code, "is no plain file" in err) == (2, True)
    assert (desk / "pipe").is_fifo()


def test_predict__names_that_are_not_utf8__come_back_as_they_were(desk, predict):
    odd = os.fsdecode(b"new/\xff\xfe.png")
    (desk / "new/0.png").rename(odd)
    code, out, _ = predict("new")
    assert code == 0
    assert odd in [row["path"] for row in rows(out)]


def test_predict__names_that_are_not_utf8__are_escaped_in_parquet_as_in_csv(desk, predict):
    (desk / "new/0.png").rename(os.fsdecode(b"new/\xff.png"))
    assert predict("new", "--output", "all.parquet")[0] == 0
    told = pq.read_table(desk / "all.parquet")["path"].to_pylist()
    assert sorted(told) == sorted([*ALL[1:], "new/\\udcff.png"])
    _, out, _ = predict("new", "--format", "csv")
    assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == told


def test_predict__locale_without_utf8__tells_names_as_they_are(desk):
    (desk / "new/0.png").rename(desk / "new/é.png")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [
        sys.executable,
        "-c",
        "from pipeline.cli import main; main()",
        "predict",
        "new/é.png",
    ]
    done = subprocess.run(
        command, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **plain},
    )  # fmt: skip
    assert '"path": "new/é.png", "label"' in done.stdout.decode()


@pytest.mark.parametrize(
    ("closed", "words", "code"), [("<&-", "-", 3), (">&-", "new", 0), ("2>&-", "new none", 3)]
)
def test_predict__closed_stream__is_an_empty_one(desk, closed, words, code):
    """As a service manager or a careless script starts a program."""
    run = f"exec {sys.executable} -c 'from pipeline.cli import main; main()' predict {words}"
    done = subprocess.run(
        ["sh", "-c", f"{run} {closed}"], capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, b"Traceback" in done.stderr) == (code, False)
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        (["--files-from", "list.txt"], "list.txt"),
        (["new/0.png", "--model", "model/../model/model.onnx"], "model/model.onnx"),
        (["./new/0.png"], "new/0.png"),
    ],
)
def test_predict__output_that_is_read_as_well__is_left_alone(desk, predict, words, lost):
    (desk / "model").symlink_to("artifacts/model")
    (desk / "list.txt").write_text("new/0.png")
    before = (desk / lost).read_bytes()
    code, out, err = predict(*words, "--output", lost)
    assert (code, out, (desk / lost).read_bytes()) == (2, "", before)
    assert err.startswith(f"headstart: error: --output {lost} would replace ")


def test_predict__without_a_project__asks_for_the_model(desk, predict, tmp_path, monkeypatch):
    (desk / "params.yaml").unlink()
    code, _, err = predict("new")
    assert (code, "or name a bundle by --model" in err) == (2, True)
    (desk / "dvc.yaml").touch()
    monkeypatch.chdir(desk / "new")
    code, out, _ = predict("0.png")
    assert (code, rows(out)[0]["path"]) == (0, "0.png")


def test_predict__bundle_not_made_yet__says_how(desk, predict):
    (desk / "artifacts/model/model.onnx").unlink()
    code, _, err = predict("new")
    assert (code, "run 'dvc repro bundle' or 'dvc pull'" in err) == (2, True)


def test_predict__other_pixels_than_those_of_training__is_a_warning(desk, predict):
    bundle_files.tiny(desk / "other", pixel_probe="0" * 64)
    code, out, err = predict("new/0.png", "--model", "other/model.onnx")
    assert (code, len(rows(out))) == (0, 1)
    assert err.startswith("headstart: this machine's Pillow makes other pixels")
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--top", "0"], ["--threshold", "2"], ["--threads", "-1"]])
def test_predict__numbers_that_cannot_be__are_usage_errors(desk, predict, words):
    assert predict("new", *words)[0] == 2


def test_predict__reader_that_goes_away__is_no_error(desk):
    (desk / "many").write_text("\n".join(ALL * 400))
    command = (
        f"{sys.executable} -c 'from pipeline.cli import main; main()' predict --files-from many"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert rows(done.stdout)[0]["path"] == ALL[0]


def test_predict__interrupted__ends_with_130_and_leaves_no_half(desk):
    (desk / "out.jsonl").write_text("old")
    script = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", script, "predict", "-", "--output", "out.jsonl"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as running:
        running.stdin.write("\n".join(ALL * 200).encode())
        running.stdin.flush()
        while not list(desk.glob(".out.jsonl*")):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        err = running.stderr.read().decode()
    assert running.returncode == 130
    assert err.startswith("headstart: error: interrupted;")
    assert (desk / "out.jsonl").read_text() == "old"
    assert not list(desk.glob(".out.jsonl*"))


def test_all_paths__long_list__is_never_held_whole(tmp_path):
    (tmp_path / "list").write_text("a.png\n" * 300_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in naming.all_paths([], [str(tmp_path / "list")])) == 300_000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_all_paths__unreadable_folder_below__is_listed(tmp_path, monkeypatch):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert list(naming.all_paths([str(tmp_path / "in")])) == [str(tmp_path / "in" / "deep")]


def test_progress__on_a_terminal__is_one_line_that_goes(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    now = iter(range(10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with Progress(live=True) as progress:
        progress.add(bad=False)
        progress.add(bad=True)
    text = capsys.readouterr().err
    assert "1 images, 1/s" in text
    assert "2 images, 1/s, 1 bad" in text
    assert text.endswith("\r\x1b[K")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "labels.xlsx"], "labels.xlsx ends in none of"),
        (["--output", "labels.parquet", "--format", "csv"], "ends as parquet, and --format is csv"),
    ],
)
def test_predict__output_that_ends_as_something_else__is_refused(words, said):
    named = words[3] if "--format" in words else None
    with pytest.raises(ConfigurationError, match=said):
        _format(named, Path(words[1]))
    assert _format("csv", Path("labels.xlsx")) == "csv"
    assert _format(None, Path("labels")) == "jsonl"
