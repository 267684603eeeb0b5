"""Decoding in child processes: what an image can do to its decoder, it does to itself alone."""

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline import decoding
from pipeline.decoding import Decoder, Decoders, Stopped, child, parent
from pipeline.errors import ResourceError
from pipeline.images import Preprocessing, preprocess

RECIPE = Preprocessing(40, 32, "bicubic", (0.5,) * 3, (0.5,) * 3)

SPITEFUL = """
import os, signal, time
from PIL import ImageFile

real = ImageFile.ImageFile.load

def load(image):
    if image.width == 101:
        os.kill(os.getpid(), signal.SIGSEGV)
    if image.width == 102:
        while True:
            pass
    if image.width == 103:
        time.sleep(1e6)
    if image.width == 104 and not os.path.exists("once"):
        open("once", "w").close()
        os.abort()
    if image.width == 105:
        os.kill(os.getpid(), signal.SIGKILL)
    if image.width == 106:
        os.write(1, b"libtiff: warning\\n")
        os.write(2, b"libtiff: warning\\n")
    if image.width == 107:
        raise MemoryError
    if image.width == 108:
        os._exit(7)
    if image.width == 109 and not os.path.exists("late"):
        open("late", "w").close()
        time.sleep(1e6)
    return real(image)

ImageFile.ImageFile.load = load
"""
"""A decoder that a file's width can crash, hang or kill."""


