"""Tuning: the fastest way that changes no bit, measured once and remembered."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import frozen, runtimes
from pipeline.runtimes import Setting
from pipeline.tuning import Wish, choice, on_cpu, tune
from tests.frozen_fixtures import pixels
from tests.test_runtimes import averaging

__all__ = ["averaging", "pixels"]

IMAGES = np.arange(12 * 3, dtype=np.uint8).reshape(12, 1, 1, 3)


@dataclass(frozen=True)
class Sleeper:
    """A runtime that sleeps; seconds: of a pass, by batch size; odd: sizes that change bits."""

    seconds: dict
    odd: tuple = ()
    device: str = "cpu"
    batch_size: int = 4
    version: str = "1"
    passes: list = field(default_factory=list)

    def embed(self, images):
        for _ in range(-(-len(images) // self.batch_size)):
            time.sleep(self.seconds.get(self.batch_size, 0.05))
            self.passes.append(self.batch_size)
        return images.reshape(len(images), -1).astype(np.float32) + (self.batch_size in self.odd)

    def run_as(self, setting):
        return replace(self, batch_size=setting.batch_size)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However slow the machine, every way is tried."""
    monkeypatch.setattr(on_cpu, "PATIENCE", 60.0)


def tuned(runtime, memory, *, measure=True, **wish):
    return tune(runtime, IMAGES, wish=Wish(2, **wish), memory=memory, measure=measure)


FAST_TWO = {1: 0.008, 2: 0.006, 4: 0.060, 8: 0.120}
"""8, 3, 15 and 15 ms an image."""


def test_tune__several_ways__takes_the_fastest_and_remembers_it(tmp_path):
    runtime = Sleeper(FAST_TWO)
    found = tuned(runtime, tmp_path)
    assert found.setting == Setting(threads=2, sessions=2, batch_size=2)
    assert found.runtime.batch_size == 2
    (note,) = tmp_path.glob("speed-*.json")
    assert json.loads(note.read_bytes())["setting"]["batch_size"] == 2
    runtime.passes.clear()
    again = tuned(runtime, tmp_path)
    assert again.setting == found.setting
    assert set(runtime.passes) == {2}
    assert len(runtime.passes) == 6  # the probe, once
    np.testing.assert_array_equal(again.probe, found.probe)


def test_tune__faster_way_that_changes_bits__is_not_taken(tmp_path):
    assert tuned(Sleeper(FAST_TWO, odd=(2,)), tmp_path).setting.batch_size == 1
    plain = tuned(Sleeper(FAST_TWO, odd=(1, 2, 8)), tmp_path / "other")
    assert plain.setting.batch_size == 4


def test_tune__remembered_way_that_changes_bits_by_now__is_measured_anew(tmp_path):
    tuned(Sleeper(FAST_TWO), tmp_path)
    found = tuned(Sleeper(FAST_TWO, odd=(2,)), tmp_path)
    assert found.setting.batch_size == 1
    np.testing.assert_array_equal(found.probe, Sleeper({}).embed(IMAGES))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"setting": {"threads": 2}}'])
def test_tune__note_that_is_damaged__is_measured_anew(tmp_path, content):
    tuned(Sleeper(FAST_TWO), tmp_path)
    (note,) = tmp_path.glob("speed-*.json")
    note.write_text(content or note.read_text().replace('"threads": 2', '"threads": 0'))
    assert tuned(Sleeper(FAST_TWO), tmp_path).setting.batch_size == 2
    assert json.loads(note.read_bytes())["setting"]["batch_size"] == 2


def test_tune__not_worth_measuring__is_the_plain_way_after_one_look_at_the_probe(tmp_path):
    runtime = Sleeper(FAST_TWO)
    assert tuned(runtime, tmp_path, measure=False).setting == Setting(2, 2, 4)
    assert runtime.passes == [4] * 3
    assert list(tmp_path.iterdir()) == []


