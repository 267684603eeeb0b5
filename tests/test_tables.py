"""Cached embeddings as tables: joined by sha256, whatever the labels come in."""

import builtins
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import embeddings, tables
from pipeline.dataset import Labels, write_labels
from pipeline.errors import ConfigurationError, InputError
from tests.test_embeddings import DIM, dataset, write

SHA256, VECTORS = dataset(40)
NAMES = SHA256.astype("U64")


@pytest.fixture(scope="module")
def cached(tmp_path_factory) -> embeddings.Embeddings:
    """40 embeddings."""
    return embeddings.open(write(tmp_path_factory.mktemp("cached") / "raw.h5"))


def labels(rows=(3, 1, 2, 2), splits=("train", "test", "train", "train")) -> Labels:
    """Some images, one of them at two paths, and one that is not embedded."""
    texts = [f"{chr(ord('d') - at)}.png" for at in range(len(rows))]
    names = [*NAMES[list(rows)], "f" * 64]
    column = {
        "path": [*texts, "z.png"],
        "label": [f"class {row}" for row in rows] + ["other"],
        "split": [*splits, "train"],
        "group": [None] * len(names),
    }
    objects = {name: np.array(values, dtype=object) for name, values in column.items()}
    return Labels(sha256=np.array(names, "S64"), **objects)


def as_parquet(folder: Path) -> Path:
    write_labels(folder / "labels.parquet", labels())
    return folder / "labels.parquet"


def as_csv(folder: Path) -> Path:
    as_frame(folder).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


def as_frame(_: Path) -> pd.DataFrame:
    one = labels()
    columns = {name: getattr(one, name) for name in ("path", "label", "split")}
    return pd.DataFrame({"sha256": one.sha256.astype("U64"), **columns, "more": 1.5})


FORMS = {"parquet": as_parquet, "csv": as_csv, "frame": as_frame, "table": lambda _: labels()}


@pytest.mark.parametrize("form", FORMS)
def test_labelled__labels_in_any_form__join_by_sha256_a_row_a_path(cached, tmp_path, form):
    X, y, paths = cached.labelled(FORMS[form](tmp_path))
    order = [1, 2, 2, 3]
    assert paths.tolist() == ["c.png", "a.png", "b.png", "d.png"]
    assert y.tolist() == [f"class {row}" for row in order]
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, VECTORS[order].astype(np.float32))


def test_labelled__of_a_split__has_its_rows_alone(cached):
    X, y, paths = cached.labelled(labels(), split="test")
    assert (y.tolist(), paths.tolist()) == (["class 1"], ["c.png"])
    np.testing.assert_array_equal(X, VECTORS[[1]].astype(np.float32))


def test_labelled__manifest_of_others__needs_sha256_and_label_alone(cached, tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text(f"Label;SHA256\ncat;{NAMES[5].upper()}\n;{NAMES[6]}\nowl;{NAMES[4]}\n")
    X, y, paths = cached.labelled(path)
    assert y.tolist() == ["owl", "cat"]
    assert paths.tolist() == ["", ""]
    np.testing.assert_array_equal(X, VECTORS[[4, 5]].astype(np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na,b\n", "no column 'sha256'"),
        ("sha256,name\na,b\n", "no column 'label'"),
        ("sha256,label\nabc,b\n", "sha256 is 'abc'; write 64 hex digits"),
        (f"sha256,label\n{'f' * 64},b\n", "none of its 1 labelled images is among the 40"),
    ],
)
def test_labelled__table_that_does_not_fit__is_told_in_a_line(cached, tmp_path, text, message):
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        cached.labelled(path)
    assert "theirs.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_labelled__what_cannot_be__is_a_configuration_error(cached, tmp_path):
    for path in (tmp_path / "gone.csv", tmp_path, tmp_path / "labels.txt"):
        with pytest.raises(ConfigurationError, match="is no file of labels"):
            cached.labelled(path)
    with pytest.raises(ConfigurationError, match="no row of split 'val'; it has: test, train"):
        cached.labelled(labels(), split="val")
    with pytest.raises(ConfigurationError, match="unknown layer 'pooled'"):
        cached.labelled(labels(), layer="pooled")
    with pytest.raises(InputError, match="several lengths"):
        cached.labelled({"sha256": NAMES[:2], "label": ["a"]})


def test_frame__of_the_file__has_a_row_an_image_under_its_sha256(cached):
    frame = cached.frame()
    assert frame.index.name == "sha256"
    assert frame.index.tolist() == NAMES.tolist()
    assert list(frame.columns) == [f"e{number}" for number in range(DIM)]
    assert set(frame.dtypes) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(frame.to_numpy(), VECTORS.astype(np.float32))
    joined = frame.join(as_frame(Path()).set_index("sha256")["label"], how="inner")
    assert joined.label.tolist() == ["class 1", "class 2", "class 2", "class 3"]


def test_frame__without_pandas__is_told_in_a_line(cached, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match="run 'python -m pip install pandas'"):
        tables.frame(cached)


def test_columns__of_numbers_missing_or_bytes__are_text(cached):
    given = {"sha256": SHA256[:3], "label": [7, float("nan"), None], "path": [b"a", "b", "c"]}
    _, y, paths = cached.labelled(given)
    assert json.dumps([*y, *paths]) == '["7", "a"]'
