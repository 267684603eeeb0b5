"""Exports: what other libraries read back is what is in the file."""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from pipeline import embeddings, exports
from pipeline.cli import main
from pipeline.cli.commands.embeddings import EXPORTS
from pipeline.errors import ConfigurationError
from tests.conftest import ROOT
from tests.test_embeddings import BACKBONE, DIM, dataset, write
from tests.test_tables import NAMES, VECTORS, labels

ROWS = [1, 2, 2, 3]
"""Of the labelled images, by sha256, then path."""


@pytest.fixture(params=[None, 3 * 4 * DIM], ids=["one block", "blocks of 3 rows"])
def cached(request, tmp_path, monkeypatch) -> embeddings.Embeddings:
    """40 embeddings, exported whole or some rows at a time."""
    if request.param:
        monkeypatch.setattr(exports, "BLOCK_BYTES", request.param)
    return embeddings.open(write(tmp_path / "raw.h5"))


def read_parquet(path):
    table = pd.read_parquet(path)
    return table, np.stack(table["embedding"])


def read_csv(path):
    columns = [f"e{number}" for number in range(DIM)]
    table = pd.read_csv(path, dtype=dict.fromkeys(columns, np.float32))
    assert list(table.columns[-DIM:]) == columns
    return table, table[columns].to_numpy()


def read_npy(path):
    return pd.read_csv(path.with_suffix(".rows.csv")), np.load(path)


def read_safetensors(path):
    with safe_open(path, "numpy") as file:
        names = set(file.keys())
        digests = file.get_tensor("sha256")
        assert digests.dtype == np.uint8
        table = pd.DataFrame({"sha256": [bytes(row).hex() for row in digests]})
        if "labels" in names:
            classes = json.loads(file.metadata()["classes"])
            table["label"] = [classes[code] for code in file.get_tensor("labels")]
        assert file.metadata()["fingerprint"] == BACKBONE.fingerprint
        return table, file.get_tensor("embeddings")


READ = {
    "parquet": read_parquet,
    "csv": read_csv,
    "npy": read_npy,
    "safetensors": read_safetensors,
}
KEPT = {"npy", "safetensors"}
"""Formats that keep float16."""


def test_exports__every_format__is_read_back_here_and_offered():
    assert set(READ) == set(exports.EXPORTS) == set(EXPORTS)


@pytest.mark.parametrize("to", READ)
def test_export__read_back__holds_every_vector_under_its_sha256(cached, tmp_path, to):
    path = tmp_path / f"out.{to}"
    exports.export(cached, path, to=to)
    table, vectors = READ[to](path)
    assert vectors.dtype == (np.float16 if to in KEPT else np.float32)
    np.testing.assert_array_equal(vectors, VECTORS.astype(vectors.dtype))
    assert table["sha256"].tolist() == NAMES.tolist()
    assert "label" not in table


@pytest.mark.parametrize("to", READ)
def test_export__with_labels__has_a_row_a_path_of_those_listed(cached, tmp_path, to):
    path = tmp_path / f"out.{to}"
    made = exports.export(cached, path, to=to, labels=labels())
    table, vectors = READ[to](path)
    assert len(made.rows) == len(ROWS)
    np.testing.assert_array_equal(vectors, VECTORS[ROWS].astype(vectors.dtype))
    assert table["sha256"].tolist() == NAMES[ROWS].tolist()
    assert table["label"].tolist() == [f"class {row}" for row in ROWS]
    if to != "safetensors":
        assert table["path"].tolist() == ["c.png", "a.png", "b.png", "d.png"]
        assert table["split"].tolist() == ["test", "train", "train", "train"]


