"""params.yaml as a whole."""

from pipeline.params.backbones import BackboneParams
from pipeline.params.block import Block
from pipeline.params.curves import CurveParams
from pipeline.params.data import DataParams
from pipeline.params.execution import ExecutionParams
from pipeline.params.finetuning import FinetuneParams
from pipeline.params.heads import HeadParams
from pipeline.params.run import BundleParams, RunParams


class Params(Block):
    """All of params.yaml."""

    data: DataParams
    backbones: dict[str, BackboneParams]
    heads: dict[str, HeadParams]
    run: RunParams
    curve: dict[str, CurveParams] = {}
    finetune: dict[str, FinetuneParams] = {}
    bundle: BundleParams = BundleParams()
    execution: ExecutionParams = ExecutionParams()
