"""Runtimes: chosen by name, on a device that is there, and equal bit for bit in any company."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import files, frozen, gpus, runtimes
from pipeline.errors import ConfigurationError, HeadstartError
from pipeline.runtimes import Setting, sessions
from pipeline.runtimes import onnx as onnx_runtime
from pipeline.runtimes.onnx import OnnxRuntime
from tests.frozen_fixtures import edit_record, pixels

__all__ = ["pixels"]


def images(count: int, crop: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, crop, crop, 3), dtype=np.uint8)


@pytest.fixture
def averaging(pixels, tmp_path) -> frozen.FrozenBackbone:
    """A backbone that ends as Swin does, in an average over axes 1 and 2 of many channels.

    onnxruntime takes another way through it for a batch of one, with other roundings.
    """
    folder = shutil.copytree(pixels, tmp_path / "averaging")
    random = np.random.default_rng(0)
    mixing = random.standard_normal((3, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["real", "mixing"], ["mixed"]),
            helper.make_node("ReduceMean", ["mixed", "axes"], ["embeddings"], keepdims=0),
        ],
        "averaging",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 16, 16, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 64])],
        [
            numpy_helper.from_array(mixing, "mixing"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    edit_record(folder, lambda record: record.update(file_sha256=files.sha256_of(path), dim=64))
    return frozen.load(folder)


def one_line(error: HeadstartError, *parts: str) -> None:
    assert "\n" not in str(error)
    for part in parts:
        assert part in str(error)


def test_load__unknown_runtime__names_the_near_miss_and_the_folder(pixels, tmp_path):
    folder = shutil.copytree(pixels, tmp_path / "raw")

    def change(record):
        record["fields"]["runtime"] = "onxx"
        record["fingerprint"] = frozen.fingerprint_of(record["fields"])

    edit_record(folder, change)
    with pytest.raises(ConfigurationError) as error:
        runtimes.load(frozen.load(folder), device="cpu")
    one_line(error.value, "unknown runtime 'onxx'; did you mean 'onnx'?", str(folder))


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine with two GPUs and an onnxruntime that has CUDA, as far as both tell."""
    monkeypatch.setattr(gpus, "count", lambda: 2)
    monkeypatch.setattr(sessions, "has_cuda", lambda: True)


def test_load__cuda_where_no_gpu_is__is_one_line(pixels, monkeypatch, capfd):
    monkeypatch.setattr(gpus, "count", lambda: 0)
    with pytest.raises(ConfigurationError) as error:
        runtimes.load(frozen.load(pixels), device="cuda")
    one_line(error.value, "execution.device is cuda", "write device: cpu")
    assert runtimes.load(frozen.load(pixels), device="auto").device == "cpu"
    assert capfd.readouterr() == ("", "")  # onnxruntime would fill a screen


def test_load__cuda_that_onnxruntime_was_not_built_for__is_one_line(pixels, monkeypatch, capfd):
    monkeypatch.setattr(gpus, "count", lambda: 1)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ConfigurationError) as error:
        runtimes.load(frozen.load(pixels), device="cuda")
    one_line(error.value, "the installed onnxruntime has no CUDA")
    assert capfd.readouterr().err == ""
    runtime = runtimes.load(frozen.load(pixels), device="auto")
    assert runtime.device == "cpu"
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert "GPU 0 is not used, the installed onnxruntime has no CUDA; 'headstart doctor'" in told
    runtimes.load(frozen.load(pixels), device="cpu")
    assert capfd.readouterr().err == ""


class FallsBack:
    """A session that runs on the CPU, whatever was asked for."""

    def __init__(self, *_, **__) -> None:
        pass

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_load__provider_that_falls_back_silently__is_refused(pixels, two_gpus, monkeypatch, device):
    """onnxruntime itself goes on, on the CPU, with a line in its log."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallsBack)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(ConfigurationError) as error:
        runtimes.load(frozen.load(pixels), device=device)
    one_line(error.value, "CUDAExecutionProvider does not run here", "write device: cpu")


def test_load__real_session_where_cuda_cannot_start__is_refused(pixels, two_gpus):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    if gpus._count(gpus._driver()):
        pytest.skip("a GPU is here, so CUDA can start")
    with pytest.raises(ConfigurationError, match="CUDAExecutionProvider does not run here"):
        runtimes.load(frozen.load(pixels), device="auto")


@pytest.mark.parametrize("asked", [(2,), (0, 5), (-1,), ()])
def test_load__gpu_that_is_not_there__is_one_line(pixels, two_gpus, asked):
    with pytest.raises(ConfigurationError) as error:
        runtimes.load(frozen.load(pixels), device="cuda", gpus=asked)
    one_line(error.value, ", ".join(map(str, asked)) or "none", "2 are seen", "device: cpu")
    assert runtimes.load(frozen.load(pixels), device="cpu", gpus=asked).gpus == ()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_embed__any_number_of_images__gives_a_row_each(pixels, count):
    backbone = frozen.load(pixels)
    given = images(count)
    vectors = runtimes.load(backbone, device="cpu").embed(given)
    assert vectors.dtype == np.float32
    planes = given.transpose(0, 3, 1, 2).reshape(count, -1)
    np.testing.assert_array_equal(vectors, planes.astype(np.float32) / np.float32(255))


def test_embed__model_that_rounds_otherwise_for_one_image__is_equal_bit_for_bit(averaging):
    given = images(9)
    session = onnxruntime.InferenceSession(averaging.model, providers=["CPUExecutionProvider"])
    alone = np.concatenate([session.run(None, {"images": row[None]})[0] for row in given])
    (together,) = session.run(None, {"images": given})
    assert alone.tobytes() != together.tobytes()  # what the runtime must not show
    runtime = runtimes.load(averaging, device="cpu")
    runs = [runtime.embed(given)]
    runs.append(np.concatenate([runtime.embed(row[None]) for row in given]))
    assert {run.tobytes() for run in runs} == {runs[0].tobytes()}


def test_embed__several_threads_at_once__change_no_bit(averaging):
    runtime = runtimes.load(averaging, device="cpu")
    given = images(64)
    expected = runtime.embed(given)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(runtime.embed, [given] * 24):
            assert got.tobytes() == expected.tobytes()


def test_session__on_the_cpu__is_one_thread_that_callers_share(pixels, monkeypatch):
    seen = {}

    class Session:
        def __init__(self, path: Path, options, *, providers) -> None:
            seen.update(threads=options.intra_op_num_threads, providers=providers)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    OnnxRuntime.load(frozen.load(pixels).model)
    assert seen == {"threads": 1, "providers": [("CPUExecutionProvider", {})]}


def test_run_as__fewer_sessions_than_threads__shares_the_cores_out_among_them(
    averaging, monkeypatch
):
    opened = []
    real = onnx_runtime.open_session

    def opening(model, device, *, cores=1):
        opened.append(cores)
        return real(model, device, cores=cores)

    monkeypatch.setattr(onnx_runtime, "open_session", opening)
    runtime = runtimes.load(averaging, device="cpu")
    shared = runtime.run_as(Setting(threads=4, sessions=2, batch_size=8))
    assert opened == [1, 2, 2]
    assert runtime.run_as(Setting(threads=4, sessions=4, batch_size=2)).idle is None
    assert opened == [1, 2, 2]
    given = images(64)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(shared.embed, [given] * 8):
            assert got.tobytes() == runtime.embed(given).tobytes()
    assert shared.idle.qsize() == 2
