"""Manifests as they are found: separators, encodings, quotes, odd columns, labels and paths."""

import codecs
import hashlib
import io
import os
import subprocess
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import dataset
from pipeline.dataset import Split
from pipeline.errors import ConfigurationError, InputError
from pipeline.extraction import extract
from pipeline.formats import Listing, list_data
from pipeline.params import ExecutionParams, SplitParams
from pipeline.preparation import describe, prepare, write
from tests.frozen_fixtures import pixels
from tests.test_extraction import places_in
from tests.test_formats import SHA, csv, parquet, paths, problems, touch
from tests.test_preparation import photo, put

__all__ = ["pixels"]

PLAIN = "path,label\n1.png,a\n2.png,b\n"


def listed(tmp_path: Path, content: str | bytes, group: str | None = None) -> Listing:
    (tmp_path / "m.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return list_data(tmp_path / "m.csv", group=group)


def refused(tmp_path: Path, content: str | bytes, group: str | None = None) -> str:
    """The one line that a manifest is refused with."""
    with pytest.raises(InputError) as raised:
        listed(tmp_path, content, group)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def labels(listing: Listing) -> list[str]:
    return [entry.label for entry in listing.entries]


def test_manifest__plain__nothing_is_noted(tmp_path):
    assert listed(tmp_path, PLAIN).notes == ()
    assert list_data(parquet(tmp_path, path=["1", "2"], label=["a", "b"])).notes == ()


# separators


@pytest.mark.parametrize(("mark", "name"), [(";", "';'"), ("\t", "a tab"), ("|", "'|'")])
def test_manifest__other_separator__is_used_and_noted(tmp_path, mark, name):
    plain = listed(tmp_path, PLAIN)
    other = listed(tmp_path, PLAIN.replace(",", mark))
    assert other.entries == plain.entries
    assert other.notes == (f"m.csv: read with {name} between the fields",)


def test_manifest__semicolons_and_every_field_quoted__is_read(tmp_path):
    listing = listed(tmp_path, '"path";"label"\r\n"a,1.png";"x"\r\n"b;2.png";"y"\r\n')
    assert [(e.path, e.label) for e in listing.entries] == [("a,1.png", "x"), ("b;2.png", "y")]


def test_manifest__semicolons_in_other_columns__the_comma_stays(tmp_path):
    listing = listed(tmp_path, "path,label,a;b\n1,a;b,x\n2,b|c,y\n")
    assert labels(listing) == ["a;b", "b|c"]
    assert listing.notes == ()


def test_manifest__no_separator_fits__names_the_columns_as_the_comma_cuts_them(tmp_path):
    assert "no column 'path' (it has file:label); add it to" in refused(tmp_path, "file:label\n1:a")


# encodings


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "m.csv: read as UTF-16, as its byte order mark says"),
        ("utf-32", "m.csv: read as UTF-32, as its byte order mark says"),
    ],
)
def test_manifest__encoding_that_it_tells__is_read(tmp_path, encoding, note):
    listing = listed(tmp_path, "path,label\n\U0001f41c.png,café\n2.png,b\n".encode(encoding))
    assert labels(listing) == ["b", "café"]
    assert listing.notes == ((note,) if note else ())


def test_manifest__that_is_an_image__is_told_as_one(tmp_path):
    line = refused(tmp_path, b"\xff\xd8\xff\xe0" + bytes(99))
    assert line.endswith(
        "m.csv: this is an image, not a table; give data.path a folder or a manifest"
    )


