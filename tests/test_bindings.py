"""The runtime of GPUs, its very lines, on CPU sessions: bound memory, several of them, a full one."""

# ruff: noqa: F811 - a fixture that is imported is asked for by its name

import ctypes
import gc
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from pipeline import frozen, gpus, runtimes
from pipeline.errors import ConfigurationError, DeviceMemoryError, ResourceError
from pipeline.runtimes import Setting, bindings, sessions
from pipeline.runtimes import onnx as onnx_runtime
from pipeline.runtimes.bindings import Lane, Lanes
from pipeline.runtimes.onnx import BATCH, OnnxOnGpus
from pipeline.runtimes.sessions import HEAVY, heavy_on_cpu, is_out_of_memory, open_session
from tests.driver import build
from tests.frozen_fixtures import lite0, pixels  # noqa: F401 - fixtures
from tests.test_extraction import project, run, small_shards  # noqa: F401 - fixtures
from tests.test_runtimes import averaging, images, one_line  # noqa: F401 - a fixture

ARENA = (
    "Error in execution: Non-zero status code returned while running Conv node. Name:'node_conv2d' "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool) "
    "Failed to allocate memory for requested buffer of size 2830172160"
)
"""As onnxruntime says it where run_with_iobinding finds a GPU full."""


def on_two(backbone, batch_size=4, lanes=4) -> OnnxOnGpus:
    """Two CPU sessions that stand for two GPUs, with two lanes each."""
    loaded = OnnxOnGpus.load(backbone.model, (0, 1), batch_size=batch_size, place="cpu")
    return loaded.run_as(Setting(lanes, lanes, batch_size))


# one lane


@pytest.mark.parametrize("count", [1, 3, 4])
def test_lane__bound_memory__gives_the_bits_of_an_ordinary_run(averaging, count):
    session = open_session(averaging.model, "cpu", batch_size=4)
    given = images(count)
    padded = np.concatenate([given, np.repeat(given[-1:], 4 - count, axis=0)])
    vectors = Lane(session, "cpu", 0, 4).run(given)
    assert vectors.tobytes() == session.run(None, {"images": padded})[0][:count].tobytes()
    assert vectors.dtype == np.float32


def test_lane__next_pass__leaves_the_vectors_of_the_last_as_they_were(averaging):
    lane = Lane(open_session(averaging.model, "cpu", batch_size=4), "cpu", 0, 4)
    first = lane.run(images(4))
    kept = first.copy()
    second = lane.run(images(4)[::-1])
    assert first.tobytes() == kept.tobytes()
    assert second.tobytes() == kept[::-1].tobytes()


def test_lane__real_backbone_of_one_batch_shape__agrees_with_the_cpus(lite0):
    backbone = frozen.load(lite0)
    probe = frozen.probe_pixels(backbone.preprocessing)[:3]
    bound = OnnxOnGpus.load(backbone.model, (0,), batch_size=2, place="cpu").embed(probe)
    plain = runtimes.load(backbone, device="cpu").embed(probe)
    frozen.check_drift(bound, plain, precision="float32", what="bound")


# several GPUs


def test_embed__two_sessions__give_the_same_bits_for_any_number_of_images(averaging):
    runtime, expected = on_two(averaging), runtimes.load(averaging, device="cpu").embed(images(11))
    assert (runtime.batch_size, runtime.gpus) == (4, (0, 1))
    for count in (1, 4, 5, 11):
        assert runtime.embed(images(count)).tobytes() == expected[:count].tobytes()


def test_embed__many_callers__are_spread_over_the_sessions_and_change_no_bit(
    averaging, monkeypatch
):
    seen, real = [], Lane.run

    def run(lane, batch):
        seen.append(lane._gpu)
        time.sleep(0.002)
        return real(lane, batch)

    monkeypatch.setattr(Lane, "run", run)
    runtime, given = on_two(averaging), images(16)
    expected = runtime.embed(given)
    seen.clear()
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(runtime.embed, [given] * 10):
            assert got.tobytes() == expected.tobytes()
    assert len(seen) == 40
    assert 14 <= seen.count(0) <= 26


