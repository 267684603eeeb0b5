"""What a command reads and writes, also where it was started without, or in a locale without UTF-8."""

import codecs
import io
import os
import sys

MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def settle() -> None:
    """Have the three streams there, and none that fails for a letter: it is an escape instead.

    One that is closed (`>&-`), which Python has as None, becomes an empty one; its number would
    else go to the next file that is opened, and what is printed into that.
    """
    for name, mode in MODES.items():
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it is there to the end
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and _fails(stream):
            stream.reconfigure(errors="backslashreplace")


def _fails(stream: io.TextIOWrapper) -> bool:
    """Whether there are letters or names of files that it cannot write."""
    return stream.errors == "strict" or codecs.lookup(stream.encoding).name != "utf-8"
