"""The sha256 of every file that the report rests on, compared with what its record says."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline import files
from pipeline.errors import IntegrityError
from pipeline.reporting.reading import missing
from pipeline.reporting.records import Head, Run

READERS = 4
"""Files hashed at once."""


@dataclass(frozen=True)
class Input:
    """A file. stage: what writes it; stated: the digest its record gives, None without one."""

    path: Path
    stage: str
    stated: str | None = None


def describe(artifacts: Path, run: Run) -> list[tuple[str, str]]:
    """(file, sha256): tables, models, embeddings, heads. Raises IntegrityError."""
    inputs = _inputs(artifacts, run)
    with ThreadPoolExecutor(READERS) as pool:  # hashing releases the interpreter's lock
        found = list(pool.map(_digest, inputs))
    return [
        (shown(artifacts, entry.path), digest) for entry, digest in zip(inputs, found, strict=True)
    ]


def shown(artifacts: Path, path: Path) -> str:
    """A path as a reader of the report types it: from the project's folder, with `/`."""
    return str(PurePosixPath("artifacts", *path.relative_to(artifacts).parts))


def _inputs(artifacts: Path, run: Run) -> list[Input]:
    data, frozen = artifacts / "dataset", artifacts / "backbones"
    cached = artifacts / "embeddings"
    return [
        Input(data / "images.parquet", "prepare"),
        Input(data / "labels.parquet", "prepare"),
        *(
            Input(frozen / b.name / b.file, f"freeze@{b.name}", b.file_sha256)
            for b in run.backbones
        ),
        *(Input(cached / f"{b.name}.h5", f"extract@{b.name}") for b in run.backbones),
        *(_model(artifacts, head) for head in run.heads),
    ]


def _model(artifacts: Path, head: Head) -> Input:
    if head.trained:
        path = artifacts / "finetuned" / head.name / "model.safetensors"
        return Input(path, f"finetune@{head.name}", head.sha256)
    path = artifacts / "heads" / head.backbone / f"{head.name}.joblib"
    return Input(path, f"train@{head.backbone}-{head.name}", head.sha256)


def _digest(entry: Input) -> str:
    try:
        actual = files.sha256_of(entry.path)
    except FileNotFoundError:
        raise missing(entry.path, entry.stage) from None
    if entry.stated not in (None, actual):
        raise IntegrityError(
            f"{entry.path}: sha256 is {actual}, recorded {entry.stated}; "
            f"run 'dvc repro -f {entry.stage}'"
        )
    return actual
