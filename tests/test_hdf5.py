"""Plain HDF5: what is written repeats and maps, what is not plain is refused."""

import errno
import hashlib
import io
import os
import resource
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import hdf5
from pipeline.errors import IntegrityError, ResourceError
from pipeline.hdf5 import Column

IMAGE = """
import hashlib, numpy as np
from pipeline import hdf5
arrays = {
    "sha256": np.array([f"{n:064x}" for n in range(9)], "S64"),
    "embeddings": np.arange(36, dtype=np.float16).reshape(9, 4),
}
image = hdf5.image(arrays, {"format_version": 1, "backbone": "raw"})
"""


def make_image() -> tuple[dict, bytes]:
    scope: dict = {}
    exec(IMAGE, scope)
    return scope["arrays"], scope["image"]


def test_image__made_again_here_and_in_another_process__has_the_same_bytes():
    _, first = make_image()
    _, second = make_image()
    assert first == second
    time.sleep(1.1)  # HDF5 counts the time in seconds, where it keeps any
    program = IMAGE + "print(hashlib.sha256(image).hexdigest())"
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        cwd=Path(hdf5.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == hashlib.sha256(first).hexdigest()


def test_open_plain__image_on_disk__is_mapped_with_equal_content(tmp_path):
    arrays, image = make_image()
    path = tmp_path / "x.h5"
    path.write_bytes(image)
    plain = hdf5.open_plain(path)
    assert plain.attributes == {"format_version": 1, "backbone": "raw"}
    assert set(plain.arrays) == {"sha256", "embeddings"}
    for name, array in arrays.items():
        mapped = plain.arrays[name]
        assert isinstance(mapped, np.memmap)
        assert not mapped.flags.writeable
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
        assert image[mapped.offset : mapped.offset + mapped.nbytes] == array.tobytes()


def test_open_plain__file_of_another_byte_order__keeps_its_values(tmp_path):
    values = np.arange(6, dtype=">f4").reshape(3, 2)
    path = tmp_path / "x.h5"
    path.write_bytes(hdf5.image({"embeddings": values}, {}))
    np.testing.assert_array_equal(hdf5.open_plain(path).arrays["embeddings"], values)


def soft_link(file):
    file["real"] = np.ones(3)
    file["x"] = h5py.SoftLink("/real")


def external_link(file):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target["secret"] = np.ones(3)
    file["x"] = h5py.ExternalLink(str(other), "/secret")


def external_storage(file):
    secret = Path(file.filename).with_name("secret.bin")
    secret.write_bytes(bytes(24))
    file.create_dataset("x", (3,), "f8", external=[(str(secret), 0, 24)])


def virtual(file):
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(Path(file.filename).with_name("gone.h5")), "y", (3,))
    file.create_virtual_dataset("x", layout)


def object_references(file):
    file["real"] = np.ones(3)
    file.create_dataset("x", data=[file["real"].ref], dtype=h5py.ref_dtype)


