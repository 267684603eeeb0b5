"""`headstart backbones`: the entries of params.yaml, or what the libraries have, a line each."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline import files
from pipeline.backbones import catalogue, weights
from pipeline.backbones.catalogue import FETCHED, MISSING, Looked
from pipeline.cli.wording import counted, millions, table
from pipeline.errors import ConfigurationError
from pipeline.project import Project, open_project

MOST = 40
"""Models of the catalogue that are looked at unless all are asked for."""

OF_BOTH = ("parameters", "dim", "input", "top-1", "licence", "at hand")

LEGEND = (
    "parameters: of what is frozen, without the classifier; "
    "top-1: on ImageNet-1k in %, where it is published with the weights"
)

OTHERS = (
    "other tags: newer ones classify better and often transfer worse as frozen features; "
    "'headstart backbones show NAME' names them, weights: TAG takes one"
)


def run(pattern: str, *, everything: bool, as_json: bool) -> int:
    """Print the entries of params.yaml; with a pattern or everything, the catalogue's as well.

    Raises ConfigurationError where nothing fits the pattern.
    """
    wide = bool(pattern) or everything
    entries = _entries(pattern, needed=not wide)
    found = catalogue.names(pattern) if wide else []
    if not entries and not found:
        raise ConfigurationError(
            f"no backbone is called like {pattern!r}; write a part of a name, or a pattern "
            "such as '*resnet*'"
        )
    left_out = 0 if everything else max(0, len(found) - MOST)
    models = list(_looked(found[: len(found) - left_out]))
    if as_json:
        print(files.json_text([facts(one) for one in (*entries, *models)]), end="")
    else:
        print("".join(f"{line}\n" for line in _lines(entries, models, left_out)), end="")
    return 0


def open_if_there(*, needed: bool) -> Project | None:
    """The project; None where there is none, or a wrong one, and it is not needed."""
    try:
        return open_project()
    except ConfigurationError:
        if needed:
            raise
        return None


def look(project: Project, name: str) -> Looked:
    """An entry of params.yaml, looked at. Raises ConfigurationError where there is none."""
    folder = project.artifacts / "backbones" / name
    return catalogue.look(name, project.backbone(name), locate=project.locate, folder=folder)


def _entries(pattern: str, *, needed: bool) -> list[Looked]:
    project = open_if_there(needed=needed)
    if project is None:
        return []
    names = [name for name in project.params.backbones if catalogue.matches(name, pattern)]
    return [look(project, name) for name in names]


def _looked(names: Sequence[str]) -> Iterator[Looked]:
    if len(names) > MOST:
        print(f"building {counted(len(names), 'model')} without numbers", file=sys.stderr)
    for name in names:
        entry = catalogue.entry_of(name)
        if entry is not None:
            yield catalogue.look(name, entry, locate=Path)


def facts(one: Looked) -> dict[str, Any]:
    """What is printed of a backbone, for JSON; numbers that are not known are null."""
    known = one.description
    return {
        "name": one.name,
        "source": one.entry.source,
        "model": one.entry.model,
        "weights": stated(one),
        "other_tags": list(known.tags) if known else [],
        "parameters": known.parameters if known else None,
        "parameters_of_classifier": known.of_classifier if known else None,
        "dim": one.dim,
        "input": _input(one),
        "top1": known.top1 if known else None,
        "licence": _licence(one),
        "at_hand": one.place.state,
        "where": one.place.where,
        "wrong": str(one.wrong or ""),
    }


def stated(one: Looked) -> str:
    """Its weights, a default tag by name; empty where it has none."""
    if one.description and one.description.tag:
        return one.description.tag
    return "" if one.entry.source == "pixels" else weights.stated(one.entry)


def _licence(one: Looked) -> str:
    if one.description:
        return one.description.licence
    return one.frozen.licence if one.frozen else ""


def _input(one: Looked) -> int | None:
    if one.description:
        return one.description.crop
    return one.frozen.preprocessing.crop if one.frozen else None


def _lines(entries: list[Looked], models: list[Looked], left_out: int) -> Iterator[str]:
    if entries:
        first = ("name", "source", "model", "weights")
        yield from table([(*first, *OF_BOTH), *map(_row_of_entry, entries)])
    if entries and models:
        yield ""
    if models:
        yield from table([("name", "tag", *OF_BOTH, "other tags"), *map(_row_of_model, models)])
    if left_out:
        yield f"{left_out} more; narrow the pattern, or --all looks at them too"
    yield LEGEND
    if any(one.description and one.description.tags for one in models):
        yield OTHERS
    yield from _doubts((*entries, *models))


def _row_of_entry(one: Looked) -> list[str]:
    model = one.entry.model or "-"
    return [one.name, one.entry.source, model, stated(one) or "-", *_of_both(one)]


def _row_of_model(one: Looked) -> list[str]:
    tags = one.description.tags if one.description else ()
    others = tags[0] if len(tags) == 1 else str(len(tags) or "-")
    return [one.name, stated(one) or "-", *_of_both(one), others]


def _of_both(one: Looked) -> list[str]:
    known, dim, side = one.description, one.dim, _input(one)
    return [
        millions(known.parameters) if known else "-",
        str(dim) if dim else "-",
        str(side) if side else "-",
        f"{known.top1:.3f}" if known and known.top1 else "-",
        _licence(one).partition(";")[0] or "-",
        _at_hand(one),
    ]


def _at_hand(one: Looked) -> str:
    if one.place.state == FETCHED:
        host = urlsplit(one.place.where).hostname
        return f"no, from {host or 'the hub'}"
    return one.place.state


def _doubts(shown: Iterable[Looked]) -> Iterator[str]:
    """A line each for what is wrong or missing."""
    for one in shown:
        missing = one.place.where if one.place.state == MISSING else ""
        yield from dict.fromkeys(f"{one.name}: {text}" for text in (one.wrong, missing) if text)
