"""Embeddings files from elsewhere: one line, exit 4, nothing else read, nothing run, no memory taken.

Each is also sealed as a good file is: a seal tells that nothing changed, not who made it.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import attributes, embeddings, hdf5, plainness
from pipeline.errors import IntegrityError
from tests.conftest import ROOT
from tests.test_embeddings import BACKBONE, DIM, dataset
from tests.test_hdf5 import shape_bomb
from tests.test_neighbors import make_extracted

COUNT = 40
MEMORY = 3 << 30
"""Of addresses, for a command: what its libraries map takes most of it."""

SECONDS = 60


def fill(file: h5py.File, *, but: str = "") -> None:
    """What a good file holds, but for one dataset."""
    sha256, vectors = dataset(COUNT)
    arrays = {"embeddings": vectors, "sha256": sha256}
    for name, array in arrays.items():
        if name != but:
            file.create_dataset(name, data=array, track_times=False)
    digests = {name: hdf5.digest(array) for name, array in arrays.items()}
    for key, value in attributes.of(BACKBONE, digests).items():
        file.attrs[key] = value


def bait(folder: Path) -> Path:
    """A pipe that nobody writes to: who opens it to read waits for ever."""
    path = folder / "bait"
    if not path.exists():
        os.mkfifo(path)
    return path


def external_link(file, folder):
    fill(file, but="embeddings")
    file["embeddings"] = h5py.ExternalLink(str(bait(folder)), "/embeddings")


def soft_link(file, _):
    fill(file, but="embeddings")
    file["embeddings"] = h5py.SoftLink("/sha256")


def external_storage(file, folder):
    fill(file, but="embeddings")
    stored = [(str(bait(folder)), 0, COUNT * DIM * 2)]
    file.create_dataset("embeddings", (COUNT, DIM), "f2", external=stored)


def virtual(file, folder):
    fill(file, but="embeddings")
    layout = h5py.VirtualLayout((COUNT, DIM), "f2")
    layout[:] = h5py.VirtualSource(str(bait(folder)), "embeddings", (COUNT, DIM))
    file.create_virtual_dataset("embeddings", layout)


def virtual_without_end(file, folder):
    """HDF5 looks into the sources to tell the shape of such a one."""
    fill(file, but="embeddings")
    layout = h5py.VirtualLayout((COUNT, DIM), "f2", maxshape=(None, DIM))
    source = h5py.VirtualSource(str(bait(folder)), "x", (COUNT, DIM), "f2", maxshape=(None, DIM))
    whole = h5py.h5s.UNLIMITED
    layout[:whole] = source[:whole]
    file.create_virtual_dataset("embeddings", layout)


def no_storage(file, _):
    fill(file, but="embeddings")
    file.create_dataset("embeddings", (10**9, 10**6), "f2")


def chunks_without_end(file, _):
    fill(file, but="embeddings")
    file.create_dataset("embeddings", (10**9, 10**6), "f2", chunks=(1024, 1024), fillvalue=1.0)


def squeezed(file, _):
    """A deflated gigabyte."""
    fill(file, but="embeddings")
    made = file.create_dataset(
        "embeddings", (2**14, 2**15), "f2", chunks=(2**10, 2**15), compression="gzip"
    )
    made[: 2**10] = 0


def foreign_filter(file, folder):
    """A filter that HDF5 would look for among plugins; where it does, a pipe awaits it."""
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "libh5bait.so").exists():
        os.mkfifo(plugins / "libh5bait.so")
    fill(file, but="embeddings")
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((COUNT, DIM))
    made.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, (3,))
    space = h5py.h5s.create_simple((COUNT, DIM))
    h5py.h5d.create(file.id, b"embeddings", h5py.h5t.NATIVE_FLOAT, space, made)


def compound(file, _):
    fill(file, but="embeddings")
    file["embeddings"] = np.zeros((COUNT, DIM), [("a", "f2"), ("b", "f2")])


def objects(file, _):
    fill(file, but="embeddings")
    file.create_dataset("embeddings", (COUNT, DIM), h5py.vlen_dtype(np.float16))


def references(file, _):
    fill(file, but="embeddings")
    file.create_dataset("embeddings", (COUNT, DIM), h5py.ref_dtype)


def texts(file, _):
    fill(file, but="embeddings")
    file["embeddings"] = np.full((COUNT, DIM), b"x", "S2")


def deep(file, _):
    fill(file)
    group = file
    for _level in range(5000):
        group = group.create_group("g")


def wide(file, _):
    """Few groups, each of which lists the same ones many times over."""
    fill(file)
    leaf = file.create_group("leaf")
    for outer in range(300):
        group = file.create_group(f"o{outer}")
        for inner in range(300):
            group[str(inner)] = leaf


def round_about(file, _):
    fill(file)
    for number in range(900):
        file[f"r{number}"] = file["/"]


def large_attribute(file, _):
    fill(file)
    file.attrs["backbone"] = "x" * (40 << 20)


def large_heap(file, _):
    """Text of no length in the header, far away in the file."""
    fill(file)
    file.attrs.create("note", "y" * (40 << 20), dtype=h5py.string_dtype())


def many_attributes(file, _):
    fill(file)
    for number in range(2000):
        file.attrs[f"a{number:05d}"] = number


def reference_attribute(file, _):
    fill(file)
    file.attrs["backbone"] = file["sha256"].ref


def odd_name(file, _):
    fill(file)
    file["\x1b[2Jgone"] = np.ones(3, "f4")


def not_text(file, _):
    fill(file)
    file.create_dataset(b"\xff\xfe", data=np.ones(3, "f4"))


def saying(key: str, value):
    """A file that says something else of itself."""

    def make(file, _):
        fill(file)
        file.attrs[key] = value

    return make


FOREIGN = {
    "external link": (external_link, "embeddings is a link"),
    "soft link": (soft_link, "embeddings is a link"),
    "external storage": (external_storage, "embeddings is not stored whole in this file"),
    "virtual dataset": (virtual, "embeddings is not stored whole in this file"),
    "virtual dataset without end": (virtual_without_end, "is not stored whole in this file"),
    "shape without storage": (no_storage, "embeddings has type float16, shape"),
    "chunks without end": (chunks_without_end, "embeddings is not stored whole"),
    "squeezed": (squeezed, "embeddings is not stored whole"),
    "filter of a plugin": (foreign_filter, "embeddings is not stored whole"),
    "compound": (compound, "embeddings has type"),
    "variable length": (objects, "embeddings has type object"),
    "references": (references, "embeddings has type object"),
    "texts for vectors": (texts, "embeddings of shape|dataset embeddings is damaged"),
    "groups 5000 deep": (deep, "is a group within 2 others"),
    "groups over and over": (wide, "more than 1000 datasets and groups"),
    "groups within themselves": (round_about, "more than 1000 datasets and groups"),
    "large attribute": (large_attribute, "MiB beside its datasets"),
    "large text far away": (large_heap, "MiB beside its datasets"),
    "thousands of attributes": (many_attributes, "more than 64 attributes"),
    "reference for a text": (reference_attribute, "attribute backbone is neither"),
    "terminal codes in a name": (odd_name, r"is no plain name"),
    "name that is no text": (not_text, "is not a whole HDF5 file"),
    "backbone that is a path": (saying("backbone", "../../../etc"), "backbone is no plain name"),
    "backbone with terminal codes": (
        saying("backbone", "\x1b[2J"),
        "attribute backbone is neither",
    ),
    "deep JSON": (saying("outputs", "[" * 20_000), "is no embeddings file"),
    "number without end": (
        saying(
            "outputs",
            '[{"dataset": "embeddings", "layer": "a", "fingerprint": "b", "view": Infinity, "dim": 2}]',
        ),
        "is no embeddings file",
    ),
    "half a surrogate": (
        saying("field_sha256", '{"a": "\\\\ud800"}'.replace("\\\\", "\\")),
        "is no embeddings file",
    ),
    "digest that is a path": (
        saying("sha256", json.dumps({"embeddings": "../" * 9, "sha256": "x"})),
        "no digest of its datasets",
    ),
    "fields of another kind": (saying("fingerprint_fields", "[[1, 2]]"), "is no embeddings file"),
    "list for digests": (saying("sha256", "[1]"), "is no embeddings file"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a file of embeddings, frozen and prepared; nothing is trained."""
    return make_extracted(tmp_path_factory.mktemp("foreign") / "project")