def test_manifest__utf16_big_endian__is_read(tmp_path):
    assert labels(listed(tmp_path, codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"))) == ["a", "b"]


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE"])
def test_manifest__utf16_without_its_mark__says_what_to_type_and_that_helps(tmp_path, encoding):
    folder = tmp_path / "my data"
    folder.mkdir()
    line = refused(folder, PLAIN.encode(encoding))
    assert "line 1 holds NUL bytes" in line
    command = line.partition("save it as UTF-8: ")[2]
    assert command.startswith(f"iconv -f {encoding} -t UTF-8 '")
    subprocess.run(["sh", "-c", command], check=True)
    assert (folder / "utf8.csv").read_text() == PLAIN


@pytest.mark.parametrize("rows_before", [0, 3, 5000])
def test_manifest__not_utf8__names_byte_and_line_and_guesses_nothing(tmp_path, rows_before):
    before = "path,label\n" + "".join(f"{n},a\n" for n in range(rows_before))
    line = refused(tmp_path, before.encode() + "x,café\n".encode("latin-1"))
    offset = len(before) + 5
    assert f"m.csv: byte {offset:,} in line {rows_before + 2:,}, 0xe9, is not UTF-8" in line
    assert f"iconv -f ENCODING -t UTF-8 {tmp_path}/m.csv > {tmp_path}/utf8.csv" in line


def test_manifest__mark_and_then_not_utf8__names_the_byte_of_the_file(tmp_path):
    line = refused(tmp_path, codecs.BOM_UTF8 + "path,l\xe9bel\n1,a\n".encode("latin-1"))
    assert "byte 9 in line 1, 0xe9, is not UTF-8" in line


def test_manifest__utf16_cut_short__is_one_line(tmp_path):
    assert "is not UTF-16" in refused(tmp_path, PLAIN.encode("utf-16") + b"x")


# rows


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \r\n", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_manifest__empty__says_how_to_begin(tmp_path, content):
    assert "the file is empty; begin it with the line 'path,label'" in refused(tmp_path, content)


def test_manifest__without_a_header__says_what_is_missing(tmp_path):
    line = refused(tmp_path, "a/1.png,cat\na/2.png,dog\n")
    assert "no column 'path' (it has a/1.png, cat); add it to the first row" in line


@pytest.mark.parametrize(
    ("row", "words"), [("3,b,c", "3 fields and the header 2"), ("3", "1 field and the header 2")]
)
def test_manifest__ragged_row__is_named_by_its_line(tmp_path, row, words):
    line = refused(tmp_path, f'path,label\n1,"a\nb"\n\n{row}\n4,b\n')
    assert f"m.csv: the row in line 5 has {words}" in line
    assert "complete it, or put quotes round a field with ',' in it" in line


@pytest.mark.parametrize("rest", ["2,b\n", "2,b\n" * 50_000], ids=["short", "long"])
def test_manifest__quote_never_closed__is_named_by_its_line(tmp_path, rest):
    line = refused(tmp_path, f'path,label\n1,a\n2,"a\n{rest}')
    assert "the row that begins in line 3 cannot be read" in line
    assert "close the quote that opens there" in line


def test_manifest__text_after_a_closing_quote__is_refused_not_joined(tmp_path):
    assert "begins in line 2" in refused(tmp_path, 'path,label\n1,"a"x\n2,b\n')


def test_manifest__quoted_line_ends_and_blank_lines__are_read(tmp_path):
    listing = listed(tmp_path, '\npath,label\n\n"1\n.png",a\n2.png,"b\r\nc"\n\n')
    assert [(e.path, e.label) for e in listing.entries] == [("1\n.png", "a"), ("2.png", "b\r\nc")]


def test_manifest__old_macs_line_ends__are_read(tmp_path):
    assert labels(listed(tmp_path, PLAIN.replace("\n", "\r"))) == ["a", "b"]


def test_manifest__nul_in_a_label__is_listed(tmp_path):
    """One in a path is found by prepare, as a file that cannot be opened."""
    listing = listed(tmp_path, "path,label\n1,a\n2,b\n3,c\0\n4\0,b\n")
    assert problems(listing) == [("3", "bad_name")]
    assert paths(listing) == ["1", "2", "4\0"]


def test_manifest__equal_rows__count_once_and_are_noted(tmp_path):
    listing = listed(tmp_path, "path,label\n1,a\n2,b\n1,a\n./1,a\n,a\n,a\n")
    assert paths(listing) == ["1", "2"]
    assert listing.notes == ("m.csv: 3 rows equal to another, counted once",)


# columns


@pytest.mark.parametrize("header", ["Path,Label", " path ,LABEL", "PATH,label\t"])
def test_manifest__column_in_other_case_or_padded__is_taken_and_noted(tmp_path, header):
    listing = listed(tmp_path, f"{header}\n1,a\n2,b\n")
    assert labels(listing) == ["a", "b"]
    names = [name for name in header.split(",") if name not in ("path", "label")]
    assert listing.notes == tuple(
        f"m.csv: the column {name!r} is taken as {name.strip().lower()!r}" for name in names
    )


def test_manifest__optional_columns_in_other_case__are_not_lost(tmp_path):
    text = f"path,label,Split,SHA256,Patient\n1,a,train,{SHA},p\n2,b,test,{SHA[::-1]},q\n"
    for listing in (listed(tmp_path, text, "patient"), listed(tmp_path, text, "Patient")):
        assert [entry.split for entry in listing.entries] == [Split.TRAIN, Split.TEST]
        assert [entry.group for entry in listing.entries] == ["p", "q"]
        assert listing.entries[0].sha256 == SHA
        assert "m.csv: the column 'Split' is taken as 'split'" in listing.notes


def test_manifest__exact_name_beside_another_case__wins(tmp_path):
    assert labels(listed(tmp_path, "path,Label,label\n1,x,a\n2,x,b\n")) == ["a", "b"]


def test_manifest__two_other_cases__are_refused(tmp_path):
    line = refused(tmp_path, "path,Label,LABEL\n1,x,a\n2,x,b\n")
    assert "the column 'label' stands twice; delete one" in line


@pytest.mark.parametrize(
    ("header", "near"),
    [("path,lable", "lable"), ("path,labels", "labels"), ("paths,label", "paths")],
)
def test_manifest__misspelt_column__names_the_near_miss(tmp_path, header, near):
    line = refused(tmp_path, f"{header}\n1,a\n2,b\n")
    assert f"is {near!r} it? rename that to" in line


@pytest.mark.parametrize("column", ["splits", "Split_"])
def test_manifest__column_nearly_called_split__is_noted_as_not_used(tmp_path, column):
    listing = listed(tmp_path, f"path,label,{column}\n1,a,train\n2,b,test\n")
    assert {entry.split for entry in listing.entries} == {None}
    assert listing.notes == (
        f"m.csv: no column 'split', and {column.lower()!r} is not used; rename it if it is meant",
    )


def test_manifest__hundreds_of_columns__are_not_all_recited(tmp_path):
    header = ",".join(f"{'long' * 20}{n}" for n in range(500))
    line = refused(tmp_path, f"{header}\n{','.join('x' * 500)}\n")
    assert "and 490 more" in line
    assert len(line) < 600


# labels


def test_manifest__padded_labels_and_groups__are_stripped_and_counted(tmp_path):
    text = "path,label,g\n1,cat ,p1\n2,cat, p1\n3,\u00a0dog\t,p2\n4,dog,\n"
    listing = listed(tmp_path, text, "g")
    assert labels(listing) == ["cat", "cat", "dog", "dog"]
    assert [entry.group for entry in listing.entries] == ["p1", "p1", "p2", None]
    assert listing.notes == (
        "m.csv: white space round 2 values of column 'label' taken off",
        "m.csv: white space round 1 value of column 'g' taken off",
    )


@pytest.mark.parametrize("empty", ["", " ", "\t", "\u3000"])
def test_manifest__empty_or_blank_label__is_no_label(tmp_path, empty):
    assert problems(listed(tmp_path, f"{PLAIN}3,{empty}\n")) == [("3", "no_label")]


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ("Cat", "cat", "only in case"),
        ("caf\u00e9", "cafe\u0301", "how Unicode composes their letters"),
        ("ice  cream", "ice cream", "spaces or characters that look the same"),
        ("cat\u200b", "cat", "cannot be seen"),
        ("\uff43at", "cat", "characters that look the same"),
        ("1", "01", "how the number is written"),
        ("1", "1.0", "how the number is written"),
    ],
)
def test_manifest__labels_nearly_alike__stay_apart_and_both_are_named(
    tmp_path, one, other, difference
):
    listing = listed(tmp_path, f"path,label\n1,{one}\n2,{other}\n3,{'7' if one == '1' else 'x'}\n")
    assert {one, other} < set(labels(listing))
    (note,) = [note for note in listing.notes if "kept apart" in note]
    assert difference in note
    assert ascii(one) in note
    assert ascii(other) in note
    assert "write them alike if they are meant as one" in note


