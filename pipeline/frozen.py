"""A frozen backbone on disk: its record, its identity and the probe that checks a machine.

backbones/<name>/ holds one model file and backbone.json. The fingerprint names what made an
embedding: sha256 of the recipe's fields, one of which is the pixel probe, the digest of what
this machine's decoder and resizer make of a fixed set of small images.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import files
from pipeline.errors import IntegrityError
from pipeline.images import Pixels, Preprocessing
from pipeline.images.views import CLEAN, Views, render
from pipeline.names import NAME
from pipeline.outputs import FrozenLayer, Output, fingerprint_of, outputs, views_of
from pipeline.taps import DEFAULT, PENULTIMATE, Tap

FORMAT_VERSION = 1
RECORD = "backbone.json"
PROBE = Path(__file__).with_name("probe")

TOLERANCE = {"float32": (0.9999, 1e-3), "float16": (0.999, 1e-2), "bfloat16": (0.99, 5e-2)}
"""By precision: the least cosine and the largest |d| over the probe's RMS that may drift."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FrozenBackbone:
    """What backbone.json says. folder: where it lies; dim: length of the first layer's vectors.

    fields: what the fingerprint of the first layer's clean view is made of; layers: what the
    model file gives, in this order; views: what is another of each augmented view, see `outputs`;
    pooling: the entry's, of layers that name none.
    """

    folder: Path
    name: str
    file: str
    file_sha256: str
    dim: int
    weights: str
    licence: str
    fields: dict[str, Any]
    layers: tuple[FrozenLayer, ...] = ()
    views: tuple[dict[str, Any], ...] = ()
    pooling: str | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            layer, pooling = self.fields.get("layer"), self.fields.get("pooling")
            name = str(layer or PENULTIMATE)
            tap = Tap(name, name, str(pooling or DEFAULT))
            object.__setattr__(self, "layers", (FrozenLayer(tap, self.dim),))

    @property
    def fingerprint(self) -> str:
        """Identity of the first layer's clean vectors."""
        return fingerprint_of(self.fields)

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What it gives of an image, the first layer's clean vector first."""
        first, *others = self.layers
        return outputs(self.fields, [replace(first, dim=self.dim), *others], self.views)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """What the model file gives, in this order."""
        return tuple(layer.tap for layer in self.layers)

    @property
    def dims(self) -> tuple[int, ...]:
        """Lengths of their vectors."""
        return (self.dim, *(layer.dim for layer in self.layers[1:]))

    @property
    def model(self) -> Path:
        """The model file."""
        return self.folder / self.file

    @property
    def preprocessing(self) -> Preprocessing:
        """The recipe for its images."""
        return preprocessing_of(self.fields)

    @property
    def storage(self) -> str:
        """What embeddings are kept in: float16 or float32."""
        return str(self.fields["storage"])


@dataclass(frozen=True)
class Drift:
    """How far two sets of probe embeddings lie apart. cosine: the lowest; relative: max |d| / RMS."""

    cosine: float
    relative: float


def contract(fields: Mapping[str, Any]) -> dict[str, Any]:
    """How alike vectors of one fingerprint are: what is kept with them, and docs/numerics.md tells.

    least_cosine and most_relative bound the drift of the probe's vectors between machines; within
    a CPU of one type and equal versions there is none.
    """
    precision = str(fields.get("precision", "float32"))
    least, most = TOLERANCE[precision]
    return {
        "batch_size": "bits",
        "neighbours": "bits",
        "threads": "bits",
        "workers": "bits",
        "processor": {"least_cosine": least, "most_relative": most},
        "device": {"least_cosine": least, "most_relative": most},
        "precision": precision,
        "storage": str(fields.get("storage", "float16")),
    }


def preprocessing_of(fields: dict[str, Any]) -> Preprocessing:
    """The recipe that a fingerprint's fields carry."""
    recipe = dict(fields["preprocessing"])
    return Preprocessing(**{**recipe, "mean": tuple(recipe["mean"]), "std": tuple(recipe["std"])})


