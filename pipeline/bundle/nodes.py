"""ONNX operators, written one after another: names of tensors go in, the name of one comes out."""

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.architectures import graphs

OLDEST = 11
"""The first opset whose operators are those that are written here."""

_SUM_TAKES_AXES = 13
"""The opset in which an attribute of ReduceSum became an input."""

REAL = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}

Values = npt.NDArray[Any]


class Inexpressible(Exception):  # noqa: N818 - no fault: the next best is bundled instead
    """Why something cannot be said in ONNX, shortly."""


class Nodes:
    """Nodes of one graph and the constants that they read.

    opset: of ONNX's own operators; dtype: `float32` or `float64`, of all that is reckoned with;
    part: of the graph, which names begin with; taken: names that others have. Raises Inexpressible where the opset is older than OLDEST.
    """

    def __init__(self, opset: int, dtype: str, part: str, taken: Collection[str]) -> None:
        if opset < OLDEST:
            raise Inexpressible(
                f"its file has opset {opset}, and heads are written in {OLDEST} or later; convert "
                "it with onnx.version_converter.convert_version"
            )
        self.opset, self.dtype, self._part = opset, dtype, part
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._taken = set(taken)

    def add(self, kind: str, *given: str, into: str | None = None, **attributes: Any) -> str:
        """A node; returns the name of its output. into: that name, where it matters."""
        made = into or self._fresh(f"{self._part}.{kind.lower()}")
        self.nodes.append(helper.make_node(kind, list(given), [made], **attributes))
        return made

    def constant(self, values: Any, name: str = "constant") -> str:
        """Numbers, as they are."""
        array = np.array(values, order="C")
        made = self._fresh(f"{self._part}.{name}")
        self.initializers.append(
            numpy_helper.from_array(array.astype(array.dtype.newbyteorder("<")), made)
        )
        return made

    def real(self, values: Any, name: str = "constant") -> str:
        """Numbers, as `dtype`. Raises Inexpressible where one is not finite in it."""
        with np.errstate(over="ignore"):
            array = np.asarray(values, dtype=np.float64).astype(self.dtype)
        if not np.isfinite(array).all():
            raise Inexpressible(f"a number of it is not finite in {self.dtype}")
        return self.constant(array, name)

    def cast(self, tensor: str, dtype: str, into: str | None = None) -> str:
        """The same numbers as another type of float."""
        kinds = {**REAL, "float16": TensorProto.FLOAT16}
        return self.add("Cast", tensor, into=into, to=kinds[dtype])

    def total(self, tensor: str, axis: int = 1) -> str:
        """The sum along an axis, which stays with length 1."""
        if self.opset >= _SUM_TAKES_AXES:
            return self.add("ReduceSum", tensor, self.constant(np.array([axis], np.int64)))
        return self.add("ReduceSum", tensor, axes=[axis])

    def affine(self, tensor: str, weights: Values, bias: Values) -> str:
        """(N, D) @ weights (D, K) + bias (K,) -> (N, K)."""
        product = self.add("MatMul", tensor, self.real(weights, "weights"))
        return self.add("Add", product, self.real(bias, "bias"))

    def softmax(self, tensor: str) -> str:
        """(N, K) -> (N, K), rows of sum 1."""
        return self.add("Softmax", tensor, axis=1)

    def unit(self, tensor: str, least: float) -> str:
        """(N, D), each row divided by its L2 norm; a row whose norm is below `least` stays."""
        norm = self.add("Sqrt", self.total(self.add("Mul", tensor, tensor)))
        short = self.add("Less", norm, self.real(least))
        return self.add("Div", tensor, self.add("Where", short, self.real(1.0), norm))

    def top(self, tensor: str, count: int) -> tuple[str, str]:
        """Of each row of (N, M) the largest, falling, and their places; both (N, count)."""
        largest, places = (self._fresh(f"{self._part}.{name}") for name in ("largest", "places"))
        number = self.constant(np.array([count], np.int64))
        self.nodes.append(helper.make_node("TopK", [tensor, number], [largest, places], axis=1))
        return largest, places

    def _fresh(self, name: str) -> str:
        found = graphs.fresh(name, self._taken)
        self._taken.add(found)
        return found
