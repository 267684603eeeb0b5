"""The body's tensors in a checkpoint, whatever they are wrapped in and whatever it classifies."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbones.state import COUNTER, differences, read_file, table
from pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

    from pipeline.architectures.named import Parts

_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "network.")
"""What the names in a file begin with where the model was a part of something."""

_CLASSIFIERS = ("fc", "head", "heads", "classifier")
"""First names of what may stand beside a body in a module of one's own."""


def load(parts: "Parts", path: Path, at: str) -> "torch.nn.Linear | None":
    """Load a body from a file; its classifier, where that is the architecture's own last Linear.

    The file's classifier may have any number of classes, or be missing. Raises InputError with
    what is missing, unexpected or of another shape, shortly.
    """
    return fill(parts, read_file(path, at), path.name, at)


def fill(parts: "Parts", content: Any, name: str, at: str) -> "torch.nn.Linear | None":
    """The same of what a file holds. name: of the file, for messages."""
    own = parts.body.state_dict()
    foreign = tuple(f"{first}." for first in sorted({*parts.others, *_CLASSIFIERS}))
    state = _bare(dict(table(content, name, at)), own, foreign)
    wrong = sorted(key for key in own if key in state and own[key].shape != state[key].shape)
    missing = sorted(key for key in own if key not in state and not key.endswith(COUNTER))
    counted = {key for key in state if key.endswith(COUNTER)}
    unexpected = sorted(
        key for key in state.keys() - own.keys() - counted if not key.startswith(foreign)
    )
    if wrong or missing or unexpected:
        differing = differences(missing, unexpected, wrong)
        raise InputError(f"{at}.weights: {name} {differing}; correct model")
    own.update({key: state[key] for key in own if key in state})
    parts.body.load_state_dict(own)
    return _classifier(parts, state)


def _bare(
    state: "dict[str, torch.Tensor]", own: "Mapping[str, torch.Tensor]", foreign: tuple[str, ...]
) -> "dict[str, torch.Tensor]":
    """A file's tensors without the prefixes that all of them have but a classifier beside them."""
    while not own.keys() & state.keys():
        inside = [name for name in state if not name.startswith(foreign)] or list(state)
        known = (p for p in (*_PREFIXES, _own_prefix(inside, own)) if p)
        prefix = next((p for p in known if all(name.startswith(p) for name in inside)), None)
        if prefix is None or not inside:
            break
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        beside = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
        state = {**stripped, **beside}
    return state


def _own_prefix(names: list[str], own: "Mapping[str, torch.Tensor]") -> str:
    """What the file's maker called the model, `net.` say, where the body's names stand behind it."""
    prefix = names[0].partition(".")[0] + "." if names else ""
    return prefix if any(name.removeprefix(prefix) in own for name in names) else ""


def _classifier(parts: "Parts", state: "dict[str, torch.Tensor]") -> "torch.nn.Linear | None":
    import torch

    weight = state.get(f"{parts.classifier}.weight")
    bias = state.get(f"{parts.classifier}.bias")
    if not parts.classifier or weight is None or weight.shape[1:] != (parts.dim,):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    made = torch.nn.Linear(parts.dim, len(weight), bias=bias is not None)
    kept = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    made.load_state_dict(kept)
    return made.eval()
