"""Numbers on the command line: what argparse reads one by."""

import argparse
from collections.abc import Callable


def whole(what: str, *, least: int) -> Callable[[str], int]:
    """A `type` of argparse: a whole number of `what`, `least` or more."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is no number of {what}, {least} or more")
        return int(text)

    return number
