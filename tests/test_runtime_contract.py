"""Runtimes: every one of them runs a frozen backbone to the same rules."""

from pipeline.runtimes import RUNTIMES
from tests.contracts_runtimes import RuntimeContract


class TestOnnx(RuntimeContract):
    name = "onnx"


class TestTorch(RuntimeContract):
    name = "torch"


def test_runtimes__each__runs_through_the_contract():
    assert sorted(cls.name for cls in RuntimeContract.__subclasses__()) == sorted(RUNTIMES)