def test_manifest__groups_nearly_alike__are_noted(tmp_path):
    listing = listed(tmp_path, "path,label,patient\n1,a,P1\n2,b,p1\n", "patient")
    assert "m.csv: the groups 'P1' and 'p1' differ only in case" in listing.notes[0]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["0", "1", "7"], "numbers"),
        (["-0.5", "1e3", "2.25"], "numbers"),
        (["2020-01-31", "2021-02-01", "2021-02-02T10:00"], "dates"),
    ],
)
def test_manifest__labels_that_are_numbers_or_dates__are_text_and_noted(tmp_path, values, kind):
    listing = listed(tmp_path, "path,label\n" + "".join(f"{n},{v}\n" for n, v in enumerate(values)))
    assert labels(listing) == values
    (note,) = listing.notes
    assert note.startswith(f"m.csv: the labels are {kind}, taken as 3 names of classes, such as")


@pytest.mark.parametrize(
    "words", [["0", "one"], ["1_0", "2_0"], ["nan", "inf"], ["2020-13-01", "x"]]
)
def test_manifest__labels_that_only_look_like_numbers__are_not_called_so(tmp_path, words):
    assert listed(tmp_path, f"path,label\n1,{words[0]}\n2,{words[1]}\n").notes == ()


def test_manifest__a_measurement_for_a_label__is_noted_with_what_to_do(tmp_path):
    text = "path,label\n" + "".join(f"{n}.png,{n * 0.37:.2f}\n" for n in range(500))
    notes = listed(tmp_path, text).notes
    assert notes[1].startswith("500 of 500 labels have one image each, such as '0.00'")
    assert "give a label that several images share" in notes[1]


