"""What a bundle says of itself: classes, preprocessing, and what it was made of."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.errors import ConfigurationError, ImageError, InputError, IntegrityError
from pipeline.frozen import pixel_probe
from pipeline.images import INTERPOLATIONS, Preprocessing
from pipeline.images.views import TTA, Views
from pipeline.predictor import contents
from pipeline.predictor.contents import Refused
from pipeline.predictor.wire import WireError

FORMAT_VERSION = 1

LARGEST = 2**31 - 1
"""Bytes of an ONNX file; it is one message of protobuf."""

LARGEST_RECORD = 1 << 24
"""Bytes of the model.json that is looked at."""

MOST_SIDE = 4096
"""Pixels that an image may be resized or cut to."""

MOST_VALUES = 1 << 24
"""Classes, or values of an embedding."""

_NEEDED = (
    "format_version", "backbone", "head", "classes", "preprocessing", "tta", "dim", "fingerprint",
    "pixel_probe", "abstention",
)  # fmt: skip
_TEXTS = {
    "backbone", "head", "kind", "source", "fingerprint", "storage", "precision", "runtime",
    "pixel_probe", "licence", "weights",
}  # fmt: skip
"""What stands there as it is; all else is JSON."""

_WANTED = "'headstart predict' wants a bundle, the model.onnx that 'dvc repro bundle' writes"
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Bundle:
    """What a bundle says of itself.

    classes: labels by code; tta: a key of TTA, or None; dim: of its embeddings; fingerprint: of
    the backbone's; pixel_probe: hex sha256 of the probe's pixels where it was made; threshold:
    the probability below which it had better abstain, None where none was chosen; record: all
    that model.json says.
    """

    path: Path
    backbone: str
    head: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    tta: str | None
    dim: int
    fingerprint: str
    pixel_probe: str
    threshold: float | None
    record: Mapping[str, Any]

    @property
    def views(self) -> Views:
        """Which views of an image it wants."""
        return Views(tta=self.tta)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image's pixels: (crop, crop, 3), the views before them where there are some."""
        side = self.preprocessing.crop
        return (side, side, 3) if self.tta is None else (len(self.views), side, side, 3)

    @property
    def decodes_alike(self) -> bool:
        """Whether this machine's Pillow makes the pixels that the bundle was trained on."""
        return pixel_probe(self.preprocessing) == self.pixel_probe


def read(path: Path) -> tuple[Bundle, bytes]:
    """A bundle's record and the file's bytes; nothing else is opened but model.json beside it.

    Raises ConfigurationError where there is no such file, InputError where it is no bundle or
    holds what a bundle does not, IntegrityError where model.json says another sha256.
    """
    content = _bytes(path)
    _compare(path, content)
    try:
        metadata = contents.metadata(content)
    except WireError as error:
        if content.startswith(_LFS):
            raise InputError(f"{path} is a Git LFS pointer; run 'git lfs pull'") from None
        raise InputError(
            f"{path} is truncated or no ONNX file ({error}); get it again, or run 'dvc pull'"
        ) from None
    except Refused as error:
        raise InputError(
            f"{path} was not opened: it holds {error}, which a bundle does not; {_WANTED}"
        ) from None
    return _bundle(path, metadata), content


def _bytes(path: Path) -> bytes:
    if not path.exists():
        if reason := _reason(path):
            raise ConfigurationError(
                f"{path} is not there: {reason}; {path.parent}/README.md tells more"
            )
        raise ConfigurationError(
            f"{path} is not there; run 'dvc repro bundle' or 'dvc pull', or name another by --model"
        )
    try:
        with files.open_plain(path) as file:
            if path.stat().st_size > LARGEST:
                raise InputError(f"{path} is larger than 2 GiB, which no ONNX file can be")
            return file.readall()
    except ImageError as error:  # of a folder, a pipe, a file that may not be read
        raise ConfigurationError(f"{path}: {error.detail}; name a model.onnx by --model") from None


