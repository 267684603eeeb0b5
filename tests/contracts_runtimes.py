"""What every runtime must hold to on the CPU: a class, subclassed once a runtime."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline import frozen, runtimes
from pipeline.errors import HeadstartError
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams
from pipeline.runtimes import Runtime, Setting


def images(count: int, crop: int = 16) -> np.ndarray:
    """(count, crop, crop, 3) uint8 of noise."""
    return np.random.default_rng(0).integers(0, 256, (count, crop, crop, 3), dtype=np.uint8)


def one_line(error: HeadstartError, *parts: str) -> None:
    """The error's text is one line and says all of `parts`."""
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)


class RuntimeContract:
    """A runtime, told by its `name` in RUNTIMES. A subclass gives that and overrides nothing else."""

    name: str

    @pytest.fixture(scope="class")
    @classmethod
    def backbone(cls, tmp_path_factory) -> FrozenBackbone:
        """Raw pixels, frozen for the runtime: what comes of them is known."""
        from pipeline.backbones import freezing

        folder = tmp_path_factory.mktemp("contract") / "raw"
        entry = BackboneParams(source="pixels", runtime=cls.name)
        freezing.freeze("raw", entry, folder, locate=Path)
        return frozen.load(folder)

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls, backbone) -> Runtime:
        return runtimes.load(backbone, device="cpu")

    def test_load__on_the_cpu__says_where_and_by_what_it_runs(self, runtime):
        assert runtime.device == "cpu"
        assert runtime.batch_size >= 1
        assert runtime.version[0].isdigit()

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
    def test_embed__any_number_of_images__gives_a_row_each(self, runtime, count):
        given = images(count)
        vectors = runtime.embed(given)
        assert vectors.dtype == np.float32
        planes = given.transpose(0, 3, 1, 2).reshape(count, -1)
        np.testing.assert_array_equal(vectors, planes.astype(np.float32) / np.float32(255))

    def test_embed__images_that_cannot_be_written_to__are_left_alone(self, runtime):
        given = images(4)
        before, given.flags.writeable = given.tobytes(), False
        assert runtime.embed(given).tobytes() == runtime.embed(given.copy()).tobytes()
        assert given.tobytes() == before

    def test_embed__vectors__stay_when_the_next_images_come(self, runtime):
        given = images(8)
        first = runtime.embed(given)
        before = first.tobytes()
        runtime.embed(given[::-1])
        assert first.tobytes() == before

    def test_embed__images_that_change_afterwards__change_no_vector(self, runtime):
        """A decoder writes the next batch where this one was."""
        given = images(runtime.batch_size)
        vectors = runtime.embed(given)
        before = vectors.tobytes()
        given[:] = 0
        assert vectors.tobytes() == before

    def test_embed__several_threads_at_once__change_no_bit(self, runtime):
        given = images(64)
        expected = runtime.embed(given).tobytes()
        with ThreadPoolExecutor(8) as pool:
            assert {got.tobytes() for got in pool.map(runtime.embed, [given] * 24)} == {expected}

    @pytest.mark.parametrize(
        "setting", [Setting(1, 1, 1), Setting(2, 2, 3), Setting(4, 2, 8), Setting(3, 1, 64)]
    )
    def test_run_as__any_way__gives_the_same_vectors_to_callers_at_once(self, runtime, setting):
        given = images(21)
        expected = runtime.embed(given).tobytes()
        other = runtime.run_as(setting)
        assert other.batch_size == setting.batch_size
        with ThreadPoolExecutor(setting.threads) as pool:
            got = {vectors.tobytes() for vectors in pool.map(other.embed, [given] * 12)}
        assert got == {expected}

    def test_embed__probe_of_the_frozen__is_within_tolerance(self, runtime, backbone):
        probe = frozen.probe_pixels(backbone.preprocessing)
        planes = probe.transpose(0, 3, 1, 2).reshape(len(probe), -1).astype(np.float32)
        frozen.check_drift(
            runtime.embed(probe), planes / np.float32(255), precision="float32", what=self.name
        )