def test_manifest__a_few_rare_classes__are_no_measurement(tmp_path):
    text = "path,label\n" + "".join(f"{n}.png,c{min(n // 3, 40)}\n" for n in range(200))
    assert listed(tmp_path, f"{text}x,rare\ny,rarer\n").notes == ()


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array([1.0, 2.0, None, float("nan")]), ["1", "2"]),
        (pa.array([1.5, 2.0, None, None]), ["1.5", "2.0"]),
        (pa.array([1.0, 2.0, None, None], pa.float32()), ["1", "2"]),
        (pa.array([1, 2, None, None], pa.int8()), ["1", "2"]),
        (pa.array([True, False, None, None]), ["True", "False"]),
        (pa.array([date(2020, 1, 2), date(2020, 1, 3), None, None]), ["2020-01-02", "2020-01-03"]),
        (pa.array([Decimal("1.50"), Decimal("2.00"), None, None]), ["1.50", "2.00"]),
        (pa.array(["cat", "dog", None, ""]).dictionary_encode(), ["cat", "dog"]),
        (pa.array(["cat", "dog", None, ""], pa.large_string()), ["cat", "dog"]),
        (pa.array([b"cat", "caf\u00e9".encode(), None, b""]), ["cat", "caf\u00e9"]),
        (pa.array([datetime(2020, 1, 2), datetime(2020, 1, 3), None, None], pa.timestamp("s")),
         ["2020-01-02 00:00:00", "2020-01-03 00:00:00"]),
        (pa.array([1, 2, None, None], pa.timestamp("ns")),
         ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000002"]),
    ],
)  # fmt: skip
def test_manifest__parquet_labels_of_any_plain_type__are_text_and_gaps_no_label(
    tmp_path, column, texts
):
    listing = list_data(parquet(tmp_path, path=["1", "2", "3", "4"], label=column))
    assert labels(listing) == texts
    assert problems(listing) == [("3", "no_label"), ("4", "no_label")]


def test_manifest__parquet_whole_floats__lose_their_zero_and_it_is_noted(tmp_path):
    """An integer column with a gap is floating point by the time it is saved."""
    columns = {"path": ["1", "2", "3"], "label": [1.0, 2.0, 1.0], "g": [7.0, None, float("nan")]}
    listing = list_data(parquet(tmp_path, **columns), group="g")
    assert [(e.label, e.group) for e in listing.entries] == [("1", "7"), ("2", None), ("1", None)]
    assert listing.notes[:2] == (
        "m.parquet: the numbers of column 'label' are written without .0",
        "m.parquet: the numbers of column 'g' are written without .0",
    )


@pytest.mark.parametrize(
    "column", [pa.array([["a"], ["b"]]), pa.array([{"x": 1}, {"x": 2}])], ids=["list", "struct"]
)
def test_manifest__parquet_label_that_is_no_single_value__is_refused(tmp_path, column):
    path = parquet(tmp_path, path=["1", "2"], label=column)
    with pytest.raises(
        InputError, match=r"the column 'label' holds .*, not text; write it as text"
    ):
        list_data(path)


