"""The torch runtime: what it restores, where it runs, and how callers share a GPU."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline import architectures, files, frozen, gpus, runtimes
from pipeline.architectures.restored import restore
from pipeline.backbones import freezing
from pipeline.errors import ConfigurationError, DeviceMemoryError, IntegrityError, ResourceError
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams
from pipeline.runtimes import Setting, compiling, streams
from pipeline.runtimes import torch as torch_runtime
from pipeline.runtimes.torch import Replica, TorchRuntime
from pipeline.tuning import Wish, on_gpus, tune
from tests.contracts_runtimes import images, one_line
from tests.frozen_fixtures import edit_record

MODEL = "test_resnet"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small residual network with random weights, frozen for torch. Not to be changed."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("torch") / "x.pth"
    torch.save(timm.create_model(MODEL).state_dict(), path)
    entry = BackboneParams(
        source="timm",
        model=MODEL,
        weights=f"file:{path}",
        sha256=files.sha256_of(path),
        runtime="torch",
    )
    freezing.freeze("small", entry, path.with_name("small"), locate=Path)
    return path.with_name("small")


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(folder, tmp_path / "small")


def rewrite(folder: Path, change) -> FrozenBackbone:
    """Change the tensors of a model file, its record sealed anew."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return sealed(folder)


def sealed(folder: Path) -> FrozenBackbone:
    digest = files.sha256_of(folder / "model.safetensors")
    edit_record(folder, lambda record: record.update(file_sha256=digest))
    return frozen.load(folder)


def test_load__probe__is_what_freezing_left_beside_the_weights(folder):
    backbone = frozen.load(folder)
    probe = frozen.probe_pixels(backbone.preprocessing)
    runtime = runtimes.load(backbone, device="cpu")
    vectors = runtime.embed(probe)
    assert vectors.shape == (len(probe), backbone.dim)
    frozen.check_drift(vectors, restore(backbone).probe, precision="float32", what="x")


@pytest.mark.parametrize("setting", [Setting(2, 2, 1), Setting(2, 2, 8), Setting(3, 3, 5)], ids=str)
def test_embed__one_core_a_call__changes_no_bit_with_batch_or_neighbours(folder, setting):
    runtime = runtimes.load(frozen.load(folder), device="cpu")
    given = images(13, 160)
    expected = runtime.embed(given)
    order = np.random.default_rng(1).permutation(13)
    other = runtime.run_as(setting)
    with ThreadPoolExecutor(setting.threads) as pool:
        for got in pool.map(other.embed, [given[order]] * 6):
            assert got.tobytes() == expected[order].tobytes()


def test_embed__calling_thread__has_the_cores_of_the_setting(folder, monkeypatch):
    seen = []
    runtime = runtimes.load(frozen.load(folder), device="cpu")
    real = runtime.replicas[0].module.forward
    monkeypatch.setattr(
        runtime.replicas[0].module,
        "forward",
        lambda given: seen.append(torch.get_num_threads()) or real(given),
    )
    for setting in (Setting(4, 4, 4), Setting(4, 2, 4), Setting(4, 1, 4), Setting(4, 4, 4)):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(runtime.run_as(setting).embed, images(1, 160)).result()
    assert seen == [1, 2, 4, 1]


def test_load__truncated_file__is_refused_by_its_digest_and_by_its_reader(copied):
    path = copied / "model.safetensors"
    backbone = frozen.load(copied)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="file_sha256 is"):
        frozen.load(copied)
    with pytest.raises(IntegrityError) as error:  # changed after it was checked
        runtimes.load(backbone, device="cpu")
    one_line(error.value, "model.safetensors cannot be read", "dvc repro -f freeze@small")


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_load__file_that_is_none__is_one_line(copied, content):
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError) as error:
        runtimes.load(sealed(copied), device="cpu")
    one_line(error.value, "cannot be read", "dvc repro -f freeze@small")


