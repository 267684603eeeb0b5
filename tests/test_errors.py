import errno
import os
import pickle
import re
import subprocess
import sys

import pytest

from pipeline import errors, store  # noqa: F401 - the store has an error of its own
from pipeline.errors import HeadstartError, ImageError, exit_status
from tests.closure import ROOT


def every_error() -> list[type[HeadstartError]]:
    found, todo = [], [HeadstartError]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return found


def raising(error: BaseException):
    def run() -> int:
        raise error

    return run


def run_with_stdout(code: str, stdout) -> subprocess.CompletedProcess[str]:
    script = (
        f"import sys\nfrom pipeline.errors import exit_status\n{code}\nsys.exit(exit_status(f))"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=buffered,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_docstring__tree__names_every_error_with_its_exit_code():
    drawn = dict(re.findall(r"(\w+Error) +(\d+|-) ", errors.__doc__))
    drawn["HeadstartError"] = re.search(r"HeadstartError +(\d+)", errors.__doc__)[1]
    codes = {
        cls.__name__: "-" if cls is ImageError else str(cls.exit_code) for cls in every_error()
    }
    assert drawn == codes


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("HeadstartError", 1),
        ("ConfigurationError", 2),
        ("InputError", 3),
        ("IntegrityError", 4),
        ("ResourceError", 5),
        ("ClusterError", 6),
    ],
)
def test_exit_status__users_error__is_its_code_and_one_line_on_stderr(name, code, capsys):
    assert exit_status(raising(getattr(errors, name)("first\n  second"))) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "headstart: error: first second\n")


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_status__call_that_returns__is_what_it_returned(returned, code, capsys):
    assert exit_status(lambda: returned) == code
    assert capsys.readouterr().err == ""


def test_exit_status__interrupt__is_130_and_one_line(capsys):
    assert exit_status(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_exit_status__full_disk__is_5_and_names_the_place(number, capsys):
    assert exit_status(raising(OSError(number, "no space", "/data/x.h5"))) == 5
    error = capsys.readouterr().err
    assert "/data/x.h5" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_exit_status__disk_that_fails__is_5_and_names_the_place(number, capsys):
    assert exit_status(raising(OSError(number, "a library's words", "/data/x.h5"))) == 5
    assert capsys.readouterr().err == (
        f"headstart: error: the disk fails at /data/x.h5: {os.strerror(number)}; look at it, or at "
        "the network drive, and run the same command again\n"
    )


def test_exit_status__memory_ran_out__is_5_and_says_what_to_lower(capsys):
    assert exit_status(raising(MemoryError())) == 5
    assert "execution.batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    "bug", [ValueError("x"), PermissionError(errno.EACCES, "x"), KeyError("x"), BrokenPipeError()]
)
def test_exit_status__fault_of_ours__keeps_its_traceback(bug, capsys):
    with pytest.raises(type(bug)) as raised:
        exit_status(raising(bug))
    assert raised.value is bug
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at-the-end", "while-printing"])
def test_exit_status__reader_of_stdout_gone__ends_quietly(lines):
    writer = without_reader()
    done = run_with_stdout(f"def f():\n    for n in range({lines}): print(n)", writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_exit_status__another_pipe_broken__is_a_failure():
    code = "import os\nr, w = os.pipe(); os.close(r)\ndef f(): os.write(w, b'x')"
    done = run_with_stdout(code, subprocess.PIPE)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_image_error__through_pickle__keeps_reason_and_detail():
    error = pickle.loads(pickle.dumps(ImageError("truncated", "12 bytes")))
    assert (error.reason, error.detail, str(error)) == (
        "truncated",
        "12 bytes",
        "truncated: 12 bytes",
    )


def test_image_error__detail_of_several_lines__becomes_one():
    error = ImageError("corrupt", "a\n\tb  c")
    assert (error.detail, str(error)) == ("a b c", "corrupt: a b c")


def test_device_memory_error__sent_from_a_worker__keeps_its_batch():
    sent = pickle.loads(pickle.dumps(errors.DeviceMemoryError("no memory for 64 images", 64)))
    assert (str(sent), sent.batch_size) == ("no memory for 64 images", 64)