def leaves(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, those within another under a dotted name: `preprocessing.crop`."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        inner = leaves(value) if isinstance(value, dict) else {}
        found |= {f"{name}.{key}": kept for key, kept in inner.items()} or {name: value}
    return found


def digests(fields: Mapping[str, Any]) -> dict[str, str]:
    """By name, the sha256 of each of the `leaves`: kept beside them, it tells which was altered."""
    return {name: files.sha256_of_json(value) for name, value in leaves(fields).items()}


def altered(fields: Mapping[str, Any], recorded: Mapping[str, str]) -> list[str]:
    """Which fields are not what their recorded digests say, in words; see `digests`."""
    now, values = digests(fields), leaves(fields)
    return [
        f"{name} was altered, it is {json.dumps(values[name])}"
        if name in now
        else f"{name} is gone"
        for name in sorted(now.keys() | recorded.keys())
        if now.get(name) != recorded.get(name)
    ]


def write(backbone: FrozenBackbone) -> None:
    """Write backbone.json beside the model file."""
    record = {
        "format_version": FORMAT_VERSION,
        "name": backbone.name,
        "file": backbone.file,
        "file_sha256": backbone.file_sha256,
        "dim": backbone.dim,
        "weights": backbone.weights,
        "licence": backbone.licence,
        "fields": backbone.fields,
        "layers": [
            {**vars(layer.tap), "dim": layer.dim, "jointly": list(layer.jointly)}
            for layer in backbone.layers
        ],
        "views": list(backbone.views),
        "pooling": backbone.pooling,
        "fingerprint": backbone.fingerprint,
        "outputs": {output.dataset: output.fingerprint for output in backbone.outputs},
    }
    files.write_json(backbone.folder / RECORD, {**record, "sha256": digests(record)})


def load(folder: Path) -> FrozenBackbone:
    """Read backbone.json and check the model file and this machine's pixels against it.

    Raises IntegrityError, naming what differs with both values.
    """
    backbone = read(folder)
    again = f"run 'dvc repro -f freeze@{backbone.name}'"
    actual = files.sha256_of(backbone.model)
    if actual != backbone.file_sha256:
        raise IntegrityError(
            f"{backbone.model}: file_sha256 is {actual}, recorded {backbone.file_sha256}; {again}"
        )
    for output in backbone.outputs:
        probe = pixel_probe(backbone.preprocessing, views_of([output]))
        if probe != output.fields["pixel_probe"]:
            raise IntegrityError(
                f"{folder}: pixel_probe is {probe} with this machine's decoder, recorded "
                f"{output.fields['pixel_probe']}; install the recorded Pillow or {again}"
            )
    return backbone


def read(folder: Path) -> FrozenBackbone:
    """Read backbone.json alone. Raises IntegrityError, naming what was altered in it."""
    path = folder / RECORD
    again = f"run 'dvc repro -f freeze@{folder.name}'"
    try:
        record = json.loads(path.read_bytes())
        recorded = record.pop("sha256", None)  # older records have none
        changed = [] if recorded is None else altered(record, recorded)
        version = record.pop("format_version")
        stated = record.pop("fingerprint")
        outputs = record.pop("outputs", None)
        layers = tuple(_layer(one) for one in record.pop("layers", ()))  # older ones have none
        views = tuple(record.pop("views", ()))
        backbone = FrozenBackbone(folder=folder, layers=layers, views=views, **record)
        computed = backbone.fingerprint
        if not NAME.fullmatch(backbone.name) or Path(backbone.file).name != backbone.file:
            raise ValueError("name or file is not a plain name")
        for output in backbone.outputs:
            _check_fields(output.fields)
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; {again}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); {again}") from None
    if version != FORMAT_VERSION:
        raise IntegrityError(f"{path}: format_version is {version}, not {FORMAT_VERSION}; {again}")
    if computed != stated:
        changed.append(f"fingerprint of its fields is {computed}, recorded {stated}")
    if outputs not in (None, {one.dataset: one.fingerprint for one in backbone.outputs}):
        changed.append("the fingerprints of its outputs are not those recorded")
    if changed:
        raise IntegrityError(f"{path}: {'; '.join(changed)}; {again}")
    if not backbone.model.is_file():
        raise IntegrityError(f"{backbone.model} is missing; {again}")
    return backbone


def _check_fields(fields: dict[str, Any]) -> None:
    """Raise KeyError or TypeError where a field is not there, or not one that is known here."""
    preprocessing_of(fields)
    _ = TOLERANCE[fields["precision"]], fields["storage"], fields["pixel_probe"], fields["source"]


def _layer(said: dict[str, Any]) -> FrozenLayer:
    tap = Tap(name=str(said["name"]), layer=str(said["layer"]), pooling=str(said["pooling"]))
    return FrozenLayer(tap, int(said["dim"]), tuple(map(str, said["jointly"])))


@lru_cache(maxsize=8)
def probe_pixels(recipe: Preprocessing, views: Views = CLEAN) -> Pixels:
    """The probe's images, preprocessed: (K * V, H, W, 3) uint8, in the order of their names.

    The views of an image lie together.
    """
    paths = sorted(path for path in PROBE.iterdir() if not path.name.startswith("."))
    contents = [path.read_bytes() for path in paths]
    pixels = np.concatenate(
        [render(each, files.sha256_of_bytes(each), recipe, views) for each in contents]
    )
    pixels.flags.writeable = False
    return pixels


def pixel_probe(recipe: Preprocessing, views: Views = CLEAN) -> str:
    """Hex sha256 of the probe's pixels on this machine."""
    return hashlib.sha256(probe_pixels(recipe, views).tobytes()).hexdigest()


def drift(measured: Vectors, reference: Vectors) -> Drift:
    """Compare probe embeddings, both (K, D) float32."""
    a, b = measured.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(axis=1)
    with np.errstate(invalid="ignore"):  # of infinities comes NaN, which no tolerance holds
        cosines = np.where(same, 1.0, (a * b).sum(axis=1) / np.maximum(norms, 1e-30))
        rms = float(np.sqrt((b**2).mean())) or 1.0
        return Drift(cosine=float(cosines.min()), relative=float(np.abs(a - b).max() / rms))


def check_drift(measured: Vectors, reference: Vectors, *, precision: str, what: str) -> Drift:
    """The drift, if it is within TOLERANCE; what: whose probe this is, for the message.

    Raises IntegrityError with the figures otherwise, also where a value is not finite.
    """
    if measured.shape != reference.shape:
        raise IntegrityError(f"{what}: probe of shape {measured.shape}, expected {reference.shape}")
    found = drift(measured, reference)
    least, most = TOLERANCE[precision]
    if not (found.cosine >= least and found.relative <= most):
        raise IntegrityError(
            f"{what}: the embedding probe drifts: cosine {found.cosine:.6f} (at least {least}), "
            f"max |d| / RMS {found.relative:.2e} (at most {most:g})"
        )
    return found
