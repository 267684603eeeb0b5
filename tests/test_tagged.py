"""Weights of a tag: from torch's cache or the hub's, or downloaded there; always what they must be."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save, save_file
from timm.models import _registry
from torchvision import models

from pipeline import backbones, files, frozen
from pipeline.backbones import SOURCES, freezing, torchvision
from pipeline.errors import InputError
from pipeline.params import BackboneParams
from tests.conftest import ROOT
from tests.file_server import FileServer, begin, cut, serving, whole
from tests.test_weights import Payload

AT = "params.yaml: backbones.b"
MODEL = "mobilenet_v3_small"
TAG = models.get_model_weights(MODEL).IMAGENET1K_V1


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A weights file of the model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("made") / "x.pth"
    torch.save(models.get_model(MODEL, weights=None).state_dict(), path)
    return path.read_bytes()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """torch's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def offer(monkeypatch, server: FileServer | None, content: bytes) -> str:
    """Let the model's tag be served; the file's name, with its digest as torch has it."""
    name = f"{MODEL}-{files.sha256_of_bytes(content)[:8]}.pth"
    url = server.url(name) if server else f"http://127.0.0.1:{unused_port()}/{name}"
    monkeypatch.setattr(type(TAG), "url", url, raising=False)
    return name


def flipped(content: bytes) -> bytes:
    """The same, but for a bit in the last byte."""
    return content[:-1] + bytes([content[-1] ^ 1])


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def entry(**keys) -> BackboneParams:
    return BackboneParams(**{"source": "torchvision", "model": MODEL, **keys})


def load(given: BackboneParams):
    """The state of the loaded network, its classifier taken off."""
    return SOURCES[given.source].load(given, AT, Path).network.module.state_dict()


def refused(given: BackboneParams, *said: str) -> str:
    with pytest.raises(InputError) as error:
        load(given)
    message = str(error.value)
    assert message.startswith(AT)
    assert "\n" not in message
    for part in said:
        assert part in message
    return message


def same(state, path: Path) -> bool:
    expected = torch.load(path, weights_only=True)
    return bool(state) and all(torch.equal(state[name], expected[name]) for name in state)


def test_torchvision__tag__is_downloaded_once_where_torch_itself_finds_it(
    content, home, monkeypatch
):
    with serving(content, cut(900_000), whole) as server:
        name = offer(monkeypatch, server, content)
        assert SOURCES["torchvision"].find(entry(), AT, Path).download == server.url(name)
        assert same(load(entry()), home / name)
        assert SOURCES["torchvision"].find(entry(), AT, Path).file == home / name
        assert same(load(entry()), home / name)
        assert len(TAG.get_state_dict(progress=False)) == len(
            models.get_model(MODEL, weights=None).state_dict()
        )
    assert server.asked == [None, "bytes=900000-"]
    assert [path.name for path in home.iterdir()] == [name]


def test_torchvision__kept_file_that_is_damaged__is_downloaded_again(content, home, monkeypatch):
    """torch itself looks at a kept file's digest never again."""
    home.mkdir(parents=True)
    with serving(content) as server:
        name = offer(monkeypatch, server, content)
        (home / name).write_bytes(flipped(content))
        assert SOURCES["torchvision"].find(entry(), AT, Path).file is None
        assert same(load(entry()), home / name)
    assert (home / name).read_bytes() == content


def test_torchvision__no_network__prints_the_command_and_where_its_file_goes(
    content, home, monkeypatch
):
    name = offer(monkeypatch, None, content)
    refused(entry(), "refused", f"type 'curl -fL -o {name} {TAG.url}'", str(home), "file:PATH")
    home.mkdir(parents=True, exist_ok=True)
    (home / name).write_bytes(content[:-1])
    refused(entry(), f"{home / name} is damaged and http://127", "curl")
    (home / name).write_bytes(content)
    assert same(load(entry()), home / name), "what the command fetched works offline"


def test_torchvision__download_of_other_bytes__is_one_line_and_leaves_nothing(
    content, home, monkeypatch
):
    with serving(content[::-1]) as server:
        offer(monkeypatch, server, content)
        refused(entry(), "wrong sha256", "and were removed")
    assert list(home.iterdir()) == []


