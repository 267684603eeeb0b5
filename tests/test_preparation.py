import errno
import hashlib
import json
import os
import tempfile
import threading
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import Split, read_images, read_labels, read_problems
from pipeline.errors import InputError, exit_status
from pipeline.formats import Listing, list_data
from pipeline.params import SplitParams
from pipeline.preparation import Prepared, describe, prepare, write

DEFAULT = SplitParams()
FILES = ("images.parquet", "labels.parquet", "problems.csv", "summary.json")


def photo(number: object) -> bytes:
    """Bytes that begin as a PNG: all that prepare looks at."""
    return b"\x89PNG\r\n\x1a\n" + str(number).encode()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def class_folders(each: int = 10, classes: str = "abc", above: str = "") -> dict[str, bytes]:
    return {
        f"{above}{label}/{number}.png": photo(f"{above}{label}{number}")
        for label in classes
        for number in range(each)
    }


def prepared(root: Path, split: SplitParams = DEFAULT) -> Prepared:
    return prepare(list_data(root), split)


def rows(result: Prepared) -> list[tuple[str, str, str]]:
    labels = result.labels
    return list(zip(labels.path, labels.label, labels.split, strict=True))


def split_of_digest(result: Prepared) -> dict[bytes, str]:
    return dict(zip(result.labels.sha256.tolist(), map(str, result.labels.split), strict=True))


def reasons(result: Prepared) -> list[tuple[str, str]]:
    return [(problem.path, problem.reason) for problem in result.problems]


def manifest(root: Path, table: list[dict[str, str]], columns: list[str]) -> Path:
    lines = [",".join(columns)] + [",".join(row.get(c, "") for c in columns) for row in table]
    path = root / "m.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


# which images


def test_prepare__plain_folders__lists_every_image_and_its_label(tmp_path):
    files = class_folders()
    result = prepared(put(tmp_path, files))
    assert result.problems == ()
    assert dict(zip(result.labels.path, result.labels.label, strict=True)) == {
        name: name[0] for name in files
    }
    assert result.labels.path.tolist() == sorted(files)
    assert dict(zip(result.images.path, result.images.sha256.astype(str), strict=True)) == {
        name: digest(content) for name, content in files.items()
    }
    assert dict(zip(result.images.path, result.images.bytes, strict=True)) == {
        name: len(content) for name, content in files.items()
    }
    assert result.images.sha256.tolist() == sorted(result.images.sha256.tolist())


def test_prepare__large_file__is_hashed_to_its_end(tmp_path):
    large = photo("x") + bytes(3_000_000) + b"end"
    result = prepared(put(tmp_path, {**class_folders(), "a/large.png": large}))
    place = result.images.path.index("a/large.png")
    assert result.images.sha256[place].decode() == digest(large)
    assert result.images.bytes[place] == len(large)


def test_prepare__same_bytes_twice_in_a_class__are_one_image_and_two_rows(tmp_path):
    files = {**class_folders(), "a/z copy.png": photo("a0")}
    result = prepared(put(tmp_path, files))
    assert result.problems == ()
    assert len(result.labels.path) == 31
    assert len(result.images.path) == 30
    assert "a/0.png" in result.images.path
    assert "a/z copy.png" not in result.images.path


def test_prepare__files_that_are_no_images__are_listed_with_their_reason(tmp_path):
    files = {
        **class_folders(),
        "a/empty.png": b"",
        "a/gif.png": b"GIF89a",
        "b/page.jpg": b"<html>",
        "c/pointer.png": b"version https://git-lfs.github.com/spec/v1\n",
        "stray.png": photo("stray"),
    }
    result = prepared(put(tmp_path, files))
    assert reasons(result) == [
        ("a/empty.png", "empty"),
        ("a/gif.png", "unsupported_format"),
        ("b/page.jpg", "unsupported_format"),
        ("c/pointer.png", "unsupported_format"),
        ("stray.png", "no_label"),
    ]
    assert len(result.labels.path) == 30


