"""The model card, artifacts/model/README.md: what a bundle is, how good, and what it must not be used for."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bundle import loading
from pipeline.dataset import on_one_line
from pipeline.errors import IntegrityError
from pipeline.finetuned import KIND

MOST_CLASSES = 50
"""Up to so many are listed in the card; model.json has all of them."""

FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "log_loss": "log loss",
    "ece": "expected calibration error",
}
"""Of metrics.json, as the card calls them."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Given:
    """What the record does not say. known: whether it gives probabilities; chosen_on: which images
    the head's options were chosen on.
    """

    known: bool
    chosen_on: str = "val"


@dataclass(frozen=True)
class Context:
    """What a card tells beside the record. data: summary.json of the dataset; metrics: of
    metrics.json; transfer: what transfer.json says of each backbone.
    """

    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    transfer: Sequence[Mapping[str, Any]]

    @classmethod
    def read(cls, artifacts: Path, metrics: Mapping[str, Any]) -> "Context":
        """Raises IntegrityError."""
        data = _json(artifacts / "dataset" / "summary.json", "prepare")
        return cls(data, metrics, _json(artifacts / "evaluation" / "transfer.json", "evaluate"))


def _json(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; run 'dvc repro {stage}'") from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro -f {stage}'") from None


def of(said: Mapping[str, Any], given: Given, context: Context) -> str:
    """The card. said: what model.json has."""
    sections = [
        _what(said, given),
        _data(said, context.data, given),
        _scores(said, context),
        _trust(said, given),
        _limits(said, context),
        _origin(said),
        _loading(said, given),
    ]
    return "\n".join(line for section in sections for line in (*section, ""))


def of_none(said: Mapping[str, Any]) -> str:
    """The card where there is no model. said: what model.json has."""
    lines = ["# No model", "", f"Nothing is bundled: {said['reason']}.", ""]
    lines += [f"* {one['head']} on {one['backbone']}: {one['reason']}" for one in said["skipped"]]
    return "\n".join([*lines, "", "Name others in params.yaml, then run `dvc repro bundle`.", ""])


def _what(said: Mapping[str, Any], given: Given) -> Iterator[str]:
    classes = said["classes"]
    yield f"# {said['head']} on {said['backbone']}: {len(classes)} classes of images"
    yield ""
    answer = "a label, the probability of each class" if given.known else "a label"
    yield f"`model.onnx` is one file: uint8 pixels in; {answer} and the embedding"
    yield from _inside(said)
    yield ""
    shown = [_code(name) for name in classes[:MOST_CLASSES]]
    more = (
        f" and {len(classes) - MOST_CLASSES} more (model.json)" if len(classes) > len(shown) else ""
    )
    yield f"Classes: {', '.join(shown)}{more}."
    for one in said["skipped"]:
        yield ""
        yield f"{one['head']} on {one['backbone']} did better on the validation images, but ONNX"
        yield f"cannot express it: {one['reason']}."


def _inside(said: Mapping[str, Any]) -> Iterator[str]:
    body = f"{said['backbone']} ({_plain(said['weights'])}, {' + '.join(said['layers'])}, {said['dim']}"
    if said["kind"] == KIND:
        yield "out. Inside are the backbone"
        yield f"{body} values)"
        yield "and a last layer, both trained on the images of train, as far as the entry"
        yield f"`{said['head']}` of params.yaml says. The images of val told when to stop."
        return
    yield "out. Inside are the frozen backbone"
    yield body
    yield f"values, rounded to {said['storage']}) and a head of kind {said['kind']} that was fitted on"
    yield "these values of the images of train and val. The backbone was not trained on them."


def _data(said: Mapping[str, Any], data: Mapping[str, Any], given: Given) -> Iterator[str]:
    splits = data.get("splits", {})
    yield "## Data"
    yield ""
    yield f"{data.get('images', '?')} distinct images, {data.get('labelled', '?')} of them labelled."
    yield ""
    yield "| class | train | val | test |"
    yield "| --- | --- | --- | --- |"
    for name in said["classes"][:MOST_CLASSES]:
        counts = [str(splits.get(split, {}).get(name, 0)) for split in SPLITS]
        yield f"| {_plain(name)} | {' | '.join(counts)} |"
    totals = [str(sum(splits.get(split, {}).values())) for split in SPLITS]
    yield f"| all | {' | '.join(totals)} |"
    yield ""
    yield from (f"* {note}" for note in data.get("notes", ()))
    if said["kind"] == KIND:
        yield "* Settings are those of params.yaml; which epoch was kept was told by the validation images."
    else:
        on = "the validation images" if given.chosen_on == "val" else given.chosen_on
        yield f"* What the head's options are was chosen on {on}."
    yield "* The test images had no part in any choice or fit."


