"""The workers of the cluster that is asked for: versions, images and store, as each has them."""

import json
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from pipeline.cli.doctor.finding import Finding, Place, error, ok
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from pipeline.cluster.crew import Crew
    from pipeline.cluster.hands import Outcome
    from pipeline.project import Project
    from pipeline.sharing import Trial

SECONDS = 30.0
"""How long the workers may take to answer."""

GUIDE = "see docs/workers.md, 'What the machines must share'"


def cluster(place: Place) -> Iterator[Finding]:
    """Ask each worker; where the work runs on this machine, say so."""
    if place.project is None:
        return
    from pipeline.cluster import is_elsewhere, is_here, open_cluster

    execution = place.project.execution
    if is_here(execution):
        yield ok("no cluster is asked for: extraction runs in threads of one process")
    elif not is_elsewhere(execution):
        yield ok(f"extraction runs in {execution.workers} processes of this machine")
    else:
        with open_cluster(execution) as crew:
            for runtime in _runtimes(place.project):
                yield from _asked(crew, place.project, runtime)  # type: ignore[arg-type]


def _runtimes(project: "Project") -> list[str]:
    """Those of the run's backbones: a worker needs no other."""
    entries = map(project.params.backbones.get, project.params.run.backbones)
    return sorted({entry.runtime for entry in entries if entry}) or ["onnx"]


def _asked(crew: "Crew", project: "Project", runtime: str) -> Iterator[Finding]:
    from pipeline import sharing
    from pipeline.admission import Terms, versions

    terms = Terms(json.dumps({"runtime": runtime}), versions(runtime), _sample(project))
    with sharing.trial(terms, project.data_root, project.store) as trial:
        outcomes = crew.ask(partial(sharing.take_part, trial), SECONDS)
        if not outcomes:
            text = f"none of the {crew.hands.place} is there"
            yield error(text, crew.hands.start, ClusterError.exit_code)
        for name, trouble in sorted(_troubles(trial, outcomes).items()):
            if trouble:
                yield error(f"worker {name}: {trouble}", GUIDE, ClusterError.exit_code)
            else:
                yield ok(f"worker {name}: same versions for {runtime}, same images, same store")


def _troubles(trial: "Trial", outcomes: "dict[str, Outcome | None]") -> dict[str, str]:
    from pipeline import sharing

    parts = dict[str, sharing.Part]()
    for name, outcome in outcomes.items():
        if outcome is None or outcome.died:
            parts[name] = sharing.Part("", "it did not answer")
        elif outcome.error is not None:
            parts[name] = sharing.Part("", f"{type(outcome.error).__name__}: {outcome.error}")
        else:
            parts[name] = outcome.value
    return sharing.troubles(trial, parts)


def _sample(project: "Project") -> tuple[tuple[str, int], ...]:
    """Some of the prepared images; none where nothing is prepared."""
    import pyarrow.parquet as pq

    from pipeline import admission

    try:
        with pq.ParquetFile(project.artifacts / "dataset" / "images.parquet") as table:
            first = next(table.iter_batches(100, columns=["path", "bytes"])).to_pydict()
    except (OSError, ValueError, StopIteration):
        return ()
    images = list(zip(first["path"], first["bytes"], strict=True))
    return admission.sample(project.data_root, images)
