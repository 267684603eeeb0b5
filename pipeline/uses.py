"""What a fingerprint of the store is made of and who uses it: small notes beside its shards.

<store>/<fingerprint>/fields.json: the fingerprint's fields, and the length of an embedding.
<store>/<fingerprint>/uses/<digest>.json: a project's backbone on a host, and when it last embedded.
Each note ends with the sha256 of the rest, so that a flipped bit is found.
"""

import errno
import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.outputs import fingerprint_of

FIELDS, USES = "fields.json", "uses"
SHORT = 12
"""Digits of a digest that are shown."""

_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS}
_ATTEMPTS = 3
_ABSENT = "absent"


@dataclass(frozen=True)
class Use:
    """A project's backbone on a host. project: absolute path; used: when, in ISO 8601, UTC."""

    project: str
    backbone: str
    host: str
    used: str

    @property
    def place(self) -> Path:
        """Where it is noted below the folder of a fingerprint."""
        digest = files.sha256_of_json([self.project, self.backbone, self.host])
        return Path(USES, f"{digest}.json")

    @property
    def time(self) -> float:
        """When, as a time.time()."""
        return datetime.fromisoformat(self.used).timestamp()


@dataclass(frozen=True)
class Made:
    """What made a fingerprint's embeddings. dim: their length; fields: see `fingerprint_of`."""

    dim: int
    fields: dict[str, Any]


def note(store: Path, backbone: FrozenBackbone) -> str | None:
    """Note that this project embeds with a backbone from now on, all its outputs; before it does.

    Returns a line on what changed where the project used another fingerprint under this name
    until now, and this one never. Nothing is noted where the store may not be written, which is
    no fault while nothing is to be stored. Raises OSError where the disk fails.
    """
    known = (store / backbone.fingerprint / _use(backbone).place).exists()
    before = None if known else _last(store, _use(backbone))
    try:
        for output in reversed(backbone.outputs):  # the first one last: `_last` finds it
            use, folder = _use(backbone), store / output.fingerprint
            _put(folder / use.place, asdict(use))  # first: it holds the folder against `store gc`
            _put(folder / FIELDS, asdict(Made(output.dim, output.fields)))
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
    changed = differences(backbone.fields, before.fields) if before else []
    return f"{backbone.name}: embedded anew, since {'; '.join(changed)}" if changed else None


def _use(backbone: FrozenBackbone) -> Use:
    return Use(
        project=str(project_of(backbone.folder)),
        backbone=backbone.name,
        host=socket.gethostname(),
        used=datetime.now(UTC).isoformat(),
    )


def project_of(backbone: Path) -> Path:
    """The project of a frozen backbone's folder; for an experiment's copy, the one it is of.

    A copy is a repository of its own, below the DVC_ROOT for which it runs.
    """
    root = backbone.parents[2]  # artifacts/backbones/<name>
    repository = next((one for one in (root, *root.parents) if (one / ".dvc").is_dir()), root)
    origin = Path(os.environ.get("DVC_ROOT") or repository)
    if repository.is_relative_to(origin):
        root = origin / root.relative_to(repository)
    return Path(os.path.realpath(root))


def differences(new: dict[str, Any], old: dict[str, Any], *, within: str = "") -> list[str]:
    """What became of each field that differs, with both values: `precision is float16, was …`."""
    found = list[str]()
    for key in sorted({*new, *old}):
        now, then = new.get(key, _ABSENT), old.get(key, _ABSENT)
        if isinstance(now, dict) and isinstance(then, dict):
            found += differences(now, then, within=f"{within}{key}.")
        elif (here := _shown(now)) != (there := _shown(then)):
            found.append(f"{within}{key} is {here}, was {there}")
    return found


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value[:SHORT] if files.is_digest(value) else value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def read_made(folder: Path, fingerprint: str) -> Made | None:
    """What made the embeddings in a fingerprint's folder; None where it was not noted.

    Raises IntegrityError where the note is damaged or another fingerprint's.
    """
    path = folder / FIELDS
    try:
        made = Made(**_read(path))
        right = fingerprint_of(made.fields) == fingerprint
    except FileNotFoundError:
        return None
    except TypeError:
        raise _damaged(path) from None
    if not right:
        raise _damaged(path)
    return made


def read_use(path: Path) -> Use:
    """The use noted in a file. Raises IntegrityError where it is damaged, FileNotFoundError."""
    try:
        use = Use(**_read(path))
        right = use.place.name == path.name and use.time > 0
    except (TypeError, ValueError):
        raise _damaged(path) from None
    if not right:
        raise _damaged(path)
    return use


def _last(store: Path, use: Use) -> Made | None:
    """What made the embeddings that this project's backbone used last, on this host."""
    found = list[tuple[float, Path]]()
    for path in store.glob(f"*/{use.place}"):
        folder = path.parents[1]
        try:
            if files.is_digest(folder.name):
                found.append((read_use(path).time, folder))
        except (IntegrityError, FileNotFoundError):
            continue
    try:
        return read_made(max(found)[1], max(found)[1].name) if found else None
    except IntegrityError:
        return None  # `headstart store verify` names it


def _sealed(value: dict[str, Any]) -> bytes:
    return files.json_text({**value, "sha256": files.sha256_of_json(value)}).encode()


def _put(path: Path, value: dict[str, Any]) -> None:
    """Write a note, unless it is there to the byte."""
    content = _sealed(value)
    for left in reversed(range(_ATTEMPTS)):
        try:
            if path.exists() and path.read_bytes() == content:
                return
            with files.replacing(path) as beside:
                beside.write_bytes(content)
            return
        except FileNotFoundError:  # `store gc` took the folder away between two steps
            if not left:
                raise


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        value = dict[str, Any](json.loads(content))
        value.pop("sha256")
        whole = content == _sealed(value)
    except (ValueError, TypeError, KeyError):
        raise _damaged(path) from None
    if not whole:
        raise _damaged(path)
    return value


def _damaged(path: Path) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: it is not what its own sha256 says")
