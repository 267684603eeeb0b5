"""What an ONNX file holds, looked through before anything of it is run: its metadata, or a refusal.

onnxruntime follows a file's external data and does what its operators say. So each message is
walked by the table below, which has all that a bundle is made of: whatever else a file holds, at
whatever depth, is a reason to leave it alone. Nothing is read but the bytes given.
"""

import math
from dataclasses import dataclass, field
from itertools import islice

from pipeline.predictor.wire import BYTES, FIXED32, FIXED64, VARINT, Part, WireError, parts, varint

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


@dataclass(frozen=True)
class Banned:
    """A field that no bundle has. words: for what it is."""

    words: str


@dataclass(frozen=True)
class Inside:
    """A field that is a message of its own. kind: a key of MESSAGES."""

    kind: str


Field = Inside | Banned | frozenset[int]
"""A plain field is the wire types that it may have: numbers are stored one by one or packed."""

NUMBER, TEXT = frozenset([VARINT]), frozenset([BYTES])
REAL, REALS = frozenset([FIXED32]), frozenset([FIXED32, BYTES])
NUMBERS, DOUBLES = frozenset([VARINT, BYTES]), frozenset([FIXED64, BYTES])
PLAIN_MESSAGE = TEXT
"""A message without tensors, nodes or functions below it: skipped."""

EXTERNAL, SPARSE = Banned("external data"), Banned("sparse tensors")

MESSAGES: dict[str, dict[int, Field]] = {
    "ModelProto": {
        1: NUMBER,  # ir_version
        2: TEXT,  # producer_name
        3: TEXT,  # producer_version
        4: TEXT,  # domain
        5: NUMBER,  # model_version
        6: TEXT,  # doc_string
        7: Inside("GraphProto"),
        8: Inside("OperatorSetIdProto"),
        14: Inside("StringStringEntryProto"),  # metadata_props
        20: Banned("training information"),
        25: Banned("functions of its own"),
        26: Banned("a configuration of devices"),
    },
    "OperatorSetIdProto": {1: TEXT, 2: NUMBER},
    "GraphProto": {
        1: Inside("NodeProto"),
        2: TEXT,  # name
        5: Inside("TensorProto"),
        10: TEXT,  # doc_string
        11: PLAIN_MESSAGE,  # input
        12: PLAIN_MESSAGE,  # output
        13: PLAIN_MESSAGE,  # value_info
        14: PLAIN_MESSAGE,  # quantization_annotation
        15: SPARSE,
        16: PLAIN_MESSAGE,  # metadata_props
    },
    "NodeProto": {
        1: TEXT,  # input
        2: TEXT,  # output
        3: TEXT,  # name
        4: TEXT,  # op_type
        5: Inside("AttributeProto"),
        6: TEXT,  # doc_string
        7: TEXT,  # domain
        8: Banned("functions of its own"),  # overload
        9: PLAIN_MESSAGE,  # metadata_props
        10: Banned("a configuration of devices"),
    },
    "AttributeProto": {
        1: TEXT,  # name
        2: REAL,
        3: NUMBER,
        4: TEXT,
        5: Inside("TensorProto"),
        6: Inside("GraphProto"),
        7: REALS,
        8: NUMBERS,
        9: TEXT,
        10: Inside("TensorProto"),
        11: Inside("GraphProto"),
        13: TEXT,  # doc_string
        14: PLAIN_MESSAGE,  # a type
        15: PLAIN_MESSAGE,
        20: NUMBER,  # type
        21: Banned("functions of its own"),  # ref_attr_name
        22: SPARSE,
        23: SPARSE,
    },
    "TensorProto": {
        1: NUMBERS,  # dims
        2: NUMBER,  # data_type
        3: Banned("a tensor in segments"),
        4: REALS,
        5: NUMBERS,
        6: TEXT,
        7: NUMBERS,
        8: TEXT,  # name
        9: TEXT,  # raw_data
        10: DOUBLES,
        11: NUMBERS,
        12: TEXT,  # doc_string
        13: EXTERNAL,
        14: NUMBER,  # data_location
        16: PLAIN_MESSAGE,  # metadata_props
    },
    "StringStringEntryProto": {1: TEXT, 2: TEXT},
}
"""The fields of each message by their numbers, as onnx.proto has them."""


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