@pytest.fixture(scope="module")
def files_made(tmp_path_factory):
    """By kind, whether sealed: the file, each in a folder with its bait; made once."""
    base, made = tmp_path_factory.mktemp("made"), {}

    def get(kind: str, *, sealed: bool) -> Path:
        if (kind, sealed) not in made:
            folder = base / f"{len(made)}"
            folder.mkdir()
            path = folder / "raw.h5"
            with h5py.File(path, "w") as file:
                FOREIGN[kind][0](file, folder)
            if sealed:
                hdf5.seal(path)
            made[kind, sealed] = path
        return made[kind, sealed]

    return get


LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
from pipeline.cli import main
main()
"""


def command(*words: str, cwd: Path, plugins: Path) -> subprocess.CompletedProcess:
    """A command that may take MEMORY and SECONDS."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *words],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HDF5_PLUGIN_PATH": str(plugins),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_open__foreign_file__is_refused_in_a_line(files_made, kind, sealed):
    path = files_made(kind, sealed=sealed)
    with pytest.raises(IntegrityError, match=FOREIGN[kind][1]) as refused:
        embeddings.open(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("kind", FOREIGN)
def test_info__foreign_file__is_refused_unless_its_vectors_alone_are_wrong(files_made, kind):
    path = files_made(kind, sealed=True)
    if kind == "texts for vectors":
        assert embeddings.info(path)["datasets"]["embeddings"]["dtype"] == "|S2"
        return
    with pytest.raises(IntegrityError, match=FOREIGN[kind][1]):
        embeddings.info(path)


DOORS = {
    "info": ("embeddings", "info", "{}"),
    "verify": ("embeddings", "verify", "{}"),
    "export": ("embeddings", "export", "{}", "--to", "npy", "--output", "{}.npy"),
    "neighbors": ("neighbors", "photos/cat/000.png"),
}
BAITED = (
    "external link",
    "external storage",
    "virtual dataset",
    "virtual dataset without end",
    "filter of a plugin",
)
HEAVY = (
    "shape without storage",
    "squeezed",
    "groups 5000 deep",
    "groups over and over",
    "large attribute",
    "deep JSON",
)


def through(door: str, path: Path, project) -> subprocess.CompletedProcess:
    """A door's command on the file; for `neighbors` it lies where the project's own does."""
    folder, kept = project.folder, project.folder / "artifacts/embeddings/raw.h5"
    words = [word.format(path) for word in DOORS[door]]
    if door != "neighbors":
        return command(*words, cwd=folder, plugins=path.parent / "plugins")
    own = kept.read_bytes()
    kept.unlink()
    shutil.copy(path, kept)
    try:
        return command(*words, cwd=folder, plugins=path.parent / "plugins")
    finally:
        kept.unlink()
        kept.write_bytes(own)


def assert_refused(done, kind: str) -> None:
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("headstart: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ["external storage", "groups 5000 deep"])
def test_doors__foreign_file__is_refused_with_exit_4(files_made, project, kind, door):
    assert_refused(through(door, files_made(kind, sealed=True), project), kind)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", [*BAITED, *HEAVY])
def test_doors__every_foreign_file__is_refused_in_little_time_and_memory(
    files_made, project, kind, door, sealed
):
    path = files_made(kind, sealed=sealed)
    assert_refused(through(door, path, project), kind)
    assert not path.with_name("raw.h5.npy").exists()


def test_doors__good_file__passes_all_of_them(project):
    kept = project.folder / "artifacts/embeddings/raw.h5"
    for door, words in DOORS.items():
        said = [word.format(kept).replace(f"{kept}.npy", "out.npy") for word in words]
        done = command(*said, cwd=project.folder, plugins=project.folder)
        assert done.returncode == 0, (door, done.stderr)


def test_bait__is_taken_by_who_follows_it(files_made):
    """Or the tests above would show nothing."""
    path = files_made("external storage", sealed=False)
    program = "import h5py, sys; print(h5py.File(sys.argv[1])['embeddings'][:])"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([sys.executable, "-c", program, str(path)], timeout=3, check=False)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_open__what_is_no_plain_file__is_refused_and_not_waited_for(tmp_path, make):
    path = tmp_path / "raw.h5"
    make(path)
    with pytest.raises(IntegrityError, match="is not a plain file"):
        embeddings.open(path)
    with pytest.raises(IntegrityError, match="is not a plain file"):
        embeddings.info(path)


@pytest.mark.parametrize("rows", [10**9, 2**61])
def test_open__shape_bomb_that_is_sealed__is_refused(tmp_path, rows):
    path = tmp_path / "bomb.h5"
    shape_bomb(path, rows)
    hdf5.seal(path)
    with pytest.raises(IntegrityError, match=r"beyond the end of the file|not a whole HDF5 file"):
        embeddings.open(path)


def test_metered__good_file__takes_a_thousandth_of_what_is_allowed(tmp_path, monkeypatch):
    path = tmp_path / "raw.h5"
    with h5py.File(path, "w") as file:
        fill(file)
        for view in range(30):
            for layer in range(30):
                file[f"views/{view}/layer{layer}"] = np.ones((2, 2), "f4")
    monkeypatch.setattr(plainness, "METADATA_BYTES", plainness.METADATA_BYTES // 32)
    assert len(hdf5.open_plain(path).arrays) == 902


def test_limit__of_memory__would_be_met_by_what_is_refused():
    """The children of these tests cannot hold what the files claim."""
    assert resource.getrlimit(resource.RLIMIT_AS)[0] in (resource.RLIM_INFINITY, MEMORY)
    program = LIMITED.replace("main()", "bytearray(3 << 30)").replace(
        "from pipeline.cli import main", ""
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "MemoryError" in done.stderr
