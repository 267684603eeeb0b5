"""Which head is bundled: the one that params.yaml names, or the best by validation and those behind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.evaluation.summary import order
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES, Params


@dataclass(frozen=True)
class Candidate:
    """A head of the run on a backbone of the run, by their names."""

    backbone: str
    head: str

    @property
    def name(self) -> dict[str, str]:
        """As model.json has it."""
        return {"backbone": self.backbone, "head": self.head}


@dataclass(frozen=True)
class Choice:
    """What may be bundled. candidates: the first that ONNX can express is; named: it was asked for.

    metrics: of each, as metrics.json has them.
    """

    candidates: tuple[Candidate, ...]
    named: bool
    metrics: Mapping[Candidate, Mapping[str, Any]]


def choose(params: Params, metrics: Path) -> Choice:
    """The candidates in order: by validation as `best` of metrics.json is, controls left out.

    Raises IntegrityError where metrics.json has no figures of a head of the run.
    """
    table = _read(metrics)
    known = {
        Candidate(backbone, head): _figures(table, metrics, backbone, head)
        for backbone in params.run.backbones
        for head in params.run.heads
    }
    named = params.bundle
    if named.backbone is not None and named.head is not None:
        return Choice((Candidate(named.backbone, named.head),), named=True, metrics=known)
    ranked = [one for one in known if not is_control(params, one)]
    ranked.sort(key=lambda one: order(dict(known[one]), one.backbone, one.head))
    return Choice(tuple(ranked), named=False, metrics=known)


def is_control(params: Params, one: Candidate) -> bool:
    """Whether it is there to be beaten."""
    source, kind = params.backbones[one.backbone].source, params.heads[one.head].kind
    return source in CONTROL_SOURCES or kind in CONTROL_KINDS


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; run 'dvc repro evaluate'") from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro -f evaluate'") from None


def _figures(table: Any, path: Path, backbone: str, head: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = table[backbone][head]
    except (KeyError, TypeError):
        raise IntegrityError(
            f"{path} has no figures of {head} on {backbone}; run 'dvc repro -f evaluate'"
        ) from None
    return found
