"""Several processes that train one network: they are one process with the same step, and fail in one line."""

import multiprocessing
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import finetuning
from pipeline.errors import InputError, ResourceError
from pipeline.finetuning import ranks
from tests.finetuning_desk import Desk, entry, make

CPU = torch.device("cpu")

STEPS = {
    "epochs": 2, "batch_size": 12, "optimizer": "sgd", "lr": 1e-3, "unfreeze": "last:2",
    "init": "fresh", "gradual": True, "ema": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    return make(tmp_path_factory.mktemp("world"))


def trained(desk: Desk, out, processes: int):
    """Weights, history and record of a run by so many processes."""
    given, place = desk.material(), desk.place(out, processes=processes)
    record = finetuning.run("mine", entry(**STEPS), given, place)
    history = np.genfromtxt(place.folder / "history.csv", delimiter=",", names=True)
    return load_file(place.folder / "model.safetensors"), history, record


def test_alone__shares_and_sums_are_the_whole():
    assert (ranks.count(), ranks.own()) == (1, 0)
    assert list(ranks.share([4, 5, 6])) == [4, 5, 6]
    assert ranks.total(1.5, 2) == [1.5, 2]
    assert ranks.told(lambda: "said") == "said"


def test_two_processes__are_one_with_the_same_step(desk, tmp_path):
    alone, history, record = trained(desk, tmp_path / "one", 1)
    together, same, _ = trained(desk, tmp_path / "two", 2)
    assert record["epoch"] == 2, "the start was kept, so nothing trained is compared"
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(same["train_loss"], history["train_loss"], rtol=1e-4)
    np.testing.assert_array_equal(same["train_accuracy"], history["train_accuracy"])


def _two_weights() -> torch.nn.ParameterList:
    """Of which one alone has a gradient."""
    made = torch.nn.ParameterList([torch.ones(2), torch.ones(3)])
    (made[0].sum() * (1 + ranks.own())).backward()
    return made


def _sum_up() -> None:
    ranks.sum_up(_two_weights())


def test_sum_up__what_has_no_gradient_anywhere__has_none_afterwards():
    """AdamW would let it decay, and one process alone would not."""
    with ranks.together(2, CPU, _sum_up):
        found = _two_weights()
        ranks.sum_up(found)
    assert found[0].grad.tolist() == [3.0, 3.0]
    assert found[1].grad is None


def _wait_for_more() -> None:
    ranks.total(1.0)
    ranks.total(1.0)


def test_the_first_process_that_breaks_off__is_told_by_itself_alone(capfd):
    with pytest.raises(ResourceError, match="no memory"), ranks.together(2, CPU, _wait_for_more):
        ranks.total(1.0)
        raise ResourceError("no memory")
    assert "Traceback" not in capfd.readouterr().err


def _load_in_children() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(abs, [-1]) == [1]
    ranks.total(1.0)


def test_a_process__may_have_children_that_decode():
    with ranks.together(2, CPU, _load_in_children):
        assert ranks.total(1.0) == [2.0]


def _refuse() -> None:
    raise InputError("said by the first process as well")


def test_a_process_that_refuses__prints_no_traceback(capfd):
    with pytest.raises(InputError), ranks.together(2, CPU, _refuse):
        ranks.total(1.0)
    assert "Traceback" not in capfd.readouterr().err


class _Fatal:
    """Nothing that a process survives reading."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_ends_before_all_have_met__is_one_line():
    with (
        pytest.raises(ResourceError, match=r"1 of 2 processes .*exit code 9"),
        ranks.together(2, CPU, print, _Fatal()),
    ):
        pass
    assert ranks.count() == 1


def _meet_a_photo_that_changed() -> None:
    ranks.total(1.0)
    raise InputError("photo 7 changed")


def test_what_another_process_alone_meets__is_raised_by_the_first():
    with (
        pytest.raises(InputError, match="photo 7 changed"),
        ranks.together(2, CPU, _meet_a_photo_that_changed),
    ):
        ranks.total(1.0)
        ranks.total(1.0)


def _vanish() -> None:
    os._exit(7)


def test_a_process_that_ends_before_its_time__is_one_line(monkeypatch):
    with (
        pytest.raises(ResourceError, match=r"1 of 2 processes .*exit code 7.*goes on"),
        ranks.together(2, CPU, _vanish),
    ):
        ranks.total(1.0)
    assert ranks.count() == 1


def test_processes__are_no_more_than_images_of_a_step(desk, tmp_path):
    place = desk.place(tmp_path, processes=8)
    assert finetuning.processes_of(place, entry(batch_size=3, accumulate=1), CPU, 100) == 3
    assert finetuning.processes_of(place, entry(batch_size=3, accumulate=1), CPU, 2) == 2
    assert finetuning.processes_of(desk.place(tmp_path), entry(), CPU, 100) == 1
