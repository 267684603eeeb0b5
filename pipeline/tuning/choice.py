"""What is asked for, what is chosen, and the note that remembers it."""

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import files, gpus
from pipeline.frozen import Vectors
from pipeline.runtimes import Runtime, Setting

SPEED = "speed-"
"""How the name of a note in the store begins; `<store>/<fingerprint>/speed-<machine>.json`."""


@dataclass(frozen=True)
class Wish:
    """What params.yaml asks for; None: the fastest.

    cores: what there is to share; compiled: whether a run is so long that compiling may pay.
    """

    cores: int
    threads: int | None = None
    sessions: int | None = None
    batch_size: int | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Tuned:
    """A runtime as it is to be used. probe: what it makes of the probe's images."""

    runtime: Runtime
    setting: Setting
    probe: Vectors


def note_path(memory: Path, runtime: Runtime, wish: Wish) -> Path:
    """Where the choice for this machine, library and wish is remembered, below `memory`."""
    machine: list[Any] = [platform.machine(), processor(), runtime.device, runtime.version]
    if runtime.device != "cpu":
        machine.append(hardware(runtime.gpus))
    key = files.sha256_of_json([machine, asdict(wish)])[:16]
    return memory / f"{SPEED}{key}.json"


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Write a note, with the sha256 of the rest at its end."""
    files.write_json(path, {**note, "sha256": files.sha256_of_json(note)})


def read_note(path: Path) -> dict[str, Any]:
    """A note as it was written. Raises OSError, or ValueError and the like where it is damaged."""
    note: dict[str, Any] = json.loads(path.read_bytes())
    if note.pop("sha256") != files.sha256_of_json(note):
        raise ValueError("its sha256 is another")
    return note


def hardware(indices: tuple[int, ...]) -> list[tuple[str, int]]:
    """Name and bytes of memory of each of these GPUs."""
    return [(gpu.name, gpu.memory) for gpu in gpus.visible() if gpu.index in indices]


def processor() -> str:
    """The name of this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line for line in file if line.startswith("model name")).strip()
    except (OSError, StopIteration):
        return platform.processor()
