"""What of an HDF5 file from elsewhere is refused before a value of it is read.

Links to anywhere, what is nested or named oddly, large attributes, and more metadata than a plain
file can need: HDF5 takes as much memory as a file tells it to.
"""

import io
from typing import Any, BinaryIO

import h5py
import numpy as np

from pipeline.errors import IntegrityError

DEPTH, ENTRIES = 2, 1000
"""How deep groups may lie, and how many datasets and groups a file may have."""

METADATA_BYTES = 32 << 20
"""What HDF5 may read of a file that is opened: all but the datasets, of which it reads none."""

ATTRIBUTES, ATTRIBUTE_BYTES = 64, 1 << 20
"""How many attributes a file may have, and how large one of no variable length may be."""


class Metered(io.RawIOBase):
    """A file for HDF5 to read a little of; raises OSError where it wants more."""

    def __init__(self, raw: BinaryIO | io.BytesIO) -> None:
        super().__init__()
        self._raw, self._left = raw, METADATA_BYTES

    def readinto(self, buffer: Any) -> int:
        self._left -= len(buffer)
        if self._left < 0:
            raise OSError(f"more than {METADATA_BYTES >> 20} MiB beside its datasets")
        return int(self._raw.readinto(buffer))  # type: ignore[union-attr]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()


def names(file: h5py.File, said: str) -> list[str]:
    """The names of all datasets, those within groups as `group/name`.

    said: how messages begin. Raises IntegrityError for links, and groups too deep or too many.
    """
    found, groups = list[str](), [("", file, 0)]
    entries = 0
    while groups:
        above, group, depth = groups.pop()
        entries += len(group)
        if entries > ENTRIES:
            raise IntegrityError(f"{said}: more than {ENTRIES} datasets and groups; refused")
        for own in group:
            name = f"{above}{own}"
            if not name.isprintable():
                raise IntegrityError(f"{said}: {name!a} is no plain name; refused")
            if not isinstance(group.get(own, getlink=True), h5py.HardLink):
                raise IntegrityError(f"{said}: {name} is a link to somewhere else; refused")
            if not isinstance(group[own], h5py.Group):
                found.append(name)
            elif depth == DEPTH:
                raise IntegrityError(f"{said}: {name} is a group within {depth} others; refused")
            else:
                groups.append((f"{name}/", group[own], depth + 1))
    return found


def attributes(file: h5py.File, said: str) -> dict[str, str | int]:
    """The root's attributes, each one text or one number.

    said: how messages begin. Raises IntegrityError for anything else, unread.
    """
    if len(file.attrs) > ATTRIBUTES:
        raise IntegrityError(f"{said}: more than {ATTRIBUTES} attributes; refused")
    return {key: _attribute(file, key, said) for key in file.attrs}


def _attribute(file: h5py.File, key: str, said: str) -> str | int:
    stored = file.attrs.get_id(key)
    text = h5py.check_string_dtype(stored.dtype)
    small = stored.shape == () and stored.get_storage_size() <= ATTRIBUTE_BYTES
    if small and (text is not None or stored.dtype.kind in "iuS"):
        value = file.attrs[key]
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, int) or (isinstance(value, str) and value.isprintable()):
            return value
    raise IntegrityError(
        f"{said}: attribute {ascii(key)[1:-1]} is neither one text nor one number; refused"
    )
