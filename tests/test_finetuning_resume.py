"""A run that is killed goes on as if nothing had been, and goes on with nothing but itself."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import finetuned
from pipeline.errors import ConfigurationError
from pipeline.finetuning import outcome, state
from tests import finetuning_desk
from tests.finetuning_desk import KILLED, Desk

ROOT = Path(__file__).parents[1]
STEPS = 12
"""Of a whole run."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    made = finetuning_desk.make(tmp_path_factory.mktemp("desk"))
    made.material()
    return made


@pytest.fixture(autouse=True)
def no_export(monkeypatch):
    monkeypatch.setattr(outcome, "write_onnx", lambda *_: "left out by a test")


@pytest.fixture(scope="module")
def whole(desk, tmp_path_factory) -> dict[str, bytes]:
    """What an uninterrupted run wrote."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "write_onnx", lambda *_: "left out by a test")
        desk.run(out, **KILLED)
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "mine").iterdir())}


def kill(desk: Desk, out: Path, after: int) -> None:
    """A run of its own process, killed after so many steps."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.finetuning_desk", desk.folder, out, str(after)],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (out / "mine").exists()


def killed_and_resumed(desk: Desk, out: Path, *deaths: int) -> dict[str, bytes]:
    for after in deaths:
        kill(desk, out, after)
    desk.run(out, **KILLED)
    return written(out)


@pytest.mark.parametrize("after", [2, 6])
def test_run__killed_and_resumed__is_the_uninterrupted_one_to_the_bit(desk, whole, tmp_path, after):
    assert killed_and_resumed(desk, tmp_path, after) == whole


@pytest.mark.slow
@pytest.mark.parametrize("kill_number", range(20))
def test_run__killed_at_random_steps__is_the_same(desk, whole, tmp_path, kill_number):
    random = np.random.default_rng(kill_number)
    first = int(random.integers(1, STEPS - 1))
    again = int(random.integers(1, STEPS - first)) if kill_number % 3 == 0 else None
    deaths = [first] if again is None else [first, again]
    assert killed_and_resumed(desk, tmp_path, *deaths) == whole
    assert finetuned.WEIGHTS in whole


SETTINGS = [
    {"batch_norm": "train", "schedule": "cosine"},
    {"schedule": "plateau", "epochs": 4, "patience": None},
    {"gradual": True, "unfreeze": "all"},
    {"optimizer": "sgd", "l2_sp": 0.1, "clip": 1.0},
    {"init": "random", "unfreeze": "all", "cutmix": 0.5, "label_smoothing": 0.1},
]


@pytest.mark.parametrize("keys", SETTINGS, ids="-".join)
@pytest.mark.parametrize("after", [3, 7])
def test_run__broken_off_and_resumed_whatever_its_settings__is_the_same(
    desk, tmp_path, capsys, keys, after
):
    """In the process itself, where kills would take too long: all that goes on is what was saved."""
    asked = {"epochs": 3, "lr": 1e-2, "warmup_epochs": 1, **keys}
    desk.run(tmp_path / "whole", **asked)
    done = 0

    def watch(told):
        nonlocal done
        done += told.row is None
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        desk.run(tmp_path / "parts", watch=watch, every=0.0, **asked)
    capsys.readouterr()
    desk.run(tmp_path / "parts", **asked)
    assert "finetune.mine goes on after" in capsys.readouterr().out
    assert written(tmp_path / "parts") == written(tmp_path / "whole")
    told = json.loads((tmp_path / "parts" / "runs" / "finetune-mine.json").read_bytes())
    assert told["resumptions"] == 1
    assert told["phases"]["train"] > 0


class Stop(Exception):
    pass


def interrupted(desk: Desk, out: Path, **keys) -> Path:
    """A run that breaks off in its second epoch; its file."""

    def watch(told):
        if told.epoch == 1 and told.row is None:
            raise Stop

    with pytest.raises(Stop):
        desk.run(out, watch=watch, **{"unfreeze": "last:1", **keys})
    return out / "runs/finetune-mine" / state.FILE


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lr", 0.5, r"has lr 0\.001, not 0\.5; bring that back to finish it, or delete it"),
        ("unfreeze", "all", r"has unfreeze 'last:1', not 'all'"),
        ("epochs", 7, r"has epochs 2, not 7"),
    ],
)
def test_run__resumed_with_other_params__is_refused_and_the_difference_named(
    desk, tmp_path, key, value, said
):
    left = interrupted(desk, tmp_path)
    with pytest.raises(ConfigurationError, match=said) as error:
        desk.run(tmp_path, **{"unfreeze": "last:1", key: value})
    assert f"'rm {left}'" in str(error.value)
    left.unlink()
    desk.run(tmp_path, unfreeze="last:1", epochs=1, lr=1e-4)


def test_run__resumed_with_other_images__is_refused(desk, tmp_path, monkeypatch):
    interrupted(desk, tmp_path)
    labels = desk.labels
    fewer = labels.where(labels.path != "train/dots/0.png")
    with pytest.raises(ConfigurationError, match="has images '"):
        Desk(desk.folder, fewer, desk.origin).run(tmp_path, unfreeze="last:1")


def test_run__unfinished_file_that_is_damaged__is_told_in_a_line(desk, tmp_path):
    left = interrupted(desk, tmp_path)
    left.write_bytes(left.read_bytes()[:1000])
    with pytest.raises(ConfigurationError, match="cannot be read; delete it") as error:
        desk.run(tmp_path, unfreeze="last:1")
    assert "\n" not in str(error.value)


def test_run__unfinished_file_that_would_run_code__runs_none(desk, tmp_path):
    import torch

    left = interrupted(desk, tmp_path)

    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"identity": Payload(), "format_version": 1}, left)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        desk.run(tmp_path, unfreeze="last:1")
    assert not (tmp_path / "ran").exists()