def _scores(said: Mapping[str, Any], context: Context) -> Iterator[str]:
    of_head = context.metrics.get(said["backbone"], {}).get(said["head"], {})
    yield "## How good it is"
    yield ""
    if said["kind"] == KIND:
        yield "With 95 % intervals, all of the model in this file, trained on train alone. Validation figures"
        yield "flatter it: they told when to stop. Against the head that it started from:"
        yield f"{of_head.get(KIND, {}).get('sentence', 'not known')}."
    else:
        yield "With 95 % intervals. Validation figures are of a fit on train alone, and a choice was made by"
        yield "them; test figures are of the fit in this file."
    yield ""
    yield "| | val | test |"
    yield "| --- | --- | --- |"
    yield f"| images | {' | '.join(str(of_head.get(s, {}).get('n', 0)) for s in SPLITS[1:])} |"
    for key, name in FIGURES.items():
        cells = [_cell(of_head.get(split, {}), key) for split in SPLITS[1:]]
        if any(cells):
            yield f"| {name} | {' | '.join(cells)} |"
    for one in context.transfer:
        if one["backbone"] == said["backbone"]:
            yield ""
            yield f"Against controls: {one['sentence']}."
            if one["verdict"] == "hurts":
                yield "**Raw pixels or random weights do better: do not use this model.**"


def _cell(of_split: Mapping[str, Any], key: str) -> str:
    if of_split.get(key) is None:
        return ""
    ends = of_split.get(f"{key}_ci95")
    return f"{of_split[key]:.4f}" + (f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else "")


def _trust(said: Mapping[str, Any], given: Given) -> Iterator[str]:
    yield "## Probabilities and abstention"
    yield ""
    if not given.known:
        yield "It gives labels alone: this head has no probabilities, and none were calibrated."
    elif said["temperature"] is None:
        yield "Probabilities are the head's own, not calibrated."
    else:
        yield f"Probabilities are brought to the right sharpness at temperature {said['temperature']:.4g},"
        yield "found on the validation images (Guo 2017)."
    wanted = said["abstention"]
    if wanted.get("threshold") is not None:
        yield f"For {wanted['wanted']:g} of the answers to be right it should say nothing where the highest"
        yield f"probability is below {wanted['threshold']:.4f}, the lowest threshold that did on val."
    elif wanted:
        yield f"No threshold made {wanted['wanted']:g} of the answers on val right."
    else:
        yield "No threshold for abstaining was asked for (`wanted_precision`)."


def _limits(said: Mapping[str, Any], context: Context) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield f"* It answers with one of {len(said['classes'])} classes whatever the image shows. It has seen no image"
    yield "  of anything else, and has no way to say so; a high probability is no sign that it knows."
    yield "* The figures hold for images like those of test: same cameras, places, years, ways of labelling."
    yield "  Nothing is known of others."
    few = [
        name
        for name in said["classes"]
        if context.data.get("splits", {}).get("test", {}).get(name, 0) < 10
    ]
    if few:
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        yield f"* Fewer than ten test images: {', '.join(map(_plain, few[:5]))}{more}. Of these classes test says little."
    yield "* Groups of people, places or devices were not looked at apart, unless"
    yield "  `artifacts/evaluation/groups.csv` has them."


def _origin(said: Mapping[str, Any]) -> Iterator[str]:
    hashes, recipe = said["hashes"], said["preprocessing"]
    yield "## Licence and origin"
    yield ""
    weights, licence = _plain(said["weights"]), _plain(said["licence"])
    yield f"* Weights: {weights} of source {said['source']}. Licence: {licence}."
    yield "* The licence of the images is not known here; ask whoever gave them."
    yield f"* Preprocessing: shorter side to {recipe['resize']}, {recipe['interpolation']}; centre crop of"
    yield f"  {recipe['crop']}; test-time views: {said['tta'] or 'none'}. Mean and std are applied inside."
    yield f"* Embeddings: fingerprint `{said['fingerprint']}`."
    yield f"* sha256 of `model.onnx`: `{said['sha256']}`; of the frozen backbone: `{hashes['backbone']}`;"
    yield f"  of the fitted head: `{hashes['head']}`; of the labels: `{hashes['labels']}`."


def _loading(said: Mapping[str, Any], given: Given) -> Iterator[str]:
    known = given.known
    classes = _literal(said["classes"])
    record = dict(said)
    yield "## How to run it"
    yield ""
    yield "With Headstart, which decodes every kind of image as in training:"
    yield ""
    yield from ("```console", "$ headstart predict --model model.onnx photo.jpg", "```", "")
    yield "Python with onnxruntime, numpy and Pillow. Images with transparency or 16 bits a channel"
    yield "are decoded otherwise by `headstart predict`."
    yield ""
    yield from ("```python", *loading.python(record, known=known).splitlines(), "```", "")
    yield "JavaScript, in browsers and in Node. What resizes an image there does it otherwise than Pillow,"
    yield "and probabilities differ by a little."
    yield ""
    yield from ("```js", *loading.javascript(record, classes, known=known).splitlines(), "```", "")
    yield "C++:"
    yield ""
    yield from ("```cpp", *loading.cpp(record, known=known).splitlines(), "```")


def _plain(text: str) -> str:
    """A name from anywhere as Markdown that says it, and nothing else, on one line."""
    return re.sub(r"[\\`*<>\[\]|&~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", on_one_line(text))


def _code(text: str) -> str:
    """The same as code, in more backticks than it has in a row."""
    shown = on_one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _literal(names: Sequence[str]) -> str:
    """A list of texts in JavaScript; what breaks lines or is not seen stands as an escape."""
    text = json.dumps(list(names), ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
