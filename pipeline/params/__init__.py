"""The shape of params.yaml: what each key is, what it may be, and the line a wrong one gets.

A module a block; `faults`, `agreement` and `loading` say what is wrong with one.
"""

from pipeline.params.backbones import (
    CONTROL_SOURCES,
    PENULTIMATE,
    BackboneParams,
    PreprocessingParams,
)
from pipeline.params.curves import CurveParams
from pipeline.params.data import DataParams, SplitParams
from pipeline.params.execution import ExecutionParams
from pipeline.params.faults import checked
from pipeline.params.finetuning import FinetuneParams
from pipeline.params.heads import CONTROL_KINDS, HeadParams
from pipeline.params.loading import load, parse
from pipeline.params.run import BundleParams, RunParams
from pipeline.params.whole import Params

__all__ = [
    "CONTROL_KINDS",
    "CONTROL_SOURCES",
    "PENULTIMATE",
    "BackboneParams",
    "BundleParams",
    "CurveParams",
    "DataParams",
    "ExecutionParams",
    "FinetuneParams",
    "HeadParams",
    "Params",
    "PreprocessingParams",
    "RunParams",
    "SplitParams",
    "checked",
    "load",
    "parse",
]
