"""`headstart embeddings`: look into an embeddings file."""

from pathlib import Path

from pipeline import embeddings, files, frozen
from pipeline.errors import ConfigurationError


def info(file: str) -> int:
    """Print the attributes as JSON; reads no row."""
    print(files.json_text(embeddings.info(_existing(file))), end="")
    return 0


def verify(file: str) -> int:
    """Check every byte, and the fields against backbones/<b>/ where that lies beside.

    Raises IntegrityError, which is exit 4.
    """
    path = _existing(file)
    cached = embeddings.open(path)
    folder = path.resolve().parent.parent / "backbones" / str(cached.attributes["backbone"])
    if (folder / frozen.RECORD).is_file():
        embeddings.check_backbone(path, cached, frozen.read(folder))
    rows, dim = cached.vectors.shape
    print(f"{file}: {rows} x {dim} {cached.vectors.dtype}, fingerprint {cached.fingerprint}: ok")
    return 0


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ConfigurationError(f"{file} is not a file; give the path of a .h5")
    return path
