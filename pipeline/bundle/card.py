"""The model card: what a bundle is, what it was made from, how good it is, and how to run it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Said = dict[str, Any]

MOST_CLASSES = 100
"""Classes that the table of images names; of more, the numbers alone."""

PYTHON = """\
```python
from pipeline import predictor

model = predictor.open("model.onnx")
found = model("photo.jpg")
print(found.label, found.probability)
```"""

BARE = """\
```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
classes = {classes}
images = np.zeros((1, {shape}), np.uint8)
label, *others = session.run(None, {{"images": images}})
print(classes[label[0]])
```"""

CPP = """\
```cpp
#include <onnxruntime_cxx_api.h>
Ort::Env env;
Ort::Session session(env, ORT_TSTR("model.onnx"), Ort::SessionOptions{{}});
std::vector<uint8_t> pixels({count});  // RGB, row by row
std::array<int64_t, {rank}> shape{{1, {shape}}};
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
auto images = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape.data(), shape.size());
const char* inputs[] = {{"images"}};
const char* outputs[] = {{"label"}};
auto made = session.Run(Ort::RunOptions{{}}, inputs, &images, 1, outputs, 1);
int64_t label = *made[0].GetTensorData<int64_t>();
```"""

JAVASCRIPT = """\
```js
const ort = require("onnxruntime-node");  // or onnxruntime-web
const session = await ort.InferenceSession.create("model.onnx");
const images = new ort.Tensor("uint8", new Uint8Array({count}), [1, {shape}]);
const {{ label }} = await session.run({{ images }});
console.log(Number(label.data[0]));
```"""


def text(artifacts: Path, said: Said) -> str:
    """The card in Markdown. said: what model.json has."""
    if said["file"] is None:
        return _of_nothing(said)
    summary = _json(artifacts / "dataset" / "summary.json")
    evaluated = _json(artifacts / "evaluation" / "metrics.json")
    transfers = _json(artifacts / "evaluation" / "transfer.json")
    parts = [
        _what(said),
        _figures(said, evaluated),
        _data(summary, said),
        _limits(said, summary, transfers),
        _running(said),
        _made_of(said),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _of_nothing(said: Said) -> str:
    rows = "".join(f"\n* {_name(one)}: {one['reason']}" for one in said["skipped"])
    why = f" These were tried:\n{rows}" if rows else " Every backbone or head of it is a control."
    return f"# No model\n\nNo head of the last run could be written as one ONNX file.{why}\n"


def _name(one: Said) -> str:
    return f"`{one['head']}` on `{one['backbone']}`"


def _what(said: Said) -> Iterator[str]:
    number = len(said["classes"])
    yield f"# {said['head']} on {said['backbone']}"
    yield ""
    yield (
        f"`model.onnx` tells {number} classes of images apart. It takes images as `uint8` and gives the "
        + ("label, " if said["file"] and not _states(said) else "label, a probability a class, ")
        + f"and the {said['dim']} numbers of the embedding. One file of plain ONNX operators: a frozen "
        f"pretrained network (`{said['source']}`, weights `{said['weights']}`), and a head of kind `{said['kind']}` fitted "
        "on what it says of the training and validation images."
    )
    if said["best"] != {"backbone": said["backbone"], "head": said["head"]}:
        yield ""
        yield f"{_name(said['best'])} was better by validation, but could not be bundled:"
        yield from (f"* {_name(one)}: {one['reason']}" for one in said["skipped"])


def _states(said: Said) -> bool:
    return bool(said["probabilities"])


def _figures(said: Said, evaluated: Said) -> Iterator[str]:
    yield "## How good it is"
    yield ""
    yield "| images | n | accuracy | 95 % interval | log loss | calibration error (ECE) |"
    yield "| --- | --- | --- | --- | --- | --- |"
    names = {"test": "test, never used for a choice", "val": "validation, used for choices"}
    for split, what in names.items():
        one = said["metrics"].get(split, {})
        if one:
            low, high = one["accuracy_ci95"]
            cells = [_number(one.get(key)) for key in ("log_loss", "ece")]
            yield (
                f"| {what} | {one['n']} | {one['accuracy']:.4f} | {low:.4f} to {high:.4f} | "
                f"{' | '.join(cells)} |"
            )
    yield ""
    yield "Validation figures are of the fit on train alone; test figures of the fit in this file, on train + val."
    if said["temperature"] is not None:
        yield f"Probabilities were calibrated on validation images, at temperature {said['temperature']:.4g}."
    if said["abstention"].get("threshold") is not None:
        chosen = said["abstention"]
        yield (
            f"Below a probability of {chosen['threshold']:.4g} it had better say nothing: above, {chosen['wanted']:.0%} "
            "of validation answers were right (`headstart predict --abstain`)."
        )
    worst = (
        evaluated.get(said["backbone"], {}).get(said["head"], {}).get("test", {}).get("worst_group")
    )
    if worst:
        low, high = worst["accuracy_ci95"]
        yield (
            f"Of the groups of test images it is worst on `{_plain(worst['group'])}`: {worst['accuracy']:.4f} "
            f"({low:.4f} to {high:.4f}, {worst['n']} images)."
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plain(value: object) -> str:
    """Text within a table or a line of code."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")


