import os
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Split
from pipeline.errors import ConfigurationError, InputError
from pipeline.formats import FORMATS, Entry, Listing, list_data

SHA = "0123456789abcdef" * 4


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def paths(listing: Listing) -> list[str]:
    return [entry.path for entry in listing.entries]


def problems(listing: Listing) -> list[tuple[str, str]]:
    return [(problem.path, problem.reason) for problem in listing.problems]


BUILT = ["cat/1.png", "cat/2.png", "dog/1.png"]


def built(format: str, folder: Path) -> Path:
    """The same three images, as each format would hold them."""
    touch(folder, *BUILT)
    if format == "folders":
        return folder
    rows = "".join(f"{name},{name.split('/')[0]}\n" for name in BUILT[::-1])
    return write(folder / "m.csv", "path,label\n" + rows)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format__the_same_images__gives_the_same_entries(format, tmp_path):
    path = built(format, tmp_path)
    expected = [Entry("cat/1.png", "cat"), Entry("cat/2.png", "cat"), Entry("dog/1.png", "dog")]
    for named in (None, format):
        listing = list_data(path, format=named)
        assert listing.root == tmp_path
        assert [one for one in listing.entries if one.path != "m.csv"] == expected


@pytest.mark.parametrize("format", FORMATS)
def test_every_format__missing_path__is_a_configuration_error(format, tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.path: .*gone does not exist; correct"):
        list_data(tmp_path / "gone", format=format)


def test_list_data__unknown_format__names_the_near_miss(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.format.*'folder'.*'folders'"):
        list_data(tmp_path, format="folder")


def test_list_data__name_too_long_for_a_file__does_not_exist():
    with pytest.raises(ConfigurationError, match="does not exist"):
        list_data(Path("x" * 300))


# class folders


def test_folders__without_split_folders__the_first_folder_is_the_label(tmp_path):
    touch(tmp_path, "dog/b.png", "cat/deep/er/a.png", "cat/B.png")
    assert list_data(tmp_path).entries == (
        Entry("cat/B.png", "cat"),
        Entry("cat/deep/er/a.png", "cat"),
        Entry("dog/b.png", "dog"),
    )


def test_folders__with_split_folders__both_are_told(tmp_path):
    touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/x/3.png", "test/dog/4.png")
    assert list_data(tmp_path).entries == (
        Entry("test/dog/4.png", "dog", Split.TEST),
        Entry("train/cat/1.png", "cat", Split.TRAIN),
        Entry("train/dog/2.png", "dog", Split.TRAIN),
        Entry("val/cat/x/3.png", "cat", Split.VAL),
    )


@pytest.mark.parametrize("others", [[], ["val"], ["test"], ["val", "test"]])
def test_folders__train_with_or_without_the_others__is_read(tmp_path, others):
    touch(tmp_path, *(f"{split}/{name}/1.png" for split in ["train", *others] for name in "ab"))
    assert {entry.split for entry in list_data(tmp_path).entries} == {"train", *others}


def test_folders__split_word_below_a_class__is_no_split(tmp_path):
    touch(tmp_path, "cat/train/1.png", "dog/test/1.png")
    assert {entry.split for entry in list_data(tmp_path).entries} == {None}


def test_folders__stray_folder_beside_train__is_named(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", "validation/a/2.png")
    with pytest.raises(InputError, match="beside train lies 'validation'.*rename"):
        list_data(tmp_path)


def test_folders__val_without_train__says_what_is_missing(tmp_path):
    touch(tmp_path, "val/a/1.png", "val/b/1.png")
    with pytest.raises(InputError, match="no folder train"):
        list_data(tmp_path)


def test_folders__hidden_folder_beside_train__is_skipped(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png", ".cache/x.png")
    assert paths(list_data(tmp_path)) == ["train/a/1.png", "train/b/1.png"]


def test_folders__files_in_no_class_folder__are_problems(tmp_path):
    touch(tmp_path, "README.md", "a/1.png", "b/1.png")
    assert problems(list_data(tmp_path)) == [("README.md", "no_label")]
    split = touch(tmp_path / "split", "x.png", "train/y.png", "train/a/1.png", "train/b/1.png")
    assert problems(list_data(split)) == [("x.png", "no_label"), ("train/y.png", "no_label")]


def test_folders__dot_files_and_folders__are_skipped_everywhere(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", ".DS_Store", "a/.hidden.png", "a/.x/2.png", ".git/c/3")
    listing = list_data(tmp_path)
    assert paths(listing) == ["a/1.png", "b/1.png"]
    assert listing.problems == ()


@pytest.mark.parametrize("name", [b"a/\xff.png", b"a/deep\xfe/1.png", b"\xe9t\xe9/1.png"])
def test_folders__name_that_is_not_utf8__is_a_problem_that_can_be_written(tmp_path, name):
    touch(tmp_path, "a/1.png", "b/1.png")
    path = os.path.join(os.fsencode(tmp_path), name)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    listing = list_data(tmp_path)
    assert paths(listing) == ["a/1.png", "b/1.png"]
    ((shown, reason),) = problems(listing)
    assert reason == "bad_name"
    assert "\\udc" in shown
    assert shown.encode("utf-8")


def test_folders__names_with_line_ends_and_spaces__are_kept(tmp_path):
    touch(tmp_path, "a b/1\n2\r.png", "ü/ 3 .png")
    assert paths(list_data(tmp_path)) == ["a b/1\n2\r.png", "ü/ 3 .png"]


def test_folders__symlink_loop__ends_and_is_listed(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to("self")
    listing = list_data(tmp_path)
    assert paths(listing) == ["a/1.png", "b/1.png", "b/self"]
    assert problems(listing) == [("a/again", "repeated_folder")]


def test_folders__two_links_to_one_folder__the_second_is_listed_not_lost(tmp_path):
    pool = touch(tmp_path / "pool", "1.png")
    data = touch(tmp_path / "data", "c/1.png")
    (data / "a").symlink_to(pool)
    (data / "b").symlink_to(pool)
    listing = list_data(data)
    assert paths(listing) == ["a/1.png", "c/1.png"]
    assert problems(listing) == [("b", "repeated_folder")]
    assert "'a'" in listing.problems[0].detail


def test_folders__links_to_folders_and_files__are_followed(tmp_path):
    pool = touch(tmp_path / "pool", "x/1.png", "y.png")
    data = touch(tmp_path / "data", "b/1.png")
    (data / "a").symlink_to(pool / "x")
    (data / "b" / "2.png").symlink_to(pool / "y.png")
    (data / "b" / "3.png").symlink_to(pool / "gone.png")
    assert paths(list_data(data)) == ["a/1.png", "b/1.png", "b/2.png", "b/3.png"]


def test_folders__folder_that_cannot_be_opened__is_listed(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/1.png", "locked/1.png")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_data(tmp_path)
    assert paths(listing) == ["a/1.png", "b/1.png"]
    assert problems(listing) == [("locked", "unreadable")]


def test_folders__order__does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{label}/{n}.png" for label in "abc" for n in range(5)))
    straight = list_data(tmp_path)
    scan, orders = os.scandir, []

    @contextmanager
    def backwards(path):
        with scan(path) as found:
            names = sorted(found, key=lambda one: one.name, reverse=True)
        orders.append([one.name for one in names])
        yield names

    monkeypatch.setattr(os, "scandir", backwards)
    assert list_data(tmp_path) == straight
    assert ["c", "b", "a"] in orders


def test_folders__empty__says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match=r"no image with a label found; expected CLASS/image"):
        list_data(tmp_path)


def test_folders__files_without_class_folders__says_why_none_counts(tmp_path):
    with pytest.raises(InputError, match=r"\(left out: no_label 2\)"):
        list_data(touch(tmp_path, "1.png", "2.png"))


def test_folders__one_class__is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="only one class, 'a'.*at least two"):
        list_data(touch(tmp_path, "a/1.png", "a/2.png"))


def test_folders__group_wanted__is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"data\.split\.group is 'patient'.*manifest"):
        list_data(touch(tmp_path, "a/1.png", "b/1.png"), group="patient")


def test_folders__given_a_file__is_a_configuration_error(tmp_path):
    path = write(tmp_path / "m.csv", "path,label\n")
    with pytest.raises(ConfigurationError, match="is a file, not a folder"):
        list_data(path, format="folders")


# manifests


def csv(tmp_path: Path, text: str) -> Path:
    return write(tmp_path / "m.csv", text)


def parquet(tmp_path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def test_manifest__all_columns__are_read(tmp_path):
    path = csv(
        tmp_path,
        f"patient,sha256,split,label,path,other\np1,{SHA},train,cat,x/1.png,7\n,,val,dog,2.png,8\n",
    )
    assert list_data(path, group="patient").entries == (
        Entry("2.png", "dog", Split.VAL, None, None),
        Entry("x/1.png", "cat", Split.TRAIN, "p1", SHA),
    )


def test_manifest__group_column_not_asked_for__is_ignored(tmp_path):
    path = csv(tmp_path, "path,label,group\n1,a,g\n2,b,g\n")
    assert {entry.group for entry in list_data(path).entries} == {None}


def test_manifest__csv_and_parquet__give_the_same(tmp_path):
    path = csv(tmp_path, "path,label,split\n1.png,a,train\n2.png,b,test\n")
    table = parquet(tmp_path, path=["1.png", "2.png"], label=["a", "b"], split=["train", "test"])
    assert list_data(path) == list_data(table)


def test_manifest__csv_labels_like_numbers_or_words__stay_text(tmp_path):
    path = csv(tmp_path, "path,label\n1,01\n2,1\n3,1.0\n4,true\n5,NA\n6,null\n7,2020-01-01\n")
    labels = [entry.label for entry in list_data(path).entries]
    assert labels == ["01", "1", "1.0", "true", "NA", "null", "2020-01-01"]


def test_manifest__words_after_a_megabyte_of_numbers__stay_text_as_the_numbers_do(tmp_path):
    rows = "".join(f"{number}{'x' * 200},007\n" for number in range(6000))
    listing = list_data(csv(tmp_path, f"path,label\n{rows}y,word\n"))
    assert {entry.label for entry in listing.entries} == {"007", "word"}
    assert len(listing.entries) == 6001


def test_manifest__parquet_labels_of_other_types__become_text(tmp_path):
    path = parquet(tmp_path, path=["1", "2"], label=[1, 2])
    assert [entry.label for entry in list_data(path).entries] == ["1", "2"]
    labels = pa.array(["cat", "dog"]).dictionary_encode()
    path = parquet(tmp_path, path=["1", "2"], label=labels)
    assert [entry.label for entry in list_data(path).entries] == ["cat", "dog"]


def test_manifest__quoted_fields_mark_and_windows_lines__are_read(tmp_path):
    text = '\ufeffpath,label\r\n"a,b.png",cat\r\n"say ""hi"".png",dog\r\n'
    assert paths(list_data(csv(tmp_path, text))) == ["a,b.png", 'say "hi".png']


@pytest.mark.parametrize(("header", "absent"), [("path,name", "label"), ("file,label", "path")])
def test_manifest__missing_column__is_named_with_those_there(tmp_path, header, absent):
    path = csv(tmp_path, f"{header}\n1,a\n2,b\n")
    words = f"no column {absent!r} \\(it has {header.replace(',', ', ')}\\)"
    with pytest.raises(InputError, match=words):
        list_data(path)
    first, second = header.split(",")
    with pytest.raises(InputError, match=words):
        list_data(parquet(tmp_path, **{first: ["1"], second: ["a"]}))


def test_manifest__missing_group_column__is_named(tmp_path):
    with pytest.raises(InputError, match="no column 'patient'"):
        list_data(csv(tmp_path, "path,label\n1,a\n2,b\n"), group="patient")


def test_manifest__column_twice__is_named(tmp_path):
    with pytest.raises(InputError, match="'label' stands twice"):
        list_data(csv(tmp_path, "path,label,label\n1,a,b\n2,b,b\n"))


@pytest.mark.parametrize("outside", ["../x.png", "/etc/passwd", "a/../../x.png", ".."])
def test_manifest__path_outside_the_root__is_listed(tmp_path, outside):
    path = csv(tmp_path / "in", f"path,label,sha256\n1,a,\n2,b,\n{outside},a,{SHA}\n")
    listing = list_data(path)
    assert paths(listing) == ["1", "2"]
    (problem,) = listing.problems
    assert (problem.path, problem.sha256, problem.reason) == (outside, SHA, "outside_root")
    assert "m.csv" in problem.detail


@pytest.mark.parametrize("name", ["..x.png", "a/..b/x.png", "...", "~/x.png"])
def test_manifest__path_that_only_looks_outside__is_inside(tmp_path, name):
    listing = list_data(csv(tmp_path, f"path,label\n1,a\n{name},b\n"))
    assert name in paths(listing)


def test_manifest__absolute_path_inside__becomes_relative(tmp_path):
    path = csv(tmp_path, f"path,label\n{tmp_path}/x/1.png,a\n{tmp_path}/./y/../2.png,b\n")
    assert paths(list_data(path)) == ["2.png", "x/1.png"]


def test_manifest__folder_reached_by_a_link__takes_absolute_paths_by_either_name(tmp_path):
    real = tmp_path / "real"
    link = tmp_path / "link"
    csv(real, f"path,label\n{real}/1.png,a\n{link}/2.png,b\n3.png,c\n")
    link.symlink_to(real)
    assert paths(list_data(link / "m.csv")) == ["1.png", "2.png", "3.png"]


def test_manifest__empty_path_or_label__is_listed(tmp_path):
    listing = list_data(csv(tmp_path, "path,label\n1,a\n2,b\n,a\n3,\n"))
    assert paths(listing) == ["1", "2"]
    assert problems(listing) == [("", "no_path"), ("3", "no_label")]


def test_manifest__parquet_nulls__are_empty(tmp_path):
    path = parquet(tmp_path, path=["1", "2", None, "3"], label=["a", "b", "a", None])
    assert problems(list_data(path)) == [("", "no_path"), ("3", "no_label")]


def test_manifest__row_twice__counts_once(tmp_path):
    path = csv(tmp_path, f"path,label\n1,a\n2,b\n1,a\n./1,a\n{tmp_path}/1,a\n,a\n,a\n")
    listing = list_data(path)
    assert paths(listing) == ["1", "2"]
    assert problems(listing) == [("", "no_path")]


def test_manifest__path_under_two_labels__keeps_both_rows_for_prepare(tmp_path):
    listing = list_data(csv(tmp_path, "path,label\n1,b\n1,a\n2,b\n"))
    assert listing.entries == (Entry("1", "a"), Entry("1", "b"), Entry("2", "b"))


def test_manifest__rows_in_another_order__give_the_same_entries(tmp_path):
    rows = ["1,b,g", "1,b,h", "2,a,g", "0,a,"]
    first = list_data(csv(tmp_path, "\n".join(["path,label,g", *rows])), group="g")
    second = list_data(csv(tmp_path, "\n".join(["path,label,g", *rows[::-1]])), group="g")
    assert first == second
    assert len(first.entries) == 4


@pytest.mark.parametrize("word", ["Train", "validation", "0", " test"])
def test_manifest__bad_split_word__is_named_with_its_row(tmp_path, word):
    path = csv(tmp_path, f"path,label,split\n1,a,train\n2,b,{word}\n")
    with pytest.raises(InputError, match=f"m.csv: 2: split is '{word}'; write train, val or test"):
        list_data(path)


def test_manifest__split_column_partly_filled__is_refused_with_the_count(tmp_path):
    path = csv(tmp_path, "path,label,split\n1,a,train\n2,b,\n3,b,test\n")
    with pytest.raises(InputError, match="1 of 3 rows have no split"):
        list_data(path)


def test_manifest__split_column_all_empty__is_as_none(tmp_path):
    listing = list_data(csv(tmp_path, "path,label,split\n1,a,\n2,b,\n"))
    assert {entry.split for entry in listing.entries} == {None}


@pytest.mark.parametrize("bad", ["abc", "g" * 64, SHA + "0", SHA[:-1]])
def test_manifest__bad_sha256__is_named_with_its_row(tmp_path, bad):
    path = csv(tmp_path, f"path,label,sha256\n1,a,{SHA}\n2,b,{bad}\n")
    with pytest.raises(InputError, match="m.csv: 2: sha256 is .*; write 64 hex digits"):
        list_data(path)


def test_manifest__sha256_in_capitals__is_taken(tmp_path):
    path = csv(tmp_path, f"path,label,sha256\n1,a,{SHA.upper()}\n2,b,\n")
    assert [entry.sha256 for entry in list_data(path).entries] == [SHA, None]


def test_manifest__two_sha256_for_one_path__is_refused(tmp_path):
    path = csv(tmp_path, f"path,label,sha256\n1,a,{SHA}\n1,b,{SHA[::-1]}\n2,b,\n")
    with pytest.raises(InputError, match="m.csv: 1: two rows give two sha256"):
        list_data(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.parquet", b""),
        ("m.parquet", b"path,label\n1,a\n2,b\n"),
        ("m.parquet", b"PAR1" + bytes(range(256)) * 4 + b"PAR1"),
    ],
    ids=["empty", "text", "damaged"],
)
def test_manifest__not_the_table_its_suffix_says__is_one_line_with_its_name(
    tmp_path, name, content
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: cannot be read as") as raised:
        list_data(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["m.txt", "m", "m.csv.gz", "m.xlsx"])
def test_manifest__other_suffix__is_a_configuration_error(tmp_path, name):
    path = write(tmp_path / name, "path,label\n1,a\n2,b\n")
    with pytest.raises(ConfigurationError, match=f"{name} is no .csv or .parquet file"):
        list_data(path)


@pytest.mark.parametrize("name", ["folder", "folder.csv", "folder.parquet"])
def test_manifest__given_a_folder__is_a_configuration_error(tmp_path, name):
    touch(tmp_path / name, "a/1.png", "b/1.png")
    with pytest.raises(ConfigurationError, match=r"is no \.csv or \.parquet file"):
        list_data(tmp_path / name, format="manifest")


def test_manifest__header_alone__says_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="no image with a label found; expected"):
        list_data(csv(tmp_path, "path,label\n"))


def test_manifest__every_row_outside__says_so(tmp_path):
    path = csv(tmp_path / "lists", "path,label\n../a.png,a\n../b.png,b\n")
    with pytest.raises(InputError, match=r"\(left out: outside_root 2\)"):
        list_data(path)


def test_manifest__one_class__is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="only one class, 'a'"):
        list_data(csv(tmp_path, "path,label\n1,a\n2,a\n"))
