"""The GPUs that this process may use, asked of their driver: no other library of CUDA is needed.

`CUDA_VISIBLE_DEVICES` is the driver's own: those that it leaves out are not seen, and the rest
are counted from 0, as every library of CUDA counts them.
"""

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"

_PORTABLE = 1
"""CU_MEMHOSTREGISTER_PORTABLE: pinned for every GPU of the process, not for one."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. index: as CUDA counts; memory: bytes it has in all."""

    index: int
    name: str
    memory: int

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name}, {self.memory / 1e9:.0f} GB)"


def count() -> int:
    """How many GPUs the driver sees; 0 where there is no driver."""
    return _count(_driver())


def visible() -> tuple[Gpu, ...]:
    """Every GPU that the driver sees."""
    driver = _driver()
    return tuple(_gpu(driver, index) for index in range(_count(driver)))


def named(index: int) -> str:
    """A GPU in words, for a message."""
    found = [gpu for gpu in visible() if gpu.index == index]
    return str(found[0]) if found else f"GPU {index}"


def pinned(shape: tuple[int, ...], gpu: int) -> Pixels:
    """Memory for pixels, uint8, that is not swapped out, so that a GPU fetches it by itself.

    Ordinary memory where the system gives none of that kind: copies are slower, and no less right.
    """
    memory = np.frombuffer(mmap.mmap(-1, math.prod(shape)), np.uint8)
    driver = _driver()
    if gpu < _count(driver) and _pin(driver, gpu, memory):
        release = weakref.finalize(memory, _unpin, driver, gpu, memory.ctypes.data)
        release.atexit = False  # the process's end frees it, when the driver may be gone already
    return memory.reshape(shape)


@lru_cache(maxsize=1)
def _driver() -> Any:
    """The driver's library, ready to be asked; None where there is none, or it does not start."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def _count(driver: Any) -> int:
    number = ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return 0
    return number.value


def _gpu(driver: Any, index: int) -> Gpu:
    device, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(index, name.value.decode(errors="replace"), memory.value)


def _pin(driver: Any, gpu: int, memory: Pixels) -> bool:
    address, size = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
    return _within(driver, gpu, lambda: driver.cuMemHostRegister_v2(address, size, _PORTABLE))


def _unpin(driver: Any, gpu: int, address: int) -> None:
    _within(driver, gpu, lambda: driver.cuMemHostUnregister(ctypes.c_void_p(address)))


def _within(driver: Any, gpu: int, action: Callable[[], int]) -> bool:
    """Whether an action succeeds in a GPU's primary context, where CUDA's libraries work as well.

    The context is never released: with the last who holds it all that it holds would go.
    """
    device, context, before = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    driver.cuDeviceGet(ctypes.byref(device), gpu)
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) != 0:
        return False
    if driver.cuCtxPushCurrent_v2(context) != 0:
        return False
    try:
        return action() == 0
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(before))
