"""`headstart embeddings`: look into an embeddings file."""

from pathlib import Path

from pipeline import embeddings, files, frozen
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.frozen import FrozenBackbone
from pipeline.uses import differences


def info(file: str) -> int:
    """Print the attributes as JSON; reads no row."""
    print(files.json_text(embeddings.info(existing(file))), end="")
    return 0


def verify(file: str) -> int:
    """Check every byte, and the fields against backbones/<b>/ where that lies beside.

    Raises IntegrityError, which is exit 4.
    """
    path = existing(file)
    cached = embeddings.open(path)
    folder = path.resolve().parent.parent / "backbones" / str(cached.attributes["backbone"])
    if (folder / frozen.RECORD).is_file():
        _compare(path, cached, frozen.read(folder))
    rows, dim = cached.vectors.shape
    print(f"{file}: {rows} x {dim} {cached.vectors.dtype}, fingerprint {cached.fingerprint}: ok")
    return 0


def _compare(path: Path, cached: Embeddings, backbone: FrozenBackbone) -> None:
    found = differences(backbone.fields, cached.attributes["fingerprint_fields"])
    if not found:
        there = {one["dataset"]: one["fingerprint"] for one in cached.attributes["outputs"]}
        found = differences({one.dataset: one.fingerprint for one in backbone.outputs}, there)
    if found:
        raise IntegrityError(
            f"{path} is not of the backbone in {backbone.folder}: {'; '.join(found)}; "
            f"run 'dvc repro extract@{backbone.name}'"
        )


def existing(file: str) -> Path:
    """The file of that name. Raises ConfigurationError."""
    path = Path(file)
    if not path.is_file():
        raise ConfigurationError(f"{file} is not a file; give the path of a .h5")
    return path
