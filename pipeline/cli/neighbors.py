"""`headstart neighbors`: the cached images that are nearest to a photo, as a table or a sheet."""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import dataset, embeddings
from pipeline.cli.wording import table
from pipeline.dataset import on_one_line
from pipeline.errors import ConfigurationError, ImageError, InputError
from pipeline.neighbors import Search
from pipeline.neighbors.answers import Answer, Known, Neighbor
from pipeline.neighbors.queries import Queries
from pipeline.params import CONTROL_SOURCES
from pipeline.project import Project, open_project

SAME = "the same image"


def run(
    images: Sequence[str],
    *,
    backbone: str | None,
    k: int,
    format: str,
    html: str | None,
    metric: str,
    everything: bool,
) -> int:
    """Print what is nearest to each image; an image that cannot be used is told and passed over.

    Raises InputError where none can be, or nothing is embedded yet.
    """
    project = open_project()
    name = backbone or _default(project)
    project.backbone(name)
    path = project.artifacts / "embeddings" / f"{name}.h5"
    if not path.exists():
        raise InputError(f"{path} is not there yet; run 'dvc repro extract@{name}'")
    cached = embeddings.open(path)
    known = Known(dataset.read_labels(project.artifacts / "dataset" / "labels.parquet"))
    folder, device = project.artifacts / "backbones" / name, project.params.execution.device
    queries = Queries(cached, known, project.data_root, folder, device)
    search = Search(cached, project.artifacts / "runs", metric, everything=everything)
    answers = [_answer(said, queries, search, k) for said in images]
    for note in dict.fromkeys(search.notes):
        print(f"headstart: {note}", file=sys.stderr)
    if html:
        _write_sheet(Path(html), answers, project, f"{name}, {metric} distance")
    if all(answer.error[0] for answer in answers):
        raise InputError(_why(answers))
    print((_as_lines if format == "jsonl" else _as_text)(answers, metric), end="")
    return 0


def _default(project: Project) -> str:
    """The best's backbone; before there is one, the first of the run that is no control."""
    listed, entries = project.params.run.backbones, project.params.backbones
    try:
        metrics = json.loads((project.artifacts / "evaluation" / "metrics.json").read_bytes())
        best = metrics["best"]["backbone"]
    except (OSError, ValueError, KeyError, TypeError):
        best = None  # it decides nothing here but a default
    usable = [one for one in listed if one in entries]
    plain = [one for one in usable if entries[one].source not in CONTROL_SOURCES]
    return best if best in usable else str([*plain, *usable][0])


def _answer(said: str, queries: Queries, search: Search, k: int) -> Answer:
    try:
        query = queries.query(said)
    except ImageError as error:
        return Answer(said, error=(error.reason, error.detail))
    rows, distances = search.nearest(query.vector, k, but=query.row)
    names = queries.cached.sha256[rows].astype("U64").tolist()
    found = map(queries.known.neighbor, names, distances.tolist())
    same = queries.known.neighbor(query.sha256, 0.0) if query.row >= 0 else None
    return Answer(said, query.sha256, query.file, same, tuple(found))


def _why(answers: Sequence[Answer]) -> str:
    first, *others = answers
    reason, detail = first.error
    more = f", and so are {len(others)} more" if others else ""
    return f"{first.said}: {reason} ({detail}){more}; give other images"


def _write_sheet(path: Path, answers: Sequence[Answer], project: Project, subtitle: str) -> None:
    from pipeline.reporting import sheet

    if path.is_dir():
        raise ConfigurationError(f"--html {path} is a folder; give a file's name")
    sheet.write(path, answers, root=project.data_root, subtitle=subtitle)
    print(f"headstart: pictures in {path}", file=sys.stderr)


def _as_lines(answers: Sequence[Answer], _metric: str) -> str:
    return "".join(f"{json.dumps(answer.as_dict())}\n" for answer in answers)


def _as_text(answers: Sequence[Answer], metric: str) -> str:
    lines = list[str]()
    for answer in answers:
        lines += [""] if lines else []
        lines.append(on_one_line(answer.said))
        if answer.error[0]:
            lines.append(f"  left out: {': '.join(filter(None, answer.error))}")
        else:
            lines += [f"  {line}" for line in table([_columns(metric), *_rows(answer)])]
    return "".join(f"{line}\n" for line in lines)


def _columns(metric: str) -> list[str]:
    return ["", metric, "label", "split", "path"]


def _rows(answer: Answer) -> Iterator[list[str]]:
    if answer.same is not None:
        yield _row("", answer.same, f"  ({SAME})")
    for number, one in enumerate(answer.found, 1):
        yield _row(str(number), one, "")


def _row(number: str, one: Neighbor, note: str) -> list[str]:
    more = f" and {len(one.paths) - 1} more" if len(one.paths) > 1 else ""
    shown = on_one_line(f"{one.path}{more}")
    return [number, f"{one.distance:.4f}", on_one_line(one.label), one.split, f"{shown}{note}"]
