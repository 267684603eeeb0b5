"""The command line's parser: argparse's, with a line of ours for a word that is not known."""

import argparse
from typing import Any, NoReturn

from pipeline.errors import ConfigurationError
from pipeline.names import unknown


class Parser(argparse.ArgumentParser):
    """Its subcommands' parsers are of this class too."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Called by argparse for each word that has `choices`."""
        if action.choices is not None and value not in action.choices:
            self._refuse(unknown(self._what(action), str(value), map(str, action.choices)))

    def _what(self, action: argparse.Action) -> str:
        """What the word is: `command`, `store action`, `heads predict --split`."""
        name = action.option_strings[-1] if action.option_strings else str(action.metavar).lower()
        return " ".join([*self.prog.split()[1:], name])

    def _refuse(self, message: str) -> NoReturn:
        self.exit(ConfigurationError.exit_code, f"headstart: error: {message}\n")
