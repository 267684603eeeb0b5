"""`headstart embeddings export`: the vectors of an embeddings file, in a format of others."""

from pathlib import Path

from pipeline import embeddings, exports
from pipeline.cli.embeddings import existing
from pipeline.cli.wording import size
from pipeline.errors import ConfigurationError


def run(
    file: str, *, to: str, output: str | None, layer: str | None, view: int, labels: str | None
) -> int:
    """Write them and print what was written. Raises as `exports.export` does."""
    source = existing(file)
    path = Path(output) if output else Path(f"{source.stem}.{to}")
    if path.suffix[1:] in exports.EXPORTS and path.suffix[1:] != to:
        raise ConfigurationError(
            f"--output {path} ends as another format than --to {to}; say the same"
        )
    there = path.exists()
    made = exports.export(
        embeddings.open(source), path, to=to, layer=layer, view=view, labels=labels
    )
    beside = f", the other columns in {path.with_suffix('.rows.csv')}" if to == "npy" else ""
    print(
        f"{path}: {'replaced, ' if there else ''}{len(made.rows)} x {made.dim}, {size(path.stat().st_size)}{beside}"
    )
    return 0
