"""Tuning on GPUs, by doubles: the knee of the speed, and as much as the memory holds."""

import json
import threading
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import frozen, runtimes
from pipeline.errors import DeviceMemoryError
from pipeline.runtimes import Setting, sessions
from pipeline.runtimes.onnx import OnnxOnGpus
from pipeline.tuning import Wish, choice, on_gpus, tune
from tests.test_runtimes import averaging, images, pixels

__all__ = ["averaging", "pixels"]

PROBE = np.arange(5 * 12, dtype=np.uint8).reshape(5, 2, 2, 3)


@dataclass(frozen=True)
class Device:
    """A GPU that computes one pass at a time; a pass takes `least` seconds, or `each` an image.

    They pass on CLOCK alone, but for `pause`, which its caller sleeps. room: images that it
    holds; drift: what is added to each value; passes: their batch sizes.
    """

    least: float = 0.0
    each: float = 0.0
    room: int = 10_000
    drift: float = 0.0
    pause: float = 0.0
    gpus: tuple = (0,)
    device: str = "cuda"
    batch_size: int = 128
    version: str = "1"
    passes: list = field(default_factory=list)
    settings: list = field(default_factory=list)
    turn: threading.Lock = field(default_factory=threading.Lock)
    inside: list = field(default_factory=list)
    most_inside: list = field(default_factory=lambda: [0])

    def embed(self, images):
        self.inside.append(1)
        self.most_inside[0] = max(self.most_inside[0], len(self.inside))
        try:
            for _ in range(-(-len(images) // self.batch_size)):
                self.passes.append(self.batch_size)
                if self.batch_size > self.room:
                    raise sessions.out_of_memory(self.batch_size, 0)
                with self.turn:
                    CLOCK[0] += max(self.least, self.each * self.batch_size)
                time.sleep(self.pause)
            return images.reshape(len(images), -1).astype(np.float32) + np.float32(self.drift)
        finally:
            self.inside.pop()

    def run_as(self, setting):
        self.settings.append(setting)
        return replace(self, batch_size=setting.batch_size)


CLOCK = [0.0]
"""The time, as tuning is told it."""

KNEE = Device(least=0.064, each=0.001)
"""As fast from 64 images a pass on as it will ever be."""


@pytest.fixture(autouse=True)
def one_machine(monkeypatch):
    """The same GPU, seen or not, and a clock that no other program can delay."""
    monkeypatch.setattr(choice, "hardware", lambda indices: [("H", 80)] * len(indices))
    told = SimpleNamespace(perf_counter=lambda: CLOCK[0], monotonic=lambda: CLOCK[0])
    monkeypatch.setattr(on_gpus, "time", told)
    monkeypatch.setattr(on_gpus, "PATIENCE", 60.0)


def fresh(device=KNEE, **changes) -> Device:
    empty = {"passes": [], "settings": [], "inside": [], "most_inside": [0]}
    return replace(device, turn=threading.Lock(), **empty, **changes)


def tuned(device, memory, *, measure=True, precision="float32", **wish):
    wished = Wish(**{"cores": 4, **wish})
    return tune(device, PROBE, wish=wished, memory=memory, measure=measure, precision=precision)


def test_tune__measured__takes_the_smallest_batch_that_is_nearly_the_fastest(tmp_path, capfd):
    device = fresh()
    found = tuned(device, tmp_path)
    assert found.setting == Setting(threads=4, sessions=2, batch_size=64)
    assert found.runtime.batch_size == 64
    assert sorted(set(device.passes)) == [32, 64, 128, 256, 512]
    np.testing.assert_array_equal(found.probe, PROBE.reshape(5, -1))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("gain", "size"), [(0.04, 64), (0.06, 512)])
def test_tune__larger_batch_that_gains_little__is_not_worth_its_memory(
    tmp_path, monkeypatch, gain, size
):
    monkeypatch.setattr(
        on_gpus,
        "_rate",
        lambda _, way, __: {32: 50, 512: 100 * (1 + gain)}.get(way.batch_size, 100),
    )
    assert tuned(fresh(), tmp_path).setting.batch_size == size


def test_tune__measured__has_every_caller_at_work(tmp_path):
    device = fresh(pause=0.01)
    tuned(device, tmp_path, cores=6)
    assert device.most_inside == [6]


def test_tune__not_worth_measuring__is_the_default_and_takes_no_note(tmp_path):
    device = fresh()
    assert tuned(device, tmp_path, measure=False).setting == Setting(4, 2, 128)
    assert device.passes == [128] * 2  # as many at once as the run will have
    assert list(tmp_path.iterdir()) == []


def test_tune__wish__is_taken_unmeasured(tmp_path):
    device = fresh()
    assert tuned(device, tmp_path, batch_size=96).setting.batch_size == 96
    assert set(device.passes) == {96}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, (4, 4)),
        ({"sessions": 1}, (4, 1)),
        ({"sessions": 9}, (4, 4)),
        ({"threads": 1}, (1, 1)),
        ({"cores": 16}, (16, 4)),
    ],
)
def test_tune__two_gpus__have_two_passes_each_where_threads_suffice(tmp_path, wish, expected):
    found = tuned(fresh(gpus=(0, 1)), tmp_path, measure=False, **wish)
    assert (found.setting.threads, found.setting.sessions) == expected


