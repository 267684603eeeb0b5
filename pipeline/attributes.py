"""What the tracked embeddings file says of itself: its root attributes.

format_version, fingerprint, backbone, dim; fingerprint_fields, field_sha256 (of each field) and
sha256 (of each dataset) as sorted JSON.
"""

import json
from pathlib import Path
from typing import Any

from pipeline import frozen
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Attributes
from pipeline.outputs import fingerprint_of

FORMAT_VERSION = 1


def of(backbone: FrozenBackbone, digests: dict[str, str]) -> Attributes:
    """Those of a file to be written. digests: sha256 of each dataset, by name."""
    return {
        "format_version": FORMAT_VERSION,
        "backbone": backbone.name,
        "dim": backbone.dim,
        "fingerprint": backbone.fingerprint,
        "fingerprint_fields": json.dumps(backbone.fields, sort_keys=True),
        "field_sha256": json.dumps(frozen.digests(backbone.fields), sort_keys=True),
        "sha256": json.dumps(digests, sort_keys=True),
    }


def read(path: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a file, JSON ones parsed. Raises IntegrityError where they are not whole."""
    try:
        version = int(stored["format_version"])
        attributes: dict[str, Any] = {
            "format_version": version,
            "backbone": str(stored["backbone"]),
            "dim": int(stored["dim"]),
            "fingerprint": str(stored["fingerprint"]),
            "fingerprint_fields": dict(json.loads(stored["fingerprint_fields"])),
            "field_sha256": dict(
                json.loads(stored.get("field_sha256", "{}"))
            ),  # older files have none
            "sha256": dict(json.loads(stored["sha256"])),
        }
    except (KeyError, ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is no embeddings file ({error!r}); {again(path)}") from None
    if version != FORMAT_VERSION:
        raise IntegrityError(f"{path}: format_version is {version}, not {FORMAT_VERSION}")
    if not {"embeddings", "sha256"} <= set(attributes["sha256"]):
        raise IntegrityError(f"{path}: no digest of its datasets; {again(path)}")
    _check_fields(path, attributes)
    return attributes


def _check_fields(path: Path, attributes: dict[str, Any]) -> None:
    fields, recorded = attributes["fingerprint_fields"], attributes["field_sha256"]
    changed = frozen.altered(fields, recorded) if recorded else []
    computed = fingerprint_of(fields)
    if computed != attributes["fingerprint"]:
        changed.append(
            f"fingerprint of its fields is {computed}, recorded {attributes['fingerprint']}"
        )
    if changed:
        raise IntegrityError(f"{path}: {'; '.join(changed)}; {again(path)}")


def again(path: Path) -> str:
    """What to type."""
    name = path.name.strip(".").split(".")[0]
    return f"run 'dvc repro extract@{name}' where it was made, or fetch it again"
