"""What an ONNX file holds, looked through before anything of it is run: its metadata, or a refusal.

onnxruntime follows a file's external data and does what its operators say. So each message is
walked by a table, `messages`, which has all that a bundle is made of: whatever else a file holds, at
whatever depth, is a reason to leave it alone. Nothing is read but the bytes given.
"""

import math
from dataclasses import dataclass, field
from itertools import islice

from pipeline.predictor.messages import EXTERNAL, MESSAGES, TEXT, Banned, Field, Inside
from pipeline.predictor.wire import VARINT, Part, WireError, parts, varint

DOMAINS = ("", "ai.onnx")
"""Both are ONNX's own operators."""

DEEPEST = 90
"""Messages within messages; protobuf itself stops at 100."""

MOST_PARTS = 1_000_000
"""Fields in all: a bundle has some thousands; walking through more takes seconds and memory."""

MOST_SIDES = 64
"""Of a tensor's shape."""

VALUES_A_BYTE = 4
"""The smallest type of ONNX has two bits."""


class Refused(ValueError):  # noqa: N818 - no fault: what was asked for is not done
    """What a file holds that a bundle does not; the text goes after `it holds`."""


@dataclass
class _Found:
    """metadata: of the model; graphs, operators: how many there are; parts: fields so far."""

    metadata: dict[str, str] = field(default_factory=dict)
    graphs: int = 0
    operators: int = 0
    parts: int = 0


def metadata(content: bytes) -> dict[str, str]:
    """metadata_props of an ONNX file that holds nothing a bundle does not.

    Raises WireError where it is cut off or no ONNX file, Refused for all else.
    """
    found = _Found()
    todo = [("ModelProto", 0, len(content), 0)]
    while todo:
        kind, start, end, depth = todo.pop()
        if depth > DEEPEST:
            raise Refused(f"more than {DEEPEST} messages within each other")
        read = [_checked(kind, part) for part in _counted(content, start, end, found)]
        for part, said in read:
            if isinstance(said, Inside):
                todo.append((said.kind, part.start, part.end, depth + 1))
        _LOOKED_AT.get(kind, _nothing)(content, [part for part, _ in read], found)
    if not found.graphs or not found.operators:
        raise WireError("it has no graph or no operator")
    return found.metadata


def _counted(content: bytes, start: int, end: int, found: _Found) -> list[Part]:
    read = list(islice(parts(content, start, end), MOST_PARTS + 1 - found.parts))
    found.parts += len(read)
    if found.parts > MOST_PARTS:
        raise Refused(f"more than {MOST_PARTS} parts")
    return read


def _checked(kind: str, part: Part) -> tuple[Part, Field]:
    """The part and what the table says of it. Raises WireError or Refused."""
    said = MESSAGES[kind].get(part.number)
    if said is None:
        where = f"field {part.number} of {kind}"
        if kind == "ModelProto":  # what is no ONNX file shows here
            raise WireError(f"there is no {where}")
        raise Refused(f"what is not known here ({where}); a newer headstart may know it")
    if isinstance(said, Banned):
        raise Refused(said.words)
    if part.wire not in (TEXT if isinstance(said, Inside) else said):
        raise WireError(f"field {part.number} of {kind} has wire type {part.wire}")
    return part, said


def _nothing(_content: bytes, _parts: list[Part], _found: _Found) -> None:
    pass


def _model(content: bytes, read: list[Part], found: _Found) -> None:
    found.graphs = sum(part.number == 7 for part in read)
    if found.graphs > 1:
        raise Refused("more than one graph")
    for part in read:
        if part.number == 14:
            entry = {one.number: one for one in parts(content, part.start, part.end)}
            key, value = (_text(content, entry.get(number)) for number in (1, 2))
            if key in found.metadata:
                raise Refused(f"two texts {key[:40]!r}")
            found.metadata[key] = value


def _opset(content: bytes, read: list[Part], _found: _Found) -> None:
    for part in read:
        if part.number == 1 and (domain := _text(content, part)) not in DOMAINS:
            raise Refused(f"operators of the domain {domain[:40]!r}")


def _node(content: bytes, read: list[Part], found: _Found) -> None:
    found.operators += 1
    for part in read:
        if part.number == 7 and (domain := _text(content, part)) not in DOMAINS:
            raise Refused(f"operators of the domain {domain[:40]!r}")


def _tensor(content: bytes, read: list[Part], _found: _Found) -> None:
    """Its shape may not promise more than is there, nor that it is elsewhere."""
    dims, there = list[int](), 0
    for part in read:
        if part.number == 14 and part.value:
            raise Refused(EXTERNAL.words)
        if part.number == 1:
            dims += [part.value] if part.wire == VARINT else _packed(content, part)
        else:
            there += part.end - part.start + 1
    if len(dims) > MOST_SIDES or any(size >= 1 << 63 for size in dims):
        raise Refused("a tensor of a shape that there is not")
    if math.prod(dims) > VALUES_A_BYTE * there:
        raise Refused(f"a tensor of {math.prod(dims):.3g} values in {there} bytes")


_LOOKED_AT = {
    "ModelProto": _model,
    "OperatorSetIdProto": _opset,
    "NodeProto": _node,
    "TensorProto": _tensor,
}
"""What is looked at of a message, beside what its fields are."""


def _packed(content: bytes, part: Part) -> list[int]:
    values, at = list[int](), part.start
    while at < part.end:
        value, at = varint(content, at, part.end)
        values.append(value)
    return values


def _text(content: bytes, part: Part | None) -> str:
    try:
        return "" if part is None else content[part.start : part.end].decode()
    except UnicodeDecodeError:
        raise WireError(f"a text at byte {part.start if part else 0} is not UTF-8") from None