def test_manifest__parquet_bytes_that_are_not_utf8__are_refused(tmp_path):
    path = parquet(tmp_path, path=["1", "2"], label=pa.array([b"\xe9", b"b"]))
    with pytest.raises(InputError, match=r"m\.parquet: cannot be read as parquet"):
        list_data(path)


def test_manifest__parquet_in_a_folder_named_like_a_column__gains_no_column(tmp_path):
    folder = tmp_path / "split=train"
    folder.mkdir()
    listing = list_data(parquet(folder, path=["1", "2"], label=["a", "b"]))
    assert {entry.split for entry in listing.entries} == {None}


def test_manifest__parquet_column_twice__is_named(tmp_path):
    table = pa.Table.from_arrays([pa.array(["1", "2"])] * 3, ["path", "label", "label"])
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(InputError, match="'label' stands twice; delete one"):
        list_data(tmp_path / "m.parquet")


# paths


def test_manifest__padded_paths_and_backslashes__are_kept_and_noted(tmp_path):
    listing = listed(tmp_path, "path,label\n1.png ,a\na\\2.png,b\na\\3.png,b\n")
    assert paths(listing) == ["1.png ", "a\\2.png", "a\\3.png"]
    padded, backslash = listing.notes
    assert padded.startswith("m.csv: 1 path, such as '1.png ': begins or ends with white space")
    assert backslash == (
        r"m.csv: 2 paths, such as 'a\\2.png': a backslash is part of a name here; "
        "write / between folders"
    )


def test_manifest__path_through_a_link_out_of_the_root__is_followed(tmp_path):
    put(tmp_path / "pool", {"1.png": photo(1)})
    data = put(tmp_path / "data", {f"{n}.png": photo(n) for n in range(2, 9)})
    (data / "link").symlink_to(tmp_path / "pool")
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(2, 9))
    listing = listed(data, f"path,label\nlink/1.png,a\n{rows}")
    assert "link/1.png" in prepare(listing, SplitParams()).labels.path


def test_manifest__dots_after_a_link__are_taken_by_name_and_stay_inside(tmp_path):
    data = touch(tmp_path / "data", "1.png")
    (data / "link").symlink_to(touch(tmp_path / "pool", "in/x") / "in")
    listing = listed(data, "path,label\nlink/../1.png,a\n2.png,b\nlink/../../3.png,b\n")
    assert paths(listing) == ["1.png", "2.png"]
    assert problems(listing) == [("link/../../3.png", "outside_root")]


def test_manifest__composed_in_another_way_than_the_file__is_unreadable_and_told(tmp_path):
    files = {f"{n}.png": photo(n) for n in range(8)} | {"cafe\u0301.png": photo("x")}
    put(tmp_path, files)
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(8))
    result = prepare(listed(tmp_path, f"path,label\n{rows}caf\u00e9.png,a\n"), SplitParams())
    assert [(p.path, p.reason) for p in result.problems] == [("caf\u00e9.png", "unreadable")]


# groups


def grouped(tmp_path: Path, groups: dict[str, list[str]]) -> Listing:
    """Five images for each group of each label."""
    lines = ["path,label,patient"]
    for label, names in groups.items():
        for name in names:
            for number in range(5):
                path = f"{label}{name}{number}.png"
                put(tmp_path, {path: photo(path)})
                lines.append(f"{path},{label},{name}")
    return listed(tmp_path, "\n".join(lines), "patient")


def test_prepare__groups_that_each_hold_all_classes__are_no_complaint(tmp_path):
    cameras = [f"c{number}" for number in range(6)]
    result = prepare(grouped(tmp_path, {"a": cameras, "b": cameras}), SplitParams())
    there = set(zip(result.labels.label, result.labels.split, strict=True))
    assert there == {(label, split) for label in "ab" for split in ("train", "val", "test")}
    assert "too few groups" not in describe(result)


def test_prepare__class_with_fewer_groups_than_splits__is_all_train_and_noted(tmp_path):
    listing = grouped(tmp_path, {"a": ["p1", "p2"], "b": ["q1", "q2", "q3"]})
    result = prepare(listing, SplitParams())
    of_a = result.labels.split[result.labels.label == "a"]
    assert set(of_a) == {"train"}
    assert (
        "too few groups, or images without one, to cut test and val from (class and count): 'a' 2;"
        in describe(result)
    )


