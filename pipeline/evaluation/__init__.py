"""Heads and fine-tuned models on validation and test images -> numbers with intervals, which head is best, and by how much."""

from pipeline.evaluation.results import Result, evaluate
from pipeline.evaluation.summary import summarise
from pipeline.evaluation.tables import LAYERS, write
from pipeline.evaluation.terminal import describe, headline
from pipeline.evaluation.trained import answered
from pipeline.prediction import predict

__all__ = [
    "LAYERS",
    "Result",
    "answered",
    "describe",
    "evaluate",
    "headline",
    "predict",
    "summarise",
    "write",
]
