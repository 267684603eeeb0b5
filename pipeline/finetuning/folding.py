"""A fitted head as torch layers: everything linear of it in one Linear, worked out in float64.

What is not linear (L2 normalisation, the signed root) stays as a layer without parameters; what is
linear before such a layer stays as it was fitted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import LinearSVC

from pipeline.heads.neighbours import NearestMean

Matrix = npt.NDArray[np.float64]

LINEAR = "linear"
"""Name of the last layer, the one that is trained."""


class InexpressibleError(Exception):
    """A head that no chain of linear layers is equal to; its text names the classifier or step."""


@dataclass(frozen=True)
class Affine:
    """x -> x @ weight.T + bias. weight: (M, D), bias: (M,), float64."""

    weight: Matrix
    bias: Matrix

    def then(self, other: "Affine") -> "Affine":
        """The other after this one."""
        return Affine(other.weight @ self.weight, other.weight @ self.bias + other.bias)


class Unit(torch.nn.Module):
    """Each vector divided by its length; zeros stay. (N, D) -> (N, D)."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        squares = vectors.square().sum(dim=1, keepdim=True)
        kept = torch.where(squares == 0, torch.ones_like(squares), squares)  # a root's slope at 0
        return vectors / kept.sqrt()


class SignedRoot(torch.nn.Module):
    """The square root of each value's size, its sign kept. (N, D) -> (N, D)."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        sizes = vectors.abs()  # the root's slope at 0 is infinite
        roots = torch.where(sizes > 0, sizes.clamp_min(torch.finfo(sizes.dtype).tiny).sqrt(), 0.0)
        return torch.sign(vectors) * roots


class Fixed(torch.nn.Module):
    """An Affine that is not trained. (N, D) -> (N, M)."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(affine.weight).float())
        self.register_buffer("bias", torch.from_numpy(affine.bias).float())

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(vectors, self.weight, self.bias)


def folded(pipeline: Pipeline, dim: int, temperature: float | None = None) -> torch.nn.Sequential:
    """A fitted head, (N, D) float32 -> (N, K) logits, its last layer named LINEAR.

    The softmax is the head's probabilities, at its temperature where it has one, and the argmax its
    prediction. dim: D. Raises InexpressibleError.
    """
    *steps, (_, classifier) = pipeline.steps
    last = _logits(classifier)
    if temperature is not None:
        last = Affine(last.weight / temperature, last.bias / temperature)
    layers: list[torch.nn.Module] = []
    pending, moved = _identity(dim), False
    for _, step in steps:
        made = _step(step)
        if isinstance(made, Affine):
            pending, moved = pending.then(made), True
            continue
        if moved:
            layers.append(Fixed(pending))
        pending, moved = _identity(len(pending.bias)), False
        layers.append(made)
    whole = pending.then(last) if moved else last
    return chained(layers, linear(whole))


def chained(layers: Sequence[torch.nn.Module], last: torch.nn.Linear) -> torch.nn.Sequential:
    """Layers in a row, named by their places, the last one LINEAR."""
    head = torch.nn.Sequential()
    for number, layer in enumerate(layers):
        head.add_module(f"step{number}", layer)
    head.add_module(LINEAR, last)
    return head


def linear(affine: Affine) -> torch.nn.Linear:
    """The same as a layer to be trained, in float32."""
    made = torch.nn.Linear(affine.weight.shape[1], affine.weight.shape[0])
    with torch.no_grad():
        made.weight.copy_(torch.from_numpy(affine.weight))
        made.bias.copy_(torch.from_numpy(affine.bias))
    return made


def _identity(dim: int) -> Affine:
    return Affine(np.eye(dim), np.zeros(dim))


def _step(step: Any) -> Affine | torch.nn.Module:
    for kind, make in _STEPS.items():
        if isinstance(step, kind):
            return make(step)
    raise InexpressibleError(type(step).__name__)


def _scaler(step: Any) -> Affine:
    scale = np.ones_like(step.mean_) if step.scale_ is None else step.scale_
    factor = 1 / np.asarray(scale, np.float64)
    return Affine(np.diag(factor), -np.asarray(step.mean_, np.float64) * factor)


def _components(step: Any) -> Affine:
    weight = np.asarray(step.components_, np.float64)
    if step.whiten:
        scale = np.sqrt(np.asarray(step.explained_variance_, np.float64))
        weight = weight / np.maximum(scale, np.finfo(step.components_.dtype).eps)[:, None]
    return Affine(weight, -weight @ np.asarray(step.mean_, np.float64))


_STEPS: dict[type, Callable[[Any], Affine | torch.nn.Module]] = {
    StandardScaler: _scaler,
    PCA: _components,
    Normalizer: lambda _: Unit(),
    FunctionTransformer: lambda _: SignedRoot(),
}
"""Of every step that `heads.enhancement` makes."""


def _logits(classifier: Any) -> Affine:
    """Logits of a fitted classifier, of two classes both."""
    for kind, make in _CLASSIFIERS.items():
        if isinstance(classifier, kind):
            return make(classifier)
    raise InexpressibleError(type(classifier).__name__)


def _planes(classifier: Any) -> Affine:
    weight = np.atleast_2d(np.asarray(classifier.coef_, np.float64))
    bias = np.broadcast_to(np.asarray(classifier.intercept_, np.float64), len(weight))
    if len(weight) > 1:
        return Affine(weight, bias.copy())
    half = weight / 2, bias / 2  # a decision d as -d/2 and d/2: their softmax is the sigmoid of d
    return Affine(np.concatenate([-half[0], half[0]]), np.concatenate([-half[1], half[1]]))


def _means(classifier: Any) -> Affine:
    """The squared distance to a mean without the vector's own length, which all classes share."""
    means = np.asarray(classifier.means_, np.float64)
    return Affine(2 * means, -np.square(means).sum(axis=1))


_CLASSIFIERS: dict[type, Callable[[Any], Affine]] = {
    LogisticRegression: _planes,
    LinearSVC: _planes,
    RidgeClassifier: _planes,
    LinearDiscriminantAnalysis: _planes,
    NearestMean: _means,
}
