"""Whether fine-tuning was worth it: a model against the head that it started from."""

from collections.abc import Iterable
from typing import Any

from pipeline.comparison import Answers, Matrix, Pair
from pipeline.dataset import Split
from pipeline.evaluation.results import Result
from pipeline.finetuned import KIND

HEAD, FINETUNED = "head", "finetuned"


def judged(results: Iterable[Result]) -> dict[tuple[str, str], dict[str, Any]]:
    """(backbone, entry) -> what metrics.json says of each fine-tuned model beside its figures.

    `recommend` is `finetuned` only where the 95 % interval of the difference, on the same test
    images, lies above 0: the head is cheaper. The head's answers are those of its fit on train and
    val, the model has learned from train alone and looked at val to stop: where the two differ
    in favour of the model it is not for want of images on the head's side.
    """
    on_test = {result.name: result for result in results if result.split == Split.TEST}
    return {
        name: _verdict(result, on_test.get((result.backbone, result.started_from)))
        for name, result in on_test.items()
        if result.kind == KIND
    }


def _verdict(model: Result, head: Result | None) -> dict[str, Any]:
    pair = _pair(model, head) if head is not None else None
    told = {"head": model.started_from, "scratch": model.scratch}
    if pair is None:
        sentence = (
            f"no image is in test, so nothing speaks against {model.started_from}, which is cheaper"
        )
        return {**told, "recommend": HEAD, "sentence": sentence}
    low, high = pair.interval
    figures = {
        "n": pair.n,
        "difference": pair.difference,
        "difference_ci95": [low, high],
        "only_this": pair.only_this,
        "only_head": pair.only_other,
        "p": pair.p,
    }
    recommend = FINETUNED if low > 0 else HEAD
    return {**told, **figures, "recommend": recommend, "sentence": _sentence(model, pair)}


def _pair(model: Result, head: Result) -> Pair | None:
    answers = [Answers(one.labels.path, one.scored.right) for one in (model, head)]
    return Matrix(answers).pair(0, 1)


def _sentence(model: Result, pair: Pair) -> str:
    low, high = (100 * end + 0.0 for end in pair.interval)
    start, new = model.started_from, f"{model.head} on {model.backbone}"
    shown = "< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}"
    said = (
        f"{new} differs from {start} by {100 * pair.difference + 0.0:+.1f} points on {pair.n} test "
        f"images (95 % interval {low:+.1f} to {high:+.1f}, p {shown})"
    )
    if low > 0:
        return f"{said}: the fine-tuned model is recommended"
    if high < 0:
        return f"{said}: {start} is better, and cheaper; it is recommended"
    return f"{said}: no difference is shown, so {start} is recommended, which is cheaper"