def test_prepare__dangling_link_loop_and_pipe__are_unreadable_and_nothing_waits(tmp_path):
    root = put(tmp_path, class_folders())
    (root / "a" / "dangling.png").symlink_to("gone")
    (root / "a" / "loop.png").symlink_to("loop.png")
    pipe = root / "b" / "pipe.png"
    os.mkfifo(pipe)
    rescue = threading.Timer(5, lambda: os.close(os.open(pipe, os.O_RDWR)))
    rescue.start()
    try:
        result = prepared(root)
    finally:
        rescue.cancel()
    assert reasons(result) == [
        ("a/dangling.png", "unreadable"),
        ("a/loop.png", "unreadable"),
        ("b/pipe.png", "unreadable"),
    ]
    details = [problem.detail for problem in result.problems]
    assert details[0] == "a link to a file that is not there"
    assert details[2] == "not a plain file"


def test_prepare__manifest_rows_without_a_usable_file__are_unreadable(tmp_path):
    root = put(tmp_path, class_folders())
    table = [{"path": name, "label": name[0]} for name in class_folders()]
    table += [{"path": path, "label": "a"} for path in ("gone.png", "a", ".", "a/nul\0.png")]
    result = prepared(manifest(root, table, ["path", "label"]))
    assert sorted(reasons(result)) == [
        (".", "unreadable"),
        ("a", "unreadable"),
        ("a/nul\0.png", "unreadable"),
        ("gone.png", "unreadable"),
    ]
    write(result, tmp_path / "out")
    assert read_problems(tmp_path / "out" / "problems.csv") == list(result.problems)