@pytest.mark.parametrize("to", READ)
def test_export__float32__is_kept_to_the_bit_and_repeats(tmp_path, to):
    sha256, vectors = dataset(9)
    single = (vectors.astype(np.float32) * np.pi * 1e5).astype(np.float32)
    backbone = replace(BACKBONE, fields={**BACKBONE.fields, "storage": "float32"})
    embeddings.write(tmp_path / "raw.h5", backbone, [sha256], [[single]], rows=9)
    contents = set()
    for name in ("a", "b"):
        path = tmp_path / f"{name}.{to}"
        opened = embeddings.open(tmp_path / "raw.h5")
        exports.EXPORTS[to](exports.Export(opened, np.arange(9), None, None, 0), path)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    if to != "safetensors":  # whose reader looks at the fingerprint of the others
        np.testing.assert_array_equal(READ[to](path)[1], single)


def test_export__parquet__is_a_plain_list_of_float32_in_arrow(cached, tmp_path):
    exports.export(cached, tmp_path / "out.parquet", to="parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert str(table.schema.field("embedding").type) == f"fixed_size_list<element: float>[{DIM}]"
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(-1, DIM), VECTORS.astype(np.float32))
    assert table.schema.metadata[b"fingerprint"].decode() == BACKBONE.fingerprint


def test_export__onto_itself_or_of_no_such_layer__is_refused_and_writes_nothing(cached, tmp_path):
    before = (tmp_path / "raw.h5").read_bytes()
    with pytest.raises(ConfigurationError, match="is the file to be exported"):
        exports.export(cached, tmp_path / "raw.h5", to="npy")
    with pytest.raises(ConfigurationError, match="unknown layer"):
        exports.export(cached, tmp_path / "out.npy", to="npy", layer="pooled")
    with pytest.raises(ConfigurationError, match="no view 3"):
        exports.export(cached, tmp_path / "out.npy", to="npy", view=3)
    assert (tmp_path / "raw.h5").read_bytes() == before
    assert os.listdir(tmp_path) == ["raw.h5"]


@pytest.mark.parametrize("to", READ)
def test_export__failing_midway__leaves_the_old_file(cached, tmp_path, monkeypatch, to):
    path = tmp_path / f"out.{to}"
    path.write_bytes(b"old")

    def failing(_):
        yield VECTORS[:1]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports.Export, "blocks", failing)
    with pytest.raises((OSError, ValueError)), warnings.catch_warnings():
        exports.export(cached, path, to=to)
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.glob("*.partial"))


def test_command__default_output__is_named_after_the_file(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    write(folder / "raw.h5")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["embeddings", "export", "embeddings/raw.h5", "--to", "npy"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"raw.npy: 40 x {DIM}, ")
    assert os.listdir(folder) == ["raw.h5"]
    np.testing.assert_array_equal(np.load("raw.npy"), VECTORS)


@pytest.mark.slow
def test_export__many_rows__memory_stays_bounded(tmp_path):
    """100,000 rows of 512: 100 MB on disk, 200 MB as float32."""
    count, dim = 100_000, 512
    sha256, _ = dataset(count)
    block = np.random.default_rng(0).standard_normal((1000, dim)).astype(np.float16)
    backbone = replace(BACKBONE, dim=dim)
    embeddings.write(tmp_path / "raw.h5", backbone, [sha256], [[block] * 100], rows=count)
    program = (
        "import resource, sys; from pathlib import Path; from pipeline import embeddings, exports\n"
        "cached = embeddings.open(Path('raw.h5'))\n"
        "import threading\n"
        "def anonymous():\n"
        "    text = Path('/proc/self/status').read_text()\n"
        "    return int(text.split('RssAnon:')[1].split()[0]) / 1024\n"
        "before, most, done = anonymous(), [0.0], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(0.02): most[0] = max(most[0], anonymous())\n"
        "watching = threading.Thread(target=watch); watching.start()\n"
        "exports.export(cached, Path('out.' + sys.argv[1]), to=sys.argv[1])\n"
        "done.set(); watching.join(); print(most[0] - before)"
    )
    for to in READ:
        done = subprocess.run(
            [sys.executable, "-c", program, to],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert float(done.stdout) < 150, to