def test_borrow__callers_that_come_one_by_one__get_the_session_that_is_least_busy(averaging):
    lanes = on_two(averaging, lanes=6).lanes
    with lanes.borrow() as first, lanes.borrow() as second:
        assert {first._gpu, second._gpu} == {0, 1}
        with lanes.borrow() as third, lanes.borrow() as fourth:
            assert {third._gpu, fourth._gpu} == {0, 1}
        with lanes.borrow() as again:
            assert again is not first


@pytest.mark.parametrize(("asked", "shares"), [(1, [1, 1]), (2, [1, 1]), (3, [2, 1]), (6, [3, 3])])
def test_spread__any_number_of_passes__is_shared_out_with_one_a_session_at_least(
    averaging, asked, shares
):
    runtime = on_two(averaging, lanes=asked)
    assert [len(idle) for idle in runtime.lanes._idle] == shares


def test_borrow__all_lanes_out__waits_for_one(averaging):
    lanes = on_two(averaging, lanes=2).lanes
    came = threading.Event()

    def another():
        with lanes.borrow():
            came.set()

    with lanes.borrow() as first:
        with lanes.borrow():
            waiting = threading.Thread(target=another)
            waiting.start()
            assert not came.wait(0.1)
        assert came.wait(10)
        waiting.join()
        assert first


def test_run_as__other_batch_size__has_sessions_of_its_own_and_the_same_one_shares_them(averaging):
    runtime = on_two(averaging)
    assert runtime.run_as(Setting(4, 2, 4)).lanes is runtime.lanes
    other = runtime.run_as(Setting(4, 2, 2))
    assert other.batch_size == 2
    assert not set(other.lanes._sessions) & set(runtime.lanes._sessions)
    assert other.embed(images(5)).tobytes() == runtime.embed(images(5)).tobytes()


def test_load__cuda__has_a_session_on_each_gpu_that_is_asked_for(pixels, monkeypatch):
    opened = {}

    def opening(model, device, *, gpu=0, batch_size=None):
        assert isinstance(model, bytes)
        opened[gpu] = (device, batch_size)
        return open_session(model, "cpu", batch_size=batch_size)

    monkeypatch.setattr(gpus, "count", lambda: 3)
    monkeypatch.setattr(sessions, "has_cuda", lambda: True)
    monkeypatch.setattr(onnx_runtime, "open_session", opening)
    monkeypatch.setattr(Lane, "__init__", lambda *_: None)
    for asked, expected in (((2, 0), {0, 2}), (None, {0, 1, 2})):
        opened.clear()
        runtime = runtimes.load(frozen.load(pixels), device="auto", gpus=asked)
        assert opened == dict.fromkeys(expected, ("cuda", BATCH["cuda"]))
        assert (runtime.device, set(runtime.gpus)) == ("cuda", expected)


def test_extract__on_two_gpus__writes_the_file_of_a_run_on_the_cpu(
    project, small_shards, monkeypatch
):
    """The whole of a run: images decoded ahead, some threads, two sessions that are called GPUs."""
    assert run(project, device="cpu").computed == 23
    expected = project.embeddings.read_bytes()
    shutil.rmtree(project.store)
    passes, real = [], Lane.run

    def counted(lane, batch):
        passes.append(lane._gpu)
        time.sleep(0.02)  # as long as a thread needs to come with its own batch
        return real(lane, batch)

    def load(backbone, device, wanted, layers):
        assert (device, wanted, layers) == ("auto", None, (0,))
        return OnnxOnGpus.load(backbone.model, (0, 1), batch_size=8, place="cpu")

    monkeypatch.setattr(Lane, "run", counted)
    monkeypatch.setitem(runtimes.RUNTIMES, "onnx", load)
    assert run(project).computed == 23
    assert project.embeddings.read_bytes() == expected
    assert set(passes) == {0, 1}


# memory