WEIGHT = "backbone.conv1.0.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(WEIGHT), "it lacks conv1.0.weight"),
        (lambda t: t.update({"backbone.more": torch.zeros(1)}), "it has more"),
        (
            lambda t: t.update({WEIGHT: t[WEIGHT][:1].clone()}),
            "conv1.0.weight is float32 (1, ",
        ),
        (lambda t: t.update({WEIGHT: t[WEIGHT].half()}), "conv1.0.weight is float16 ("),
    ],
    ids=["missing", "unexpected", "shape", "dtype"],
)
def test_load__tensors_of_another_module__are_named(copied, change, said):
    backbone = rewrite(copied, change)
    with pytest.raises(IntegrityError) as error:
        runtimes.load(backbone, device="cpu")
    one_line(error.value, said, MODEL, f"install timm {timm.__version__}")


def test_load__no_probe_in_the_file__cannot_be_read(copied):
    backbone = rewrite(copied, lambda tensors: tensors.pop("probe"))
    with pytest.raises(IntegrityError, match="cannot be read"):
        runtimes.load(backbone, device="cpu")


def test_load__library_that_builds_another_module_of_that_name__is_told_by_the_probe(
    folder, monkeypatch
):
    """Equal tensors, other arithmetic: a release changed an activation, say."""
    real = architectures.ARCHITECTURES["timm"]

    def other(name: str, crop: int) -> torch.nn.Module:
        module = real(name, crop)
        module.act1 = torch.nn.SiLU()
        return module

    monkeypatch.setitem(architectures.ARCHITECTURES, "timm", other)
    with pytest.raises(IntegrityError) as error:
        runtimes.load(frozen.load(folder), device="cpu")
    one_line(error.value, "small on cpu", "the embedding probe drifts: cosine")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architecture": "no_such_model"}, "the installed timm cannot build no_such_model"),
        ({"source": "tim"}, "unknown source 'tim'; did you mean 'timm'?"),
    ],
)
def test_load__record_of_something_unknown__is_one_line(copied, fields, said):
    def change(record):
        record["fields"].update(fields)
        record["fingerprint"] = frozen.fingerprint_of(record["fields"])

    edit_record(copied, change)
    with pytest.raises(IntegrityError) as error:
        runtimes.load(frozen.load(copied), device="cpu")
    one_line(error.value, said)


@pytest.mark.parametrize(
    ("cuda", "said"), [("13.0", "no GPU is seen"), (None, "the installed torch has no CUDA")]
)
def test_load__cuda_where_it_is_not__is_one_line(folder, monkeypatch, cuda, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(gpus, "count", lambda: 0)
    with pytest.raises(ConfigurationError) as error:
        runtimes.load(frozen.load(folder), device="cuda")
    one_line(error.value, "execution.device is cuda", said, "write device: cpu")
    assert runtimes.load(frozen.load(folder), device="auto").device == "cpu"


def test_load__gpu_that_torch_cannot_use__is_told_where_auto_means_the_cpu(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpus, "count", lambda: 1)
    assert runtimes.load(frozen.load(folder), device="auto").device == "cpu"
    told = capsys.readouterr().err
    assert told.startswith("headstart: GPU 0 is not used, the installed torch cannot use it")
    with pytest.raises(ConfigurationError, match="the installed torch cannot use it here"):
        runtimes.load(frozen.load(folder), device="cuda")


def test_load__gpu_that_is_not_there__is_named(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match=r"GPU 2 is asked for, but 2 are seen"):
        TorchRuntime.load(frozen.load(folder), "cuda", gpus=(0, 2))


class Failing(torch.nn.Module):
    """Stands for a backbone; raises what a GPU does."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


def runtime_of(*modules: torch.nn.Module, device: str = "cpu", batch_size: int = 4) -> TorchRuntime:
    return TorchRuntime(
        tuple(Replica(CPU, module) for module in modules), device, batch_size, crop=16, dim=768
    )


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_embed__gpu_without_memory__is_an_error_of_its_own_with_the_batch(monkeypatch, error):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    with pytest.raises(DeviceMemoryError) as caught:
        runtime_of(Failing(error), batch_size=32).embed(images(3))
    one_line(caught.value, "32 images at once", "execution.batch_size: 16")
    assert caught.value.batch_size == 32
    assert caught.value.exit_code == ResourceError.exit_code
    assert caught.value.__context__ is None  # whose frames would hold on to the memory
    assert emptied == [True]


def test_embed__fault_of_another_kind__keeps_its_traceback():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        runtime_of(Failing(RuntimeError("shapes cannot be multiplied"))).embed(images(1))


def test_load__gpu_without_memory_for_the_backbone__is_one_line(monkeypatch):
    monkeypatch.setattr(torch_runtime.copy, "deepcopy", lambda _: Moving())
    with pytest.raises(ResourceError) as error:
        torch_runtime._replica(torch.nn.Identity(), torch.device("cuda", 1))
    one_line(error.value, "cuda:1 has no memory for the backbone", "device: cpu")
    assert not isinstance(error.value, DeviceMemoryError)  # half of the batch would not help


class Moving(torch.nn.Module):
    def to(self, place):
        raise OUT_OF_MEMORY[0]


@dataclass
class Gpu:
    """A GPU's doubles: what was asked of it, in order."""

    asked: list = field(default_factory=list)

    def slot(self, shape, dim, device):
        return Slot(self, shape, dim)


class Slot:
    """As streams.Slot, in memory that is nowhere special."""

    def __init__(self, gpu: Gpu, shape, dim) -> None:
        self.gpu, self.shape = gpu, shape
        self.staged, self.images = (torch.empty(shape, dtype=torch.uint8) for _ in range(2))
        self.vectors = torch.empty((shape[0], dim))
        self.copied, self.done = Event(gpu, "copied"), Event(gpu, "done")

    def take(self):
        self.done.synchronize()
        return self.vectors.numpy().copy()


@dataclass
class Event:
    gpu: Gpu
    name: str

    def record(self):
        self.gpu.asked.append(f"{self.name} recorded")

    def synchronize(self):
        self.gpu.asked.append(f"{self.name} awaited")


@dataclass
class Stream:
    gpu: Gpu

    def wait_event(self, event):
        self.gpu.asked.append("copy awaited by work")

    def synchronize(self):
        self.gpu.asked.append("stream awaited")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    """What torch.cuda is to a lane, on the CPU: each thing happens when it is asked for."""
    gpu = Gpu()
    monkeypatch.setattr(streams, "Slot", gpu.slot)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: Stream(gpu))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "device", lambda _: Stream(gpu))
    return gpu


