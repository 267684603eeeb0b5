"""`headstart backbones show`: all that is known of a backbone, and the layers it can be tapped at."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import embeddings, files, taps
from pipeline.backbones import catalogue
from pipeline.backbones.catalogue import FETCHED, FROZEN, HERE, MISSING, Looked
from pipeline.backbones.source import Description
from pipeline.cli import backbones
from pipeline.cli.wording import table
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.images import Preprocessing
from pipeline.project import Project
from pipeline.taps import DEFAULT, PENULTIMATE, POOLED, POOLINGS, VECTOR, Layer, Tap

UPPER = re.compile(r"[^.]+(\.[^.]*\d)?|[^.]+\.[^.]+\.([^.]*_)?\d+")
"""Names that are printed unless all are asked for: `layer1`, `layer1.0`, `encoder.layers.layer_0`."""

IN_WORDS = {
    FROZEN: "yes, frozen in",
    HERE: "yes,",
    FETCHED: "no, freezing fetches them from",
    MISSING: "no:",
}


@dataclass(frozen=True)
class Shown:
    """A backbone that can be described. taken: what its entry takes; cached: names of what of that
    is embedded; wrong: why nothing is taken.
    """

    looked: Looked
    known: Description
    taken: tuple[Tap, ...]
    cached: frozenset[str]
    wrong: str = ""


def run(name: str, *, everything: bool, as_json: bool) -> int:
    """Print a backbone: an entry of params.yaml, `LIBRARY/NAME` or `LIBRARY/NAME.TAG`.

    Raises ConfigurationError for another name, and what the backbone's own source raises.
    """
    shown = _shown(name)
    if as_json:
        print(files.json_text(backbones.facts(shown.looked) | _more(shown)), end="")
    else:
        lines = [*_block(shown), "", *_layers(shown, everything=everything)]
        print("".join(f"{line}\n" for line in lines), end="")
    return 0


def _shown(name: str) -> Shown:
    project = backbones.open_if_there(needed="/" not in name)
    looked = _looked(project, name)
    if looked.description is None:
        raise looked.wrong or ConfigurationError(f"nothing is known of {name!r}")
    cached = _cached(project, looked) if project else frozenset[str]()
    try:
        return Shown(looked, looked.description, looked.taps, cached)
    except ConfigurationError as error:
        return Shown(looked, looked.description, (), cached, str(error))


def _looked(project: Project | None, name: str) -> Looked:
    if project and name in project.params.backbones:
        return backbones.look(project, name)
    entry = catalogue.entry_of(name)
    if entry is None:
        raise catalogue.unknown(name, project.params.backbones if project else ())
    return catalogue.look(name, entry, locate=Path)


def _cached(project: Project, looked: Looked) -> frozenset[str]:
    """Names of the layers that are embedded as the frozen backbone has them."""
    path = project.artifacts / "embeddings" / f"{looked.name}.h5"
    if looked.frozen is None or not path.is_file():
        return frozenset()
    own = {output.fingerprint for output in looked.frozen.outputs}
    try:
        said = embeddings.info(path)
    except IntegrityError:
        return frozenset()  # `headstart embeddings verify` says why
    first = {"layer": PENULTIMATE, "fingerprint": said["fingerprint"]}
    listed = said.get("outputs") or [first]
    return frozenset(str(one["layer"]) for one in listed if one["fingerprint"] in own)


def _more(shown: Shown) -> dict[str, Any]:
    """What show has beside list, for JSON."""
    recipe = shown.known.recipe
    return {
        "package": shown.known.package,
        "pinned": shown.looked.pinned,
        "preprocessing": recipe.as_dict() if recipe else None,
        "doubts": [text for text in (shown.known.doubt, shown.wrong) if text],
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "pooling": _pooling(layer),
                "dim": taps.dim(layer, layer.pooling),
                "taken": [tap.name for tap in _taken(shown, layer)],
                "cached": [tap.name for tap in _taken(shown, layer) if tap.name in shown.cached],
            }
            for layer in shown.known.layers
        ],
    }


def _pooling(layer: Layer) -> str | None:
    """How its positions become one vector by default; None for what is one already."""
    return layer.pooling if len(layer.shape) > VECTOR else None


def _taken(shown: Shown, layer: Layer) -> list[Tap]:
    return [tap for tap in shown.taken if tap.layer == layer.name]


def _block(shown: Shown) -> list[str]:
    one, known = shown.looked, shown.known
    place = f"{IN_WORDS.get(one.place.state, 'none needed')} {one.place.where}"
    classifier = known.of_classifier
    without = f", and {classifier:,} of the classifier, left off" if classifier else ""
    rows = [
        ("name", one.name),
        ("source", one.entry.source),
        ("model", f"{one.entry.model or '-'} ({known.package})"),
        ("weights", backbones.stated(one) or "-"),
        ("other tags", ", ".join(known.tags)),
        ("at hand", place.strip()),
        ("pinned by", one.pinned),
        ("licence", known.licence),
        ("parameters", f"{known.parameters:,}{without}"),
        ("top-1", f"{known.top1} % on ImageNet-1k, as published" if known.top1 else ""),
        ("images", _recipe(known.recipe) if known.recipe else known.doubt),
        ("layers", ", ".join(map(_named, shown.taken)) or shown.wrong),
        ("dim", str(one.dim or "-")),
    ]
    return table([row for row in rows if row[1]])


def _named(tap: Tap) -> str:
    return tap.name if "@" in tap.name or tap.pooling == DEFAULT else f"{tap.name} ({tap.pooling})"


def _recipe(recipe: Preprocessing) -> str:
    mean, std = (" ".join(f"{value:g}" for value in part) for part in (recipe.mean, recipe.std))
    return (
        f"shorter side to {recipe.resize} ({recipe.interpolation}), centre {recipe.crop} x "
        f"{recipe.crop}, mean {mean}, std {std}"
    )


def _layers(shown: Shown, *, everything: bool) -> Iterator[str]:
    layers = shown.known.layers
    pooled = next((one for one in reversed(layers) if one.positions > 1), None)
    always = {PENULTIMATE, pooled.name if pooled else "", *(tap.layer for tap in shown.taken)}
    printed = [
        one for one in layers if everything or one.name in always or _is_upper(shown.known, one)
    ]
    yield from table(
        [("layer", "shape", "pooling", "dim", ""), *(_row(shown, one) for one in printed)]
    )
    if more := len(layers) - len(printed):
        yield f"{more} more within these; --all prints them too"
    if any(one.name == PENULTIMATE for one in layers):
        yield f"{PENULTIMATE}: the network's own output without its classifier"
    if pooled:
        yield f"{POOLED}: the last layer that has positions, here {pooled.name}"
    yield f"a layer's pooling is another as NAME@POOLING, of {', '.join(POOLINGS)}"


def _is_upper(known: Description, layer: Layer) -> bool:
    return not known.nested or bool(UPPER.fullmatch(layer.name))


def _row(shown: Shown, layer: Layer) -> list[str]:
    marks = [
        f"{'cached' if tap.name in shown.cached else 'taken'} as {tap.name}"
        for tap in _taken(shown, layer)
    ]
    shape = " x ".join(map(str, layer.shape))
    dim = str(taps.dim(layer, layer.pooling))
    return [layer.name, shape, _pooling(layer) or "-", dim, ", ".join(marks)]
