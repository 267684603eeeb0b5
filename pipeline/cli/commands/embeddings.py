"""The command line of `headstart embeddings`."""

import argparse
from typing import Any

from pipeline.cli.numbers import whole

EXPORTS = ("parquet", "npy", "csv", "safetensors")
"""Keys of `pipeline.exports.EXPORTS`, which is not imported to parse; a test compares them."""


def add(commands: Any) -> None:
    """Add `embeddings` to the subcommands."""
    group = commands.add_parser("embeddings", help="look into an embeddings file, or export it")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    texts = {
        "info": ("print what a file says of itself, as JSON", _info),
        "verify": ("check every byte of a file; exit 0 or 4", _verify),
        "export": ("write the vectors in another format", _export),
    }
    for name, (text, run) in texts.items():
        action = actions.add_parser(name, help=text)
        action.add_argument("file", help="an embeddings file, as under artifacts/embeddings/")
        action.set_defaults(run=run)
        if name == "export":
            _add_export(action)


def _add_export(action: argparse.ArgumentParser) -> None:
    action.add_argument("--to", required=True, choices=EXPORTS, help="the format")
    action.add_argument(
        "--output", metavar="PATH", help="FILE's name in the current folder without"
    )
    action.add_argument("--layer", help="a layer by its name; the first without")
    action.add_argument(
        "--view",
        type=whole("a view", least=0),
        default=0,
        help="an augmented view; 0, the clean one",
    )
    action.add_argument(
        "--labels",
        metavar="FILE",
        help="join a .parquet or .csv with columns sha256 and label: a row a path that it lists",
    )


def _info(arguments: argparse.Namespace) -> int:
    from pipeline.cli import embeddings

    return embeddings.info(arguments.file)


def _verify(arguments: argparse.Namespace) -> int:
    from pipeline.cli import embeddings

    return embeddings.verify(arguments.file)


def _export(arguments: argparse.Namespace) -> int:
    from pipeline.cli import exports

    return exports.run(
        arguments.file,
        to=arguments.to,
        output=arguments.output,
        layer=arguments.layer,
        view=arguments.view,
        labels=arguments.labels,
    )