def test_prepare__file_that_may_not_be_read__is_unreadable(tmp_path, monkeypatch):
    root = put(tmp_path, class_folders())
    opened = os.open

    def refuse(path, *arguments, **options):
        if str(path).endswith("a/0.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    result = prepared(root)
    assert [(p.path, p.reason, p.detail) for p in result.problems] == [
        ("a/0.png", "unreadable", "Permission denied")
    ]


def test_prepare__machine_out_of_files__stops_and_blames_no_image(tmp_path, monkeypatch, capsys):
    root = put(tmp_path, class_folders())
    opened = os.open

    def short(path, *arguments, **options):
        if str(path).endswith("a/0.png"):
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", short)
    assert exit_status(lambda: prepared(root) and 0) == 5
    assert "Too many open files; type 'ulimit -n 4096'" in capsys.readouterr().err


def test_prepare__sha256_of_the_manifest__is_believed(tmp_path):
    root = put(tmp_path, dict.fromkeys(class_folders(), b"not opened"))
    given = {name: digest(name.encode()) for name in class_folders()}
    table = [{"path": n, "label": n[0], "sha256": sha} for n, sha in given.items()]
    result = prepared(manifest(root, table, ["path", "label", "sha256"]))
    assert result.problems == ()
    listed = zip(result.labels.path, result.labels.sha256.astype(str), strict=True)
    assert dict(listed) == given
    assert set(result.images.bytes) == {len(b"not opened")}


def test_prepare__believed_sha256_without_its_file__is_unreadable(tmp_path):
    root = put(tmp_path, class_folders())
    table = [{"path": name, "label": name[0]} for name in class_folders()]
    table.append({"path": "gone.png", "label": "a", "sha256": digest(b"gone")})
    result = prepared(manifest(root, table, ["path", "label", "sha256"]))
    assert [(p.path, p.sha256) for p in result.problems] == [("gone.png", digest(b"gone"))]


# equal bytes


def test_prepare__same_bytes_under_two_labels__are_listed_and_lose_their_label(tmp_path):
    files = {**class_folders(), "a/both.png": photo("both"), "b/both.png": photo("both")}
    result = prepared(put(tmp_path, files))
    assert reasons(result) == [
        ("a/both.png", "conflicting_labels"),
        ("b/both.png", "conflicting_labels"),
    ]
    assert {problem.sha256 for problem in result.problems} == {digest(photo("both"))}
    assert result.problems[0].detail == "the same bytes are 'a' and 'b'"
    assert digest(photo("both")).encode() not in result.labels.sha256
    assert digest(photo("both")).encode() in result.images.sha256


def test_prepare__path_under_two_labels__is_a_conflict_row_by_row(tmp_path):
    root = put(tmp_path, class_folders())
    table = [{"path": name, "label": name[0]} for name in class_folders()]
    table.append({"path": "a/0.png", "label": "b"})
    result = prepared(manifest(root, table, ["path", "label"]))
    assert reasons(result) == [("a/0.png", "conflicting_labels")] * 2
    assert "a/0.png" not in result.labels.path


@pytest.mark.parametrize(
    ("where", "kept"),
    [(["train", "test"], "test"), (["train", "val"], "val"), (["train", "val", "test"], "test")],
)
def test_prepare__same_bytes_in_several_given_splits__keep_the_most_protected_copy(
    tmp_path, where, kept
):
    files = {}
    for split in Split:
        files |= class_folders(4, "ab", f"{split}/")
    files |= {f"{split}/a/copy.png": photo("copy") for split in where}
    result = prepared(put(tmp_path, files))
    assert [row for row in rows(result) if "copy" in row[0]] == [(f"{kept}/a/copy.png", "a", kept)]
    lost = sorted(set(where) - {kept})
    assert [(p.path, p.reason, p.detail) for p in result.problems] == [
        (
            f"{split}/a/copy.png",
            "duplicate_across_splits",
            f"left out of {split}: the same bytes are in {kept}",
        )
        for split in lost
    ]


def test_prepare__train_image_that_is_in_the_val_that_serves_as_test__is_left_out(tmp_path):
    files = class_folders(9, "ab", "train/") | class_folders(3, "ab", "val/")
    files["train/a/copy.png"] = photo("val/a0")
    result = prepared(put(tmp_path, files))
    assert reasons(result) == [("train/a/copy.png", "duplicate_across_splits")]
    assert ("val/a/0.png", "a", "test") in rows(result)


def test_prepare__path_in_two_rows_that_differ_in_group__has_one_row(tmp_path):
    root = put(tmp_path, class_folders())
    table = [{"path": n, "label": n[0], "g": n} for n in class_folders()]
    table.append({"path": "a/0.png", "label": "a", "g": "a/1.png"})
    path = manifest(root, table, ["path", "label", "g"])
    result = prepare(list_data(path, group="g"), DEFAULT)
    assert reasons(result) == [("a/0.png", "repeated_path")]
    assert result.labels.path.tolist() == sorted(class_folders())
    split = dict(zip(result.labels.path, result.labels.split, strict=True))
    assert split["a/0.png"] == split["a/1.png"]


# splits


def test_prepare__given_splits__are_kept(tmp_path):
    files = {}
    for split in Split:
        files |= class_folders(3, "ab", f"{split}/")
    result = prepared(put(tmp_path, files))
    assert all(str(split) == path.split("/")[0] for path, _, split in rows(result))
    assert result.summary["notes"] == []


def test_prepare__train_and_val_alone__val_is_the_test_and_a_new_val_is_cut(tmp_path):
    files = class_folders(20, "ab", "train/") | class_folders(5, "ab", "val/")
    result = prepared(put(tmp_path, files))
    counts = Counter((path.split("/")[0], str(split)) for path, _, split in rows(result))
    assert counts == {("val", "test"): 10, ("train", "val"): 8, ("train", "train"): 32}
    assert "val is the test" in result.summary["notes"][0]


def test_prepare__train_and_test_alone__val_is_cut_from_train(tmp_path):
    files = class_folders(20, "ab", "train/") | class_folders(5, "ab", "test/")
    result = prepared(put(tmp_path, files))
    counts = Counter((path.split("/")[0], str(split)) for path, _, split in rows(result))
    assert counts == {("test", "test"): 10, ("train", "val"): 8, ("train", "train"): 32}


@pytest.mark.parametrize("above", ["", "train/"])
def test_prepare__no_test_given__is_cut_by_class_in_the_asked_shares(tmp_path, above):
    root = put(tmp_path, class_folders(40, "ab", above) | class_folders(20, "c", above))
    result = prepared(root, SplitParams(val=0.1, test=0.3))
    counts = Counter((label, str(split)) for _, label, split in rows(result))
    for label, size in (("a", 40), ("b", 40), ("c", 20)):
        assert counts[label, "val"] == 0.1 * size
        assert counts[label, "test"] == 0.3 * size
    assert "test and val cut from 100 images, stratified, seed 0" in result.summary["notes"]


def test_prepare__other_seed__moves_images_and_the_same_does_not(tmp_path):
    root = put(tmp_path, class_folders(40))
    assert rows(prepared(root)) == rows(prepared(root))
    other = rows(prepared(root, SplitParams(seed=1)))
    moved = sum(a != b for a, b in zip(rows(prepared(root)), other, strict=True))
    assert 20 < moved < 100


def test_prepare__copies_and_groups__stay_in_one_split(tmp_path):
    names = [f"{number}.png" for number in range(60)]
    put(tmp_path, {name: photo(int(name[:-4]) // 2) for name in names})
    table = [
        {
            "path": name,
            "label": "ab"[number // 2 % 2],
            "patient": f"p{number // 8}" if number < 48 else "",
        }
        for number, name in enumerate(names)
    ]
    path = manifest(tmp_path, table, ["path", "label", "patient"])
    result = prepare(list_data(path, group="patient"), SplitParams(val=0.25, test=0.25))
    by_group, by_digest = defaultdict(set), defaultdict(set)
    for group, sha256, split in zip(
        result.labels.group, result.labels.sha256, result.labels.split, strict=True
    ):
        by_digest[sha256].add(split)
        if group:
            by_group[group].add(split)
    assert len(by_group) == 6
    assert {len(splits) for splits in [*by_group.values(), *by_digest.values()]} == {1}
    assert set(result.labels.split) == set(Split)


def test_prepare__groups_joined_by_equal_bytes__stay_together(tmp_path):
    names = {f"{number}.png": photo(number) for number in range(40)}
    names["bridge.png"] = names["0.png"]
    put(tmp_path, names)
    table = [
        {"path": f"{number}.png", "label": "ab"[number % 2], "g": f"g{number // 2}"}
        for number in range(40)
    ]
    table.append({"path": "bridge.png", "label": "a", "g": "g7"})
    path = manifest(tmp_path, table, ["path", "label", "g"])
    for seed in range(8):
        result = prepare(list_data(path, group="g"), SplitParams(seed=seed))
        joined = [group in ("g0", "g7") for group in result.labels.group]
        assert len(set(result.labels.split[joined])) == 1


def rename(root: Path, old: str, new: str) -> None:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)


@pytest.mark.parametrize("above", ["", "train/"])
def test_prepare__class_folder_or_files_renamed__moves_no_image(tmp_path, above):
    root = put(
        tmp_path, class_folders(15, "abc", above) | class_folders(4, "abc", above and "val/")
    )
    before = split_of_digest(prepared(root))
    for top in {above, above and "val/"}:
        rename(root, f"{top}a", f"{top}zebra")
    for number in range(15):
        rename(root, f"{above}b/{number}.png", f"{above}b/deep/new {15 - number}.png")
    after = prepared(root)
    assert split_of_digest(after) == before
    assert set(after.labels.label) == {"zebra", "b", "c"}


def test_prepare__image_added__moves_few_others(tmp_path):
    root = put(tmp_path, class_folders(50))
    before = split_of_digest(prepared(root))
    for number in range(5):
        put(root, {f"a/new{number}.png": photo(f"new{number}")})
        after = split_of_digest(prepared(root))
        assert sum(after[sha256] != split for sha256, split in before.items()) <= 3
        before = after


# what stops


def test_prepare__class_absent_from_train__is_an_input_error(tmp_path):
    files = class_folders(3, "ab", "train/") | class_folders(3, "abz", "test/")
    with pytest.raises(InputError, match="no training image of class 'z'; add some to train"):
        prepared(put(tmp_path, files))


def test_prepare__class_that_loses_every_image__is_an_input_error_and_says_why(tmp_path):
    files = class_folders(4, "abc") | {f"c/{number}.png": b"" for number in range(4)}
    with pytest.raises(InputError, match=r"class 'c' \(left out: empty 4\)"):
        prepared(put(tmp_path, files))


def test_prepare__training_copies_all_in_test__is_an_input_error_and_says_why(tmp_path):
    files = class_folders(3, "ab", "train/") | class_folders(3, "ab", "test/")
    files |= {
        f"{split}/c/{number}.png": photo(number) for split in ("train", "test") for number in (1, 2)
    }
    with pytest.raises(InputError, match=r"class 'c' \(left out: duplicate_across_splits 2\)"):
        prepared(put(tmp_path, files))


def test_prepare__nothing_usable__says_why(tmp_path):
    with pytest.raises(InputError, match=r"no usable image.*\(left out: empty 2\)"):
        prepared(put(tmp_path, {"a/1.png": b"", "b/1.png": b""}))


def test_prepare__one_class_left__says_why(tmp_path):
    with pytest.raises(InputError, match=r"only the class 'a' is left \(left out: empty 1\)"):
        prepared(put(tmp_path, {"a/1.png": photo(1), "b/1.png": b""}))


def test_prepare__splits_given_without_train__is_an_input_error(tmp_path):
    root = put(tmp_path, class_folders(3, "ab"))
    table = [
        {"path": name, "label": name[0], "split": ["val", "test"][number % 2]}
        for number, name in enumerate(class_folders(3, "ab"))
    ]
    with pytest.raises(InputError, match="no image is in train, only in 'test' and 'val'"):
        prepared(manifest(root, table, ["path", "label", "split"]))


def test_prepare__two_images_a_class__are_all_trained_on_and_noted(tmp_path):
    result = prepared(put(tmp_path, class_folders(2, "ab")))
    assert {split for _, _, split in rows(result)} == {"train"}
    assert "val has no image of class 'a' and 'b'" in result.summary["notes"]
    assert "test has no image of class 'a' and 'b'" in result.summary["notes"]


# any mixture

CONTENT = st.one_of(st.integers(0, 12).map(photo), st.sampled_from([b"", b"GIF89a", b"text", None]))
MIXED = st.lists(
    st.tuples(
        st.integers(0, 15).map("x{}.png".format),
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["train", "val", "test"]),
        st.sampled_from(["", "g1", "g2"]),
        st.booleans(),
    ),
    max_size=25,
)


def mixed_listing(root: Path, mixed, contents, with_splits: bool, with_groups: bool) -> Listing:
    """A manifest of the mixture, on top of a few rows that every data set needs."""
    base = {f"{split}/{label}.png": (label, split) for split in Split for label in "ab"}
    put(root, {name: photo(name) for name in base})
    put(root, {f"x{n}.png": content for n, content in enumerate(contents) if content is not None})
    table = [{"path": n, "label": label, "split": s, "g": n} for n, (label, s) in base.items()]
    table += [
        {"path": f"../{name}" if outside else name, "label": label, "split": split, "g": group}
        for name, label, split, group, outside in mixed
    ]
    columns = ["path", "label", *["split"] * with_splits, "g"]
    return list_data(manifest(root, table, columns), group="g" if with_groups else None)


@settings(deadline=None, max_examples=80)
@given(MIXED, st.lists(CONTENT, min_size=16, max_size=16), st.booleans(), st.booleans())
def test_prepare__any_mixture__every_row_listed_is_a_label_or_a_problem(
    mixed, contents, with_splits, with_groups
):
    with tempfile.TemporaryDirectory() as folder:
        listing = mixed_listing(Path(folder), mixed, contents, with_splits, with_groups)
        result = prepare(listing, DEFAULT)
    labels = result.labels
    total = len(listing.entries) + len(listing.problems)
    assert len(labels.path) + len(result.problems) == total
    named = {e.path for e in listing.entries} | {p.path for p in listing.problems}
    assert set(labels.path) | {p.path for p in result.problems} == named
    assert len(set(labels.path)) == len(labels.path)
    assert labels.path.tolist() == sorted(labels.path)
    assert set(labels.sha256.tolist()) <= set(result.images.sha256.tolist())
    assert result.images.sha256.tolist() == sorted(set(result.images.sha256.tolist()))
    of_digest = defaultdict(set)
    for sha256, label, split in zip(labels.sha256, labels.label, labels.split, strict=True):
        of_digest[sha256].add((label, str(split)))
    assert all(len(one) == 1 for one in of_digest.values())
    assert set(labels.split) <= set(Split)


NAMES = ["cat", "cat ", " CAT", "caf\u00e9", "cafe\u0301", "1", "01", "dog", "  "]
KINDS = ["file", "file", "empty", "text", "hard", "link", "dangling", "circle", "folder", "pipe"]
PLACED = st.lists(
    st.tuples(
        st.sampled_from(["", "train/", "val/", "test/"]),
        st.sampled_from(NAMES),
        st.sampled_from(["x.png", "caf\u00e9.png", "cafe\u0301.png", "line\nend.png", ".hidden"]),
        st.sampled_from(KINDS),
        st.integers(0, 6),
    ),
    max_size=25,
)


def place(root: Path, name: str, kind: str, number: int) -> None:
    """Make something of that kind, where nothing is yet."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    shared = root.with_name("pool") / "photo.png"
    make = {
        "file": lambda: path.write_bytes(photo(number)),
        "empty": path.touch,
        "text": lambda: path.write_text("text"),
        "hard": lambda: os.link(shared, path),
        "link": lambda: path.symlink_to(shared),
        "dangling": lambda: path.symlink_to("gone.png"),
        "circle": lambda: path.symlink_to(path.name),
        "folder": lambda: path.symlink_to(shared.parent),
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()


def names_below(root: Path) -> set[str]:
    """Every file, pipe and link below a folder as `find -L` sees them, dot names apart."""
    return {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in [*names, *(n for n in os.listdir(folder) if os.path.islink(f"{folder}/{n}"))]
        if not name.startswith(".")
    }


def add_up(listing: Listing) -> Prepared | None:
    """Prepare, where nothing forbids it, and see that no row was lost or made twice."""
    try:
        result = prepare(listing, DEFAULT)
    except InputError as error:
        assert "\n" not in str(error)
        return None
    total = len(listing.entries) + len(listing.problems)
    assert len(result.labels.path) + len(result.problems) == total
    named = {e.path for e in listing.entries} | {p.path for p in listing.problems}
    assert set(result.labels.path) | {p.path for p in result.problems} == named
    assert len(set(result.labels.path)) == len(result.labels.path)
    assert result.summary["notes"][: len(listing.notes)] == list(listing.notes)
    assert all("\n" not in line for line in result.summary["notes"])
    return result


@settings(deadline=None, max_examples=60)
@given(PLACED, st.booleans())
def test_prepare__any_mixture_of_folders__every_name_is_a_label_or_a_problem(placed, with_splits):
    with tempfile.TemporaryDirectory() as folder:
        root = put(Path(folder) / "data", {})
        put(root.with_name("pool"), {"photo.png": photo("shared")})
        for split in ("train/", "val/", "test/") if with_splits else ("",):
            put(
                root,
                {
                    f"{split}{label}/{n}.png": photo(f"{label}{n}{split}")
                    for label in ("cat", "dog")
                    for n in range(3)
                },
            )
        for split, label, name, kind, number in placed:
            place(root, f"{(split or 'train/') if with_splits else ''}{label}/{name}", kind, number)
        listing = list_data(root)
        linked = {e.path for e in listing.entries} | {p.path for p in listing.problems}
        for name in names_below(root):
            assert name in linked or f"{name}/photo.png" in linked
        add_up(listing)


LABELS = st.sampled_from(["a", "a ", "\u00a0a", "A", "b", "", " ", "1", "01", "2020-01-01"])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 11),
            LABELS,
            st.sampled_from(["train", "val", "test"]),
            st.sampled_from(["", "g1", "g1 ", "G1", "g2"]),
            st.sampled_from(["", digest(photo(1)), digest(b"another")]),
        ),
        max_size=25,
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
    st.booleans(),
)
def test_prepare__any_mixture_in_a_manifest__every_row_is_a_label_or_a_problem(
    mixed, mark, encoding, with_splits, with_groups
):
    with tempfile.TemporaryDirectory() as folder:
        root = put(Path(folder), {f"{n}.png": photo(n // 2) for n in range(10)})
        base = [
            (f"base{n}.png", "ab"[n % 2], ("train", "val", "test")[n // 2 % 3]) for n in range(12)
        ]
        put(root, {name: photo(name) for name, _, _ in base})
        lines = [["Path", " label", *["split"] * with_splits, "patient", "sha256"]]
        lines += [[name, label, *[split] * with_splits, "", ""] for name, label, split in base]
        lines += [[f"{n}.png", label, *[s] * with_splits, g, sha] for n, label, s, g, sha in mixed]
        text = "\n".join(mark.join(line) for line in lines)
        (root / "m.csv").write_bytes(text.encode(encoding))
        try:
            listing = list_data(root / "m.csv", group="patient" if with_groups else None)
        except InputError as error:
            assert "two rows give two sha256" in str(error)
            return
        distinct = {
            (n, label.strip(), s * with_splits, g.strip() * with_groups, sha * bool(label.strip()))
            for n, label, s, g, sha in mixed
        }
        blank = {(n, sha) for n, label, _, _, sha in mixed if not label.strip()}
        kept = len(base) + len({one for one in distinct if one[1]}) + len(blank)
        assert len(listing.entries) + len(listing.problems) == kept
        add_up(listing)


def test_prepare__listing_in_another_order__gives_the_same(tmp_path):
    files = {**class_folders(), "a/empty.png": b"", "b/0 copy.png": photo("b0"), "x.png": b"x"}
    listing = list_data(put(tmp_path, files))
    backwards = Listing(listing.root, listing.entries[::-1], listing.problems[::-1])
    one, other = prepare(listing, DEFAULT), prepare(backwards, DEFAULT)
    assert one.images.path == other.images.path
    assert one.images.sha256.tolist() == other.images.sha256.tolist()
    assert rows(one) == rows(other)
    assert (one.problems, one.summary) == (other.problems, other.summary)


# files


def test_write__tables__have_exactly_the_columns_that_others_read(tmp_path):
    write(prepared(put(tmp_path / "in", class_folders())), tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(FILES)
    assert pq.read_schema(tmp_path / "out" / "images.parquet").equals(
        pa.schema([("sha256", pa.string()), ("path", pa.string()), ("bytes", pa.int64())])
    )
    assert pq.read_schema(tmp_path / "out" / "labels.parquet").equals(
        pa.schema([(name, pa.string()) for name in ("path", "sha256", "label", "split", "group")])
    )
    assert (tmp_path / "out" / "problems.csv").read_text() == "path,sha256,reason,detail\n"


def test_write__what_was_prepared__is_read_back(tmp_path):
    files = {**class_folders(), "a/empty.png": b"", "b/line\nend\r.png": photo("x")}
    result = prepared(put(tmp_path / "in", files))
    write(result, tmp_path / "out")
    images = read_images(tmp_path / "out" / "images.parquet")
    labels = read_labels(tmp_path / "out" / "labels.parquet")
    assert (images.path, images.bytes) == (result.images.path, result.images.bytes)
    for name in ("path", "sha256", "label", "split", "group"):
        assert getattr(labels, name).tolist() == getattr(result.labels, name).tolist()
    assert read_problems(tmp_path / "out" / "problems.csv") == list(result.problems)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == result.summary


def test_write__same_images_in_another_place_and_order__gives_the_same_bytes(tmp_path):
    files = {**class_folders(), "a/empty.png": b"", "b/0 copy.png": photo("b0"), "x.png": b"x"}
    backwards = dict(reversed(files.items()))
    for name, content in (("here", files), ("there/deep", backwards)):
        write(prepared(put(tmp_path / name / "in", content)), tmp_path / name / "out")
    for name in FILES:
        here = (tmp_path / "here" / "out" / name).read_bytes()
        assert here == (tmp_path / "there" / "deep" / "out" / name).read_bytes()
        assert str(tmp_path).encode() not in here


def test_summary__counts__add_up_and_are_told(tmp_path):
    files = {
        **class_folders(),
        "a/copy.png": photo("a0"),
        "b/empty.png": b"",
        "c/page.png": b"<html>",
    }
    result = prepared(put(tmp_path, files))
    summary = result.summary
    assert (summary["files"], summary["images"], summary["labelled"]) == (31, 30, 31)
    assert summary["classes"] == ["a", "b", "c"]
    assert summary["problems"] == {"empty": 1, "unsupported_format": 1}
    assert sum(sum(counts.values()) for counts in summary["splits"].values()) == 31
    text = describe(result)
    assert "30 distinct images in 31 files, 3 classes: train 19, val 6, test 6" in text
    assert text.splitlines()[-3:] == [
        "left out: 2; the whole list is in artifacts/dataset/problems.csv",
        "  empty               1  b/empty.png: the file has no bytes",
        "  unsupported_format  1  c/page.png: HTML or XML text",
    ]


def test_describe__no_problem__says_nothing_of_problems(tmp_path):
    assert "left out" not in describe(prepared(put(tmp_path, class_folders())))


def test_prepare__real_photos__are_all_used_but_the_stray_gif(shared_data):
    result = prepared(shared_data / "ants_bees")
    assert [problem.reason for problem in result.problems].count("unsupported_format") == 1
    counts = {name: sum(labels.values()) for name, labels in result.summary["splits"].items()}
    assert counts["test"] == 153
    assert 47 <= counts["val"] <= 51
    assert counts["train"] + counts["val"] + len(result.problems) - 1 == 244
