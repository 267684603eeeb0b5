"""Which weights file an entry of params.yaml means: found, and compared with its sha256.

What is in it, `pipeline.backbones.state` reads.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline import files
from pipeline.backbones import recognition, wheels
from pipeline.backbones.source import Locate
from pipeline.backbones.state import State, digest, load_into, read_file, read_state
from pipeline.errors import ConfigurationError, InputError
from pipeline.params import BackboneParams

__all__ = [
    "State", "compare", "digest", "is_folder", "load_into", "names_a_file", "read_file",
    "read_state", "stated", "weights_file",
]  # fmt: skip

_KINDS = ("wheel", "file", "folder")
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".onnx")


def names_a_file(entry: BackboneParams, at: str) -> bool:
    """Whether the entry's weights are `wheel:`, `file:` or `folder:`, not a tag of the source.

    Raises ConfigurationError where they are neither.
    """
    kind, colon, rest = (entry.weights or "").partition(":")
    if colon and (kind not in _KINDS or not rest):
        raise ConfigurationError(
            f"{at}.weights is {entry.weights!r}; write wheel:NAME, file:PATH, folder:PATH or a tag"
        )
    return bool(colon)


def is_folder(entry: BackboneParams) -> bool:
    """Whether the entry's weights are `folder:PATH`."""
    return (entry.weights or "").startswith("folder:")


def weights_file(
    entry: BackboneParams, at: str, locate: Locate, names: Sequence[str] = ()
) -> Path | None:
    """The file that `wheel:NAME`, `file:PATH` or `folder:PATH` means; None for a tag.

    names: what the source's own file is called, for a folder; of one such name the digest in it
    is enough. Raises InputError where the file is missing or another, ConfigurationError where
    its sha256 is not given or there are several.
    """
    kind, _, rest = (entry.weights or "").partition(":")
    if kind not in _KINDS or not rest:
        return None
    if kind == "wheel":
        path = wheels.weights_file(rest, at, onnx=entry.source == "onnx")
    else:
        path = locate(rest)
        path = _in_folder(path, at, names) if kind == "folder" else path
    if not path.exists():
        raise InputError(f"{at}.weights: {path} does not exist; put it there or correct the path")
    if what := recognition.impostor(path):
        raise InputError(f"{at}.weights: {path.name} is {what}")
    actual = files.sha256_of(path)
    if kind == "wheel":
        wheels.compare(rest, path, actual, at)
    in_name = recognition.digest_in_name(path.name) if path.name in names else ""
    if in_name and not actual.startswith(in_name):
        raise InputError(
            f"{at}.weights: {path} has sha256 {actual[:12]}…, its name says {in_name}; get it again"
        )
    if kind != "wheel" and not in_name and entry.sha256 is None:
        raise ConfigurationError(f"{at}: a weights file needs its digest; paste 'sha256: {actual}'")
    compare(entry, path, actual, at)
    return path


def compare(entry: BackboneParams, path: Path, actual: str, at: str) -> None:
    """Refuse a file whose sha256 is not the one that stands in the entry. Raises InputError."""
    if entry.sha256 not in (None, actual):
        raise InputError(
            f"{at}.sha256 is {entry.sha256}, but {path.name} has {actual}; "
            "get the right file or correct the key"
        )


def _in_folder(folder: Path, at: str, names: Sequence[str]) -> Path:
    """The file of one of the source's own names, or the only weights file there."""
    if not folder.is_dir():
        return folder / names[0] if names else folder
    for name in names:
        if (folder / name).exists():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    wanted = f", and not {names[0]}" if names else ""
    message = f"{at}.weights: {folder} holds {len(found)} weights files{wanted}; "
    if found:
        raise ConfigurationError(f"{message}write file:PATH")
    raise InputError(f"{message}put one there or correct the path")


def stated(entry: BackboneParams) -> str:
    """The entry's weights for a record: a path by its name, for its folder is this machine's."""
    if entry.source == "random":
        return f"seed {entry.seed}"
    kind, colon, rest = (entry.weights or "default").partition(":")
    return f"{kind}:{Path(rest).name}" if kind in ("file", "folder") else f"{kind}{colon}{rest}"
