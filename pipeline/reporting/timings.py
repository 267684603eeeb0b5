"""timings.html: what each way to a classifier took. Nothing tracks it: it is of one machine and day."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from pipeline import files
from pipeline.params import FinetuneParams
from pipeline.reporting.wording import ABSENT

COLUMNS = ("backbone", "what", "images", "seconds", "as long as the frozen way", "energy (Wh)")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Headstart timings</title>
<style>body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; }</style>
<h1>What each way took</h1>
<p>Of the last runs on this machine. The frozen way: every image embedded once, which all heads share, and one head chosen and fitted. Embeddings that were at hand were not computed again: see the images. Of a fine-tuning that was killed and went on, training counts as far as it was saved each time; its seconds hold validation and export. Energy is what codecarbon estimates, where that is installed.</p>
<table><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></html>
"""


def write(
    runs: Path, backbones: Iterable[str], heads: list[str], finetune: Mapping[str, FinetuneParams]
) -> None:
    """Write timings.html into artifacts/runs/ from the notes that stages left there."""
    rows = [row for name in backbones for row in _rows(runs, name, heads, finetune)]
    page = Environment(autoescape=True).from_string(_PAGE).render(columns=COLUMNS, rows=rows)
    files.write_bytes(runs / "timings.html", page.encode())


def _rows(
    runs: Path, backbone: str, heads: list[str], finetune: Mapping[str, FinetuneParams]
) -> list[tuple[str, ...]]:
    embedded = _note(runs / f"extract-{backbone}.json")
    frozen = {head: _frozen(runs, backbone, head, embedded) for head in heads}
    computed, reused = embedded.get("computed"), embedded.get("reused")
    images = ABSENT if computed is None else f"{computed} computed, {reused} reused"
    found: list[tuple[str, ...]] = [
        (backbone, f"frozen and {head}", images, _seconds(frozen[head]), "", "") for head in heads
    ]
    for name, entry in finetune.items():
        if entry.backbone == backbone:
            found.append(_finetuned(runs, name, entry, frozen.get(entry.head)))
    return found


def _frozen(runs: Path, backbone: str, head: str, embedded: Mapping[str, Any]) -> float | None:
    """Seconds of embedding and of the head; None where one is not known."""
    fitted = _note(runs / f"train-{backbone}-{head}.json").get("seconds")
    seconds = embedded.get("seconds")
    return None if fitted is None or seconds is None else float(seconds) + float(fitted)


def _finetuned(
    runs: Path, name: str, entry: FinetuneParams, frozen: float | None
) -> tuple[str, ...]:
    note = _note(runs / f"finetune-{name}.json")
    seconds, energy = note.get("seconds"), note.get("energy_kwh")
    times = f"{seconds / frozen:.1f} times" if seconds and frozen else ""
    way = "from scratch" if entry.init == "random" else "fine-tuned"
    images = f"{note['images']}, {note['epochs']} epochs" if "images" in note else ABSENT
    used = ABSENT if energy is None else f"{1000 * energy:.3g}"
    return entry.backbone, f"{way}: {name}", images, _seconds(seconds), times, used


def _seconds(seconds: float | None) -> str:
    return ABSENT if seconds is None else f"{seconds:.1f}"


def _note(path: Path) -> dict[str, Any]:
    """What a stage noted; nothing where it did not, or where the file cannot be read."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
