"""A sheet of pictures: images that were asked about, each with its neighbours; one file, offline."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from pipeline import files
from pipeline.neighbors.answers import Answer, Neighbor
from pipeline.reporting import pictures
from pipeline.reporting.inspection import DECODERS, Shown
from pipeline.reporting.wording import figure

TEMPLATE = Path(__file__).with_name("sheet.html")


def write(path: Path, answers: Sequence[Answer], *, root: Path, subtitle: str) -> None:
    """Write the sheet to `path`, whole or not at all.

    root: the data root, where cached images lie; one that is gone or changed is shown as a grey
    box.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    with ThreadPoolExecutor(DECODERS) as pool:
        rows = list(pool.map(lambda answer: _row(answer, root), answers))
    text = template.render(rows=rows, subtitle=subtitle)
    files.write_bytes(path, text.encode(errors="replace"))


def _row(answer: Answer, root: Path) -> dict[str, object]:
    found = [_shown(one, f"distance {figure(one.distance)}", root) for one in answer.found]
    if answer.same is not None:
        found.insert(0, _shown(answer.same, "the same image, distance 0", root))
    itself = pictures.thumbnail(Path(answer.file), answer.sha256) if answer.file else None
    if itself is None and answer.same is not None and found:
        itself = found[0].picture
    error = ": ".join(filter(None, answer.error))
    return {"said": answer.said, "picture": itself, "found": found, "error": error}


def _shown(one: Neighbor, text: str, root: Path) -> Shown:
    said = ", ".join(filter(None, (text, one.split)))
    more = f" and {len(one.paths) - 1} more" if len(one.paths) > 1 else ""
    picture = pictures.thumbnail(root / one.paths[0], one.sha256) if one.paths else None
    return Shown(picture, one.label or "no label", said, f"{one.path}{more}")
