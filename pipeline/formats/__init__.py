"""Where images and labels stand: class folders or a manifest -> a Listing. Reads no image."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipeline.dataset import left_out
from pipeline.errors import ConfigurationError, InputError
from pipeline.formats import wording
from pipeline.formats.folders import folders
from pipeline.formats.listing import Entry, Listing, counted, quoted
from pipeline.formats.manifest import manifest
from pipeline.names import unknown

__all__ = ["FORMATS", "Entry", "Listing", "counted", "list_data", "quoted"]

FORMATS: dict[str, Callable[[Path, str | None], Listing]] = {
    "folders": folders,
    "manifest": manifest,
}

_EXPECTED = "expected CLASS/image.jpg, train/CLASS/image.jpg, or a manifest with path and label"


def list_data(path: Path, *, format: str | None = None, group: str | None = None) -> Listing:
    """List data.path by the named format, or by the one its kind of file tells.

    group: the manifest's column that names groups. Raises ConfigurationError (unknown format,
    path missing or not to be listed) and InputError (nothing there, fewer than two labels).
    """
    if format is not None and format not in FORMATS:
        raise ConfigurationError(f"params.yaml: data.format: {unknown('format', format, FORMATS)}")
    if not os.path.exists(path):
        raise ConfigurationError(_missing(path))
    listing = FORMATS[format or ("folders" if path.is_dir() else "manifest")](path, group)
    found = {entry.label for entry in listing.entries}
    if not listing.entries:
        raise InputError(
            f"{path}: no image with a label found{left_out(listing.problems)}; {_EXPECTED}"
        )
    if len(found) < 2:
        raise InputError(
            f"{path}: only one class, {found.pop()!r}{left_out(listing.problems)}; "
            f"a classifier needs at least two; {_EXPECTED}"
        )
    return replace(listing, notes=(*listing.notes, *wording.of_labels(listing.entries)))


def _missing(path: Path) -> str:
    try:
        os.stat(path)
    except PermissionError:
        return (
            f"params.yaml: data.path: {path} lies in a folder that may not be entered; "
            "correct data.path or the folder's permissions"
        )
    except (OSError, ValueError):
        pass
    if os.path.islink(path):
        return (
            f"params.yaml: data.path: {path} is a link that leads nowhere (does not exist); "
            "correct data.path or mend the link"
        )
    return f"params.yaml: data.path: {path} does not exist; correct data.path or put the data there"
