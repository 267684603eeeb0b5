"""The command line of `headstart neighbors`."""

import argparse
from typing import Any

from pipeline.cli.numbers import whole

DISTANCES = ("cosine", "euclidean")
"""Keys of `pipeline.neighbors.exact.DISTANCES`, which is not imported to parse; a test compares them."""


def add(commands: Any) -> None:
    """Add `neighbors` to the subcommands."""
    parser = commands.add_parser("neighbors", help="the cached images that are nearest to a photo")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, or the path or sha256 of a cached image",
    )
    parser.add_argument("--backbone", metavar="B", help="whose embeddings; the best's without")
    parser.add_argument("-k", type=whole("images", least=1), default=10, help="how many (10)")
    parser.add_argument("--format", choices=("table", "jsonl"), default="table")
    parser.add_argument("--html", metavar="FILE", help="also write a sheet of pictures")
    parser.add_argument("--metric", choices=DISTANCES, default="cosine", help="the distance")
    parser.add_argument("--exact", action="store_true", help="look at every image, however many")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pipeline.cli import neighbors

    return neighbors.run(
        arguments.images,
        backbone=arguments.backbone,
        k=arguments.k,
        format=arguments.format,
        html=arguments.html,
        metric=arguments.metric,
        everything=arguments.exact,
    )
