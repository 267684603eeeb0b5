"""Should I transfer? Whether a backbone's embeddings say more than raw pixels or random weights.

And before that, whether they say anything at all of the labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from pipeline import comparison
from pipeline.comparison import LEVEL, Answers, Matrix, Pair
from pipeline.metrics import wilson
from pipeline.params import CONTROL_SOURCES

PERMUTATIONS = 10_000
SHUFFLED = 1 << 24
"""Labels that are shuffled at most, in all permutations together; at least FEWEST of these."""
FEWEST = 400
ENOUGH = 100.0
"""Variance from which on the number of right predictions is taken to be normal."""
SEED = 0

Codes = npt.NDArray[np.int64]
WORDS = {"pixels": "pixels", "random": "random weights"}


@dataclass(frozen=True)
class Contender:
    """A head, and its predictions on the images that it is judged by.

    source: of the backbone; order: the lower, the better by validation; y, predicted: (N,) codes
    of the images whose paths `answers` has.
    """

    backbone: str
    head: str
    source: str
    order: tuple[Any, ...]
    y: Codes
    predicted: Codes
    answers: Answers

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float(self.answers.right.mean())


@dataclass(frozen=True)
class Signal:
    """Whether predictions have to do with the labels. right, expected: how many, and by chance."""

    p: float
    right: int
    expected: float
    n: int

    @property
    def figures(self) -> dict[str, float]:
        """As in transfer.json: shares."""
        return {"p": self.p, "accuracy": self.right / self.n, "expected": self.expected / self.n}


@dataclass(frozen=True)
class Against:
    """A backbone's best head against the best one on a control."""

    control: Contender
    pair: Pair
    p_holm: float

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `same`."""
        return comparison.verdict(self.pair, self.p_holm)

    @property
    def words(self) -> str:
        """+31.4 points over pixels (26.1 to 36.6)"""
        low, high = self.pair.interval
        over = "against" if self.pair.difference < 0 else "over"
        return (
            f"{100 * self.pair.difference:+.1f} points {over} {WORDS[self.control.source]} "
            f"({100 * low:.1f} to {100 * high:.1f})"
        )

    @property
    def figures(self) -> dict[str, Any]:
        """As in transfer.json."""
        return {
            "source": self.control.source,
            "backbone": self.control.backbone,
            "head": self.control.head,
            "accuracy": self.control.accuracy,
            "n": self.pair.n,
            "difference": self.pair.difference,
            "difference_ci95": list(self.pair.interval),
            "p": self.pair.p,
            "p_holm": self.p_holm,
        }


def judge(contenders: Sequence[Contender], *, split: str) -> list[dict[str, Any]]:
    """The content of transfer.json: one entry a backbone that is no control.

    contenders: all heads of the run but those of control kinds, scored on this split; the best of
    each backbone, and of each source of controls, is judged.
    """
    controls = [
        best
        for source in CONTROL_SOURCES
        if (best := _best(one for one in contenders if one.source == source))
    ]
    names = dict.fromkeys(one.backbone for one in contenders if one.source not in CONTROL_SOURCES)
    bests = (_best(one for one in contenders if one.backbone == name) for name in names)
    return [_entry(best, controls, split) for best in bests if best]


def _best(contenders: Iterable[Contender]) -> Contender | None:
    return min(contenders, key=lambda one: one.order, default=None)


def _entry(best: Contender, controls: Sequence[Contender], split: str) -> dict[str, Any]:
    found = signal(best.y, best.predicted)
    against = list(_against(best, controls))
    verdict = _verdict(found, [one.verdict for one in against])
    sentence = f"{best.backbone} {_sentence(verdict, found, against)}{_limits(against, split)}"
    return {
        "backbone": best.backbone,
        "head": best.head,
        "split": split,
        "verdict": verdict,
        "sentence": sentence,
        "accuracy": best.accuracy,
        "accuracy_ci95": list(wilson(found.right, found.n)),
        "n": found.n,
        "signal": found.figures,
        "against": [one.figures for one in against],
    }


def _against(best: Contender, controls: Sequence[Contender]) -> Iterator[Against]:
    matrix = Matrix([best.answers, *(control.answers for control in controls)])
    pairs = [(one, matrix.pair(0, place)) for place, one in enumerate(controls, start=1)]
    shared = [(control, pair) for control, pair in pairs if pair]
    adjusted = comparison.holm([pair.p for _, pair in shared])
    for (control, pair), p in zip(shared, adjusted, strict=True):
        yield Against(control, pair, p)


def _verdict(found: Signal, against: Sequence[str]) -> str:
    if found.p > LEVEL:
        return "no signal"
    if not against:
        return "unknown"
    if "worse" in against:
        return "hurts"
    return "neutral" if "same" in against else "helps"


def _sentence(verdict: str, found: Signal, against: Sequence[Against]) -> str:
    if verdict == "no signal":
        shares = found.figures
        return (
            f"shows no signal: {100 * shares['accuracy']:.1f} % right, "
            f"{100 * shares['expected']:.1f} % by chance (p {shares['p']:.2f})"
        )
    if verdict == "unknown":
        return "may help or not: the run has no control, a backbone of source pixels or random"
    said = ", ".join(one.words for one in sorted(against, key=lambda one: one.pair.difference))
    return f"{'is neutral' if verdict == 'neutral' else verdict}: {said}"


def _limits(against: Sequence[Against], split: str) -> str:
    """What the sentence rests on less than it might."""
    seen = {one.control.source for one in against}
    lacking = [WORDS[source] for source in CONTROL_SOURCES if seen and source not in seen]
    said = [f"no control of {word} in the run" for word in lacking]
    if split == "val":
        said.append("by validation images, which the heads were chosen on, since none is in test")
    return "".join(f"; {text}" for text in said)


def signal(y: Codes, predicted: Codes) -> Signal:
    """Permutation test, one-sided: are more predictions right than if the labels were shuffled?

    How often each class is a label and a prediction is kept. Up to PERMUTATIONS shuffles; where
    very many images make the number right normal, its exact mean and variance (Hoeffding 1951).
    """
    n, right = len(y), int((y == predicted).sum())
    classes = int(max(y.max(), predicted.max())) + 1
    labels, said = (np.bincount(of, minlength=classes).astype(np.float64) for of in (y, predicted))
    matches = float(labels @ said)
    rows = float(said @ (labels * labels) + labels @ (said * said))
    variance = (matches - rows / n + (matches / n) ** 2) / max(1, n - 1)
    expected = matches / n
    if variance >= ENOUGH:
        p = float(ndtr((expected - right + 0.5) / np.sqrt(variance)))
    else:
        p = _shuffled(y, predicted, right)
    return Signal(p, right, expected, n)


def _shuffled(y: Codes, predicted: Codes, right: int) -> float:
    """Share of shuffles, the labels as they are among them, with so many right or more."""
    random = np.random.default_rng(SEED)
    times = min(PERMUTATIONS, max(FEWEST, SHUFFLED // len(y)))
    labels = y.astype(np.int32)
    reached = sum(
        int((random.permutation(labels) == predicted).sum()) >= right for _ in range(times)
    )
    return (1 + reached) / (1 + times)
