"""What the driver tells of GPUs, and memory that is pinned for them; against a driver of gcc's."""

import ctypes
import gc
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from pipeline import gpus
from tests.conftest import ROOT
from tests.driver import build


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A driver that sees two GPUs and counts what is pinned."""
    path = build(tmp_path, visible=2)
    monkeypatch.setattr(gpus, "DRIVER", str(path))
    gpus._driver.cache_clear()
    yield ctypes.CDLL(str(path))
    gpus._driver.cache_clear()


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setattr(gpus, "DRIVER", "libno-such-driver.so.1")
    gpus._driver.cache_clear()
    yield
    gpus._driver.cache_clear()


def test_visible__two_gpus__have_their_names_and_memory(driver):
    assert gpus.count() == 2
    first, second = gpus.visible()
    assert (first.index, first.name, first.memory) == (0, "Test GPU 0", 80_000_000_000)
    assert str(second) == "GPU 1 (Test GPU 1, 80 GB)"
    assert gpus.named(1) == str(second)
    assert gpus.named(7) == "GPU 7"


def test_visible__no_driver__is_none_and_no_error(no_driver):
    assert gpus.count() == 0
    assert gpus.visible() == ()
    assert gpus.named(0) == "GPU 0"


def test_visible__driver_that_does_not_start__is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "DRIVER", str(build(tmp_path, visible=2, starts=False)))
    gpus._driver.cache_clear()
    assert gpus.count() == 0
    gpus._driver.cache_clear()


def test_count__needs_no_torch_and_no_onnxruntime(tmp_path):
    """As a driver of many workers asks it, before anything is loaded."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build a driver with")
    shutil.copy(build(tmp_path, visible=3), tmp_path / "libcuda.so.1")
    code = (
        "import sys; from pipeline import gpus; "
        "print(gpus.count(), sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "3 []\n", done.stderr


def test_pinned__memory__is_pinned_once_for_as_long_as_a_view_of_it_lives(driver):
    pixels = gpus.pinned((3, 4, 5, 3), 1)
    assert (pixels.shape, pixels.dtype) == ((3, 4, 5, 3), np.uint8)
    assert driver.pinned_bytes() == 3 * 4 * 5 * 3
    pixels[:] = 7
    view = pixels[1:, :, 2]
    del pixels
    gc.collect()
    assert driver.pinned_bytes() == 180
    assert (view == 7).all()
    del view
    gc.collect()
    assert driver.pinned_bytes() == 0
    assert driver.depth() == 0  # no context is left behind in the thread


def test_pinned__system_that_pins_nothing__gives_ordinary_memory(driver):
    driver.refuse_to_pin(1)
    pixels = gpus.pinned((2, 3), 0)
    pixels[:] = 1
    assert driver.pinned_bytes() == 0
    assert driver.depth() == 0


def test_pinned__no_driver__gives_ordinary_memory(no_driver):
    pixels = gpus.pinned((2, 3), 0)
    pixels[:] = 1
    assert pixels.sum() == 6
