"""The command line of `headstart heads`."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no other name

FORMATS = ("table", "jsonl", "csv")
SPLITS = ("train", "val", "test")


def add(commands: "Commands") -> None:
    """Add the subcommand."""
    group = commands.add_parser("heads", help="look into a fitted head, of another project too")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print a head's record, as JSON; runs nothing of it")
    _add_head(show)
    show.set_defaults(run=_show)
    predict = actions.add_parser(
        "predict",
        help="a head's answers on cached embeddings",
        description="A line an image that the embeddings file has. A .joblib holds code: it is "
        "opened only where a record of this project names its sha256, or with --trust-pickle.",
    )
    _add_head(predict)
    predict.add_argument(
        "--embeddings",
        metavar="FILE",
        help="the .h5; this project's of the head's backbone without",
    )
    predict.add_argument(
        "--labels",
        metavar="FILE",
        help="a labels.parquet: its images alone, and how many are right",
    )
    predict.add_argument("--split", choices=SPLITS, help="of the labels, these images alone")
    predict.add_argument("--format", choices=FORMATS, default="table")
    predict.add_argument(
        "--trust-pickle", action="store_true", help="open a head that may run any code"
    )
    predict.set_defaults(run=_predict)


def _add_head(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "head", metavar="HEAD", help="artifacts/heads/BACKBONE/NAME, with or without .joblib"
    )


def _show(arguments: argparse.Namespace) -> int:
    from pipeline.cli import heads

    return heads.show(arguments.head)


def _predict(arguments: argparse.Namespace) -> int:
    from pipeline.cli import heads

    return heads.predict(
        arguments.head,
        file=arguments.embeddings,
        labels=arguments.labels,
        split=arguments.split,
        form=arguments.format,
        trust_pickle=arguments.trust_pickle,
    )
