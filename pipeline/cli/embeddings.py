"""`headstart embeddings`: look into an embeddings file."""

from pathlib import Path

from pipeline import embeddings, files
from pipeline.errors import ConfigurationError


def info(file: str) -> int:
    """Print the attributes as JSON; reads no row."""
    print(files.json_text(embeddings.info(_existing(file))), end="")
    return 0


def verify(file: str) -> int:
    """Check every byte; raises IntegrityError, which is exit 4."""
    cached = embeddings.open(_existing(file))
    rows, dim = cached.vectors.shape
    print(f"{file}: {rows} x {dim} {cached.vectors.dtype}, fingerprint {cached.fingerprint}: ok")
    return 0


def _existing(file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise ConfigurationError(f"{file} is not a file; give the path of a .h5")
    return path