@pytest.mark.parametrize(
    "text",
    [
        ARENA,
        "Available memory of 1048576 is smaller than requested bytes of 2097152",
        "CUDA failure 2: out of memory ; GPU=0 ; file=/x/cuda_allocator.cc ; expr=cudaMalloc(&p, n)",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_)",
        "CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=1",
        "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
    ],
)
def test_is_out_of_memory__what_onnxruntime_says_of_a_full_gpu__is_known(text):
    assert is_out_of_memory(text)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
        "CUDA failure 209: no kernel image is available for execution on the device",
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0",
        "Got invalid dimensions for input: images for the following indices",
    ],
)
def test_is_out_of_memory__other_errors__are_not(text):
    assert not is_out_of_memory(text)


class Small:
    """A session on a GPU that holds `room` images."""

    room = 4

    def __init__(self, session) -> None:
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run_with_iobinding(self, binding):
        if self._session.get_inputs()[0].shape[0] > self.room:
            raise RuntimeError(ARENA)
        self._session.run_with_iobinding(binding)


@pytest.fixture
def small(monkeypatch):
    """Sessions are small; gives weak references to them."""
    opened = []

    def opening(*args, **options):
        session = Small(open_session(*args, **options))
        opened.append(weakref.ref(session))
        return session

    monkeypatch.setattr(onnx_runtime, "open_session", opening)
    return opened


def test_embed__full_gpu__is_an_error_with_the_batch_size_and_what_to_type(averaging, small):
    runtime = on_two(averaging, batch_size=8)
    with pytest.raises(DeviceMemoryError) as error:
        runtime.embed(images(3))
    assert error.value.batch_size == 8
    one_line(error.value, "GPU 0", "no memory for 8 images a pass", "write batch_size: 4")
    said = str(sessions.out_of_memory(1, 0))
    assert "no memory for an image a pass" in said
    assert "device: cpu" in said


def test_embed__after_a_gpu_was_full__gives_its_sessions_up_until_run_as(averaging, small):
    runtime = on_two(averaging, batch_size=8)
    with pytest.raises(DeviceMemoryError):
        runtime.embed(images(3))
    gc.collect()
    assert [session() for session in small] == [None, None]  # and their memory with them
    with pytest.raises(DeviceMemoryError, match="8 images"):
        runtime.embed(images(3))
    half = runtime.run_as(Setting(4, 4, 4))
    plain = runtimes.load(averaging, device="cpu")
    assert half.embed(images(9)).tobytes() == plain.embed(images(9)).tobytes()
    Small.room, before = 8, Small.room
    try:
        again = runtime.run_as(Setting(4, 4, 8))
        assert again.embed(images(9)).tobytes() == plain.embed(images(9)).tobytes()
    finally:
        Small.room = before


def test_borrow__memory_runs_out_while_others_wait__tells_them_too(averaging):
    lanes = on_two(averaging, lanes=2).lanes
    told = []

    def another():
        try:
            with lanes.borrow():
                told.append("a lane")
        except DeviceMemoryError as error:
            told.append(error.batch_size)

    waiting = threading.Thread(target=another)
    with pytest.raises(DeviceMemoryError), lanes.borrow(), lanes.borrow():
        waiting.start()
        time.sleep(0.05)
        raise sessions.out_of_memory(4, 1)
    waiting.join(10)
    assert told == [4]


