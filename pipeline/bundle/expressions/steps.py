"""What is done to the vectors before a classifier, in ONNX operators: (N, D) -> (N, D')."""

from typing import Any

import numpy as np

from pipeline.bundle.nodes import Inexpressible, Nodes
from pipeline.heads.enhancement import signed_root

SHORT = 10 * float(np.finfo(np.float32).eps)
"""Vectors of a norm below are not divided by it, as scikit-learn has it for float32."""


def standardised(nodes: Nodes, step: Any, x: str) -> str:
    """StandardScaler: less the mean, divided by the spread, each where it has one."""
    if step.with_mean:
        x = nodes.add("Sub", x, nodes.real(step.mean_, "mean"))
    if step.with_std:
        x = nodes.add("Div", x, nodes.real(step.scale_, "scale"))
    return x


def normalised(nodes: Nodes, step: Any, x: str) -> str:
    """Normalizer: divided by its length."""
    if step.norm != "l2":
        raise Inexpressible(f"no expression for vectors brought to {step.norm} norm 1")
    return nodes.unit(x, SHORT)


def projected(nodes: Nodes, step: Any, x: str) -> str:
    """PCA: on its components, divided by their spread where it whitens."""
    components = np.asarray(step.components_, dtype=np.float64)
    if step.whiten:
        spread = np.sqrt(step.explained_variance_)
        components = components / np.maximum(spread, np.finfo(spread.dtype).eps)[:, None]
    centred = nodes.add("Sub", x, nodes.real(step.mean_, "mean"))
    return nodes.add("MatMul", centred, nodes.real(components.T, "components"))


def rooted(nodes: Nodes, step: Any, x: str) -> str:
    """FunctionTransformer, of `signed_root`."""
    if step.func is not signed_root:
        raise Inexpressible(f"no expression for the function {step.func.__name__}")
    return nodes.add("Mul", nodes.add("Sign", x), nodes.add("Sqrt", nodes.add("Abs", x)))