# memory


def test_tune__default_that_does_not_fit__is_halved_with_a_line_each(tmp_path, capfd):
    found = tuned(fresh(room=40), tmp_path, measure=False)
    assert found.setting.batch_size == 32
    assert capfd.readouterr().err.splitlines() == [
        "headstart: no GPU memory for 128 images a pass; 64 are tried",
        "headstart: no GPU memory for 64 images a pass; 32 are tried",
    ]


def test_tune__wish_that_does_not_fit__is_halved_as_well(tmp_path, capfd):
    found = tuned(fresh(room=40), tmp_path, batch_size=50)
    assert found.setting.batch_size == 25
    assert capfd.readouterr().err.count("\n") == 1


def test_tune__not_even_one_image_fits__is_an_error_that_says_what_to_type(tmp_path, capfd):
    with pytest.raises(DeviceMemoryError) as error:
        tuned(fresh(room=0), tmp_path, measure=False)
    assert error.value.batch_size == 1
    assert "device: cpu" in str(error.value)
    assert capfd.readouterr().err.count("\n") == 7


def test_tune__measured_on_a_small_gpu__takes_what_fits_and_says_so(tmp_path, capfd):
    device = fresh(room=100, least=0.2)
    assert tuned(device, tmp_path).setting.batch_size == 64
    assert set(device.passes) == {32, 64, 128}
    told = "headstart: no GPU memory for 128 images a pass; 64 are the most\n"
    assert capfd.readouterr().err == told


def test_tune__measured_on_a_tiny_gpu__is_halved_below_what_is_measured(tmp_path, capfd):
    assert tuned(fresh(room=10), tmp_path).setting.batch_size == 8
    assert capfd.readouterr().err.count("\n") == 2


def test_tune__slow_backbone__is_not_tried_with_every_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpus, "PATIENCE", 0.01)
    device = fresh()
    assert tuned(device, tmp_path).setting.batch_size == 32
    assert set(device.passes) == {32}


# memory of the choice


def test_tune__choice__is_remembered_and_not_measured_again(tmp_path):
    tuned(fresh(), tmp_path)
    (note,) = tmp_path.glob("speed-*.json")
    assert json.loads(note.read_bytes())["setting"]["batch_size"] == 64
    for measure in (True, False):
        device = fresh()
        assert tuned(device, tmp_path, measure=measure).setting == Setting(4, 2, 64)
        assert set(device.passes) == {64}
    assert tuned(fresh(), tmp_path, batch_size=96).setting.batch_size == 96  # whatever is noted


