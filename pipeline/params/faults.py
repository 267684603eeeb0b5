"""The line that a wrong key or value gets."""

import difflib
import re
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], content: object, *, where: str, at: str = "") -> M:
    """Validate `content` against a pydantic model; the first fault becomes one line.

    at: dotted key of `content` within the file. Raises ConfigurationError.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_line(model, error, where, at)) from None


def _line(model: type[BaseModel], error: ValidationError, where: str, at: str) -> str:
    # a misspelt key is missing as well: name what was written before what was not
    errors = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    first = _deepest(errors)
    parts = [str(part) for part in first["loc"] if not _is_type_tag(part)]
    key = one_line(".".join(filter(None, [at, *parts]))) or "(top level)"
    value = first["input"]
    if first["type"] == "extra_forbidden":
        allowed = _keys(model, parts[:-1])
        near = difflib.get_close_matches(parts[-1], allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed here: {', '.join(allowed)}"
        return f"{where}: unknown key {key} (= {_short(value)}); {hint}"
    if first["type"] == "missing":
        return f"{where}: the key {key} is missing; add it"
    wanted = [e["msg"] for e in errors if _same_place(e["loc"], first["loc"])]
    text = " or ".join(dict.fromkeys(map(_plain, wanted)))
    return f"{where}: {key} is {_short(value)} ({_type_name(value)}): {text}"


def _deepest(errors: list[Any]) -> Any:
    """The first error, or one within its value: of a mapping that may also be a word, say, what is
    wrong within it tells more than that it is no such word.
    """
    top = _place(errors[0]["loc"])
    within = [e for e in errors if _place(e["loc"])[: len(top)] == top]
    return max(within, key=lambda e: len(_place(e["loc"])))


def _is_type_tag(part: object) -> bool:
    """Pydantic names the member of a union in `loc`; the user's file does not have it."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-"))


def _same_place(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    return _place(left) == _place(right)


def _place(loc: tuple[Any, ...]) -> list[Any]:
    return [part for part in loc if not _is_type_tag(part)]


def _plain(message: str) -> str:
    message = re.sub(r" or instance of \w+$", "", message).replace(
        "a valid dictionary", "a mapping"
    )
    message = re.sub(r" after validation, not \d+$", "", message)
    return re.sub(r"^(Input |List |String |Dictionary |Value error, )", "", message)


def one_line(text: str) -> str:
    """The text with each run of white space as one space."""
    return " ".join(text.split())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _type_name(value: object) -> str:
    names = {"str": "text", "dict": "mapping", "NoneType": "null", "bool": "true/false"}
    return names.get(type(value).__name__, type(value).__name__)


def _keys(model: Any, parts: list[str]) -> list[str]:
    """The keys allowed in the block that `parts` leads to from `model`."""
    for part in parts:
        fields = getattr(model, "model_fields", None)
        model = fields[part].annotation if fields else get_args(model)[1]  # dict[str, Block]
        if isinstance(model, UnionType):
            model = get_args(model)[0]  # Block | None
    return list(model.model_fields)
