"""What is in a weights file: read without running code, loaded into a model, its digest."""

from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbones import recognition
from pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]

WRAPPINGS = ("state_dict", "model_state_dict", "model")
"""Under which of its keys a training checkpoint keeps its table of tensors."""

COUNTER = "num_batches_tracked"
"""Tells BatchNorm how long it was trained; files from before 2018 have none, and need none."""


def read_file(path: Path, at: str) -> Any:
    """What a safetensors or torch file holds, told apart by content. Raises InputError.

    Tensors come on the CPU. Nothing in the file is run.
    """
    import torch
    from safetensors.torch import load_file

    what = recognition.impostor(path)
    if recognition.is_onnx(path):
        what = "an ONNX file; write source: onnx"
    if what:
        raise InputError(f"{at}.weights: {path.name} is {what}")
    try:
        if recognition.is_safetensors(path):
            return load_file(path)
        with path.open("rb") as file:  # by its name torch would choose another reader
            return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a broken file makes the readers raise
        why = recognition.why_unreadable(path, error)
        raise InputError(f"{at}.weights: {path.name} {why}") from None


def read_state(path: Path, at: str) -> State:
    """The tensors of a weights file, by name; see `table`. Never unpickles code."""
    return table(read_file(path, at), path.name, at)


def table(content: Any, name: str, at: str) -> State:
    """The tensors that a file holds, by name, taken out of a training checkpoint's WRAPPINGS.

    name: of the file. Raises InputError where it holds something else.
    """
    import torch

    while isinstance(content, Mapping) and (inner := _inner(content)) is not None:
        content = inner
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        held = f" but {keys}" if keys else ""
        raise InputError(
            f"{at}.weights: {name} holds no table of tensors{held}; save the model's state_dict() alone"
        )
    return content


def _inner(content: Mapping[Any, Any]) -> Any:
    """The table within a table, None where there is none."""
    return next((content[key] for key in WRAPPINGS if isinstance(content.get(key), Mapping)), None)


def load_into(module: "torch.nn.Module", path: Path, at: str) -> None:
    """Load a file's tensors by name, or by order where that alone fits; see decisions/0025.

    Raises InputError with what is missing, unexpected and of another shape, shortly.
    """
    own, state = module.state_dict(), read_state(path, at)
    state = _renamed(own, state, ordered=not recognition.is_safetensors(path))
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    missing = sorted(_needed(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    if wrong or missing or unexpected:
        differing = differences(missing, unexpected, wrong)
        reason = _reason(own, state, wrong) or "; correct model"
        raise InputError(f"{at}.weights: {path.name} {differing}{reason}")
    own.update(state)  # keeps the versions of its parts, which some of them ask for
    module.load_state_dict(own)


def _renamed(own: State, state: State, *, ordered: bool) -> State:
    """A file's tensors under the model's names, where only their names are others.

    ordered: whether the order in the file is that of the layers; safetensors sort by name.
    """
    prefix = _prefix(own, state)
    stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if prefix and set(stripped) <= set(own) and _needed(own) <= set(stripped):
        return stripped
    ours = [name for name in own if not name.endswith(COUNTER)]
    theirs = [name for name in state if not name.endswith(COUNTER)]
    pairs = list(zip(ours, theirs, strict=False))
    shared = set(ours) & set(theirs)
    at_their_places = all(a == b for a, b in pairs if a in shared or b in shared)
    alike = len(ours) == len(theirs) and all(_kind(a, own) == _kind(b, state) for a, b in pairs)
    if ordered and alike and at_their_places:
        return {a: state[b] for a, b in pairs}
    return state


def _prefix(own: State, state: State) -> str:
    """What all of a file's names begin with and the model's do not: `module.`, `_orig_mod.`, …"""
    first = next(iter(own), "")
    found = (name.removesuffix(first) for name in state if name.endswith(first))
    return next((p for p in found if p and all(name.startswith(p) for name in state)), "")


def _needed(own: State) -> set[str]:
    return {name for name in own if not name.endswith(COUNTER)}


def _kind(name: str, state: State) -> tuple[str, object]:
    """A tensor's last name (`weight`, `bias`, …) and shape."""
    return name.rpartition(".")[2], state[name].shape


def differences(missing: list[str], unexpected: list[str], wrong: list[str]) -> str:
    """That a file is another architecture's, by names of tensors, shortly. wrong: of another shape."""
    return (
        f"is made for another architecture: {_some(missing)} missing, {_some(unexpected)} "
        f"unexpected, {_some(wrong)} of another shape"
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:2]) + (", …" if len(names) > 2 else "")
    return f"{len(names)} ({shown})" if names else "0"


def _reason(own: State, state: State, wrong: list[str]) -> str:
    """Why a file likely does not fit; empty where it cannot be told."""
    if not set(own) & set(state):
        prefix = _prefix(own, state)
        why = f"all its names begin with {prefix!r}" if prefix else "no name is the same"
        return f" ({why}); correct model"
    sizes = {(state[name].shape[:1], own[name].shape[:1]) for name in wrong}
    rest = all(state[name].shape[1:] == own[name].shape[1:] for name in wrong)
    if len(sizes) == 1 and rest and len(wrong) <= 4:
        theirs, ours = next(iter(sizes))
        if theirs and ours and _is_last(own, wrong):
            classes = f"it tells {theirs[0]} classes apart, the model {ours[0]}"
            return f" ({classes}); write source: checkpoint, which takes any number"
    missing = _needed(own) - set(state)
    if len(missing) in (1, 2) and not wrong and _is_last(own, missing):
        return " (its classifier was taken off); write source: checkpoint, which needs none"
    return ""


def _is_last(own: State, names: Collection[str]) -> bool:
    """Whether names include the model's last tensor, which is of its classifier."""
    return list(own)[-1] in names


def digest(state: State) -> str:
    """Hex sha256 over names, dtypes, shapes and bytes of all tensors, sorted by name."""
    import torch

    total = sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(dtype=torch.uint8).numpy().tobytes())
    return total.hexdigest()
