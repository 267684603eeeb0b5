"""Class folders as they are found: odd names, links, permissions, splits half there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from pipeline import formats
from pipeline.dataset import read_labels, read_problems
from pipeline.errors import ConfigurationError, InputError
from pipeline.formats import Listing, list_data
from pipeline.params import SplitParams
from pipeline.preparation import describe, prepare, write
from tests.test_formats import paths, problems, touch
from tests.test_preparation import class_folders, photo, prepared, put, reasons, rows

NFC, NFD = "caf\u00e9", "cafe\u0301"


def note(listing: Listing) -> str:
    """The one note of a listing."""
    (found,) = listing.notes
    return found


def test_folders__nothing_odd__nothing_is_noted(tmp_path):
    assert list_data(touch(tmp_path, "a/1.png", "b/1.png", ".git/x", "b/deep/2.png")).notes == ()


# classes


@pytest.mark.parametrize("empty", ["c", "c/deep/er", "c/.hidden"])
def test_folders__empty_class_folder__is_noted_and_makes_no_class(tmp_path, empty):
    touch(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / empty).mkdir(parents=True)
    listing = list_data(tmp_path)
    assert {entry.label for entry in listing.entries} == {"a", "b"}
    assert "no file lies in class folder 'c'" in note(listing)
    assert "put images there or delete it" in note(listing)


def test_folders__class_folder_empty_in_one_split__is_told_by_prepare_alone(tmp_path):
    files = {f"{split}/{label}/1.png" for split in ("train", "val", "test") for label in "ab"}
    put(tmp_path, {name: photo(name) for name in files - {"val/b/1.png"}})
    (tmp_path / "val" / "b").mkdir()
    listing = list_data(tmp_path)
    assert listing.notes == ()
    assert prepare(listing, SplitParams()).summary["notes"] == ["val has no image of class 'b'"]


def test_folders__class_folder_empty_in_every_split__is_noted(tmp_path):
    touch(tmp_path, "train/a/1.png", "train/b/1.png")
    for split in ("train", "test"):
        (tmp_path / split / "c").mkdir(parents=True)
    notes = list_data(tmp_path).notes
    assert notes[0] == "no file lies in the folder 'test'"
    assert "class folder 'c'" in notes[1]


def test_folders__only_empty_class_folders_beside_one__is_one_class(tmp_path):
    touch(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="only one class, 'a'"):
        list_data(tmp_path)


def test_folders__class_folder_of_stray_files_alone__is_not_called_empty(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "c/notes.txt")
    assert list_data(tmp_path).notes == ()


def test_folders__class_folder_that_is_a_file__is_listed(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png", "c")
    assert problems(list_data(tmp_path)) == [("c", "no_label")]


def test_folders__train_that_is_a_file__is_named_as_missing(tmp_path):
    touch(tmp_path, "train", "val/a/1.png", "val/b/1.png")
    with pytest.raises(InputError, match=r"found \['val'\] but no folder train; add it"):
        list_data(tmp_path)


@pytest.mark.parametrize(
    "names", [("Train", "Val"), ("training", "validation"), ("TEST", "Train", " val")]
)
def test_folders__splits_named_otherwise__are_refused_not_taken_as_classes(tmp_path, names):
    touch(tmp_path, *(f"{name}/{label}/1.png" for name in names for label in "ab"))
    with pytest.raises(InputError, match="look like splits.* rename them, or use a manifest"):
        list_data(tmp_path)


def test_folders__one_class_named_like_a_split__is_a_class(tmp_path):
    listing = list_data(touch(tmp_path, "Test/1.png", "cat/1.png"))
    assert {entry.label for entry in listing.entries} == {"Test", "cat"}


def test_folders__padded_class_folder__loses_its_blanks_and_joins_its_twin(tmp_path):
    listing = list_data(touch(tmp_path, "cat/1.png", "cat /2.png", " dog\t/3.png"))
    assert [(entry.path, entry.label) for entry in listing.entries] == [
        (" dog\t/3.png", "dog"),
        ("cat/1.png", "cat"),
        ("cat /2.png", "cat"),
    ]
    assert note(listing).startswith("2 files in class folders whose names begin or end with white")


def test_folders__blank_class_folder__is_no_label(tmp_path):
    assert problems(list_data(touch(tmp_path, "a/1", "b/1", "  /2"))) == [("  /2", "no_label")]


def test_folders__classes_that_differ_in_case__stay_two_and_are_noted(tmp_path):
    listing = list_data(touch(tmp_path, "Cat/1.png", "cat/1.png", "dog/1.png"))
    assert {entry.label for entry in listing.entries} == {"Cat", "cat", "dog"}
    assert note(listing) == (
        "the labels 'Cat' and 'cat' differ only in case and are kept apart; "
        "write them alike if they are meant as one"
    )


def test_folders__classes_composed_in_two_ways__stay_two_and_are_noted_readably(tmp_path):
    listing = list_data(touch(tmp_path, f"{NFC}/1.png", f"{NFD}/2.png"))
    assert len({entry.label for entry in listing.entries}) == 2
    assert r"'caf\xe9'" in note(listing)
    assert r"'cafe\u0301'" in note(listing)
    assert "how Unicode composes their letters" in note(listing)


def test_folders__many_twins__are_noted_in_a_few_lines(tmp_path):
    touch(tmp_path, *(f"{name}/1.png" for one in "abcdefgh" for name in (one, one.upper())))
    notes = list_data(tmp_path).notes
    assert len(notes) == 4
    assert notes[-1] == "5 more sets of labels differ in such ways"


def test_prepare__one_image_a_class__is_trained_on_and_told(tmp_path):
    result = prepared(put(tmp_path, class_folders(1, "ab") | class_folders(9, "c")))
    assert {split for _, label, split in rows(result) if label in "ab"} == {"train"}
    told = describe(result)
    assert (
        "too few distinct images to cut test and val from (class and count): 'a' 1, 'b' 1" in told
    )
    assert "val has no image of class 'a' and 'b'" in told
    assert "val is empty" not in told


def test_prepare__one_image_in_every_class__says_that_no_head_can_be_chosen(tmp_path):
    result = prepared(put(tmp_path, class_folders(1, "abc")))
    assert "val is empty, and heads are chosen on it" in describe(result)
    assert "give each class at least three images" in describe(result)


def test_prepare__copies_of_one_image__are_one_image_to_cut_from(tmp_path):
    files = class_folders(9, "bc") | {f"a/{n}.png": photo("same") for n in range(5)}
    assert "(class and count): 'a' 1;" in describe(prepared(put(tmp_path, files)))


def test_prepare__hundreds_of_small_classes__are_named_in_part(tmp_path):
    files = {f"c{n:03d}/1.png": photo(n) for n in range(300)}
    text = describe(prepared(put(tmp_path, files)))
    assert "'c006' and 293 more" in text
    assert "'c007' 1, 292 more" in text
    assert "300 of 300 labels have one image each, such as 'c000', 'c001' and 'c002'" in text
    assert max(map(len, text.splitlines())) < 300


# names


def test_folders__names_composed_in_two_ways__are_two_files_and_noted(tmp_path):
    put(tmp_path, class_folders() | {f"a/{NFC}.png": photo(1), f"a/{NFD}.png": photo(2)})
    listing = list_data(tmp_path)
    assert {f"a/{NFC}.png", f"a/{NFD}.png"} <= set(paths(listing))
    assert note(listing).startswith(r"1 pair of paths, such as 'a/cafe\u0301.png' and 'a/caf\xe9")
    assert len(prepare(listing, SplitParams()).labels.path) == 32


ODD = [
    "line\nend.png",
    "a\r\n.png",
    "\U0001f41c.png",
    "x" * 251 + ".png",
    "'\".png",
    "\x01\x7f",
    ",",
]


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_prepare__odd_name__is_kept_and_read_back(tmp_path, odd):
    files = class_folders() | {f"a/{odd}": photo("odd"), f"b/{odd}": b""}
    result = prepared(put(tmp_path / "in", files))
    write(result, tmp_path / "out")
    assert f"a/{odd}" in read_labels(tmp_path / "out" / "labels.parquet").path.tolist()
    (problem,) = read_problems(tmp_path / "out" / "problems.csv")
    assert (problem.path, problem.reason) == (f"b/{odd}", "empty")


@pytest.mark.parametrize("odd", ["line\nend", "\U0001f41c", "x" * 255, "it's"], ids=ascii)
def test_prepare__odd_class_name__is_a_label_and_notes_stay_one_line_each(tmp_path, odd):
    files = class_folders() | {f"{odd}/1.png": photo("odd")}
    result = prepared(put(tmp_path, files))
    assert odd in result.summary["classes"]
    assert all("\n" not in line for line in result.summary["notes"])
    assert any(repr(odd) in line for line in result.summary["notes"])


def deepen(root: Path, name: str, times: int) -> None:
    """Folders in folders below `root` with a file in the last, past what one path can name."""
    place = os.open(root, os.O_RDONLY)
    for _ in range(times):
        os.mkdir(name, dir_fd=place)
        inner = os.open(name, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(os.open("deep.png", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)


def test_folders__nested_deeper_than_python_calls__are_listed(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    deepen(tmp_path / "a", "x", 1500)
    assert paths(list_data(tmp_path))[1] == "a/" + "x/" * 1500 + "deep.png"
    subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)


def test_prepare__path_longer_than_the_system_takes__is_listed(tmp_path):
    put(tmp_path, class_folders())
    deepen(tmp_path / "a", "x" * 250, 17)
    result = prepared(tmp_path)
    ((path, reason),) = reasons(result)
    assert reason == "unreadable"
    assert len(path) > 4000 - len(str(tmp_path))
    assert result.problems[0].detail == "File name too long"
    write(result, tmp_path.with_name("out"))
    assert read_problems(tmp_path.with_name("out") / "problems.csv") == list(result.problems)
    shutil.rmtree(tmp_path.with_name("out"))
    subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)


def test_folders__empty_class_folder_that_is_not_utf8__is_noted_in_plain_text(tmp_path):
    touch(tmp_path, "a/1.png", "b/1.png")
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"\xe9t\xe9"))
    json.dumps(note(list_data(tmp_path))).encode()
    assert "udce9" in note(list_data(tmp_path))


# links


def test_folders__link_to_a_folder_elsewhere__is_followed_and_noted_without_its_place(tmp_path):
    pool = touch(tmp_path / "pool", "1.png")
    data = touch(tmp_path / "data", "b/1.png")
    (data / "a").symlink_to(pool)
    listing = list_data(data)
    assert paths(listing) == ["a/1.png", "b/1.png"]
    assert note(listing) == (
        "1 folder reached through a link: 'a'; DVC does not look behind it, "
        "so run 'dvc repro -f prepare' after a change there"
    )
    assert str(tmp_path) not in note(listing)


def test_folders__links_to_files_elsewhere__are_followed_without_a_word(tmp_path):
    """DVC checks files out as links, as its cache.type says; the artifacts must be the same."""
    copied = put(tmp_path / "copied", class_folders())
    for name in class_folders():
        touch(tmp_path / "linked", name).joinpath(name).unlink()
        (tmp_path / "linked" / name).symlink_to(copied / name)
    for kind in ("copied", "linked"):
        write(prepared(tmp_path / kind), tmp_path / "out" / kind)
    for name in ("images.parquet", "labels.parquet", "problems.csv", "summary.json"):
        one, other = ((tmp_path / "out" / k / name).read_bytes() for k in ("copied", "linked"))
        assert one == other


def test_folders__dangling_link_and_circle__are_noted_since_dvc_stops_there(tmp_path):
    put(tmp_path, class_folders())
    (tmp_path / "a" / "dangling.png").symlink_to("gone.png")
    (tmp_path / "b" / "circle.png").symlink_to("circle.png")
    listing = list_data(tmp_path)
    assert note(listing).startswith(
        "2 links that cannot be followed: 'a/dangling.png' and 'b/circle.png'; DVC stops"
    )
    assert reasons(prepare(listing, SplitParams())) == [
        ("a/dangling.png", "unreadable"),
        ("b/circle.png", "unreadable"),
    ]


def test_prepare__hard_links__are_one_image_and_two_rows(tmp_path):
    put(tmp_path, class_folders())
    os.link(tmp_path / "a" / "0.png", tmp_path / "a" / "linked.png")
    result = prepared(tmp_path)
    assert (len(result.images.path), len(result.labels.path)) == (30, 31)
    assert (
        len({split for path, _, split in rows(result) if path in ("a/0.png", "a/linked.png")}) == 1
    )


# the root


def as_nobody(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user who may not read everything, where this one may."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root to become another user")
    code = f"import os, sys\nfrom pipeline import formats, errors, preparation, params\n\
import pyarrow.parquet\nfrom pathlib import Path\nos.seteuid(65534)\n{script}"
    command = [sys.executable, "-c", code, *arguments]
    here = Path(formats.__file__).parents[2]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)


LIST = "sys.exit(errors.exit_status(lambda: print(formats.list_data(Path(sys.argv[1])).problems)))"


@pytest.fixture
def opened(tmp_path) -> Path:
    """A folder that every user may enter."""
    above = Path(tempfile.gettempdir()).resolve()
    for folder in (tmp_path, *tmp_path.parents):
        if above in folder.parents:
            folder.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("mode", [0o000, 0o300])
def test_list_data__root_that_may_not_be_listed__is_one_line_and_exit_2(opened, mode):
    data = touch(opened / "data", "a/1.png", "b/1.png")
    data.chmod(mode)
    done = as_nobody(LIST, str(data))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"data.path: {data} cannot be listed: Permission denied; correct" in line


def test_list_data__root_below_a_locked_folder__says_so(opened):
    data = touch(opened / "locked" / "data", "a/1.png", "b/1.png")
    (opened / "locked").chmod(0)
    done = as_nobody(LIST, str(data))
    assert done.returncode == 2
    assert "lies in a folder that may not be entered" in done.stderr


def test_list_data__locked_class_folder_and_link_into_one__are_listed_or_noted(opened):
    data = touch(opened / "data", "a/1.png", "b/1.png", "c/1.png")
    touch(opened / "other", "in/1.png")
    (data / "link").symlink_to(opened / "other" / "in")
    (data / "c").chmod(0)
    (opened / "other").chmod(0)
    done = as_nobody(LIST, str(data))
    assert done.returncode == 0, done.stderr
    assert "path='c', sha256='', reason='unreadable', detail='Permission denied'" in done.stdout
    assert "path='link', sha256='', reason='no_label'" in done.stdout


def test_list_data__locked_train_folder__is_not_called_missing(opened):
    data = touch(opened / "data", "train/a/1.png", "val/a/1.png", "val/b/1.png")
    (data / "train").chmod(0)
    done = as_nobody(LIST, str(data))
    assert done.returncode == 0, done.stderr
    assert "path='train', sha256='', reason='unreadable'" in done.stdout


def test_list_data__link_that_leads_nowhere__says_so(tmp_path):
    (tmp_path / "data").symlink_to("gone")
    with pytest.raises(ConfigurationError, match="is a link that leads nowhere.*mend the link"):
        list_data(tmp_path / "data")


def test_list_data__pipe_or_device__is_a_configuration_error_and_nothing_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "m.csv")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ConfigurationError, match=r"is no \.csv or \.parquet file"):
            list_data(path)
    with pytest.raises(ConfigurationError, match="neither a folder nor a plain file"):
        list_data(tmp_path / "m.csv")
    with pytest.raises(ConfigurationError, match="is a file, not a folder"):
        list_data(tmp_path / "pipe", format="folders")


# size


def measured(root: Path) -> tuple[float, int, int]:
    """Listing and preparing: seconds of Python's own work, peak bytes, and the rows made."""
    seconds = []
    for _ in range(3):
        began = os.times().user
        labels = prepared(root).labels
        seconds.append(os.times().user - began)
    tracemalloc.start()
    prepared(root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak, len(labels.path)


@pytest.mark.slow
def test_prepare__100_000_files_in_one_folder__costs_ten_times_what_10_000_cost(tmp_path):
    found = {}
    for count in (10_000, 100_000):
        root = tmp_path / str(count)
        put(root, class_folders(5, "b"))
        (root / "a").mkdir()
        for number in range(count):
            with open(root / "a" / f"{number}.png", "wb") as file:
                file.write(photo(number))
        found[count] = measured(root)
    assert [rows for _, _, rows in found.values()] == [10_005, 100_005]
    small, large = found.values()
    assert large[0] < 30 * small[0], "a hundred times would be quadratic"
    assert large[1] < 15 * small[1]
    assert large[1] / 100_000 < 4_000, "bytes of memory a file"
