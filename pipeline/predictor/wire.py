"""The wire format of protobuf: the fields of a message, every length checked before it is used."""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. Groups, 3 and 4, are in no ONNX file."""

_FIXED = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10


class WireError(ValueError):
    """Bytes that are no message; the text says why."""


class Part(NamedTuple):
    """A field of a message: its number, wire type, and where its content lies.

    value: of a varint; 0 of others.
    """

    number: int
    wire: int
    start: int
    end: int
    value: int = 0


def parts(content: bytes, start: int, end: int) -> Iterator[Part]:
    """The fields of the message between two places. Raises WireError."""
    at = start
    while at < end:
        tag, at = varint(content, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, after = varint(content, at, end)
            yield Part(number, wire, at, after, value)
            at = after
            continue
        if wire == BYTES:
            size, at = varint(content, at, end)
        elif wire in _FIXED:
            size = _FIXED[wire]
        else:
            raise WireError(f"wire type {wire} at byte {at}")
        if size > end - at:
            raise WireError(f"{size} bytes are announced at byte {at}, {end - at} are there")
        yield Part(number, wire, at, at + size)
        at += size


def varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends. Raises WireError."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        if at >= end:
            raise WireError(f"a number is cut off at byte {at}")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError(f"a number of more than {_LONGEST_VARINT} bytes ends at byte {at}")
