"""The report's only readers of JSON and CSV, and what it says of a file that is not as it should be."""

import json
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.errors import IntegrityError


def _content(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise missing(path, stage) from None
    except ValueError as error:
        raise damaged(path, stage, error) from None


def json_list(path: Path, stage: str) -> list[Any]:
    """A JSON list. Raises IntegrityError that names the stage to run."""
    value = _content(path, stage)
    if not isinstance(value, list):
        raise damaged(path, stage, "no list")
    return value


def csv_rows(path: Path, stage: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV that has these columns. Raises IntegrityError that names the stage to run."""
    try:
        rows = files.read_csv(path)
    except FileNotFoundError:
        raise missing(path, stage) from None
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, stage, error) from None
    absent = [name for name in columns if rows and rows[0].get(name) is None]
    if absent:
        raise damaged(path, stage, f"no {absent[0]}")
    return rows


def json_object(path: Path, stage: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object that has these keys. Raises IntegrityError that names the stage to run."""
    value = _content(path, stage)
    absent = [key for key in keys if key not in value] if isinstance(value, dict) else ["object"]
    if absent:
        raise damaged(path, stage, f"no {absent[0]}")
    return dict(value)


def missing(path: Path, stage: str) -> IntegrityError:
    """The error for a file that is not there; stage: what writes it, as dvc.yaml names it."""
    return IntegrityError(f"{path} is missing; run 'dvc repro {stage}'")


def damaged(path: Path, stage: str, why: object) -> IntegrityError:
    """The error for a file that is not what it should be."""
    return IntegrityError(f"{path} is damaged ({why}); run 'dvc repro -f {stage}'")
