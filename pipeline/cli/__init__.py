"""The `headstart` command: what is not a stage. Imports what a subcommand needs, when it runs."""

import argparse
import math
import sys
from collections.abc import Sequence

from pipeline.cli.command_line import Parser
from pipeline.cli.commands.embeddings import add as add_embeddings  # not the module: a name of ours
from pipeline.cli.commands.finetune import add as add_finetune
from pipeline.cli.commands.heads import add as add_heads
from pipeline.cli.commands.neighbors import add as add_neighbors
from pipeline.cli.commands.predict import add as add_predict
from pipeline.cli.numbers import whole
from pipeline.cli.streams import settle
from pipeline.errors import exit_status, hear_interrupts


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run, exit; see `pipeline.errors` for the exit codes."""
    settle()
    hear_interrupts()
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(_spelled_out(words))
    sys.exit(exit_status(lambda: arguments.run(arguments)))


BACKBONES_ACTIONS = ("list", "show", "verify")
IMAGES = whole("images", least=2)


def _spelled_out(words: list[str]) -> list[str]:
    """`backbones PATTERN` as `backbones list PATTERN`, of which `list` may be left out."""
    if words[:1] != ["backbones"] or words[1:2] in (["-h"], ["--help"]):
        return words
    named = words[1:2] and words[1] in BACKBONES_ACTIONS
    return words if named else ["backbones", "list", *words[1:]]


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top: argparse.ArgumentParser = Parser(
        prog="headstart",
        description="Frozen backbones in, cached embeddings kept, heads swapped in seconds.",
        epilog="The pipeline itself runs by 'dvc repro'. Exit codes: 0 ok, 2 configuration, "
        "3 input, 4 integrity, 5 disk or memory, 6 cluster, 130 interrupted.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="check params.yaml and the data's folder")
    check.add_argument(
        "--images",
        action="store_true",
        help="also tell which files changed since prepare; exit 3 where some did",
    )
    check.set_defaults(run=_check)
    doctor = commands.add_parser("doctor", help="look at the machine, the set-up and the project")
    doctor.add_argument("--json", action="store_true", help="print a JSON object a finding")
    doctor.set_defaults(run=_doctor)
    plan = commands.add_parser("plan", help="what a run would cost: images, seconds, disk, stages")
    plan.add_argument("--json", action="store_true", help="print JSON instead of the table")
    plan.set_defaults(run=_plan)
    results = commands.add_parser("results", help="print the table of heads of the last run")
    results.set_defaults(run=_results)
    _add_backbones(commands.add_parser("backbones", help="which backbones there are, and layers"))
    _add_rank(commands.add_parser("rank", help="score backbones on your images without training"))
    add_finetune(commands)
    add_embeddings(commands)
    add_heads(commands)
    add_predict(commands)
    add_neighbors(commands)
    _add_store(commands.add_parser("store", help="what the embedding store holds, and what can go"))
    return top


def _add_backbones(group: argparse.ArgumentParser) -> None:
    actions = group.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="a line each; what happens without an action")
    listing.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="a part of a name, or one such as 'timm/*vit*': of torchvision's and timm's models too",
    )
    listing.add_argument("--all", action="store_true", help="every model that fits, not the first")
    listing.add_argument("--json", action="store_true", help="print JSON instead of the table")
    listing.set_defaults(run=_backbones_list)
    show = actions.add_parser("show", help="all of one: its layers, preprocessing, weights")
    show.add_argument(
        "name", metavar="NAME", help="an entry of params.yaml, or LIBRARY/MODEL[.TAG]"
    )
    show.add_argument("--all", action="store_true", help="every layer, not the upper ones")
    show.add_argument("--json", action="store_true", help="print JSON instead of the table")
    show.set_defaults(run=_backbones_show)
    verify = actions.add_parser("verify", help="frozen against original on your own images")
    verify.add_argument("name", metavar="NAME", help="an entry of params.yaml, frozen")
    verify.add_argument("paths", nargs="*", metavar="PATH", help="images or folders; the data's")
    verify.add_argument("--images", type=IMAGES, default=64, help="images at most (64)")
    verify.add_argument("--json", action="store_true", help="print JSON instead of the table")
    verify.set_defaults(run=_backbones_verify)


def _add_rank(rank: argparse.ArgumentParser) -> None:
    rank.add_argument("names", nargs="*", metavar="NAME", help="backbones; all embedded without")
    rank.add_argument("--layer", help="this layer of each alone; all that are cached without")
    rank.add_argument("--images", type=IMAGES, default=20_000, help="images at most (20000)")
    rank.add_argument("--json", action="store_true", help="print JSON instead of the table")
    rank.set_defaults(run=_rank)


def _add_store(group: argparse.ArgumentParser) -> None:
    actions = group.add_subparsers(required=True, metavar="ACTION")
    info = actions.add_parser("info", help="print sizes by fingerprint, and what uses them")
    info.add_argument("--json", action="store_true", help="print JSON instead of the table")
    info.set_defaults(run=_store_info)
    verify = actions.add_parser("verify", help="check every byte; exit 0 or 4")
    verify.add_argument("fingerprint", nargs="?", default="", help="its first digits; all without")
    verify.set_defaults(run=_store_verify)
    intake = actions.add_parser(
        "import", help="take in the rows of an embeddings file, of another project too"
    )
    intake.add_argument("file", help="an embeddings file, such as 'dvc import' brings")
    intake.add_argument(
        "--compare", type=IMAGES, default=8, help="images embedded here to compare with it (8)"
    )
    intake.set_defaults(run=_store_import)
    gc = actions.add_parser("gc", help="delete what nothing uses any more; asks first")
    gc.add_argument("--days", type=_days, default=30, help="since the last use, at least (30)")
    gc.add_argument("--yes", action="store_true", help="delete without asking")
    gc.add_argument(
        "--other-hosts",
        action="store_true",
        help="also what was used on other hosts, of which only these can tell whether it still is",
    )
    gc.set_defaults(run=_store_gc)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of days, 0 or more")
    return days


def _check(arguments: argparse.Namespace) -> int:
    from pipeline.cli import check

    return check.run(images=arguments.images)


def _plan(arguments: argparse.Namespace) -> int:
    from pipeline.cli import plan

    return plan.run(as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> int:
    from pipeline.cli import doctor

    return doctor.run(as_json=arguments.json)


def _results(_: argparse.Namespace) -> int:
    from pipeline.cli import results

    return results.run()


def _backbones_list(arguments: argparse.Namespace) -> int:
    from pipeline.cli import backbones

    return backbones.run(arguments.pattern, everything=arguments.all, as_json=arguments.json)


def _backbones_show(arguments: argparse.Namespace) -> int:
    from pipeline.cli import layers

    return layers.run(arguments.name, everything=arguments.all, as_json=arguments.json)


def _backbones_verify(arguments: argparse.Namespace) -> int:
    from pipeline.cli import verify

    return verify.run(
        arguments.name, arguments.paths, most=arguments.images, as_json=arguments.json
    )


def _rank(arguments: argparse.Namespace) -> int:
    from pipeline.cli import rank

    return rank.run(
        arguments.names,
        layer=arguments.layer,
        most=arguments.images,
        as_json=arguments.json,
    )


def _store_info(arguments: argparse.Namespace) -> int:
    from pipeline.cli.store import info

    return info.run(as_json=arguments.json)


def _store_verify(arguments: argparse.Namespace) -> int:
    from pipeline.cli.store import verify

    return verify.run(arguments.fingerprint)


def _store_import(arguments: argparse.Namespace) -> int:
    from pipeline.cli.store import intake

    return intake.run(arguments.file, compared=arguments.compare)


def _store_gc(arguments: argparse.Namespace) -> int:
    from pipeline.cli.store import removal

    return removal.run(days=arguments.days, yes=arguments.yes, other_hosts=arguments.other_hosts)
