"""How good a network is on a split: its logits, and what validation is judged by."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_softmax, softmax

from pipeline.finetuning import memory
from pipeline.finetuning.network import Network
from pipeline.finetuning.pictures import Codes, Decoded, Plain, steps

Logits = npt.NDArray[np.float64]

AT_ONCE = 32
"""Images a pass; fewer where memory runs out."""


@dataclass(frozen=True, order=True)
class Score:
    """On labelled images; of two scores the greater is the better: accuracy first, then loss."""

    accuracy: float
    minus_loss: float

    @property
    def loss(self) -> float:
        """Mean log loss."""
        return -self.minus_loss


def logits(network: Network, decoded: Decoded, *, workers: int = 0) -> Logits:
    """(N, K) float64 of every image, in the order listed, in eval mode."""
    network.eval()
    count, size = len(decoded.listed), AT_ONCE
    made: list[Logits] = []
    done = 0
    while done < count:
        places = [list(range(at, min(at + size, count))) for at in range(done, count, size)]
        try:
            for pixels, _ in steps(Plain(decoded), places, workers):
                made.append(_of(network, pixels))
                done += len(pixels)
        except (RuntimeError, MemoryError) as error:
            if not memory.has_run_out(error) or size == 1:
                raise
            size //= 2
            memory.give_back()
    return np.concatenate(made) if made else np.empty((0, network.last.out_features))


def _of(network: Network, pixels: torch.Tensor) -> Logits:
    with torch.inference_mode():
        _, found = network.of_pixels(pixels.to(network.mean.device))
    values: Logits = found.double().cpu().numpy()
    return values


def score(found: Logits, y: Codes) -> Score:
    """Accuracy and mean log loss of (N, K) logits."""
    if not len(y) or not np.isfinite(found).all():
        return Score(0.0, -np.inf)
    right = float(np.mean(found.argmax(axis=1) == y))
    loss = float(-log_softmax(found, axis=1)[np.arange(len(y)), y].mean())
    return Score(right, -loss)


def probabilities(found: Logits) -> Logits:
    """(N, K) logits -> (N, K) probabilities."""
    known: Logits = softmax(found, axis=1)
    return known