def test_embed__other_error__is_left_as_it_is_and_gives_nothing_up(averaging, monkeypatch):
    runtime, real = on_two(averaging), Lane.run

    def broken(*_):
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(Lane, "run", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        runtime.embed(images(3))
    monkeypatch.setattr(Lane, "run", real)
    assert len(runtime.embed(images(3))) == 3


def test_load__gpu_too_full_for_the_model__is_no_matter_of_the_batch(averaging, monkeypatch):
    def opening(*_, **__):
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr(onnx_runtime, "open_session", opening)
    with pytest.raises(ResourceError) as error:
        OnnxOnGpus.load(averaging.model, (0, 1), place="cpu")
    assert not isinstance(error.value, DeviceMemoryError)  # or a run would go on for ever with half
    one_line(error.value, "no memory for the model on GPU 0, GPU 1", "nvidia-smi", "device: cpu")


def test_lane__on_a_gpu__takes_pixels_from_pinned_memory(averaging, tmp_path, monkeypatch):
    """With a driver that pins, and vectors made on the CPU."""
    driver = build(tmp_path, visible=1)
    monkeypatch.setattr(gpus, "DRIVER", str(driver))
    gpus._driver.cache_clear()
    real = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    placed = []

    def place(shape, kind, device, gpu):
        placed.append((device, gpu))
        return real(shape, kind, "cpu", 0)

    fake = SimpleNamespace(OrtValue=SimpleNamespace(ortvalue_from_shape_and_type=place))
    monkeypatch.setattr(bindings, "onnxruntime", fake)
    session = open_session(averaging.model, "cpu", batch_size=4)
    lane = Lane(session, "cuda", 0, 4)
    assert placed == [("cuda", 0)] * 2
    assert ctypes.CDLL(str(driver)).pinned_bytes() == 4 * 16 * 16 * 3
    vectors = lane.run(images(3))
    assert vectors.tobytes() == Lane(session, "cpu", 0, 4).run(images(3)).tobytes()
    del lane
    gc.collect()
    assert ctypes.CDLL(str(driver)).pinned_bytes() == 0
    gpus._driver.cache_clear()


def test_lane__gpu_too_full_for_the_pixels__is_the_same_error(averaging, monkeypatch):
    def refusing(*_):
        raise RuntimeError("CUDA failure 2: out of memory ; expr=cudaMalloc((void**)&p, size)")

    session = open_session(averaging.model, "cpu", batch_size=4)
    fake = SimpleNamespace(OrtValue=SimpleNamespace(ortvalue_from_shape_and_type=refusing))
    monkeypatch.setattr(bindings, "onnxruntime", fake)
    lanes = Lanes([session], (0,), "cpu", 4)
    with pytest.raises(DeviceMemoryError, match="4 images"):
        lanes.spread(2)
    assert lanes.given_up


# what really ran


def test_heavy_on_cpu__real_session_that_records__names_the_convolutions(lite0):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = str(frozen.load(lite0).model)
    recording = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if not hasattr(recording, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime cannot tell where nodes run")
    found = heavy_on_cpu(recording)
    assert len(found) == 49
    assert set(found) == {"Conv"}


class Told:
    """A session as CUDA's provider would be asked for one; nodes: (provider, operator) of each."""

    nodes = (("CUDAExecutionProvider", "Conv"),)
    given: dict = {}

    def __init__(self, model, options, **given) -> None:
        Told.given = given

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        return [
            SimpleNamespace(
                ep_name=provider, get_nodes=lambda name=name: [SimpleNamespace(op_type=name)]
            )
            for provider, name in self.nodes
        ]


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", Told)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)


def test_session__on_a_gpu__is_told_where_and_not_to_fall_back(told):
    open_session(b"model", "cuda", gpu=3, batch_size=64)
    ((provider, options),) = Told.given["providers"]
    assert provider == "CUDAExecutionProvider"
    assert (options["device_id"], options["use_tf32"]) == ("3", "0")
    assert Told.given["enable_fallback"] == 0


def test_session__heavy_nodes_left_to_the_cpu__is_refused_and_reckoning_with_shapes_is_not(
    told, monkeypatch
):
    left = (("CPUExecutionProvider", "Gather"), ("CPUExecutionProvider", "Concat"))
    monkeypatch.setattr(Told, "nodes", (*Told.nodes, *left))
    open_session(b"model", "cuda")
    for operator in (*HEAVY, "MatMulInteger", "FusedConv", "MultiHeadAttention"):
        monkeypatch.setattr(Told, "nodes", (*left, ("CPUExecutionProvider", operator)))
        with pytest.raises(ConfigurationError) as error:
            open_session(b"model", "cuda")
        one_line(error.value, f"leaves 1 nodes of the model to the CPU ({operator})", "device: cpu")
