"""A small finished run for the tests of bundles: a frozen network of two layers, photos, heads, figures."""

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pipeline import dataset, embeddings, evaluation, files, frozen, heads, selection
from pipeline.dataset import Labels, Split
from pipeline.frozen import FrozenBackbone
from pipeline.images import Preprocessing
from pipeline.images.views import Views, render
from pipeline.outputs import FrozenLayer, layers_of, separated, views_of
from pipeline.params import HeadParams
from pipeline.runtimes import onnx as runtime
from pipeline.taps import Tap
from tests.conftest import draw

CROP, DIMS = 16, (24, 12)
RECIPE = Preprocessing(20, CROP, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PER_SPLIT = {Split.TRAIN: 14, Split.VAL: 6, Split.TEST: 6}


def network(*, opset: int = 18, taken: str = "flat") -> onnx.ModelProto:
    """(N, 16, 16, 3) uint8 -> two layers of tanh units. taken: the name of a tensor within."""
    random, side = np.random.default_rng(3), CROP * CROP * 3
    constants = {
        "most": np.array(255, np.float32),
        "shape": np.array([-1, side], np.int64),
        "half": np.array(0.5, np.float32),
        "first": (random.normal(size=(side, DIMS[0])) / np.sqrt(side) * 4).astype(np.float32),
        "second": (random.normal(size=DIMS) * 1.5 / np.sqrt(DIMS[0])).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["real", "most"], ["share"]),
        helper.make_node("Sub", ["share", "half"], ["centred"]),
        helper.make_node("Reshape", ["centred", "shape"], [taken]),
        helper.make_node("MatMul", [taken, "first"], ["low"]),
        helper.make_node("Tanh", ["low"], ["embeddings"]),
        helper.make_node("MatMul", ["embeddings", "second"], ["high"]),
        helper.make_node("Tanh", ["high"], ["embeddings_1"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", CROP, CROP, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", dim])
        for name, dim in zip(("embeddings", "embeddings_1"), DIMS, strict=True)
    ]
    told = [helper.make_tensor_value_info(taken, TensorProto.FLOAT, ["N", side])]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "backbone", [given], outputs, tensors, value_info=told)
    version = helper.make_opsetid("", opset)
    return helper.make_model(graph, opset_imports=[version], ir_version=8)


def freeze(folder: Path, *, source: str = "onnx", tta: str | None = None, **model):
    """That network as a frozen backbone, named as its folder. model: of `network`."""
    folder.mkdir(parents=True)
    content = network(**model).SerializeToString(deterministic=True)
    (folder / "model.onnx").write_bytes(content)
    layers = tuple(
        FrozenLayer(Tap(name, name, "flatten"), dim)
        for name, dim in zip(("low", "high"), DIMS, strict=True)
    )
    fields = {
        "source": source, "architecture": "tiny", "layer": "low", "pooling": "flatten",
        "package": "none", "weights_sha256": "0", "preprocessing": RECIPE.as_dict(),
        "runtime": "onnx", "precision": "float32", "storage": "float16",
        "pixel_probe": frozen.pixel_probe(RECIPE, Views(tta=tta)),
    } | ({"tta": tta} if tta else {})  # fmt: skip
    digest = files.sha256_of_bytes(content)
    made = FrozenBackbone(
        folder, folder.name, "model.onnx", digest, DIMS[0], "file:tiny.onnx", "CC0", fields, layers
    )
    frozen.write(made)
    return made


@dataclass
class Desk:
    """A run's artifacts. classes: how many; kinds: of the heads, each named as its kind;
    options: of entries under heads; sources: of the backbones, by name; model: of `network`;
    photos: bytes by path.
    """

    artifacts: Path
    classes: int = 3
    kinds: tuple[str, ...] = ("logistic",)
    options: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=lambda: {"tiny": "onnx"})
    tta: str | None = None
    model: dict[str, object] = field(default_factory=dict)
    photos: dict[str, bytes] = field(default_factory=dict)

    def build(self) -> "Desk":
        labels = self._labels()
        counts = {
            str(split): dict.fromkeys(sorted(set(labels.label)), PER_SPLIT[split])
            for split in Split
        }
        summary = {"images": len(labels.path), "labelled": len(labels.path), "notes": []}
        files.write_json(self.artifacts / "dataset" / "summary.json", {**summary, "splits": counts})
        dataset.write_labels(self.artifacts / "dataset" / "labels.parquet", labels)
        for name, source in self.sources.items():
            self._backbone(name, source, labels)
        self.evaluate()
        return self

    def evaluate(self) -> None:
        results = evaluation.evaluate(self.artifacts, self.sources, list(self.kinds))
        evaluation.write(self.artifacts / "evaluation", results)

    def _labels(self) -> Labels:
        rows = []
        for split in Split:
            for kind in range(self.classes):
                for number in range(PER_SPLIT[split]):
                    path, buffer = f"{split}/{kind}/{number}.png", io.BytesIO()
                    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
                    picture = draw(seed, kind % 4, (30, 24 + kind))
                    picture.point([max(0, level - 18 * kind) for level in range(256)] * 3).save(
                        buffer, "PNG"
                    )
                    self.photos[path] = buffer.getvalue()
                    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
                    rows.append((path, digest, f"class {kind}", str(split), None))
        path, sha256, label, split, group = (
            np.array([*column, None], dtype=object)[:-1]
            for column in zip(*sorted(rows), strict=True)
        )
        return Labels(path, dataset.digests(sha256), label, split, group)

    def _backbone(self, name: str, source: str, labels: Labels) -> None:
        backbone = freeze(
            self.artifacts / "backbones" / name, source=source, tta=self.tta, **self.model
        )
        views, outputs = views_of(backbone.outputs), backbone.outputs
        pixels = np.concatenate(
            [render(self.photos[path], "", RECIPE, views) for path in labels.path]
        )
        made = runtime.load(backbone, "cpu", layers=layers_of(outputs)).embed(pixels)
        vectors = separated(made, outputs, views, backbone.dims)
        order = np.argsort(labels.sha256)
        blocks = [[vectors[output][order].astype(np.float16)] for output in outputs]
        path = self.artifacts / "embeddings" / f"{name}.h5"
        path.parent.mkdir(exist_ok=True)
        embeddings.write(path, backbone, [labels.sha256[order]], blocks, rows=len(order))
        cached = embeddings.open(path)
        for kind in self.kinds:
            entry = HeadParams(kind=kind, **self.options)
            trained = selection.train(kind, entry, labels, cached)
            heads.save(self.artifacts / "heads" / name, *trained)


def run(model: Path, pixels: np.ndarray) -> list[np.ndarray]:
    """What a bundle says, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": pixels})