def test_prepare__class_whose_groups_all_leave_train__says_what_to_try(tmp_path):
    majority = {"a": [f"p{n}" for n in range(6)], "b": [f"q{n}" for n in range(6)]}
    listing = grouped(tmp_path, majority)
    put(tmp_path, {"rare.png": photo("rare")})
    text = (tmp_path / "m.csv").read_text()
    refusals = 0
    for number in range(6):
        listing = listed(tmp_path, f"{text}\nrare.png,rare,p{number}\n", "patient")
        try:
            prepare(listing, SplitParams())
        except InputError as error:
            refusals += 1
            assert "no training image of class 'rare'" in str(error)
            assert "set another data.split.seed or remove the class" in str(error)
    assert 0 < refusals < 6


def test_prepare__groups_across_given_splits__are_named(tmp_path):
    names = {f"{n}.png": photo(n) for n in range(12)}
    put(tmp_path, names)
    rows = "".join(
        f"{n}.png,{'ab'[n % 2]},{('train', 'val', 'test')[n // 2 % 3]},p{n % 4}\n"
        for n in range(12)
    )
    listing = listed(tmp_path, f"path,label,split,g\n{rows}", "g")
    (note,) = prepare(listing, SplitParams()).summary["notes"]
    assert note.startswith(
        "4 groups lie in more than one of the given splits, which are kept: 'p0'"
    )
    assert "give each group one split" in note


# a sha256 column that lies


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    random = np.random.default_rng(number)
    Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_sha256_that_lies__is_believed_by_prepare_and_listed_by_extract(tmp_path, pixels):
    contents = {f"{number}.png": png(number) for number in range(12)}
    put(tmp_path / "photos", contents)
    claimed = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    claimed["3.png"] = SHA
    rows = "".join(f"{name},{'ab'[int(name[:-4]) % 2]},{sha}\n" for name, sha in claimed.items())
    listing = listed(tmp_path / "photos", f"path,label,sha256\n{rows}")
    result = prepare(listing, SplitParams())
    assert result.problems == ()
    write(result, tmp_path)
    places = places_in(tmp_path, pixels)
    done = extract(places, ExecutionParams(threads=1), max_failed=0.1)
    assert (done.images, done.failed) == (12, 1)
    (problem,) = dataset.read_problems(places.embeddings.with_name(f"{pixels.name}.problems.csv"))
    assert (problem.path, problem.sha256, problem.reason) == ("3.png", SHA, "changed")


def test_sha256_given_to_files_of_two_sizes__is_noted_by_prepare(tmp_path):
    put(tmp_path, {f"{n}.png": photo("x" * n) for n in range(10)})
    rows = "".join(f"{n}.png,{'ab'[n % 2]},{SHA if n in (2, 4) else ''}\n" for n in range(10))
    result = prepare(listed(tmp_path, f"path,label,sha256\n{rows}"), SplitParams())
    assert (
        "the manifest gives 1 sha256 to files of different sizes, such as '2.png' and '4.png', "
        "so its column sha256 is wrong: correct or delete it" in result.summary["notes"]
    )


def test_sha256_given_in_one_row_and_not_in_the_other__is_one_path(tmp_path):
    put(tmp_path, {f"{n}.png": photo(n) for n in range(10)})
    rows = "".join(f"{n}.png,{'ab'[n % 2]},\n" for n in range(10))
    digest = hashlib.sha256(photo(2)).hexdigest()
    result = prepare(
        listed(tmp_path, f"path,label,sha256\n{rows}2.png,a,{digest}\n"), SplitParams()
    )
    assert [(p.path, p.reason) for p in result.problems] == [("2.png", "repeated_path")]


# the file


def test_manifest__folder_named_like_one__is_a_configuration_error(tmp_path):
    os.mkdir(tmp_path / "m.csv")
    with pytest.raises(ConfigurationError, match=r"no \.csv or \.parquet file; correct data\.path"):
        list_data(tmp_path / "m.csv", format="manifest")


def test_manifest__that_may_not_be_read__is_one_line(tmp_path, monkeypatch):
    path = csv(tmp_path, PLAIN)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"m\.csv: cannot be read as csv: Permission denied; "):
        list_data(path)