def test_torchvision__sha256_beside_a_tag__pins_it(content, home, monkeypatch):
    with serving(content) as server:
        offer(monkeypatch, server, content)
        refused(entry(sha256="a" * 64), "sha256 is aaaa", files.sha256_of_bytes(content))
        assert load(entry(sha256=files.sha256_of_bytes(content)))


def test_torchvision__downloaded_pickle_with_code__is_refused_and_nothing_runs(
    tmp_path, home, monkeypatch
):
    """torchvision alone would run it."""
    torch.save({"x": Payload(tmp_path / "made")}, tmp_path / "bad.pth")
    bad = (tmp_path / "bad.pth").read_bytes()
    with serving(bad) as server:
        offer(monkeypatch, server, bad)
        refused(entry(), "holds Python objects (posix.mkdir), which could run code")
    assert not (tmp_path / "made").exists()


def test_torchvision__tags_file_of_another_network__is_one_line(tmp_path, home, monkeypatch):
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "x.pth")
    other = (tmp_path / "x.pth").read_bytes()
    with serving(other) as server:
        name = offer(monkeypatch, server, other)
        refused(entry(), f"{name} does not fit {MODEL}", "Missing key")


def test_torchvision__file_of_a_folder__needs_no_network_and_no_sha256(
    content, home, tmp_path, monkeypatch
):
    name = offer(monkeypatch, None, content)
    (tmp_path / name).write_bytes(content)
    given = entry(weights=f"folder:{tmp_path}")
    assert same(load(given), tmp_path / name)
    assert SOURCES["torchvision"].find(given, AT, Path).file == tmp_path / name


def test_freeze__from_a_download__records_licence_and_file(content, home, tmp_path, monkeypatch):
    with serving(content) as server:
        name = offer(monkeypatch, server, content)
        freezing.freeze("b", entry(runtime="torch"), tmp_path / "b", locate=Path)
        used = backbones.weights_used("b", entry(), locate=Path)
    assert used == {
        "weights_file": name,
        "weights_file_sha256": files.sha256_of_bytes(content),
    }
    record = frozen.load(tmp_path / "b")
    assert record.licence == "not stated; torchvision itself is BSD-3-Clause"
    assert str(server.port) not in (tmp_path / "b" / frozen.RECORD).read_text()
    assert backbones.weights_used("b", BackboneParams(source="pixels"), locate=Path) == {}


def test_licence__is_what_the_makers_state():
    swag = entry(model="vit_b_16", weights="IMAGENET1K_SWAG_E2E_V1")
    assert torchvision._licence(swag, AT).endswith("SWAG/blob/main/LICENSE")
    assert torchvision._licence(entry(weights="file:x.pth"), AT) == "not stated by the file"