NOT_PLAIN = {
    "soft link": (soft_link, "x is a link"),
    "external link": (external_link, "x is a link"),
    "external storage": (external_storage, "x is not stored whole in this file"),
    "virtual dataset": (virtual, "x is not stored whole in this file"),
    "object references": (object_references, "x has type object"),
    "chunked": (
        lambda file: file.create_dataset("x", data=np.ones((4, 4)), chunks=(2, 2)),
        "x is not stored whole",
    ),
    "compressed": (
        lambda file: file.create_dataset("x", data=np.ones((4, 4)), compression="gzip"),
        "x is not stored whole",
    ),
    "group within groups": (
        lambda file: file.create_group("x/y/z"),
        "x/y/z is a group within 2 others",
    ),
    "link within a group": (
        lambda file: file.create_group("x").__setitem__("y", h5py.SoftLink("/sha256")),
        "x/y is a link to somewhere else",
    ),
    "group within itself": (
        lambda file: file.create_group("x").__setitem__("y", file["x"]),
        "is a group within 2 others",
    ),
    "chunked within a group": (
        lambda file: file.create_dataset("x/y", data=np.ones((4, 4)), chunks=(2, 2)),
        "x/y is not stored whole",
    ),
    "named type": (lambda file: file.__setitem__("x", np.dtype("f4")), "x is not a dataset"),
    "variable-length text": (
        lambda file: file.create_dataset("x", data=["a", "bc"], dtype=h5py.string_dtype()),
        "x has type object",
    ),
    "variable-length arrays": (
        lambda file: file.create_dataset("x", (2,), h5py.vlen_dtype(np.float32)),
        "x has type object",
    ),
    "integers": (lambda file: file.create_dataset("x", data=np.arange(3)), "x has type int64"),
    "compound": (
        lambda file: file.create_dataset("x", data=np.zeros(2, [("a", "f4"), ("b", "f4")])),
        "x has type",
    ),
    "scalar": (lambda file: file.create_dataset("x", data=1.5), r"shape \(\)"),
    "no rows": (lambda file: file.create_dataset("x", (0, 4), "f4"), r"shape \(0, 4\)"),
    "no space": (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "shape None"),
    "never written": (lambda file: file.create_dataset("x", (10**6, 10**6), "f4"), "x has type"),
    "array attribute": (
        lambda file: file.attrs.__setitem__("x", np.ones(3)),
        "attribute x is neither one text nor one number",
    ),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_open_plain__what_is_not_plain__is_refused_with_its_name(tmp_path, kind):
    make, message = NOT_PLAIN[kind]
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        make(file)
    with pytest.raises(IntegrityError, match=message) as refused:
        hdf5.open_plain(path)
    assert str(path) in str(refused.value)


def shape_bomb(path: Path, rows: int) -> None:
    """Write 7 x 13 values whose header then claims `rows` x 13."""
    content = hdf5.image({"x": np.ones((7, 13), np.float32)}, {})
    said, claimed = struct.pack("<QQ", 7, 13), struct.pack("<QQ", rows, 13)
    assert content.count(said) >= 1
    content = content.replace(said, claimed)
    size, bigger = struct.pack("<Q", 7 * 13 * 4), struct.pack("<Q", (rows * 13 * 4) % 2**64)
    path.write_bytes(content.replace(size, bigger))


@pytest.mark.parametrize("rows", [10**3, 10**9, 10**15, 2**62])
def test_open_plain__shape_that_reaches_beyond_the_file__is_refused(tmp_path, rows):
    path = tmp_path / "bomb.h5"
    shape_bomb(path, rows)
    with pytest.raises(IntegrityError, match=r"beyond the end of the file|not a whole HDF5 file"):
        hdf5.open_plain(path)


def test_refuse_beyond__place_past_the_end_of_the_file__is_refused(tmp_path):
    """What HDF5 2 refuses by itself and older ones map."""
    half = np.dtype("f2")
    fits = {"x": hdf5.Place(2048, (100, 10), half)}
    hdf5._refuse_beyond(tmp_path, fits, 2048 + 2000)
    for rows in (101, 2**60):
        beyond = {"x": hdf5.Place(2048, (rows, 10), half)}
        with pytest.raises(IntegrityError, match="x reaches beyond the end of the file"):
            hdf5._refuse_beyond(tmp_path, beyond, 2048 + 2000)


def test_shape_bomb__with_the_true_shape__opens(tmp_path):
    path = tmp_path / "tame.h5"
    shape_bomb(path, 7)
    assert hdf5.open_plain(path).arrays["x"].shape == (7, 13)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_open_plain__truncated_file__is_refused(tmp_path, kept):
    image = hdf5.image({"x": np.ones((500, 16))}, {})
    path = tmp_path / "cut.h5"
    path.write_bytes(image[: int(len(image) * kept)])
    with pytest.raises(IntegrityError, match=r"cut\.h5"):
        hdf5.open_plain(path)


def test_open_plain__other_bytes__are_refused_in_one_line(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 3)
    with pytest.raises(IntegrityError, match="is not a whole HDF5 file") as refused:
        hdf5.open_plain(path)
    assert "\n" not in str(refused.value)


def test_open_plain__missing_file__is_an_integrity_error(tmp_path):
    with pytest.raises(IntegrityError, match=r"gone\.h5 is missing"):
        hdf5.open_plain(tmp_path / "gone.h5")


def test_open_plain__file_that_cannot_be_opened_now__is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    path.write_bytes(make_image()[1])

    def out_of_files(*_):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(Path, "open", out_of_files)
    with pytest.raises(ResourceError, match=r"x\.h5 cannot be read: Too many open files"):
        hdf5.open_plain(path)


def write_in_blocks(path: Path, values: np.ndarray, rows: int) -> dict[str, str]:
    seen: dict[str, str] = {}

    def attributes(digests):
        seen.update(digests)
        return {"digest": digests["embeddings"]}

    hdf5.write_blocks(
        path, [column("embeddings", values, rows), column("sha256", NAMES, rows)], attributes
    )
    return seen


def column(name: str, values: np.ndarray, rows: int) -> Column:
    blocks = (values[start : start + rows] for start in range(0, len(values), rows))
    return Column(name, values.shape, values.dtype.str, blocks)


NAMES = np.array([hashlib.sha256(str(row).encode()).hexdigest() for row in range(101)], "S64")


def test_write_blocks__cut_otherwise__gives_the_same_bytes_and_true_digests(tmp_path):
    values = np.random.default_rng(0).standard_normal((101, 8)).astype(np.float16)
    digests = [write_in_blocks(tmp_path / f"{rows}.h5", values, rows) for rows in (1, 7, 101)]
    assert len({(tmp_path / f"{rows}.h5").read_bytes() for rows in (1, 7, 101)}) == 1
    assert digests[0] == digests[1] == digests[2]
    assert digests[0]["embeddings"] == hashlib.sha256(values.tobytes()).hexdigest()
    assert digests[0]["sha256"] == hashlib.sha256(NAMES.tobytes()).hexdigest()
    plain = hdf5.open_plain(tmp_path / "7.h5")
    np.testing.assert_array_equal(plain.arrays["embeddings"], values)
    assert plain.attributes == {"digest": digests[0]["embeddings"]}
    assert {name: hdf5.digest(array) for name, array in plain.arrays.items()} == digests[0]


def test_write_blocks__file__is_what_h5py_makes_of_whole_arrays(tmp_path):
    values = np.random.default_rng(0).standard_normal((101, 8)).astype(np.float16)
    digests = write_in_blocks(tmp_path / "blocks.h5", values, 7)
    once = io.BytesIO()
    with h5py.File(once, "w") as file:
        target = file.create_dataset("embeddings", values.shape, "f2", fillvalue=np.nan)
        target[:] = values
        file.create_dataset("sha256", data=NAMES)
        file.attrs["digest"] = digests["embeddings"]
    assert (tmp_path / "blocks.h5").read_bytes() == once.getvalue()


@contextmanager
def file_size_limit(size: int):
    """Writes beyond `size` fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_write_blocks__full_disk__is_told_by_the_block_that_met_it(tmp_path):
    taken = []

    def blocks():
        for number in range(50):
            taken.append(number)
            yield np.ones((10, 1000), np.float32)

    with file_size_limit(100_000), pytest.raises(OSError, match="too large") as failed:
        written = Column("embeddings", (500, 1000), "float32", blocks())
        hdf5.write_blocks(tmp_path / "x.h5", [written], lambda _: {})
    assert failed.value.errno == errno.EFBIG
    assert failed.value.filename == str(tmp_path / "x.h5")
    assert len(taken) < 10


def test_seal__every_flipped_bit_and_every_cut__is_found(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(make_image()[1])
    assert not hdf5.is_sealed(path)
    hdf5.seal(path)
    assert hdf5.is_sealed(path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.choice(8 * len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        assert not hdf5.is_sealed(path)
    for size in (0, 1, 70, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert not hdf5.is_sealed(path)
    assert not hdf5.is_sealed(tmp_path / "gone.h5")


def test_seal__sealed_file__still_opens_as_hdf5_with_the_same_content(tmp_path):
    arrays, image = make_image()
    path = tmp_path / "x.h5"
    path.write_bytes(image)
    hdf5.seal(path)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["embeddings"][:], arrays["embeddings"])
    np.testing.assert_array_equal(hdf5.open_plain(path).arrays["sha256"], arrays["sha256"])
