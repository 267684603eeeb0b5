"""report.html: one self-contained page that says how good each head is, and from what.

    reading     JSON and CSV files, or what is wrong with them
    records     what the artifacts say, checked
    scores      the headline, the table of heads and the plot of their test accuracy
    transfer    whether a backbone beats raw pixels and random weights
    layers      the plot of validation accuracy by layer
    curves      learning curves
    finetuning  whether fine-tuning was worth it, and how it went
    plots       accuracies and intervals -> places in a drawing
    mistakes    where the best head errs: classes, confusions, pictures
    groups      in which groups of images it errs
    trust       calibration, abstention
    inspection  copies, suspect labels, outliers, as pictures
    pictures    an image -> a thumbnail that stands in the page
    provenance  data, backbones, and how heads were fitted
    problems    what was left out, and why
    digests     the sha256 of every input
    timings     a page of its own, untracked: what each way took
    wording     how numbers are written

The page is prepared here, in Python; report.html, a Jinja2 template, only lays it out.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from pipeline import files
from pipeline.params import FinetuneParams
from pipeline.reporting import curves as learning
from pipeline.reporting import (
    finetuning,
    groups,
    inspection,
    layers,
    mistakes,
    problems,
    provenance,
    records,
    scores,
    transfer,
    trust,
)

TEMPLATE = Path(__file__).with_name("report.html")


def write(
    path: Path,
    artifacts: Path,
    root: Path,
    *,
    backbones: list[str],
    heads: list[str],
    curves: Iterable[str] = (),
    finetune: Mapping[str, FinetuneParams] | None = None,
) -> None:
    """Write the report of a run to `path`.

    artifacts: the folder the stages write; root: where images lie, their paths being relative
    to it; an image that is gone or changed is shown as a grey box. Only the backbones, heads,
    learning curves and fine-tuned models named are read, whatever else lies in the folders. Equal inputs give equal bytes.
    Raises IntegrityError where an input is missing or not what its record says.
    """
    run = records.read(artifacts, backbones, heads, curves, finetune)
    context = {
        **scores.describe(run),
        **transfer.describe(artifacts),
        **layers.describe(run),
        **learning.describe(run),
        **finetuning.describe(run),
        **mistakes.describe(artifacts, root, run),
        **groups.describe(artifacts, run),
        **trust.describe(run),
        **inspection.describe(artifacts, root, run),
        **provenance.describe(artifacts, run),
        **problems.describe(artifacts, root, run),
    }
    files.write_bytes(path, _render(context).encode())


def _render(context: dict[str, object]) -> str:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(context)
