import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import dataset
from pipeline.dataset import Images, Labels, Problem, Split, digests, positions
from pipeline.errors import IntegrityError

SHA = ["0" * 64, "a1" * 32, "f" * 64]


def images() -> Images:
    return Images(digests(SHA), ("a/1.png", "é 2.jpg", "b/3.png"), (1, 2**40, 3))


def text(*values: str | None) -> np.ndarray:
    return np.array(values, dtype=object)


def labels() -> Labels:
    return Labels(
        path=text("a/1.png", "b/2.png", "b/3.png"),
        sha256=digests(SHA),
        label=text("01", "chien é", "01"),
        split=text(Split.TRAIN, Split.VAL, Split.TEST),
        group=text(None, "g", None),
    )


def test_images__written_and_read__are_the_same(tmp_path):
    dataset.write_images(tmp_path / "i.parquet", images())
    read = dataset.read_images(tmp_path / "i.parquet")
    assert read.sha256.dtype == np.dtype("S64")
    assert read.sha256.tolist() == images().sha256.tolist()
    assert (read.path, read.bytes) == (images().path, images().bytes)


def test_labels__written_and_read__are_the_same(tmp_path):
    dataset.write_labels(tmp_path / "l.parquet", labels())
    read = dataset.read_labels(tmp_path / "l.parquet")
    for name in ("path", "sha256", "label", "split", "group"):
        assert getattr(read, name).tolist() == getattr(labels(), name).tolist()
    assert (read.split == Split.TEST).tolist() == [False, False, True]


def test_tables__schemas__are_what_other_projects_read(tmp_path):
    dataset.write_images(tmp_path / "i.parquet", images())
    dataset.write_labels(tmp_path / "l.parquet", labels())
    assert pq.read_schema(tmp_path / "i.parquet").equals(
        pa.schema([("sha256", pa.string()), ("path", pa.string()), ("bytes", pa.int64())])
    )
    assert pq.read_schema(tmp_path / "l.parquet").equals(
        pa.schema([(name, pa.string()) for name in ("path", "sha256", "label", "split", "group")])
    )


def test_tables__without_a_row__keep_their_types(tmp_path):
    nothing = Labels(text(), digests([]), text(), text(), text())
    dataset.write_labels(tmp_path / "l.parquet", nothing)
    dataset.write_images(tmp_path / "i.parquet", Images(digests([]), (), ()))
    read = dataset.read_labels(tmp_path / "l.parquet")
    assert (read.path.shape, read.path.dtype, read.sha256.dtype) == ((0,), object, np.dtype("S64"))
    assert dataset.read_images(tmp_path / "i.parquet").sha256.shape == (0,)


def test_read__another_table_than_expected__is_refused_not_filled_with_nulls(tmp_path):
    dataset.write_labels(tmp_path / "x.parquet", labels())
    with pytest.raises(IntegrityError, match="its columns are path, sha256, label"):
        dataset.read_images(tmp_path / "x.parquet")


def test_read__column_of_another_type__is_refused(tmp_path):
    columns = {"sha256": SHA, "path": ["a", "b", "c"], "bytes": ["1", "2", "3"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(IntegrityError, match="run 'dvc repro -f prepare'"):
        dataset.read_images(tmp_path / "x.parquet")


def test_read__missing_file__says_how_to_make_it(tmp_path):
    with pytest.raises(IntegrityError, match="run 'dvc repro prepare'"):
        dataset.read_labels(tmp_path / "none.parquet")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_read__cut_file__is_refused(tmp_path, part):
    path = tmp_path / "l.parquet"
    dataset.write_labels(path, labels())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(IntegrityError, match=r"l\.parquet is not the table"):
        dataset.read_labels(path)


def test_read__damaged_footer__is_refused(tmp_path):
    path = tmp_path / "l.parquet"
    dataset.write_labels(path, labels())
    content = bytearray(path.read_bytes())
    content[-300:-10] = b"\xff" * 290
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"l\.parquet is not the table"):
        dataset.read_labels(path)


def test_where__mask_and_indices__take_the_same_rows():
    by_mask = labels().where(np.array([False, True, True]))
    by_index = labels().where(np.array([1, 2]))
    assert by_mask.path.tolist() == by_index.path.tolist() == ["b/2.png", "b/3.png"]
    assert by_mask.group.tolist() == ["g", None]
    assert by_mask.sha256.tolist() == digests(SHA[1:]).tolist()


HEX = st.integers(0, 40).map(lambda number: f"{number:064x}")


@settings(deadline=None)
@given(st.sets(HEX), st.lists(HEX))
def test_positions__any_digests__are_where_a_search_finds_them(present, wanted):
    stored = sorted(present)
    found = positions(digests(stored), digests(wanted))
    assert found.dtype == np.int64
    assert found.tolist() == [stored.index(one) if one in present else -1 for one in wanted]


PROBLEMS = [
    Problem('b/\n\r,".png', "", "unreadable", "No such file"),
    Problem("a.png", SHA[1], "conflicting_labels", "the same bytes are 'x' and 'y'"),
]


def test_problems__odd_names__are_read_as_written_and_sorted(tmp_path):
    dataset.write_problems(tmp_path / "p.csv", PROBLEMS)
    assert dataset.read_problems(tmp_path / "p.csv") == sorted(PROBLEMS)


def test_problems__none__is_a_file_with_its_header(tmp_path):
    dataset.write_problems(tmp_path / "p.csv", [])
    assert (tmp_path / "p.csv").read_text() == "path,sha256,reason,detail\n"
    assert dataset.read_problems(tmp_path / "p.csv") == []


def test_left_out__problems__are_counted_by_reason_commonest_first():
    assert dataset.left_out([]) == ""
    assert dataset.left_out([*PROBLEMS, PROBLEMS[0]]) == (
        " (left out: unreadable 2, conflicting_labels 1)"
    )


def test_problem_table__no_problem__is_no_line():
    assert dataset.problem_table([], "x.csv") == []


def test_problem_table__many_reasons__are_counted_the_commonest_first_with_an_example():
    problems = [
        *(Problem(f"{n}.jpg", "", "truncated", "cut") for n in range(12)),
        Problem("a.gif", "", "unsupported_format", "GIF"),
        Problem("b.jpg", "", "empty", ""),
    ]
    assert dataset.problem_table(problems, "x.csv") == [
        "left out: 14; the whole list is in x.csv",
        "  truncated           12  0.jpg: cut, and 11 more",
        "  empty                1  b.jpg",
        "  unsupported_format   1  a.gif: GIF",
    ]


def test_problem_table__hostile_name__stays_on_its_line_and_writes_no_control_character():
    (_, row) = dataset.problem_table([Problem("a\n\x1b[2Jb\u202e.png", "", "empty", "")], "x")
    assert row == "  empty  1  a\\n\\x1b[2Jb\\u202e.png"


def test_problem_table__more_reasons_than_a_screen_wants__are_cut_and_counted():
    problems = [Problem("p" * 300, "", f"reason{n}", "") for n in range(11)]
    table = dataset.problem_table(problems, "x.csv")
    assert len(table) == 10
    assert table[-1] == "  and 3 more reasons"
    assert all(len(line) < dataset.EXAMPLE_WIDTH + 20 for line in table)
