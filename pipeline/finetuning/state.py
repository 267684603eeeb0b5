"""A run in the making: what a killed one goes on from, kept whole in one file, replaced whole.

It has no generator's state: what is drawn in a step is told by the seed and the step (`network.drawing`,
`pictures.order`), and rates by the step and the losses so far. Decision 0041 tells more.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from pipeline import files
from pipeline.errors import ConfigurationError
from pipeline.finetuning.network import State, copied, put
from pipeline.finetuning.optimising import Machinery
from pipeline.finetuning.scoring import Score

FILE = "state.pt"
FORMAT_VERSION = 1

Row = dict[str, Any]
"""Of the history: epoch, rate, train_loss, train_accuracy, val_accuracy, val_loss."""


@dataclass
class Standing:
    """How far a run is. epoch: finished ones; update: steps done of the next; history: a row an epoch.

    total, right, seen: of that epoch's training images so far, the sum of losses, how many were
    right and how many there were; best: the moving tensors at the best epoch; passes: parts that a
    step's images are computed in; seconds: of training so far; resumptions: how
    often a killed run went on; since: when seconds were last counted.
    """

    epoch: int = 0
    update: int = 0
    total: float = 0.0
    right: int = 0
    seen: int = 0
    history: list[Row] = field(default_factory=list)
    best: State = field(default_factory=dict)
    best_epoch: int = 0
    passes: int = 1
    seconds: float = 0.0
    resumptions: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def losses(self) -> list[float]:
        """Of the validation images, of the epochs trained so far."""
        return [float(row["val_loss"]) for row in self.history if row["epoch"]]

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch

    def tick(self) -> None:
        """Count the seconds until now."""
        now = time.monotonic()
        self.seconds += now - self.since
        self.since = now

    def count(self, loss: float, right: int, images: int) -> None:
        """A step is done. loss: mean of its images."""
        self.update += 1
        self.total += loss * images
        self.right += right
        self.seen += images

    def add(self, row: Row) -> None:
        """An epoch is done."""
        self.history.append(row)
        self.total, self.right, self.seen = 0.0, 0, 0

    def score(self, epoch: int) -> Score:
        """Of the validation images after an epoch."""
        row = self.history[epoch]
        return Score(row["val_accuracy"], -row["val_loss"])


_COUNTED = [one.name for one in fields(Standing) if one.name not in ("best", "since")]


def save(
    folder: Path,
    standing: Standing,
    moving: State,
    average: State,
    machinery: Machinery,
    identity: Mapping[str, Any],
) -> None:
    """Replace the file. moving, average: the tensors that training changes, of both networks."""
    standing.tick()
    content = {
        "format_version": FORMAT_VERSION,
        "identity": dict(identity),
        "standing": {name: getattr(standing, name) for name in _COUNTED},
        "best": standing.best,
        "moving": copied(moving),
        "average": copied(average),
        "optimizer": machinery.optimizer.state_dict(),
        "scaler": machinery.scaler.state_dict(),
    }
    with files.replacing(folder / FILE) as beside:
        torch.save(content, beside)


def load(folder: Path, identity: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What a run of this identity left behind, None where none did. Reads tensors, runs no code.

    Raises ConfigurationError, naming what differs, where the run was another one.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found, version = dict(content["identity"]), content["format_version"]
    except Exception:  # noqa: BLE001 - whatever a damaged file makes the reader raise
        raise ConfigurationError(
            f"finetune.{name}: {path} cannot be read; delete it ('rm {path}') to start anew"
        ) from None
    now = {**identity, "format_version": FORMAT_VERSION}
    then = {**found, "format_version": version}
    differing = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    if differing:
        key = differing[0]
        raise ConfigurationError(
            f"finetune.{name}: an unfinished run in {folder} has {key} {_shown(then.get(key))}, not "
            f"{_shown(now.get(key))}{_others(differing)}; bring that back to finish it, or delete it "
            f"('rm {path}') to start anew"
        )
    return content


def resume(
    content: dict[str, Any], network: torch.nn.Module, machinery: Machinery, device: torch.device
) -> Standing:
    """Bring a network and its machinery to where a run was left."""
    put(network, content["moving"])
    if machinery.average is not None:
        put(machinery.average.module, content["average"])
    machinery.optimizer.load_state_dict(content["optimizer"])
    machinery.scaler.load_state_dict(content["scaler"])
    best = {name: tensor.to(device) for name, tensor in content["best"].items()}
    standing = Standing(**content["standing"], best=best)
    standing.resumptions += 1
    return standing


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:12] + "…" + text[-1:]


def _others(differing: list[str]) -> str:
    return f" (and {', '.join(differing[1:4])})" if differing[1:] else ""