@pytest.mark.parametrize(("precision", "drift", "kept"), [
    ("float32", 0.01, True),
    ("float32", 0.5, False),
    ("bfloat16", 0.5, True),
])  # fmt: skip
def test_tune__remembered_probe__may_drift_as_far_as_its_precision_allows(
    tmp_path, precision, drift, kept
):
    tuned(fresh(), tmp_path, precision=precision)
    device = fresh(drift=drift)
    found = tuned(device, tmp_path, precision=precision)
    assert (set(device.passes) == {64}) == kept
    np.testing.assert_allclose(found.probe, PROBE.reshape(5, -1) + drift, rtol=1e-6)


def test_tune__remembered_batch_that_does_not_fit_any_more__is_measured_anew(tmp_path):
    tuned(fresh(), tmp_path)
    assert tuned(fresh(room=32), tmp_path).setting.batch_size == 32


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"setting": {"threads": 2}}'])
def test_tune__note_that_is_damaged__is_measured_anew(tmp_path, content):
    tuned(fresh(), tmp_path)
    (note,) = tmp_path.glob("speed-*.json")
    note.write_text(content or note.read_text().replace('"batch_size": 64', '"batch_size": 65'))
    assert tuned(fresh(), tmp_path).setting.batch_size == 64
    assert json.loads(note.read_bytes())["setting"]["batch_size"] == 64


def test_tune__other_gpu_or_number_of_them__has_a_note_of_its_own(tmp_path, monkeypatch):
    tuned(fresh(), tmp_path)
    tuned(fresh(gpus=(0, 1)), tmp_path)
    monkeypatch.setattr(choice, "hardware", lambda indices: [("H", 141)] * len(indices))
    tuned(fresh(), tmp_path)
    tuned(fresh(version="2"), tmp_path)
    assert len(list(tmp_path.glob("speed-*.json"))) == 4


def test_tune__the_runtime_of_gpus_itself__is_measured_and_remembered(
    averaging, tmp_path, monkeypatch
):
    """Its very lines, on two CPU sessions that are called GPUs."""
    monkeypatch.setattr(on_gpus, "time", time)
    monkeypatch.setattr(on_gpus, "BATCHES", (2, 4))
    loaded = OnnxOnGpus.load(averaging.model, (0, 1), batch_size=4, place="cpu")
    wish, given = Wish(2), images(9)

    def chosen(runtime):
        note = choice.note_path(tmp_path, runtime, wish)
        return on_gpus.tune(runtime, given, wish=wish, note=note, measure=True, precision="float32")

    found = chosen(loaded)
    expected = runtimes.load(averaging, device="cpu").embed(given)
    assert found.setting.batch_size in (2, 4)
    frozen.check_drift(found.probe, expected, precision="float32", what="found")
    again = tune(loaded, given, wish=wish, memory=tmp_path, measure=True)
    assert again.setting == found.setting
    assert len(list(tmp_path.glob("speed-*.json"))) == 1


class Compiling(Device):
    """A GPU whose compiled vectors differ by `bend`."""

    bend = 0.0

    def run_as(self, setting):
        made = super().run_as(setting)
        return replace(made, drift=self.bend) if setting.compiled else made


@pytest.mark.parametrize(("bend", "compiled"), [(0.0, True), (1e-6, True), (50.0, False)])
def test_tune__long_run__compiles_where_the_vectors_stay_within_tolerance(
    tmp_path, capfd, monkeypatch, bend, compiled
):
    monkeypatch.setattr(Compiling, "bend", bend)
    device = fresh(Compiling(least=0.064, each=0.001))
    found = tuned(device, tmp_path, compiled=True)
    assert found.setting == Setting(threads=4, sessions=2, batch_size=64, compiled=compiled)
    assert ("runs uncompiled: compiled: the embedding" in capfd.readouterr().err) is not compiled
    again = tuned(fresh(Compiling()), tmp_path, compiled=True)
    assert again.setting == found.setting


def test_tune__short_run_after_a_long_one__does_not_compile(tmp_path):
    tuned(fresh(Compiling(least=0.064, each=0.001)), tmp_path, compiled=True)
    device = fresh(Compiling())
    assert not tuned(device, tmp_path, measure=False).setting.compiled
    assert not any(setting.compiled for setting in device.settings)
