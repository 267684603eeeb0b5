"""What became of some images that were to be decoded."""

from dataclasses import dataclass
from typing import Any

from pipeline.images import Pixels


@dataclass
class Batch:
    """What became of some images, in their order.

    sha256: of those that were decoded; pixels: (N * V, crop, crop, 3) uint8, theirs, the views of
    an image together; failed: (path, sha256, reason, detail) of the others; read, decode: seconds; began: when the first
    was asked for of a child that was ready, a time.time().
    """

    sha256: list[str]
    pixels: Pixels
    failed: list[tuple[str, str, str, str]]
    read: float = 0.0
    decode: float = 0.0
    began: float = 0.0

    def add(self, image: tuple[str, str], answer: dict[str, Any]) -> bool:
        """Take in the answer on an image; whether it was decoded."""
        sha256, path = image
        if answer["path"] != path:
            raise RuntimeError(f"asked a decoder for {path}, answered on {answer['path']}")
        self.read += answer["read"]
        self.decode += answer["decode"]
        if answer["reason"] is None:
            self.sha256.append(sha256)
            return True
        self.failed.append((path, sha256, answer["reason"], answer["detail"]))
        return False
