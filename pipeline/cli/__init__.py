"""The `headstart` command: what is not a stage. Imports what a subcommand needs, when it runs."""

import argparse
import sys
from collections.abc import Callable, Sequence

from pipeline.errors import exit_status, hear_interrupts


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, run, exit; see `pipeline.errors` for the exit codes."""
    hear_interrupts()
    arguments = parser().parse_args(argv)
    sys.exit(exit_status(lambda: arguments.run(arguments)))


def parser() -> argparse.ArgumentParser:
    """The command line, without importing anything heavy."""
    top = argparse.ArgumentParser(
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
    _add_embeddings(commands.add_parser("embeddings", help="look into an embeddings file"))
    return top


def _add_embeddings(group: argparse.ArgumentParser) -> None:
    actions = group.add_subparsers(required=True, metavar="ACTION")
    texts: dict[str, tuple[str, Callable[[argparse.Namespace], int]]] = {
        "info": ("print what a file says of itself, as JSON", _embeddings_info),
        "verify": ("check every byte of a file; exit 0 or 4", _embeddings_verify),
    }
    for name, (text, run) in texts.items():
        action = actions.add_parser(name, help=text)
        action.add_argument("file", help="an embeddings file, as under artifacts/embeddings/")
        action.set_defaults(run=run)


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


def _embeddings_info(arguments: argparse.Namespace) -> int:
    from pipeline.cli import embeddings

    return embeddings.info(arguments.file)


def _embeddings_verify(arguments: argparse.Namespace) -> int:
    from pipeline.cli import embeddings

    return embeddings.verify(arguments.file)
