"""ONNX files for the tests, as users bring them: of every kind of input, exporter and opset."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline import files
from pipeline.params import BackboneParams

CROP = 24
RECIPE = {
    "resize": 27,
    "crop": CROP,
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


class Network(torch.nn.Module):
    """A small convolutional network; its Linear takes eight values in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(6),
            torch.nn.ReLU(),
            torch.nn.Conv2d(6, 8, 3, stride=2, padding=1),
            torch.nn.ReLU(),
        )
        self.classifier = torch.nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.vectors(images))

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier takes in."""
        return torch.flatten(torch.nn.functional.adaptive_avg_pool2d(self.body(images), 1), 1)


class OfBytes(torch.nn.Module):
    """(N, H, W, 3) uint8: the same, its normalisation inside."""

    def __init__(self, network: torch.nn.Module, *, channels_last: bool) -> None:
        super().__init__()
        self.network, self.channels_last = network, channels_last

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.permute(0, 3, 1, 2) if self.channels_last else images
        mean, std = (torch.tensor(RECIPE[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        return self.network((images.to(torch.float32) / 255 - mean) / std)


def network(seed: int = 0) -> Network:
    """Seeded; its batch normalisation has statistics of its own."""
    torch.manual_seed(seed)
    made = Network()
    made.train()(torch.rand(64, 3, CROP, CROP) * 4 - 2)
    return made.eval()


@contextmanager
def quietly() -> Iterator[None]:
    """Torch's exporters warn of themselves."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def export(module: torch.nn.Module, path: Path, given: torch.Tensor, **more) -> Path:
    """By torch's own exporters, without a free batch axis unless `more` asks for one."""
    with quietly():
        options = {"dynamo": False, "opset_version": 13, **more}
        if options["dynamo"]:
            options |= {"external_data": False, "verbose": False}
        torch.onnx.export(module, (given,), path, **options)
    return path


def write(kind: str, folder: Path) -> Path:
    """The small network with an input of a kind."""
    folder.mkdir(parents=True, exist_ok=True)
    path, floats = folder / f"{kind}.onnx", torch.zeros(2, 3, CROP, CROP)
    if kind == "float_nchw":
        axes = {"images": {0: "batch"}}
        return export(network(), path, floats, input_names=["images"], dynamic_axes=axes)
    if kind == "float_nchw_of_one":
        return export(network(), path, floats[:1], dynamo=True, opset_version=18)
    last = kind == "uint8_nhwc"
    given = torch.zeros((2, CROP, CROP, 3) if last else (2, 3, CROP, CROP), dtype=torch.uint8)
    module = OfBytes(network(), channels_last=last)
    return export(module, path, given, input_names=["x"], dynamic_axes={"x": {0: "n"}})


KINDS = ("float_nchw", "float_nchw_of_one", "uint8_nhwc", "uint8_nchw")


def entry(path: Path, *, crop: int | None = CROP, **more) -> BackboneParams:
    """An entry of params.yaml; crop: of the recipe, None for no recipe."""
    if crop is not None:
        recipe = {**RECIPE, "crop": crop, "resize": crop + 3}
        if path.name.startswith("uint8"):
            recipe |= {"mean": [0.0] * 3, "std": [1.0] * 3}
        more.setdefault("preprocessing", recipe)
    return BackboneParams(
        source="onnx", weights=f"file:{path}", sha256=files.sha256_of(path), **more
    )


def save(path: Path, nodes, shape, *, constants=None, outputs=("y",), **more) -> Path:
    """A graph of nodes, each a kind, inputs, outputs and attributes; its input is `x`.

    more: `dtype`, `opset`, `ir`, and `domains` of operators of others.
    """
    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **rest) for kind, given, made, rest in nodes],
        "a graph of /home/somebody",
        [helper.make_tensor_value_info("x", more.get("dtype", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [
            numpy_helper.from_array(np.asarray(values), name)
            for name, values in (constants or {}).items()
        ],
    )
    opsets = [helper.make_opsetid("", more.get("opset", 13))]
    opsets += [helper.make_opsetid(domain, 1) for domain in more.get("domains", ())]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=more.get("ir", 8), producer_name="somebody"
    )
    onnx.save(model, path)
    return path
