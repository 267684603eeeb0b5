"""`headstart predict`: images on the command line -> a row each, as they are ready."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from itertools import chain, tee
from pathlib import Path

from pipeline import predictor
from pipeline.cli.predict.paths import all_paths
from pipeline.cli.predict.progress import Progress
from pipeline.cli.predict.rows import Wish, columns, row
from pipeline.cli.predict.writing import opened
from pipeline.errors import ConfigurationError, ImageError, InputError
from pipeline.predictor import Predictor
from pipeline.root import find_root

MODEL = Path("artifacts", "model", "model.onnx")

ENDINGS = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".txt": "table"}
"""What the name of --output says of its format."""


def run(arguments: argparse.Namespace) -> int:
    """Predict, write, tell on stderr what could not be used. Returns the exit code."""
    if not arguments.paths and not arguments.files_from:
        raise ConfigurationError("predict: name images, folders, or - for a list on stdin")
    paths = all_paths(arguments.paths, arguments.files_from)
    first = next(paths, None)
    if first is None:
        raise InputError("no image is named: the folders and lists are empty")
    output, bundle = Path(arguments.output) if arguments.output else None, _model(arguments.model)
    if output is not None:
        _spare(output, [*arguments.paths, *arguments.files_from, bundle])
    model = predictor.open(bundle, device=arguments.device, threads=arguments.threads, start=1)
    wish = _wish(arguments, model)
    told = columns(wish, model.bundle, probabilities=model.has_probabilities)
    format = _format(arguments.format, output)
    counts = Counter[str]()
    with (
        opened(format, output, told, model.classes) as write,
        _progress(output) as progress,
        closing(_answered(model, chain([first], paths))) as answered,
    ):
        _warn(model)
        for path, found in answered:
            made = row(path, found, wish)
            counts[_kind(found, made)] += 1
            write(made)
            progress.add(bad=isinstance(found, ImageError))
    return _summed_up(counts)


def _progress(output: Path | None) -> Progress:
    """Shown where it does not stand among the rows."""
    return Progress(live=output is not None or not sys.stdout.isatty())


def _answered(
    model: Predictor, paths: Iterator[str]
) -> Generator[tuple[str, predictor.Prediction | ImageError], None, None]:
    """Each path with what came of it. `tee` keeps those that are not answered yet."""
    asked, kept = tee(paths)
    with closing(model.predict(asked)) as found:
        yield from zip(kept, found, strict=True)


def _model(named: str | None) -> Path:
    if named is not None:
        return Path(named)
    try:
        return find_root(Path.cwd()) / MODEL
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}, or name a bundle by --model") from None


def _spare(output: Path, read: Iterable[str | Path]) -> None:
    """Raise ConfigurationError where the output would replace what is read."""
    for one in read if output.exists() else ():
        if os.path.exists(one) and os.path.samefile(one, output):
            raise ConfigurationError(f"--output {output} would replace {one}; name another file")


def _format(named: str | None, output: Path | None) -> str:
    """What is asked for, or what the output's name ends in. Raises ConfigurationError."""
    if output is None:
        return named or ("table" if sys.stdout.isatty() else "jsonl")
    by_name = ENDINGS.get(output.suffix.lower())
    if named is None and by_name is None and output.suffix:
        raise ConfigurationError(
            f"--output {output} ends in none of {', '.join(ENDINGS)}; say which by --format"
        )
    if named is not None and by_name not in (None, named):
        raise ConfigurationError(
            f"--output {output} ends as {by_name}, and --format is {named}; say the same"
        )
    return named or by_name or "jsonl"


def _wish(arguments: argparse.Namespace, model: Predictor) -> Wish:
    """What is asked for. Raises ConfigurationError where the bundle does not have it."""
    bundle, threshold = model.bundle, arguments.threshold
    if arguments.abstain:
        threshold = bundle.threshold
        if threshold is None:
            raise ConfigurationError(
                f"--abstain: {bundle.head} was given no threshold when it was trained; "
                "write --threshold T"
            )
    asked = arguments.top or arguments.probabilities or threshold is not None
    if asked and not model.has_probabilities:
        raise ConfigurationError(
            f"the head {bundle.head} gives no probabilities; leave out --top, --probabilities, "
            "--threshold and --abstain, or bundle another head"
        )
    return Wish(arguments.top, arguments.probabilities, threshold, arguments.embeddings)


def _warn(model: Predictor) -> None:
    if not model.bundle.decodes_alike:
        print(
            "headstart: this machine's Pillow makes other pixels of images than the one the model "
            "was trained with, so labels may differ; install that version",
            file=sys.stderr,
        )


def _kind(found: predictor.Prediction | ImageError, made: dict[str, object]) -> str:
    if isinstance(found, ImageError):
        return found.reason
    return _ABSTAINED if made.get("abstained") else _PREDICTED


_PREDICTED, _ABSTAINED = "", "without a label"


def _summed_up(counts: Counter[str]) -> int:
    """Say what was left out; the exit code."""
    total, abstained = counts.total(), counts.pop(_ABSTAINED, 0)
    well = counts.pop(_PREDICTED, 0) + abstained
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
    if not well:
        raise InputError(f"none of {total:,} images could be used ({reasons})")
    if counts:
        bad = counts.total()
        print(f"headstart: {bad:,} of {total:,} could not be used: {reasons}", file=sys.stderr)
    if abstained:
        print(f"headstart: {abstained:,} of {well:,} below the threshold", file=sys.stderr)
    return 0
