"""What can be watched of a run while it goes: a bar, a plain file of figures, DVCLive's where it is installed."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import files, finetuned
from pipeline.finetuning.course import Told, Watch
from pipeline.finetuning.state import Row


@contextmanager
def watching(name: str, epochs: int, runs: Path) -> Iterator[Watch]:
    """A watcher for `finetuning.run`. runs: artifacts/runs, which nothing tracks.

    After each epoch runs/finetune-<name>.csv is replaced; a resumed run goes on in it.
    """
    figures = _Figures(runs / f"finetune-{name}.csv")
    live = _dvclive(runs / f"finetune-{name}-live")
    with tqdm(unit="step", disable=None, desc=name) as bar:

        def watch(told: Told) -> None:
            bar.total = epochs * told.updates
            if told.row is None:
                bar.n = told.epoch * told.updates + told.update
                bar.set_postfix(loss=f"{told.loss:.3f}", refresh=False)
                bar.update(0)
                return
            figures.add(told.row)
            live(told.row)
            bar.write(_line(told.row, epochs))

        yield watch


def _line(row: Row, epochs: int) -> str:
    return (
        f"epoch {row['epoch']} of {epochs}: train loss {row['train_loss']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}"
    )


@dataclass
class _Figures:
    """A CSV that is whole after each epoch."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Another epoch's, in place of what an earlier run said of it or of later ones."""
        if not self.rows and self.path.exists():
            self.rows = [one for one in files.read_csv(self.path) if _epoch(one) < row["epoch"]]
        self.rows.append({**dict.fromkeys(finetuned.COLUMNS), **row})
        files.write_csv(self.path, finetuned.COLUMNS, self.rows)


def _epoch(row: dict[str, Any]) -> int:
    return int(row["epoch"])


def _dvclive(folder: Path) -> Callable[[Row], None]:
    """What logs a row to DVCLive's plain files; nothing where it is not installed."""
    if importlib.util.find_spec("dvclive") is None:
        return lambda _: None
    from dvclive.live import Live

    found: list[Any] = []

    def log(row: Row) -> None:
        if not found:
            on = row["epoch"] > 1  # of a run that goes on; a new one begins anew
            found.append(
                Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None, resume=on)
            )
        live = found[0]
        live.step = int(row["epoch"])
        for name in finetuned.COLUMNS[1:]:
            if row.get(name) is not None:
                live.log_metric(name, float(row[name]))
        live.make_summary()

    return log
