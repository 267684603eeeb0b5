"""`execution`: how fast and where work runs."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.block import Block, Count


class ExecutionParams(Block):
    """Mechanics: about speed and place, tracked by no stage, never part of a result."""

    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    threads: Count | Literal["auto"] = "auto"
    sessions: Count | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch_size: Count | Literal["auto"] = "auto"
    scheduler: str | None = None
    insecure: bool = False
    patience: Annotated[float, Field(gt=0)] = 60.0
    performance_report: bool = False
    store: str = "artifacts/.store"
