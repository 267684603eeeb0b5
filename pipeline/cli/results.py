"""`headstart results`: the table of heads, and where the report lies."""

import json

from pipeline import evaluation
from pipeline.errors import InputError, IntegrityError
from pipeline.project import open_project


def run() -> int:
    """Print artifacts/evaluation/metrics.json as a table."""
    artifacts = open_project().artifacts
    path = artifacts / "evaluation" / "metrics.json"
    try:
        table = evaluation.describe(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{path} is not there yet; run 'dvc repro'") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro evaluate'") from None
    print(table)
    report = artifacts / "report.html"
    if report.exists():
        print(f"\nreport: {report}")
    return 0
