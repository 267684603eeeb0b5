"""How far it is, on one line of a terminal."""

import sys
import time
from typing import Self

INTERVAL = 0.2
"""Seconds between two looks of the line."""


class Progress:
    """Counts of images, shown where stderr is a terminal. live: whether it may be shown at all."""

    def __init__(self, *, live: bool) -> None:
        self._live = live and sys.stderr.isatty()
        self._done = self._bad = 0
        self._begun = self._shown = time.monotonic()

    def add(self, *, bad: bool) -> None:
        """One more image."""
        self._done += 1
        self._bad += bad
        now = time.monotonic()
        if self._live and now - self._shown >= INTERVAL:
            self._shown = now
            rate = self._done / max(now - self._begun, 1e-9)
            failed = f", {self._bad:,} bad" if self._bad else ""
            print(
                f"\r{self._done:,} images, {rate:.0f}/s{failed}\x1b[K",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