TIMM = BackboneParams(source="timm", model="test_resnet", weights="r160_in1k")
FIRST = "conv1.0.weight"
REPOSITORY = "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def tensors() -> dict:
    torch.manual_seed(3)
    return timm.create_model("test_resnet").state_dict()


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The hub's cache, empty, and no network."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def keep(hub: Path, content: bytes, name: str = "model.safetensors") -> Path:
    """Put a file into the hub's cache as its client does."""
    model = hub / f"models--{REPOSITORY.replace('/', '--')}"
    blob = model / "blobs" / files.sha256_of_bytes(content)
    link = model / "snapshots" / ("a" * 40) / name
    for path in (blob, link, model / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    (model / "refs" / "main").write_text("a" * 40)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


def test_timm__tag_in_the_hubs_cache__is_loaded_offline_by_timms_own_code(hub, tensors):
    kept = keep(hub, save(tensors))
    assert SOURCES["timm"].find(TIMM, AT, Path).file == kept
    loaded = SOURCES["timm"].load(TIMM, AT, Path)
    state = loaded.network.module.state_dict()
    assert all(torch.equal(state[name], tensors[name]) for name in state)
    assert set(tensors) - set(state) == {"fc.weight", "fc.bias"}
    assert "state_dict" not in loaded.network.module.pretrained_cfg
    assert not loaded.network.module.training
    assert loaded.licence == "apache-2.0"
    assert loaded.package == f"timm {timm.__version__}"


def test_timm__older_file_in_the_hubs_cache__is_taken_where_there_is_no_other(
    hub, tensors, tmp_path
):
    torch.save(tensors, tmp_path / "x.bin")
    keep(hub, (tmp_path / "x.bin").read_bytes(), "pytorch_model.bin")
    assert torch.equal(load(TIMM)[FIRST], tensors[FIRST])


def test_timm__offline_and_not_at_hand__prints_the_command_and_where_its_folder_goes(hub):
    message = refused(
        TIMM, "HF_HUB_OFFLINE is set", str(hub), "models--timm--test_resnet.r160_in1k"
    )
    assert f"type 'hf download {REPOSITORY} model.safetensors'" in message
    assert SOURCES["timm"].find(TIMM, AT, Path).download == REPOSITORY


def test_timm__damaged_file_in_the_hubs_cache__is_not_taken(hub, tensors):
    content = save(tensors)
    blob = keep(hub, content).resolve()
    blob.write_bytes(flipped(content))
    assert SOURCES["timm"].find(TIMM, AT, Path).file is None
    refused(TIMM, "is damaged", "hf download")


def test_timm__sha256_beside_a_tag__pins_it(hub, tensors):
    content = save(tensors)
    keep(hub, content)
    digest = files.sha256_of_bytes(content)
    assert load(TIMM.model_copy(update={"sha256": digest}))
    refused(TIMM.model_copy(update={"sha256": "b" * 64}), "sha256 is bbbb", digest)


def test_timm__hubs_file_of_another_network__is_one_line(hub):
    keep(hub, save({"a": torch.zeros(2)}))
    refused(TIMM, "model.safetensors does not fit test_resnet.r160_in1k")


def test_timm__pointer_in_the_hubs_cache__is_named(hub):
    keep(hub, b"version https://git-lfs.github.com/spec/v1\n")
    refused(TIMM, "model.safetensors is a Git LFS pointer")


def test_timm__tag_with_an_address__is_downloaded_into_torchs_cache(
    home, tensors, tmp_path, monkeypatch
):
    torch.save(tensors, tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    name = f"test-{files.sha256_of_bytes(content)[:8]}.pth"
    with serving(content) as server:
        known = timm.get_pretrained_cfg("test_resnet.r160_in1k")
        config = dataclasses.replace(known, hf_hub_id=None, url=server.url(name))
        registry = _registry._model_pretrained_cfgs
        monkeypatch.setitem(registry, "test_resnet.r160_in1k", config)
        assert SOURCES["timm"].find(TIMM, AT, Path).download == server.url(name)
        assert torch.equal(load(TIMM)[FIRST], tensors[FIRST])
    assert (home / name).read_bytes() == content


def test_timm__folder__takes_the_file_that_the_hub_calls_so(tensors, tmp_path):
    save_file(tensors, tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "other.safetensors")
    digest = files.sha256_of(tmp_path / "model.safetensors")
    given = TIMM.model_copy(update={"weights": f"folder:{tmp_path}", "sha256": digest})
    assert torch.equal(load(given)[FIRST], tensors[FIRST])
    assert SOURCES["timm"].find(given, AT, Path).file == tmp_path / "model.safetensors"


PROGRAM = """
import json, sys
from pathlib import Path
from pipeline.backbones import SOURCES
from pipeline.errors import InputError
from pipeline.params import BackboneParams
entry = BackboneParams(source="timm", model="test_resnet", weights="r160_in1k")
try:
    loaded = SOURCES["timm"].load(entry, "at", Path)
    print(float(loaded.network.module.conv1[0].weight.sum()))
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_timm__hub_on_loopback__its_own_client_downloads_then_works_offline(tensors, tmp_path):
    """Through environment variables alone, as a mirror is used."""
    content = save(tensors)

    def hub(server, request):
        if "model.safetensors" not in request.path:
            request.send_error(404)
            return
        body = begin(server, request)
        if request.command == "GET":
            request.wfile.write(body)

    etag, more = f'"{files.sha256_of_bytes(content)}"', {"X-Repo-Commit": "a" * 40}
    with serving(content, hub, etag=etag, more=more) as server:
        address = f"http://127.0.0.1:{server.port}"
        env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        assert float(run(env)) == pytest.approx(float(tensors[FIRST].sum()))
    assert float(run({**env, "HF_HUB_OFFLINE": "1"})) == pytest.approx(float(tensors[FIRST].sum()))
    (blob,) = tmp_path.glob("hub/models--*/blobs/*")
    blob.write_bytes(flipped(content))
    assert "hf download timm/test_resnet" in run({**env, "HF_HUB_OFFLINE": "1"})


def run(env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **env}, cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()