@pytest.fixture
def spiteful(tmp_path, monkeypatch):
    """Children started from here on decode with SPITEFUL."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SPITEFUL)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parent, "CPU_SECONDS", 0.5)
    monkeypatch.setattr(parent, "CLOCK_SECONDS", 2.0)


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def picture(root: Path, name: str, width: int) -> tuple[str, str]:
    """A picture of noise on disk; its (sha256, path)."""
    noise = np.random.default_rng(width).integers(0, 256, (60, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    (root / name).write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest(), name


def decode(root: Path, images) -> decoding.Batch:
    decoders = Decoders(root, RECIPE)
    try:
        with decoders.borrow() as decoder:
            return decoder.decode(images)
    finally:
        decoders.close()


def reasons(batch: decoding.Batch) -> dict[str, str]:
    return {path: reason for path, _, reason, _ in batch.failed}


def test_decode__good_images__are_the_pixels_of_preprocess_in_order(photos):
    images = [picture(photos, f"{width}.png", width) for width in (50, 60, 70, 80, 90)]
    batch = decode(photos, images)
    assert batch.sha256 == [sha256 for sha256, _ in images]
    expected = [preprocess((photos / name).read_bytes(), RECIPE) for _, name in images]
    np.testing.assert_array_equal(batch.pixels, expected)
    assert batch.failed == []
    assert batch.read > 0
    assert batch.decode > 0


def test_decode__no_sha256__any_bytes_will_do(photos):
    _, name = picture(photos, "50.png", 50)
    batch = decode(photos, [("", name), ("0" * 64, name)])
    assert (batch.sha256, reasons(batch)) == ([""], {name: "changed"})
    assert len(batch.pixels) == 1


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_stream__batches_of_any_size__are_what_decode_makes_of_all(spiteful, photos, ahead, size):
    images = [picture(photos, f"{n}.png", 50 + n) for n in range(8)]
    images.insert(3, picture(photos, "bad.png", 101))
    images.insert(7, ("0" * 64, "none.png"))
    decoders = Decoders(photos, RECIPE)
    with decoders.borrow() as decoder:
        batches = [
            replace(batch, pixels=batch.pixels.copy())
            for batch in decoder.stream(images, size, ahead=ahead)
        ]
    decoders.close()
    assert [len(batch.sha256) + len(batch.failed) for batch in batches] == [
        len(images[start : start + size]) for start in range(0, len(images), size)
    ]
    whole = decode(photos, images)
    assert sum((batch.sha256 for batch in batches), []) == whole.sha256
    assert sum((batch.failed for batch in batches), []) == whole.failed
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in batches]), whole.pixels)
    begun = [batch.began for batch in batches]
    assert begun == sorted(begun)
    assert 0 < begun[0] < time.time()


@pytest.mark.parametrize(
    ("read", "ahead", "expected"), [(0.0, True, 2), (1e9, False, 2), (0.0, False, 1)]
)
def test_stream__slow_reading_or_asked_to__is_a_batch_ahead(
    photos, monkeypatch, read, ahead, expected
):
    images = [picture(photos, f"{n}.png", 50 + n) for n in range(4)]
    asked = []
    real_ask, real_answers = Decoder._ask, Decoder._answers
    monkeypatch.setattr(
        Decoder, "_ask", lambda one, *some: (asked.append(some), real_ask(one, *some))
    )

    def answers(decoder, some):
        batch = real_answers(decoder, some)
        batch.read = read
        return batch

    monkeypatch.setattr(Decoder, "_answers", answers)
    decoders = Decoders(photos, RECIPE)
    with decoders.borrow() as decoder:
        for number, _ in enumerate(decoder.stream(images, 1, ahead=ahead)):
            assert len(asked) == min(number + expected, 4)
    decoders.close()


def test_fetch__what_is_no_file__is_passed_over(photos):
    os.mkfifo(photos / "pipe.png")
    (photos / "loop.png").symlink_to("loop.png")
    for name in ("gone.png", "pipe.png", "loop.png", "a\0b.png", "."):
        child.fetch(photos / name)


def test_stream__next_batch__is_read_ahead_while_this_one_is_decoded(photos, monkeypatch):
    images = [picture(photos, f"{n}.png", 50 + n) for n in range(5)]
    written = []
    real = parent._start

    def recording(*order):
        started = real(*order)
        pipe = started.stdin

        class Pipe:
            def write(self, line):
                written.append(json.loads(line))
                return pipe.write(line)

            def __getattr__(self, name):
                return getattr(pipe, name)

        started.stdin = Pipe()
        return started

    monkeypatch.setattr(parent, "_start", recording)
    decoders = Decoders(photos, RECIPE)
    with decoders.borrow() as decoder:
        list(decoder.stream(images, 2))
    decoders.close()
    names = [[path for _, path in images[start : start + 2]] for start in (0, 2, 4)]
    assert [[path for _, path in one["images"]] for one in written] == names
    assert [one["next"] for one in written] == [*names[1:], []]


def test_start__threads_to_come__have_their_children_already(photos):
    decoders = Decoders(photos, RECIPE)
    decoders.start(3)
    started = {decoder._child.pid for decoder in decoders._all}
    with decoders.borrow() as one, decoders.borrow() as other:
        assert {one._child.pid, other._child.pid} < started
    decoders.start(3)
    assert len(decoders._all) == 3
    decoders.close()
    decoders.start(4)
    assert len(decoders._all) == 3


def test_decode__again_and_again__asks_the_same_child(photos):
    images = [picture(photos, "a.png", 50)]
    decoders = Decoders(photos, RECIPE)
    seen = set()
    for _ in range(3):
        with decoders.borrow() as decoder:
            decoder.decode(images)
            seen.add(decoder._child.pid)
    decoders.close()
    assert len(seen) == 1


def test_decode__file_that_changed_vanished_or_is_none__is_listed_with_its_reason(photos):
    good = picture(photos, "good.png", 50)
    images = [picture(photos, f"{n}.png", 50 + n) for n in range(5)]
    (photos / "0.png").write_bytes(b"other")
    (photos / "1.png").unlink()
    (photos / "2.png").unlink()
    (photos / "2.png").mkdir()
    (photos / "3.png").unlink()
    os.mkfifo(photos / "3.png")
    (photos / "4.png").unlink()
    (photos / "4.png").symlink_to("4.png")
    batch = decode(photos, [*images, good])
    assert reasons(batch) == {
        "0.png": "changed",
        "1.png": "unreadable",
        "2.png": "unreadable",
        "3.png": "unreadable",
        "4.png": "unreadable",
    }
    assert all(detail for *_, detail in batch.failed)
    assert batch.sha256 == [good[0]]


def test_decode__file_of_more_bytes_than_any_image_needs__is_not_read(photos):
    with (photos / "huge.tif").open("wb") as file:
        file.write(b"II*\0")
        file.truncate(child.MAX_BYTES + 1)
    assert reasons(decode(photos, [("0" * 64, "huge.tif")])) == {"huge.tif": "too_many_bytes"}


@pytest.mark.parametrize(
    "name", ["new\nline.png", "ünï.png", "🐝.png", "x" * 251 + ".png", "'\".png"]
)
def test_decode__odd_name__is_read(photos, name):
    assert decode(photos, [picture(photos, name, 50)]).failed == []


@pytest.mark.parametrize(
    ("width", "reason", "words"),
    [
        (101, "crashed", "SIGSEGV"),
        (102, "timeout", "0.5 s of a processor"),
        (103, "timeout", "2 s"),
        (108, "crashed", "exit code 7"),
    ],
)
def test_decode__image_that_ends_its_decoder__costs_itself_alone(
    spiteful, photos, width, reason, words
):
    before = [picture(photos, f"{n}.png", 50 + n) for n in range(2)]
    bad = picture(photos, "bad.png", width)
    after = [picture(photos, f"{n}.png", 60 + n) for n in range(2, 4)]
    batch = decode(photos, [*before, bad, *after])
    assert reasons(batch) == {"bad.png": reason}
    assert words in batch.failed[0][3]
    assert batch.sha256 == [sha256 for sha256, _ in (*before, *after)]
    expected = [preprocess((photos / name).read_bytes(), RECIPE) for _, name in (*before, *after)]
    np.testing.assert_array_equal(batch.pixels, expected)


def test_decode__all_images_end_their_decoder__are_all_listed(spiteful, photos):
    images = [picture(photos, "a.png", 101), picture(photos, "b.png", 108)]
    batch = decode(photos, images)
    assert reasons(batch) == {"a.png": "crashed", "b.png": "crashed"}
    assert batch.pixels.shape == (0, 32, 32, 3)


def test_decode__decoder_that_crashed_once__is_given_a_second_try(spiteful, photos, tmp_path):
    batch = decode(photos, [picture(photos, "once.png", 104), picture(photos, "b.png", 50)])
    assert batch.failed == []
    assert len(batch.sha256) == 2
    assert (tmp_path / "once").exists()


@pytest.mark.parametrize("width", [105, 107])
def test_decode__image_that_memory_does_not_suffice_for__is_listed_after_a_second_try(
    spiteful, photos, width
):
    batch = decode(photos, [picture(photos, "bad.png", width), picture(photos, "b.png", 50)])
    assert reasons(batch) == {"bad.png": "out_of_memory"}
    assert "execution.threads" in batch.failed[0][3]
    assert len(batch.sha256) == 1


def test_decode__machine_that_was_suspended__loses_no_image(spiteful, photos, tmp_path):
    batch = decode(photos, [picture(photos, "late.png", 109)])
    assert batch.failed == []
    assert (tmp_path / "late").exists()


def test_decode__decoder_that_does_not_start__is_one_error_and_blames_no_image(photos, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(
        ResourceError, match=r"does not start \(exit code 1\); run 'headstart doctor'"
    ):
        decode(photos, [picture(photos, "a.png", 50), picture(photos, "b.png", 60)])


def test_decode__child_that_ended_for_lack_of_questions__is_started_again(photos):
    image = picture(photos, "a.png", 50)
    decoders = Decoders(photos, RECIPE)
    with decoders.borrow() as decoder:
        decoder.decode([image])
        decoder._child.terminate()  # as it does after child.IDLE_SECONDS
        decoder._child.wait(10)
        batch = decoder.decode([image])
    decoders.close()
    assert batch.sha256 == [image[0]]


def test_question__none_for_long__ends_the_child(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(child, "IDLE_SECONDS", 0.05)
    with os.fdopen(reader) as silent, os.fdopen(writer, "w"):
        monkeypatch.setattr(sys, "stdin", silent)
        assert child._question() == b""


def test_decode__library_that_prints__breaks_no_answer(spiteful, photos, capfd):
    batch = decode(photos, [picture(photos, "a.png", 106), picture(photos, "b.png", 50)])
    assert len(batch.sha256) == 2
    assert capfd.readouterr() == ("", "")


def test_read__machine_out_of_files__is_not_blamed_on_the_image(photos, monkeypatch):
    sha256, name = picture(photos, "a.png", 50)
    open_ = os.open

    def full(path, *rest):
        if str(path).endswith("a.png"):
            raise OSError(errno.EMFILE, "Too many open files")
        return open_(path, *rest)

    monkeypatch.setattr(os, "open", full)
    answer, pixels = child.serve(photos / name, sha256, RECIPE, (9, 9))
    assert (answer["machine"], answer["errno"]) == ("Too many open files", errno.EMFILE)
    assert pixels == b""


def test_decode__fault_of_ours_in_the_child__is_raised_with_its_traceback(photos, monkeypatch):
    wrong = Preprocessing(40, 32, "no such", (0.5,) * 3, (0.5,) * 3)
    decoder = Decoder(photos, wrong)
    with pytest.raises(
        RuntimeError, match=r"(?s)the decoder failed on a\.png.*KeyError: 'no such'"
    ):
        decoder.decode([picture(photos, "a.png", 50)])
    decoder.close()
    decoder.reap()


def test_borrow__two_threads_at_once__have_a_child_each(photos):
    decoders = Decoders(photos, RECIPE)
    with decoders.borrow() as one, decoders.borrow() as other:
        assert one is not other
    with decoders.borrow() as again:
        assert again in (one, other)
    decoders.close()


def test_borrow__error_while_at_work__ends_that_child_and_keeps_none(photos):
    decoders = Decoders(photos, RECIPE)
    for _ in range(3):
        with pytest.raises(ValueError, match="ours"), decoders.borrow():
            raise ValueError("ours")
    assert decoders._all == decoders._idle == []


def test_close__while_a_child_is_being_replaced__leaves_none(photos, monkeypatch):
    decoder = Decoder(photos, RECIPE)
    image = picture(photos, "a.png", 50)
    decoder.decode([image])
    decoder.close()
    with pytest.raises(Stopped):
        decoder.decode([image])
    decoder.reap()
    assert decoder._child.returncode is not None


def test_close__decoder_at_work__is_stopped_at_once(spiteful, photos):
    import threading

    decoders = Decoders(photos, RECIPE)
    image = picture(photos, "sleeps.png", 103)
    ended = []

    def work():
        with pytest.raises(Stopped), decoders.borrow() as decoder:
            decoder.decode([image])
        ended.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.8)
    closed = time.monotonic()
    decoders.close()
    thread.join(10)
    assert ended
    assert ended[0] - closed < 1.0
    with pytest.raises(Stopped), decoders.borrow():
        pass


PARENT = """
import sys, time
from pathlib import Path
from pipeline.decoding import Decoder
from pipeline.images import Preprocessing
decoder = Decoder(Path(sys.argv[1]), Preprocessing(40, 32, "bicubic", (0.5,) * 3, (0.5,) * 3))
decoder.decode([("0" * 64, "none.png")])
print(decoder._child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_child__parent_that_dies__takes_it_along(photos, sign):
    command = [sys.executable, "-c", PARENT, str(photos)]
    environment = {**os.environ, "PYTHONPATH": str(Path(decoding.__file__).parents[1])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as parent:
        started = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(sign)
    psutil.wait_procs([started], timeout=5)
    assert not started.is_running() or started.status() == psutil.STATUS_ZOMBIE
