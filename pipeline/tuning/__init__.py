"""How to run a backbone fastest on this machine: measured once, remembered beside its shards."""

from pathlib import Path

from pipeline.images import Pixels
from pipeline.runtimes import Runtime
from pipeline.tuning import on_cpu, on_gpus
from pipeline.tuning.choice import SPEED, Tuned, Wish, note_path

__all__ = ["SPEED", "Tuned", "Wish", "tune"]


def tune(
    runtime: Runtime,
    images: Pixels,
    *,
    wish: Wish,
    memory: Path,
    measure: bool,
    precision: str = "float32",
) -> Tuned:
    """The fastest way to run a backbone, within a wish.

    runtime: as it was loaded; images: the probe's, (K, H, W, 3) uint8; memory: folder where a
    choice is remembered; measure: whether to look for one where none is, which takes a second or
    so on a CPU and up to some on a GPU; precision: the backbone's, a key of frozen.TOLERANCE.

    On a CPU no choice changes a bit of the probe's vectors. On a GPU the batch size is chosen, and
    halved with a line on stderr as often as its memory asks for; raises DeviceMemoryError where it
    does not hold one image.
    """
    note = note_path(memory, runtime, wish)
    if runtime.device == "cpu":
        return on_cpu.tune(runtime, images, wish=wish, note=note, measure=measure)
    return on_gpus.tune(runtime, images, wish=wish, note=note, measure=measure, precision=precision)
