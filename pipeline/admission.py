"""On which terms a worker is admitted to a run: the same versions, images and frozen backbone."""

import hashlib
import json
import os
import platform
import socket
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pipeline.errors import ClusterError
from pipeline.frozen import FrozenBackbone
from pipeline.uses import differences

LIBRARIES = ("numpy", "pillow", "h5py", "distributed")
"""What decodes, stores and carries; a runtime's own come to it."""

RUNTIME_LIBRARIES = {
    "onnx": ("onnxruntime", "onnxruntime-gpu"),
    "torch": ("torch",),
}
"""By runtime, the packages one of which runs a backbone."""

SAMPLE = 5
"""Images by whose size it is told whether a folder is the same one."""

_CODE = Path(__file__).parent


@dataclass(frozen=True)
class Terms:
    """What a worker must have as the run has it.

    fields: of the backbone, as sorted JSON; versions: (name, version) of what results hang on;
    sample: (path, bytes) of some images; outputs: (dataset, fingerprint) of what the backbone
    gives. All but the first are empty where the work runs in the run's own process.
    """

    fields: str
    versions: tuple[tuple[str, str], ...] = ()
    sample: tuple[tuple[str, int], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()


def versions(runtime: str) -> tuple[tuple[str, str], ...]:
    """Python's, Headstart's and the libraries' in this environment, by name."""
    names = (*LIBRARIES, RUNTIME_LIBRARIES.get(runtime, (runtime,))[0])
    alike = {each[0]: each for each in RUNTIME_LIBRARIES.values()}
    found = {name: _version(*alike.get(name, (name,))) for name in names}
    python = ".".join(platform.python_version_tuple()[:2])
    return ("python", python), ("headstart", _code()), *found.items()


def _version(*names: str) -> str:
    """Of the first of these packages that is installed."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _code() -> str:
    """Which state of Headstart's code this is, in some digits."""
    total = hashlib.sha256()
    for path in sorted(_CODE.rglob("*.py")):
        total.update(f"{path.relative_to(_CODE)}\n".encode() + path.read_bytes())
    return f"code {total.hexdigest()[:12]}"


def check(terms: Terms, root: str) -> None:
    """Raise ClusterError where this machine has other versions, or not the run's images."""
    runtime = json.loads(terms.fields).get("runtime", "")
    here = dict(versions(runtime)) if terms.versions else {}
    other = [
        f"{name} {here.get(name)} there, {wanted} here"
        for name, wanted in terms.versions
        if here.get(name) != wanted
    ]
    if other:
        raise ClusterError(f"{'; '.join(other)}; install there what is installed here")
    _check_images(terms, Path(root))


def _check_images(terms: Terms, root: Path) -> None:
    """A worker without the images, or with others, would list its share of them as unreadable."""
    where = f"on {socket.gethostname()}"
    mount = "mount it as the others have it, then run the same command to go on"
    if not root.is_dir():
        raise ClusterError(f"the images' folder {root} is not there {where}; {mount}")
    for path, size in terms.sample:
        try:
            found = f"{os.stat(root / path).st_size} bytes"
        except OSError as error:
            found = f"not readable ({error.strerror})"
        if found != f"{size} bytes":
            raise ClusterError(
                f"the images' folder {root} is another one {where}: {path} is {found} there, "
                f"{size} bytes here; {mount}"
            )


def check_backbone(terms: Terms, backbone: FrozenBackbone) -> None:
    """Raise ClusterError where the frozen backbone of this machine is another one."""
    other = differences(backbone.fields, json.loads(terms.fields))
    if not other and terms.outputs:
        here = {one.dataset: one.fingerprint for one in backbone.outputs}
        other = differences(here, dict(terms.outputs))
    if other:
        raise ClusterError(
            f"{backbone.folder} is another backbone on {socket.gethostname()} than where the run "
            f"began: {'; '.join(other)}; give both the same folder"
        )


def sample(root: Path, images: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Some of the images, (path, bytes), that are as they should be here."""
    chosen = list[tuple[str, int]]()
    for path, size in images:
        try:
            if os.stat(root / path).st_size == size:
                chosen.append((path, size))
        except OSError:
            continue
        if len(chosen) == SAMPLE:
            break
    return tuple(chosen)
