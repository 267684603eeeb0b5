"""The command line of `headstart finetune`."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command; what it does is imported when it runs."""
    finetune = commands.add_parser(
        "finetune", help="what fine-tuning may bring and cost, before 'dvc repro' does it"
    )
    finetune.set_defaults(run=_outlook)
    actions = finetune.add_subparsers(metavar="ACTION")
    groups = actions.add_parser("groups", help="which blocks an entry trains, and how fast")
    groups.add_argument("name", metavar="NAME", help="an entry under finetune in params.yaml")
    groups.set_defaults(run=_groups)


def _outlook(_: argparse.Namespace) -> int:
    from pipeline.cli import finetune

    return finetune.run()


def _groups(arguments: argparse.Namespace) -> int:
    from pipeline.cli import finetune

    return finetune.groups(arguments.name)
