"""Embeddings for torch and Dask: what travels is the place of the vectors, not the vectors."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import interop
from pipeline.errors import InputError, IntegrityError
from tests import closure
from tests.test_architecture import STAGES
from tests.test_embeddings import DIM, dataset, write
from tests.test_tables import NAMES, VECTORS, labels


@pytest.fixture
def path(tmp_path):
    """A file of 40 embeddings."""
    return write(tmp_path / "raw.h5")


def test_torch_dataset__gives_float32_tensors_and_ints(path):
    data = interop.torch_dataset(path, labels(), split="train")
    assert isinstance(data, torch.utils.data.Dataset)
    assert (len(data), data.dim, data.classes) == (3, DIM, ("class 2", "class 3"))
    assert list(data.paths) == ["a.png", "b.png", "d.png"]
    assert list(data.sha256) == NAMES[[2, 2, 3]].tolist()
    for number, (row, code) in enumerate(((2, 0), (2, 0), (3, 1))):
        vector, found = data[number]
        assert vector.dtype == torch.float32
        assert type(found) is int
        assert found == code
        np.testing.assert_array_equal(vector.numpy(), VECTORS[row].astype(np.float32))


def test_torch_dataset__classes_given__number_the_labels(path):
    data = interop.torch_dataset(path, labels(), classes=["class 3", "class 2", "class 1"])
    assert [data[number][1] for number in range(4)] == [2, 1, 1, 0]
    with pytest.raises(InputError, match="unknown class 'class 3'"):
        interop.torch_dataset(path, labels(), classes=["class 1", "class 2"])


def test_torch_dataset__pickled__leaves_its_vectors_where_they_are(tmp_path):
    path = write(tmp_path / "raw.h5", 2000)
    data = interop.torch_dataset(path, labels_of(2000))
    data[0]  # mapped now
    content = pickle.dumps(data)
    stored = dataset(2000)[1]
    assert not any(row.tobytes() in content for row in (stored[0], stored[7]))
    again = pickle.loads(content)
    assert torch.equal(again[7][0], data[7][0])
    assert again.classes == data.classes


def labels_of(count: int) -> dict:
    sha256, _ = dataset(count)
    return {"sha256": sha256, "label": np.arange(count) % 2}


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_torch_dataset__loaders_with_workers__give_every_row(path, start):
    data = interop.torch_dataset(path, labels_of(40))
    loader = DataLoader(data, batch_size=7, num_workers=2, multiprocessing_context=start)
    vectors, codes = (torch.cat(parts) for parts in zip(*loader, strict=True))
    np.testing.assert_array_equal(vectors.numpy(), VECTORS.astype(np.float32))
    assert codes.tolist() == [0, 1] * 20


def test_torch_dataset__file_replaced_since__is_refused(path):
    content = pickle.dumps(interop.torch_dataset(path, labels()))
    write(path, 41)
    with pytest.raises(IntegrityError, match="is another file than was opened"):
        pickle.loads(content)[0]
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing here"):
        pickle.loads(content)[0]


def test_dask_array__is_lazy_chunked_by_rows_and_equal(path):
    array = interop.dask_array(path, rows=12)
    assert array.chunks == ((12, 12, 12, 4), (DIM,))
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array.compute(scheduler="threads"), VECTORS)
    mean = array.astype("f4").mean(axis=0).compute(scheduler="threads")
    np.testing.assert_allclose(mean, VECTORS.astype("f4").mean(axis=0), rtol=1e-5, atol=1e-6)
    assert interop.dask_array(path).numblocks == (1, 1)
    assert interop.dask_array(path, rows=12).name == array.name
    path.unlink()
    with pytest.raises(IntegrityError, match="is missing here"):
        array.compute(scheduler="threads")


def test_dask_array__in_other_processes__reads_the_file_there(tmp_path):
    path = write(tmp_path / "raw.h5", 3000)
    array = interop.dask_array(path, rows=500)
    assert len(pickle.dumps(array)) < 10_000
    sums = array.astype("f4").sum(axis=1).compute(scheduler="processes", num_workers=2)
    np.testing.assert_allclose(sums, dataset(3000)[1].astype("f4").sum(axis=1), rtol=1e-4)


def test_dask_array__file_replaced_since__is_refused(path):
    array = interop.dask_array(path)
    write(path, 40, name="other")
    with pytest.raises(IntegrityError, match="is another file than was opened"):
        array.compute(scheduler="threads")


@pytest.mark.parametrize("stage", STAGES)
def test_closure__what_reads_for_others__is_no_dep_of_a_stage(stage):
    needed = closure.closure(f"stages.{stage}")
    assert not needed & {f"pipeline/{name}.py" for name in ("exports", "interop", "tables")}
    for file in needed:  # `tables` is imported by its name, which the closure does not see
        text = (closure.ROOT / file).read_text()
        assert ".labelled(" not in text.replace("_tables().labelled(", "")
        assert ".frame(" not in text.replace("_tables().frame(", "")
