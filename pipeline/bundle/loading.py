"""Code of a model card: how programs run a bundle that have onnxruntime and nothing of Headstart."""

from typing import Any

from pipeline.images.views import TTA

_PILLOW = {name: name.upper() for name in ("nearest", "bilinear", "bicubic", "lanczos")}

_PIXELS = """\
def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    width, height = image.size
    if width <= height:
        size = (@resize@, int(@resize@ * height / width))
    else:
        size = (int(@resize@ * width / height), @resize@)
    image = image.resize(size, Image.Resampling.@filter@)
    left, top = [@before@ for side in size]
"""
_ONE_CROP = "    return np.asarray(image.crop((left, top, left + @crop@, top + @crop@)))\n"
_CORNERS = """\
    right, bottom = size[0] - @crop@, size[1] - @crop@
    corners += [(0, 0), (right, 0), (0, bottom), (right, bottom)]
"""

_PYTHON = """\
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


@pixels@

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
for path in sys.argv[1:]:
    @answer@
"""

_JAVASCRIPT = """\
import * as ort from "onnxruntime-web"; // in Node: "onnxruntime-node"

const classes = @classes@;
const session = await ort.InferenceSession.create("model.onnx");

// rgb: a Uint8Array of @count@ bytes, the pixels of @what@, row by row from the top
export async function classify(rgb) {
  const images = new ort.Tensor("uint8", rgb, @shape@);
  const said = await session.run({ images });
  const label = classes[Number(said.label.data[0])];
  return @answer@;
}
"""

_CPP = """\
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <iostream>
#include <vector>

int main() {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "bundle");
  Ort::Session session(env, ORT_TSTR("model.onnx"), Ort::SessionOptions{nullptr});

  std::vector<uint8_t> rgb(@count@);  // the pixels of @what@, row by row from the top
  std::array<int64_t, @axes@> shape{@sides@};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto images = Ort::Value::CreateTensor<uint8_t>(memory, rgb.data(), rgb.size(), shape.data(),
                                                  shape.size());
  const char* inputs[] = {"images"};
  const char* outputs[] = {@outputs@};
  auto said = session.Run(Ort::RunOptions{nullptr}, inputs, &images, 1, outputs, @number@);

  const int64_t label = said[0].GetTensorData<int64_t>()[0];  // a place in the list of classes
  @answer@
}
"""


def python(said: dict[str, Any], *, known: bool) -> str:
    """A program that is given paths. said: the record; known: whether there are probabilities."""
    recipe = said["preprocessing"]
    smaller = recipe["crop"] > recipe["resize"]
    places = {
        "pixels": _PIXELS + _crops(said["tta"]),
        "answer": (
            'label, probabilities, _ = session.run(None, {"images": pixels(path)[None]})\n'
            "    print(path, classes[label[0]], probabilities[0].max())"
            if known
            else 'label, _ = session.run(None, {"images": pixels(path)[None]})\n'
            "    print(path, classes[label[0]])"
        ),
        "before": (
            "round((side - @crop@) / 2) if side >= @crop@ else -((@crop@ - side) // 2)"
            if smaller
            else "round((side - @crop@) / 2)"
        ),
        "filter": _PILLOW[recipe["interpolation"]],
        "resize": str(recipe["resize"]),
        "crop": str(recipe["crop"]),
    }
    return _filled(_PYTHON, places)


def _crops(tta: str | None) -> str:
    """The lines that cut out what the model sees: one part, or the views that it averages."""
    if tta is None:
        return _ONE_CROP
    lines = "    corners = [(left, top)]\n" + (_CORNERS if tta != "flip" else "")
    lines += "    parts = [image.crop((x, y, x + @crop@, y + @crop@)) for x, y in corners]\n"
    if tta != "five_crop":
        lines += "    parts += [ImageOps.mirror(part) for part in parts]\n"
    return lines + "    return np.stack([np.asarray(part) for part in parts])\n"


def javascript(said: dict[str, Any], classes: str, *, known: bool) -> str:
    """A function for browsers and Node. classes: their list as JavaScript."""
    answer = (
        "{ label, probability: Math.max(...said.probabilities.data) }" if known else "{ label }"
    )
    shape = str(_shape(said))
    return _filled(
        _JAVASCRIPT, {**_of_pixels(said), "classes": classes, "answer": answer, "shape": shape}
    )


def cpp(said: dict[str, Any], *, known: bool) -> str:
    """A program in C++17."""
    shape = _shape(said)
    names = ["label", *(["probabilities"] if known else [])]
    shown = "said[1].GetTensorData<float>()[label]" if known else '""'
    return _filled(
        _CPP,
        {
            **_of_pixels(said),
            "axes": str(len(shape)),
            "sides": ", ".join(map(str, shape)),
            "outputs": ", ".join(f'"{name}"' for name in names),
            "number": str(len(names)),
            "answer": f"std::cout << label << ' ' << {shown} << '\\n';",
        },
    )


def _shape(said: dict[str, Any]) -> list[int]:
    crop = said["preprocessing"]["crop"]
    return [1, *([TTA[said["tta"]]] if said["tta"] else []), crop, crop, 3]


def _of_pixels(said: dict[str, Any]) -> dict[str, str]:
    shape = _shape(said)
    count, crop = 1, said["preprocessing"]["crop"]
    for side in shape:
        count *= side
    views = f"{TTA[said['tta']]} views" if said["tta"] else "one image"
    return {"count": str(count), "what": f"{views} of {crop} x {crop}, R, G, B"}


def _filled(text: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(f"@{name}@", value)
    return text