def _reason(path: Path) -> str:
    """Why the stage that writes a bundle wrote none, as the model.json in its place says."""
    try:
        with files.open_plain(path.with_name("model.json")) as file:
            said = json.loads(file.read(LARGEST_RECORD))
    except (ImageError, ValueError, RecursionError):
        return ""
    if not isinstance(said, dict) or said.get("file", "") is not None:
        return ""
    return " ".join(str(said.get("reason", ""))[:200].split())


def _compare(path: Path, content: bytes) -> None:
    """Raise IntegrityError where the record beside the file is of other bytes."""
    beside = path.with_name("model.json")
    try:
        with files.open_plain(beside) as file:
            said = json.loads(file.read(LARGEST_RECORD))
    except (ImageError, ValueError, RecursionError):
        return
    if not isinstance(said, dict) or said.get("file") != path.name or "sha256" not in said:
        return
    actual = hashlib.sha256(content).hexdigest()
    if said["sha256"] != actual:
        raise IntegrityError(
            f"{path}: sha256 is {actual}, {beside.name} says {str(said['sha256'])[:64]}; "
            "run 'dvc checkout' or 'dvc repro bundle', or get both again"
        )


def _bundle(path: Path, metadata: Mapping[str, str]) -> Bundle:
    if missing := [key for key in _NEEDED if key not in metadata]:
        raise InputError(
            f"{path} is no bundle: its metadata has no {', '.join(missing)}; {_WANTED}"
        )
    record = {key: text if key in _TEXTS else _value(text) for key, text in metadata.items()}
    if record["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version is {str(metadata['format_version'])[:40]}, and this headstart "
            f"knows {FORMAT_VERSION}; install the one that made it"
        )
    texts = {key: metadata[key] for key in ("backbone", "head", "fingerprint", "pixel_probe")}
    try:
        return Bundle(
            path=path,
            classes=_classes(record["classes"]),
            preprocessing=_preprocessing(record["preprocessing"]),
            tta=_tta(record["tta"]),
            dim=_whole(record["dim"], "dim", MOST_VALUES),
            threshold=_threshold(record["abstention"]),
            record=record,
            **texts,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(f"{path} is no bundle: in its metadata {error}; {_WANTED}") from None


def _value(text: str) -> Any:
    """What JSON stands for; a text that is none stands for itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _classes(said: Any) -> tuple[str, ...]:
    if (
        not isinstance(said, list)
        or not 0 < len(said) <= MOST_VALUES
        or not all(isinstance(name, str) for name in said)
        or len(set(said)) < len(said)
        or any("\ud800" <= letter <= "\udfff" for letter in set().union(*said))
    ):
        raise ValueError("classes is no list of different names")
    return tuple(said)


def _preprocessing(said: Any) -> Preprocessing:
    resize, crop = (
        _whole(said[key], f"preprocessing.{key}", MOST_SIDE) for key in ("resize", "crop")
    )
    if said["interpolation"] not in INTERPOLATIONS:
        raise ValueError(f"preprocessing.interpolation is {str(said['interpolation'])[:40]!r}")
    mean, std = (_three(said[key], f"preprocessing.{key}") for key in ("mean", "std"))
    return Preprocessing(resize, crop, said["interpolation"], mean, std)


def _three(said: Any, what: str) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in said)
    if not all(map(math.isfinite, (red, green, blue))):
        raise ValueError(f"{what} is not finite")
    return red, green, blue


def _tta(said: Any) -> str | None:
    if said is not None and said not in TTA:
        raise ValueError(f"tta is {str(said)[:40]!r}")
    return None if said is None else str(said)


def _whole(said: Any, what: str, most: int) -> int:
    if type(said) is not int or not 0 < said <= most:
        raise ValueError(f"{what} is {str(said)[:40]}, not 1 to {most}")
    return said


def _threshold(said: Any) -> float | None:
    chosen = said.get("threshold")
    if chosen is not None and not 0 <= float(chosen) <= 1:
        raise ValueError(f"abstention.threshold is {str(chosen)[:40]}, not 0 to 1")
    return None if chosen is None else float(chosen)
