"""What a file is that stands where weights should be, told by its bytes."""

import re
import zipfile
from pathlib import Path

_PAGE = "a web page; download the file itself"
_ARCHIVE = "an archive; unpack it and give the file in it"
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer; run 'git lfs pull' where it is",
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<!--": _PAGE,
    b"<?xml": "an XML text, likely a server's refusal; download the file itself",
    b"{": "a JSON text; download the file itself",
    b"\x89hdf\r\n": "an HDF5 file, as Keras writes them; save the weights with torch or safetensors",
    b"\x93numpy": "a numpy array; save the weights with torch or safetensors",
    b"\x1f\x8b": _ARCHIVE,
    b"bzh": _ARCHIVE,
    b"\xfd7zxz": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    b"rar!": _ARCHIVE,
}
"""How a file begins that is no weights file, in lower case, white space left out."""

_ZIPPED = (
    (r"(^|/)(constants\.pkl|code/.*)$", "a TorchScript archive; save its state_dict() instead"),
    (r"(^|/)data\.pkl$", ""),
    (r"\.npy$", "a numpy archive; save the weights with torch or safetensors"),
    (r"\.weights\.h5$", "a Keras archive; save the weights with torch or safetensors"),
    ("", _ARCHIVE),
)
"""A pattern for a name in a zip archive, and what the archive is then; the first that fits."""

_ZIP = b"PK\x03\x04"
_LENGTH = 8
_SAFETENSORS_HEADER = 100_000_000
"""Bytes; its own readers take no longer one."""


def digest_in_name(name: str) -> str:
    """The beginning of a file's sha256 that torch's zoo puts in its name; empty without one."""
    found = re.search(r"-([0-9a-f]{8,64})\.", name)
    return found[1] if found else ""


def impostor(path: Path) -> str:
    """What a file is that is not weights of any kind, and what to do; empty where it may be some."""
    if path.is_dir():
        return "a folder; write folder:PATH, or name the file in it"
    with path.open("rb") as file:
        head = file.read(64)
    if not head.strip():
        return "empty; get the file again"
    return of_start(head) or (_zipped(path) if head.startswith(_ZIP) else "")


def of_start(head: bytes) -> str:
    """The same of a file's first bytes."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if is_safetensors_start(head):
        return ""
    return next((what for known, what in _STARTS.items() if start.startswith(known)), "")


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name."""
    with path.open("rb") as file:
        return is_safetensors_start(file.read(_LENGTH + 1))


def is_safetensors_start(head: bytes) -> bool:
    """Whether bytes begin with a header's length and a header."""
    announced = int.from_bytes(head[:_LENGTH], "little")
    return head[_LENGTH : _LENGTH + 1] == b"{" and announced <= _SAFETENSORS_HEADER


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX model: it begins with its version, as protobuf writes it."""
    with path.open("rb") as file:
        head = file.read(_LENGTH + 1)
    return path.suffix == ".onnx" or (head[:1] == b"\x08" and not is_safetensors_start(head))


def _zipped(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, RuntimeError, ValueError):
        return ""
    return next(what for known, what in _ZIPPED if any(re.search(known, name) for name in names))


def why_unreadable(path: Path, error: Exception) -> str:
    """What the user can do, instead of torch's advice to load without the safeguard."""
    message = str(error)
    if "global" in message.lower() or "TorchScript" in message:
        named = re.search(r"GLOBAL ([\w.]+)", message)
        which = f" ({named[1]})" if named else ""
        return f"holds Python objects{which}, which could run code; save the model's state_dict() alone"
    if _is_cut(path) or isinstance(error, EOFError):
        return f"is truncated: it ends after {path.stat().st_size} bytes; get it again"
    reason = message.splitlines()[0].split(". ")[0][:120] if message else type(error).__name__
    return f"cannot be read, it is damaged or no weights file ({reason}); get it again"


def _is_cut(path: Path) -> bool:
    """Whether a file ends before what its beginning announces."""
    with path.open("rb") as file:
        head = file.read(_LENGTH + 1)
    if is_safetensors_start(head):
        return path.stat().st_size < _announced(path)
    if head.startswith(_ZIP):
        return not zipfile.is_zipfile(path)
    return head.startswith(b"\x80") and not _ends_as_pickle(path)


def _announced(path: Path) -> int:
    """Bytes of a safetensors file, by its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = file.read(length)
    ends = [int(end) for end in re.findall(rb'"data_offsets":\s*\[\s*\d+\s*,\s*(\d+)', header)]
    return _LENGTH + length + max(ends, default=0)


def _ends_as_pickle(path: Path) -> bool:
    """Whether the pickles that an old torch file begins with are all there."""
    import pickletools

    try:
        with path.open("rb") as file:
            for _ in range(4):  # a magic number, the protocol, the system, the table itself
                for _opcode in pickletools.genops(file):
                    pass
    except Exception:  # noqa: BLE001 - whatever a broken pickle makes it raise
        return False
    return True