def _data(summary: Said, said: Said) -> Iterator[str]:
    splits, classes = summary["splits"], said["classes"]
    names = [name for name in ("train", "val", "test") if name in splits]
    yield "## What it was made from"
    yield ""
    yield f"| class | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for label in classes[:MOST_CLASSES]:
        counts = [str(splits[name].get(label, 0)) for name in names]
        yield f"| {_plain(label)} | {' | '.join(counts)} |"
    totals = [str(sum(splits[name].values())) for name in names]
    yield f"| all {len(classes)} | {' | '.join(totals)} |"
    yield ""
    left_out = ", ".join(
        f"{reason} {count}" for reason, count in sorted(summary["problems"].items())
    )
    yield f"{summary['images']} distinct images. Left out: {left_out or 'none'}."
    yield from (f"* {note}" for note in summary["notes"])


def _limits(said: Said, summary: Said, transfers: list[Said]) -> Iterator[str]:
    yield "## What it cannot know"
    yield ""
    yield (
        f"* It answers with one of its {len(said['classes'])} classes whatever it is shown: a picture of none of them gets "
        "a label too, often a sure one."
    )
    yield "* Its figures hold for images like those above. Other cameras, places or times were not tried, unless these had them."
    least = min(
        (sum(one.values()) for name, one in summary["splits"].items() if name == "test"), default=0
    )
    if least < 1000:
        yield f"* There were {least} test images: read the interval, not the figure."
    yield "* What was in the images that its network was pretrained on, and how people are shown there, it has learnt as well."
    for one in transfers:
        if one["backbone"] == said["backbone"] and "sentence" in one:
            yield f"* Against raw pixels and random weights, on these images: {one['sentence']}."


def _running(said: Said) -> Iterator[str]:
    recipe, tta = said["preprocessing"], said["tta"]
    side = recipe["crop"]
    views = {"flip": 2, "five_crop": 5, "ten_crop": 10}.get(tta)
    sides = [*([views] if views else []), side, side, 3]
    shape, count = ", ".join(map(str, sides)), (views or 1) * side * side * 3
    yield "## How to run it"
    yield ""
    yield "`headstart predict --model model.onnx photo.jpg …` needs onnxruntime, numpy and Pillow alone. From Python:"
    yield ""
    yield PYTHON
    yield ""
    yield (
        f"In any other program: decode to RGB (orientation applied, transparency on white), resize the shorter side to {recipe['resize']} pixels "
        f"({recipe['interpolation']}), cut out the {side} x {side} in the middle, and give it as `uint8`, {shape}; the values are "
        "normalised inside."
        + (f" The {views} are the views `{tta}`, whose mean is taken inside." if views else "")
    )
    yield "`label` is a place in `classes` of model.json, which the file's metadata have as well."
    yield ""
    listed = json.dumps(said["classes"][:MOST_CLASSES], ensure_ascii=False)
    if len(said["classes"]) > MOST_CLASSES:
        listed = 'json.load(open("model.json"))["classes"]'
    filled = {"shape": shape, "count": count, "rank": len(sides) + 1}
    for code in (
        BARE.format(classes=listed, **filled),
        CPP.format(**filled),
        JAVASCRIPT.format(**filled),
    ):
        yield code
        yield ""


def _made_of(said: Said) -> Iterator[str]:
    yield "## What it is made of"
    yield ""
    yield f"* Licence of the weights: {_plain(said['licence'])}. The images have theirs."
    yield f"* Fingerprint of the embeddings: `{said['fingerprint']}`"
    yield f"* sha256 of model.onnx: `{said['sha256']}`"
    for name, digest in sorted(said["hashes"].items()):
        if isinstance(digest, str):
            yield f"* sha256 of the {name}: `{digest}`"
    yield f"* Layers: {', '.join(said['layers'])}; before the head: {', '.join(said['enhance']) or 'nothing'}."
