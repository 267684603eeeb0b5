"""A backbone's blocks in forward order: which of them are trained, and how fast.

timm groups its models' parameters by block itself; of other models the containers are opened
until no block holds half of all parameters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.errors import ConfigurationError
from pipeline.names import unknown
from pipeline.params import FinetuneParams

HEAD = "fitted head"
"""What the head goes by among blocks; none of a backbone has a space in its name, some are called head."""

ALONE = "head"
LAST = "last:"
_LARGE = 0.5
_CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList)


@dataclass(frozen=True)
class Block:
    """Parameters that are frozen or trained together. parameters: their names in the backbone."""

    name: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A block, or the head, as it will be trained. parameters: numbers; rate: of learning, 0 if frozen."""

    name: str
    parameters: int
    rate: float
    frozen: bool


def blocks(body: torch.nn.Module) -> list[Block]:
    """The blocks of a backbone, the one nearest the images first; every parameter is in one.

    A block without a weight, as a normalisation, belongs to the one before it; parameters of a
    container itself, as positions, to the one after them.
    """
    shapes = {name: parameter.ndim for name, parameter in body.named_parameters()}
    found: list[Block] = []
    carried: tuple[str, ...] = ()
    for block in _by_timm(body) if hasattr(body, "group_matcher") else _opened(body):
        if not block.name:
            carried += block.parameters
        elif found and all(shapes[name] < 2 for name in block.parameters):
            found[-1] = Block(found[-1].name, found[-1].parameters + block.parameters)
        elif block.parameters:
            found.append(Block(block.name, carried + block.parameters))
            carried = ()
    if carried:
        found.append(Block(carried[0], carried))
    return found


def _by_timm(body: Any) -> Iterator[Block]:
    from timm.models import group_parameters

    layers: dict[str, int] = group_parameters(body, body.group_matcher(coarse=False), reverse=True)
    members: dict[int, list[str]] = {}
    for name, _ in body.named_parameters():
        members.setdefault(layers[name], []).append(name)
    parts = [tuple(members[number]) for number in sorted(members)]
    yield from (Block(name, part) for name, part in zip(_names(parts), parts, strict=True))


def _opened(body: torch.nn.Module) -> Iterator[Block]:
    total = _size(body)

    def opened(name: str, part: torch.nn.Module) -> Iterator[Block]:
        prefix = f"{name}." if name else ""
        children = list(part.named_children())
        if not children or not (type(part) in _CONTAINERS or _size(part) > _LARGE * total):
            yield Block(name, tuple(prefix + one for one, _ in part.named_parameters()))
            return
        yield Block("", tuple(prefix + one for one, _ in part.named_parameters(recurse=False)))
        for inner, child in children:
            yield from opened(prefix + inner, child)

    yield from opened("", body)


def _size(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _names(parts: Sequence[Sequence[str]]) -> list[str]:
    """A name for each, as short as can be where none is another's or that of a part which holds others.

    parts: names of the parameters of each.
    """
    depths = [_shared(part) for part in parts]
    while True:
        found = [".".join(part[0].split(".")[:to]) for part, to in zip(parts, depths, strict=True)]
        short = [sum(_holds(name, other) for other in found) > 1 for name in found]
        if not any(short):
            return found
        depths = [depth + more for depth, more in zip(depths, short, strict=True)]


def _shared(names: Sequence[str]) -> int:
    """How many levels all the names share that begin as the first does; one at least."""
    first = names[0].split(".")
    paths = [path for path in (name.split(".") for name in names) if path[0] == first[0]]
    depth = next(
        (at for at, level in enumerate(zip(*paths, strict=False)) if len(set(level)) > 1), 0
    )
    return depth or max(1, len(first) - 1)


def trained(unfreeze: str | list[str], listed: Sequence[Block], at: str) -> list[Block]:
    """The blocks that `unfreeze` names, in forward order. Raises ConfigurationError, near misses named.

    at: the entry's place. A name may be that of a part that holds several blocks.
    """
    if unfreeze == ALONE:
        return []
    if unfreeze == "all":
        return list(listed)
    if isinstance(unfreeze, str):
        number = int(unfreeze.removeprefix(LAST))
        if number > len(listed):
            raise ConfigurationError(
                f"{at}.unfreeze: {unfreeze!r}: it has {len(listed)} blocks; write all"
            )
        return list(listed[-number:])
    known = [block.name for block in listed]
    for wanted in unfreeze:
        if not any(_holds(wanted, name) for name in known):
            raise ConfigurationError(
                f"{at}.unfreeze: {unknown('block', wanted, known)}; "
                f"'headstart finetune groups {at.rpartition('.')[2]}' lists them"
            )
    return [block for block in listed if any(_holds(one, block.name) for one in unfreeze)]


def _holds(wanted: str, name: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")


def moved_at(chosen: Sequence[Block], entry: FinetuneParams, epoch: int) -> list[Block]:
    """The blocks that are trained in an epoch, counted from 0; the head alone in the first where gradual."""
    if not entry.gradual:
        return list(chosen)
    half = max(1, entry.epochs // 2)
    count = min(len(chosen), -(-len(chosen) * epoch // half))
    return list(chosen[len(chosen) - count :])


def rates(listed: Sequence[Block], entry: FinetuneParams) -> dict[str, float]:
    """What the learning rate of each block is a multiple of `lr` by (Clark 2020), and of the head."""
    depth = {block.name: len(listed) - 1 - number for number, block in enumerate(listed)}
    found = {name: entry.layer_decay**below for name, below in depth.items()}
    return {**found, HEAD: entry.head_lr_factor}


def groups(body: torch.nn.Module, head: int, entry: FinetuneParams, at: str) -> list[Group]:
    """Every block and the head, in forward order. head: how many parameters it has."""
    listed = blocks(body)
    chosen = {block.name for block in trained(entry.unfreeze, listed, at)}
    sizes = {name: parameter.numel() for name, parameter in body.named_parameters()}
    scale = rates(listed, entry)
    found = [
        Group(
            block.name,
            sum(sizes[name] for name in block.parameters),
            entry.lr * scale[block.name] if block.name in chosen else 0.0,
            block.name not in chosen,
        )
        for block in listed
    ]
    return [*found, Group(HEAD, head, entry.lr * scale[HEAD], frozen=False)]