def test_tune__wish__is_kept_where_it_changes_no_bit(tmp_path):
    assert tuned(Sleeper(FAST_TWO), tmp_path, batch_size=8).setting.batch_size == 8
    assert tuned(Sleeper(FAST_TWO), tmp_path, sessions=1).setting.sessions == 1
    assert tuned(Sleeper(FAST_TWO), tmp_path, threads=1).setting.threads == 1
    for measure in (True, False):
        odd, even = Sleeper(FAST_TWO, odd=(7,), version="odd"), Sleeper({})
        assert tuned(odd, tmp_path, batch_size=7, measure=measure).setting.batch_size == 4
        assert tuned(even, tmp_path, batch_size=7, measure=measure).setting.batch_size == 7


def test_tune__other_machine_library_or_wish__has_a_note_of_its_own(tmp_path, monkeypatch):
    tuned(Sleeper(FAST_TWO), tmp_path)
    tuned(Sleeper(FAST_TWO, version="2"), tmp_path)
    tuned(Sleeper(FAST_TWO), tmp_path, threads=2)
    monkeypatch.setattr(choice, "processor", lambda: "another")
    tuned(Sleeper(FAST_TWO), tmp_path)
    assert len(list(tmp_path.glob("speed-*.json"))) == 4


def test_tune__slow_backbone__is_not_tried_in_every_way(tmp_path, monkeypatch):
    monkeypatch.setattr(on_cpu, "PATIENCE", 0.1)
    runtime = Sleeper(dict.fromkeys((1, 2, 4, 8), 0.1))
    assert tuned(runtime, tmp_path).setting.batch_size == 4
    assert set(runtime.passes) == {4}


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 4, 8, 32])
def test_pass__any_batch_and_threads__gives_each_thread_the_same_number(threads, size):
    runtime = Sleeper({size: 0.001}, batch_size=size)
    _, vectors = on_cpu._pass(runtime, Setting(threads, threads, size), IMAGES)
    assert len(runtime.passes) % threads == 0
    assert vectors == Sleeper({}).embed(IMAGES).tobytes()


def test_tune__fewer_threads__must_gain_clearly(tmp_path, monkeypatch):
    settings = [Setting(2, 2, 4), Setting(1, 1, 4)]
    monkeypatch.setattr(on_cpu, "_ways", lambda *_: iter(settings))
    probe = Sleeper({}).embed(IMAGES).tobytes()
    for gain, threads in ((1.05, 2), (1.3, 1)):
        monkeypatch.setattr(
            on_cpu, "_pass", lambda _, way, __, gain=gain: (gain if way.threads == 1 else 1, probe)
        )
        folder = tmp_path / str(gain)
        assert tuned(Sleeper({}), folder).setting.threads == threads


def test_tune__model_that_rounds_otherwise_for_one_image__is_never_given_one(averaging, tmp_path):
    given = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    runtime = runtimes.load(averaging, device="cpu")
    found = tune(runtime, given, wish=Wish(2, batch_size=1), memory=tmp_path, measure=True)
    assert found.setting.batch_size == runtime.batch_size
    assert found.runtime.embed(given).tobytes() == runtime.embed(given).tobytes()


def test_tune__real_model__gives_the_probe_of_the_plain_way(pixels, tmp_path):
    backbone = frozen.load(pixels)
    probe = frozen.probe_pixels(backbone.preprocessing)
    runtime = runtimes.load(backbone, device="cpu")
    found = tune(runtime, probe, wish=Wish(2), memory=tmp_path, measure=True)
    expected = runtime.embed(probe)
    assert found.probe.tobytes() == expected.tobytes()
    assert found.runtime.embed(probe).tobytes() == expected.tobytes()


def test_memory__folder_that_is_not_there__is_made(tmp_path):
    tuned(Sleeper(FAST_TWO), tmp_path / "store" / "f")
    assert len(list((tmp_path / "store" / "f").glob("speed-*.json"))) == 1
    assert Path(tmp_path / "store").is_dir()
