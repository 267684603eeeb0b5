"""`backbones`: where weights come from, what is taken from them, how they are run."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.block import Block, LayerNames

CONTROL_SOURCES = ("pixels", "random")
"""Backbones of these sources are there to be beaten, never the best."""

RESERVED = "best"
"""The key of metrics.json beside the backbones' names, so no backbone may have it."""

PENULTIMATE = "penultimate"
"""The layer that a backbone gives by default: what its classifier's last Linear takes in."""

Pooling = Literal["avg", "max", "gem", "cls", "patch_mean", "flatten"]
"""How a layer's positions become one vector."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PreprocessingParams(Block):
    """A recipe that replaces the weights' own; sizes in pixels, mean and std of 0..1 values."""

    resize: Annotated[int, Field(ge=1)]
    crop: Annotated[int, Field(ge=1)]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[float], Field(min_length=3, max_length=3)]


class BackboneParams(Block):
    """One frozen backbone: where its weights come from, what is taken from it, how it is run.

    layers: each the name of a layer, or `NAME@POOLING`, the first being what heads use unless
    they say otherwise; pooling: of layers that name none, None: by their shape; views: augmented
    ones of each image beside the clean one; tta: deterministic views that a clean vector is the
    mean of; seed: of random weights and of the views.
    """

    source: str
    model: str | None = None
    weights: str | None = None
    sha256: Sha256 | None = None
    preprocessing: PreprocessingParams | None = None
    layers: LayerNames = [PENULTIMATE]
    pooling: Pooling | None = None
    views: Annotated[int, Field(ge=0, le=100)] = 0
    tta: Literal["flip", "five_crop", "ten_crop"] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    runtime: str = "onnx"
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    storage: Literal["float16", "float32"] = "float16"
