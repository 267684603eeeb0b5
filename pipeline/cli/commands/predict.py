"""The command line of `headstart predict`."""

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no other name

FORMATS = ("table", "jsonl", "csv", "parquet")


def add(commands: "Commands") -> None:
    """Add the subcommand."""
    predict = commands.add_parser(
        "predict",
        help="labels of new images, by the bundled model",
        description="Labels of new images, by a bundle: a line an image, in their order. Exit code "
        "0 where one was predicted at least, 3 where none could be.",
    )
    predict.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="an image, a folder, a pattern such as 'new/**/*.jpg', a manifest with a column "
        "'path' (.csv, .parquet), or - for a list on stdin",
    )
    predict.add_argument(
        "--files-from", action="append", default=[], metavar="FILE",
        help="a list: a path a line, or between NULs; - for stdin",
    )  # fmt: skip
    predict.add_argument(
        "--model", metavar="FILE", help="the bundle; of the current project without"
    )
    predict.add_argument(
        "--format",
        choices=FORMATS,
        help="table on a terminal, jsonl elsewhere, or as --output ends",
    )
    predict.add_argument("--output", metavar="FILE", help="write there, whole or not at all")
    predict.add_argument(
        "--top", type=_count, default=0, metavar="K", help="the K likeliest classes"
    )
    predict.add_argument("--probabilities", action="store_true", help="those of all classes")
    abstain = predict.add_mutually_exclusive_group()
    abstain.add_argument(
        "--threshold", type=_share, metavar="T", help="no label below this probability"
    )
    abstain.add_argument(
        "--abstain", action="store_true", help="no label below the bundle's own threshold"
    )
    predict.add_argument("--embeddings", action="store_true", help="the vectors too")
    predict.add_argument("--threads", type=_count, metavar="N", help="images at once; one a core")
    predict.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="a GPU if one can be used"
    )
    predict.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pipeline.cli import predict

    return predict.run(arguments)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 10**6:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no probability, 0 to 1")
    return share
