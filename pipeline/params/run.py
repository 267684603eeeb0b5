"""`run` and `bundle`: which entries `dvc repro` runs, and which of them is bundled."""

from typing import Annotated

from pydantic import Field

from pipeline.params.block import Block


class RunParams(Block):
    """What `dvc repro` runs: names of entries above."""

    backbones: Annotated[list[str], Field(min_length=1)]
    heads: Annotated[list[str], Field(min_length=1)]


class BundleParams(Block):
    """Which head of which backbone of the run is bundled; None: the best by validation."""

    backbone: str | None = None
    head: str | None = None

    @property
    def named(self) -> tuple[str, str] | None:
        """Both names, or None."""
        return (self.backbone, self.head) if self.backbone and self.head else None
