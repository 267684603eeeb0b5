"""The fenced blocks of a page: what they are, the commands in them, and whether an output fits."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.conftest import ROOT

FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
NUMBER = re.compile(r"[+-]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Block:
    """What stands between two fences; line: of the opening one, from 1."""

    page: str
    line: int
    language: str
    attributes: dict[str, str]
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first(self) -> str:
        """The first line."""
        return self.text.split("\n", 1)[0]

    @property
    def slow(self) -> bool:
        return "slow" in self.attributes


@dataclass(frozen=True)
class Command:
    """A line after `$ `, and what stands below it as its output."""

    words: str
    shown: str


def blocks(page: str, text: str) -> list[Block]:
    """Every fenced block of a page, in order; in lists and quoted by tildes too."""
    found, lines = [], enumerate(text.splitlines(), 1)
    for number, line in lines:
        if opening := FENCE.match(line):
            indent, fence, info = opening.groups()
            body = _body(lines, fence, f"{page}:{number}")
            text = "".join(f"{one[len(indent) :] if one[: len(indent)].isspace() else one}\n"
                           for one in body)  # fmt: skip
            words = shlex.split(info)
            pairs = (word.partition("=") for word in words[1:])
            attributes = {name: value for name, _, value in pairs}
            found.append(Block(page, number, words[0] if words else "", attributes, text))
    return found


def _body(lines: Iterator[tuple[int, str]], fence: str, place: str) -> Iterator[str]:
    for _, line in lines:
        if line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            return
        yield line
    raise ValueError(f"{place}: a block that is never closed")


def commands(text: str) -> list[Command]:
    """The commands of a console block; one that ends in a backslash goes on below."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    if parts[0].strip() or len(parts) == 1:
        raise ValueError(f"a console block begins with '$ ', not with {parts[0]!r}")
    found = []
    for part in parts[1:]:
        words = re.match(r"(?:.*\\\n)*.*", part)[0]
        found.append(Command(words, part[len(words) :].strip("\n")))
    return found


def shape(line: str) -> str:
    """A line with its numbers as #, and each gap one space wide."""
    return " ".join(NUMBER.sub("#", line).split())


def words(text: str) -> set[str]:
    """Words of letters; not numbers, nor names that hold a digit."""
    return set(re.findall(r"(?<![\w.])[^\W\d_]+(?:_[^\W\d_]+)*(?![\w])", text))


@cache
def vocabulary() -> set[str]:
    """Words of every text in the code that is no docstring, and of params.yaml."""
    found = words((ROOT / "params.yaml").read_text())
    for path in (*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "stages").glob("*.py")):
        tree = ast.parse(path.read_text())
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= words(node.value) if id(node) not in prose else set()
    return found


def misfits(shown: str, printed: str, *, exact: bool = False) -> list[str]:
    """What a page shows as output and the command does not print.

    A line fits as it stands, numbers aside. Where one does, others may be made of words of the
    output and of the code's own texts: what another machine or other data would have printed.
    """
    there = {shape(line) for line in printed.splitlines()}
    lines = [line for line in shown.splitlines() if line.strip() not in ("", "…", "...")]
    odd = [line for line in lines if shape(line) not in there]
    if exact or len(odd) == len(lines):
        return odd
    known = words(printed) | vocabulary()
    return [line for line in odd if words(line) - known]
