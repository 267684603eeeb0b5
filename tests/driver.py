"""A driver of CUDA for machines without a GPU: it counts, names and pins, and computes nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = """
#include <stdio.h>
#include <stddef.h>
static int visible = %(visible)d, refuses = 0, depth_ = 0;
static size_t pinned = 0, size_of_last = 0;
int cuInit(unsigned flags) { return %(started)d; }
int cuDeviceGetCount(int *n) { *n = visible; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < visible ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, size, "Test GPU %%d", device); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 80000000000; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
  *context = (void *)(size_t)(device + 1); return 0; }
int cuCtxPushCurrent_v2(void *context) { depth_++; return context ? 0 : 201; }
int cuCtxPopCurrent_v2(void **context) { depth_--; return 0; }
int cuMemHostRegister_v2(void *at, size_t size, unsigned flags) {
  if (refuses || !depth_ || flags != 1) return 1;
  pinned += size; size_of_last = size; return 0; }
int cuMemHostUnregister(void *at) {
  if (!depth_) return 201;
  pinned -= size_of_last; return 0; }
int pinned_bytes(void) { return (int)pinned; }
int depth(void) { return depth_; }
void refuse_to_pin(int yes) { refuses = yes; }
"""


def build(folder: Path, *, visible: int, starts: bool = True) -> Path:
    """Its library in that folder; skips where nothing can be built."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc to build a driver with")
    source = folder / "driver.c"
    source.write_text(SOURCE % {"visible": visible, "started": 0 if starts else 100})
    made = folder / "libdriver.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, source], check=True)
    return made
