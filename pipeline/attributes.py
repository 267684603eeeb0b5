"""What the tracked embeddings file says of itself: its root attributes.

format_version, fingerprint, backbone, dim; fingerprint_fields, field_sha256 (of each field),
outputs (dataset, layer, view, dim and fingerprint of each), contract (see `frozen.contract`) and
sha256 (of each dataset) as sorted JSON.
"""

import json
from pathlib import Path
from typing import Any

from pipeline import files, frozen, hdf5
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Attributes
from pipeline.names import NAME
from pipeline.outputs import FIRST, Output, fingerprint_of
from pipeline.taps import PENULTIMATE

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
        "outputs": json.dumps([_said(backbone, one) for one in backbone.outputs], sort_keys=True),
        "contract": json.dumps(frozen.contract(backbone.fields), sort_keys=True),
        "sha256": json.dumps(digests, sort_keys=True),
    }


def _said(backbone: FrozenBackbone, output: Output) -> dict[str, Any]:
    return {
        "dataset": output.dataset,
        "layer": backbone.taps[output.number].name,
        "view": output.view,
        "dim": output.dim,
        "fingerprint": output.fingerprint,
    }


_NOT_WHOLE = (KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)


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
            "contract": dict(json.loads(stored.get("contract", "{}"))),
            "sha256": {str(name): str(one) for name, one in json.loads(stored["sha256"]).items()},
        }
        attributes["outputs"] = _outputs(attributes, stored)
        changed = _changed_fields(attributes)
        json.dumps(attributes, ensure_ascii=False).encode()  # half a surrogate cannot be shown
    except _NOT_WHOLE as error:
        raise IntegrityError(f"{path} is no embeddings file ({error!r}); {again(path)}") from None
    if version != FORMAT_VERSION:
        raise IntegrityError(f"{path}: format_version is {version}, not {FORMAT_VERSION}")
    recorded = attributes["sha256"]
    needed = {FIRST, "sha256", *_datasets(attributes)}
    if not needed <= recorded.keys() or not all(map(files.is_digest, recorded.values())):
        raise IntegrityError(f"{path}: no digest of its datasets; {again(path)}")
    if not NAME.fullmatch(attributes["backbone"]):  # it is a folder's name to those who look there
        raise IntegrityError(f"{path}: backbone is no plain name; {again(path)}")
    if changed:
        raise IntegrityError(f"{path}: {'; '.join(changed)}; {again(path)}")
    return attributes


def _outputs(attributes: dict[str, Any], stored: dict[str, Any]) -> list[dict[str, Any]]:
    """What is said of each output; older files have one, and say nothing of it."""
    if "outputs" not in stored:
        layer = str(attributes["fingerprint_fields"].get("layer", PENULTIMATE))
        same = {name: attributes[name] for name in ("dim", "fingerprint")}
        return [{"dataset": FIRST, "layer": layer, "view": 0, **same}]
    return [
        {
            **{name: str(one[name]) for name in ("dataset", "layer", "fingerprint")},
            **{name: int(one[name]) for name in ("view", "dim")},
        }
        for one in json.loads(stored["outputs"])
    ] or [{}]


def _datasets(attributes: dict[str, Any]) -> list[str]:
    return [output["dataset"] for output in attributes["outputs"]]


def _changed_fields(attributes: dict[str, Any]) -> list[str]:
    """What contradicts the fingerprint, in words."""
    fields, recorded = attributes["fingerprint_fields"], attributes["field_sha256"]
    changed = frozen.altered(fields, recorded) if recorded else []
    computed = fingerprint_of(fields)
    if computed != attributes["fingerprint"]:
        changed.append(
            f"fingerprint of its fields is {computed}, recorded {attributes['fingerprint']}"
        )
    first = attributes["outputs"][0]
    said = (first.get("dataset"), first.get("view"), first.get("fingerprint"))
    if not changed and said != (FIRST, 0, attributes["fingerprint"]):
        changed.append("the first of its outputs is another than its fingerprint's")
    return changed


def info(path: Path) -> dict[str, Any]:
    """What a file says of itself, its rows unread: attributes, and shape and dtype of each dataset.

    Raises IntegrityError where it is not a plain embeddings file.
    """
    plain = hdf5.open_plain(path)
    datasets = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in plain.arrays.items()
    }
    return {**read(path, plain.attributes), "datasets": datasets}


def again(path: Path) -> str:
    """What to type."""
    if path.suffix != ".h5":
        return "give the .h5 of an embeddings file, as under artifacts/embeddings/"
    name = path.name.strip(".").split(".")[0]
    return f"run 'dvc repro extract@{name}' where it was made, or fetch it again"
