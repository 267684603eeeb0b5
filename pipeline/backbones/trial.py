"""Which tensors of an ONNX graph are layers: those that are of an image what they are of it alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from pipeline.architectures import batched, graphs
from pipeline.architectures.ends import Spot, Taken, Values
from pipeline.backbones import last_layer
from pipeline.backbones.graph import OnnxNetwork, Original, session_of
from pipeline.backbones.onnx_file import shortly
from pipeline.errors import InputError
from pipeline.images import Pixels, Preprocessing
from pipeline.taps import MAPS, PENULTIMATE, POOLED, VECTOR, Layer

IMAGES = 3
"""Images that show whether a graph keeps them apart."""

APART = 1e-4
"""The largest |d| over the RMS between an image alone and among others."""

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class _Tried:
    """What came of a trial: shapes without N of the layers, and why other tensors are none."""

    shapes: dict[str, tuple[int, ...]]
    broken: dict[str, str]


def network(model: onnx.ModelProto, taken: Taken, recipe: Preprocessing, wrong: str) -> OnnxNetwork:
    """The network of a model.

    wrong: how the InputError begins that is raised where onnxruntime does not run it.
    """
    tried = _tried(model, taken, recipe, wrong)
    named = {
        name: Spot(name, shape, Layer(name, shape).pooling) for name, shape in tried.shapes.items()
    }
    listed = {
        name: spot
        for name, spot in named.items()
        if "@" not in name and name not in (PENULTIMATE, POOLED)
    }
    tensor = _penultimate(model.graph, tried)
    broken = {name: why for name, why in tried.broken.items() if name != PENULTIMATE}
    if tensor in named:
        listed[PENULTIMATE] = named[tensor]
    elif tensor in broken:
        broken[PENULTIMATE] = broken[tensor]
    return OnnxNetwork(model, taken, listed, broken)


def _penultimate(graph: onnx.GraphProto, tried: _Tried) -> str:
    """The tensor that the classifier takes in; else the first output, if it is one vector.

    Else the last layer that has positions. Empty where there is none.
    """
    classifier = last_layer.find(graph)
    known = tried.shapes.keys() | tried.broken.keys()
    if classifier is not None and classifier.takes in known:
        return str(classifier.takes)
    first = str(graph.output[0].name)
    positions = {name: Layer(name, shape).positions for name, shape in tried.shapes.items()}
    if first in tried.broken or positions.get(first) == 1:
        return first
    spatial = [name for name, count in positions.items() if count > 1]
    return spatial[-1] if spatial else ""


def _tried(model: onnx.ModelProto, taken: Taken, recipe: Preprocessing, wrong: str) -> _Tried:
    images, names = _images(recipe), _candidates(model.graph)
    try:
        shown = session_of(model, names, in_float32=False).get_outputs()
        names = [one.name for one in shown if one.type in FLOATS]
        original = Original(model, taken, names)
        alone = [original.passes(image[None], recipe, 1)[0] for image in images]
    except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen kinds
        raise InputError(f"{wrong} does not run in onnxruntime: {shortly(error)}") from None
    freed = Original(
        batched.with_free_n(model, taken.name, taken.batch), replace(taken, batch=None), names
    )
    together, why = _as_far_as_it_runs(freed, images, recipe)
    shapes, broken = {}, {}
    for number, name in enumerate(names):
        each = [values[number] for values in alone]
        if not _is_layer(each, taken.batch or 1):
            continue
        if number >= len(together):
            broken[name] = why
        elif _same(np.stack([values[0] for values in each]), together[number]):
            shapes[name] = each[0].shape[1:]
        else:
            broken[name] = "an image's values hang on its neighbours"
    return _Tried(shapes, broken)


def _images(recipe: Preprocessing) -> Pixels:
    """Noise, ever darker."""
    random = np.random.default_rng(0)
    shape = (recipe.crop, recipe.crop, 3)
    return np.stack([random.integers(0, 256 >> dark, shape, np.uint8) for dark in range(IMAGES)])


def _candidates(graph: onnx.GraphProto) -> list[str]:
    constant = graphs.constants(graph)
    return [name for name in graphs.made(graph) if name not in constant]


def _is_layer(each: Sequence[Values], batch: int) -> bool:
    """Whether a tensor has a row an image, and another of another image."""
    first = each[0]
    if not 1 + VECTOR <= first.ndim <= 1 + MAPS or len(first) != batch or not first.size:
        return False
    return any(not np.array_equal(first[0], other[0]) for other in each[1:])


def _same(alone: Values, together: Values) -> bool:
    if alone.shape != together.shape:
        return False
    a, b = alone.astype(np.float64), together.astype(np.float64)
    with np.errstate(invalid="ignore"):  # of infinities comes NaN, which is not the same
        return bool(np.abs(a - b).max() <= APART * np.sqrt((a**2).mean()))


def _as_far_as_it_runs(
    freed: Original, images: Pixels, recipe: Preprocessing
) -> tuple[list[Values], str]:
    """The first tensors of a graph that it makes of all images at once, and why not the next."""
    made, why = list[Values](), ""
    good, bad = 0, len(freed.names) + 1
    trial = len(freed.names)
    while bad - good > 1:
        try:
            part = replace(freed, names=freed.names[:trial])
            made, good = part.passes(images, recipe, len(images))[0], trial
        except Exception as error:  # noqa: BLE001 - onnxruntime raises a dozen kinds
            bad, why = trial, shortly(error)
        trial = (good + bad) // 2
    return made, why