class Rows(torch.nn.Module):
    """The pixels in a row; keeps the shapes that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        return images.flatten(1).to(torch.float32)


@pytest.mark.parametrize("count", [1, 4, 5, 8, 9, 30])
def test_embed__on_a_gpu__keeps_one_shape_and_the_order(gpu, count):
    module = Rows()
    runtime = runtime_of(module, device="cuda").run_as(Setting(2, 2, 4))
    given = images(count)
    np.testing.assert_array_equal(runtime.embed(given), given.reshape(count, -1))
    assert set(module.shapes) == {(4, 16, 16, 3)}


def test_embed__several_batches__the_next_is_under_way_before_one_is_awaited(gpu):
    runtime_of(Rows(), device="cuda").run_as(Setting(1, 1, 4)).embed(images(12))
    told = [asked for asked in gpu.asked if asked.startswith("done")]
    assert told == [
        "done recorded",
        "done recorded",
        "done awaited",
        "done recorded",
        "done awaited",
        "done awaited",
    ]
    first = gpu.asked.index("done recorded")
    assert gpu.asked[: first + 1] == ["copied recorded", "copy awaited by work", "done recorded"]


def test_embed__several_gpus__callers_spread_over_them(gpu):
    modules = [Rows(), Rows(), Rows()]
    runtime = runtime_of(*modules, device="cuda").run_as(Setting(6, 6, 4))
    for _ in range(6):
        runtime.embed(images(4))
    assert [len(module.shapes) for module in modules] == [2, 2, 2]
    assert runtime.lanes.qsize() == 6
    few = runtime.run_as(Setting(1, 1, 4))
    assert few.lanes.qsize() == 3  # each GPU has its share


def test_embed__batch_that_fails__gives_lane_and_memory_back(gpu):
    class Once(Rows):
        def forward(self, images):
            if not self.shapes:
                self.shapes.append(())
                raise OUT_OF_MEMORY[0]
            return super().forward(images)

    runtime = runtime_of(Once(), device="cuda").run_as(Setting(1, 1, 4))
    given = images(8)
    with pytest.raises(DeviceMemoryError):
        runtime.embed(given)
    assert gpu.asked[-2:] == ["stream awaited", "stream awaited"]
    lane = runtime.lanes.get()
    assert lane.slots == []
    runtime.lanes.put(lane)
    np.testing.assert_array_equal(runtime.embed(given), given.reshape(8, -1))


def test_embed__more_callers_than_lanes__each_gets_its_own(gpu):
    runtime = runtime_of(Rows(), Rows(), device="cuda").run_as(Setting(2, 2, 4))
    given = [np.roll(images(10), shift, axis=0) for shift in range(10)]
    with ThreadPoolExecutor(8) as pool:
        for asked, got in zip(given, pool.map(runtime.embed, given), strict=True):
            np.testing.assert_array_equal(got, asked.reshape(10, -1))


class Full(Rows):
    """A GPU that holds no more than four images a pass."""

    def forward(self, images):
        if len(images) > 4:
            raise OUT_OF_MEMORY[0]
        return super().forward(images)


@pytest.mark.parametrize("measure", [True, False])
def test_tune__gpu_without_memory__ends_at_a_batch_that_fits(gpu, tmp_path, monkeypatch, measure):
    monkeypatch.setattr(on_gpus, "SAMPLE", 0.01)
    monkeypatch.setattr(on_gpus, "BATCHES", (4, 8, 16))
    runtime = runtime_of(Full(), device="cuda", batch_size=32)
    monkeypatch.setattr(TorchRuntime, "gpus", (0,))
    given = images(9)
    found = tune(runtime, given, wish=Wish(2), memory=tmp_path, measure=measure)
    assert found.setting.batch_size == 4
    np.testing.assert_array_equal(found.probe, given.reshape(9, -1))
    np.testing.assert_array_equal(found.runtime.embed(given), given.reshape(9, -1))


class Slower(Rows):
    """As compiled from Rows, and slower or faster than it."""


@pytest.mark.parametrize(("seconds", "taken"), [(0.5, True), (0.99, False), (2.0, False)])
def test_fastest__compiled__is_taken_where_it_is_faster(monkeypatch, seconds, taken):
    plain, compiled = Rows(), Slower()
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: compiled)
    monkeypatch.setattr(
        compiling, "seconds", lambda module, _: seconds if module is compiled else 1.0
    )
    found = compiling.fastest(plain, CPU, (4, 16, 16, 3))
    assert (found is compiled) == taken
    assert (found is plain) == (not taken)


def test_fastest__compiler_that_fails__leaves_the_module_and_says_why(monkeypatch, capsys):
    def broken(module, dynamic):
        raise RuntimeError("no C compiler\nhere")

    monkeypatch.setattr(torch, "compile", broken)
    module = Rows()
    assert compiling.fastest(module, CPU, (4, 16, 16, 3)) is module
    assert capsys.readouterr().err == (
        "headstart: the backbone runs uncompiled: no C compiler here\n"
    )
    assert len(module.shapes) == compiling.PASSES + 2


def test_run_as__compiled__is_for_gpus_alone(gpu, folder, monkeypatch):
    compiled = Rows()
    monkeypatch.setattr(compiling, "fastest", lambda module, device, shape: compiled)
    wish = Setting(1, 1, 4, compiled=True)
    runtime_of(Rows(), device="cuda").run_as(wish).embed(images(4))
    assert compiled.shapes == [(4, 16, 16, 3)]
    runtime_of(Rows(), device="cpu").run_as(wish).embed(images(4))
    assert len(compiled.shapes) == 1


def test_run_as__on_the_cpu__shares_what_is_loaded(folder):
    runtime = runtimes.load(frozen.load(folder), device="cpu")
    other = runtime.run_as(Setting(2, 2, 2))
    assert other.replicas is runtime.replicas
    assert runtime.gpus == ()


def test_be_exact__on_a_gpu__leaves_float32_its_bits_and_kernels_alike():
    flags = (
        (torch.backends.cuda.matmul, "allow_tf32", False),
        (torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False),
        (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
        (torch.backends.cudnn, "allow_tf32", False),
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cudnn, "deterministic", True),
    )
    before = [getattr(place, name) for place, name, _ in flags]
    try:
        for place, name, wanted in flags:
            setattr(place, name, not wanted)
        torch_runtime._be_exact()
        assert [getattr(place, name) for place, name, _ in flags] == [want for *_, want in flags]
    finally:
        for (place, name, _), value in zip(flags, before, strict=True):
            setattr(place, name, value)
