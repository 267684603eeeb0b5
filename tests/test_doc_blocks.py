"""Blocks are found as a reader sees them, and what a page shows wrongly is told."""

import pytest

from tests.conftest import Project
from tests.doc_blocks import Command, blocks, commands, misfits
from tests.docs_desk import Reader, merge
from tests.docs_projects import SETTINGS, Library

TABLE = "backbone  head      val\nraw       logistic  0.9500\nraw       knn       0.9000\n"


def test_blocks__page__has_language_attributes_and_line():
    page = 'one\n\n```console slow of="dvc repro x"\n$ ls\n```\n\n~~~text\n```\n~~~\n'
    first, second = blocks("docs/a.md", page)
    assert (first.language, first.text, first.place) == ("console", "$ ls\n", "docs/a.md:3")
    assert first.attributes == {"slow": "", "of": "dvc repro x"}
    assert first.slow
    assert (second.language, second.text, second.line) == ("text", "```\n", 7)


def test_blocks__in_a_list__lose_its_indent():
    (block,) = blocks("a.md", "* so:\n\n  ```yaml\n  run:\n    heads: [knn]\n\n  ```\n")
    assert block.text == "run:\n  heads: [knn]\n\n"


def test_blocks__never_closed__are_told():
    with pytest.raises(ValueError, match=r"a\.md:2: a block that is never closed"):
        blocks("a.md", "one\n```sh\nls\n")


def test_commands__keep_their_output_and_go_on_after_a_backslash():
    assert commands("$ echo a \\\n  b\na b\n\n$ true\n") == [
        Command("echo a \\\n  b", "a b"),
        Command("true", ""),
    ]


@pytest.mark.parametrize("text", ["ls\n", "one\n$ ls\n"])
def test_commands__block_without_a_prompt__is_told(text):
    with pytest.raises(ValueError, match=r"begins with '\$ '"):
        commands(text)


@pytest.mark.parametrize(
    ("shown", "odd"),
    [
        ("backbone  head  val\nraw  knn  0.1000\n…\n", []),
        ("backbone  head  val\nraw  knn  0.1  no difference shown\n", []),
        ("backbone  head  value\nraw  zebra  0.1\n", ["backbone  head  value", "raw  zebra  0.1"]),
        ("backbone  head  val\nraw  zebra  0.1\n", ["raw  zebra  0.1"]),
    ],
    ids=["numbers", "the code's words", "no line as it stands", "a word nobody prints"],
)
def test_misfits__of_a_table(shown, odd):
    assert misfits(shown, TABLE) == odd


def test_misfits__exact__takes_no_word_for_another():
    shown = "backbone  head  val\nraw  ridge  0.1\n"
    assert misfits(shown, TABLE) == []
    assert misfits(shown, TABLE, exact=True) == ["raw  ridge  0.1"]


def test_merge__entry_that_is_there__is_replaced_and_others_stay():
    params = {"heads": {"knn": {"kind": "knn", "k": 3}, "dummy": {}}, "curve": {}}
    merge(params, {"heads": {"knn": {"kind": "knn"}}, "curve": {"few": {}}})
    assert params == {"heads": {"knn": {"kind": "knn"}, "dummy": {}}, "curve": {"few": {}}}


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """Types a page in a project that is an empty folder, and gives its reader."""
    monkeypatch.setitem(SETTINGS, "ran", (None, lambda project: None))
    monkeypatch.setattr(
        "tests.docs_projects._whole", lambda folder: folder.mkdir() or Project(folder)
    )

    def read(page: str) -> Reader:
        (tmp_path / "settings").mkdir()
        reader = Reader(Library(tmp_path / "settings"), tmp_path / "page")
        for block in blocks("a.md", page):
            reader.read(block)
        return reader

    return read


def test_reader__blocks_of_a_page__share_folder_variables_and_output(typed):
    reader = typed(
        "```sh\nexport WHO=you\nmkdir -p in && cd in\n```\n"
        "```console\n$ echo hello $WHO\nhello you\n$ basename $PWD\nin\n```\n"
        "```text\nin\n```\n"
        "```csv file=a.csv\npath,label\n```\n"
        "```python\nwords = open('../a.csv').read()\n```\n"
        "```python continued\nprint(words, 7)\n```\n"
        "```text\npath,label\n 3\n```\n"
    )
    assert reader.latest.endswith("line_20.py")
    assert reader.code.count("\n") == 3


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```console\n$ false\n```\n", "exit code 1, not 0"),
        ("```console code=3\n$ true\n```\n", "exit code 0, not 3"),
        ("```console\n$ echo one\ntwo\n```\n", "not printed:\ntwo"),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```fortran\nEND\n```\n", "nothing here runs a block of fortran"),
        ("```\nls\n```\n", "a block of no language"),
        ("```text\nhello\n```\n", "whose output is this"),
        ("```console in=nowhere\n$ ls\n```\n", "in=nowhere is none of"),
    ],
)
def test_reader__block_that_does_something_else__is_told_by_its_line(typed, page, said):
    with pytest.raises(AssertionError, match=r"a\.md:1: ") as error:
        typed(page)
    assert said in str(error.value)


def test_reader__server__is_ended_once_it_said_that_it_serves(typed):
    assert (
        "until it is killed"
        in typed(
            '```sh until="until it is killed"\necho "runs until it is killed"; sleep 600\n```\n'
        ).printed.popitem()[1]
    )
