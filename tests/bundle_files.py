"""Bundles for the tests, made by hand as `bundle` makes them: a backbone, rounding, a linear head."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline import files
from pipeline.frozen import pixel_probe
from pipeline.images import Preprocessing
from pipeline.images.views import TTA

CROP = 24
RECIPE = Preprocessing(27, CROP, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ("ant", "bee", "cat")
DIM = 12


def tiny_backbone(seed: int = 0) -> onnx.ModelProto:
    """(N, 24, 24, 3) uint8 -> (N, 12): a strided convolution, and the mean over its places."""
    random = np.random.default_rng(seed)
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["real", "middle"], ["centred"]),
        helper.make_node("Div", ["centred", "middle"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "filters"], ["maps"], strides=[4, 4]),
        helper.make_node("Relu", ["maps"], ["rectified"]),
        helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embeddings"]),
    ]
    constants = {
        "middle": np.array(127.5, np.float32),
        "filters": random.standard_normal((DIM, 3, 6, 6)).astype(np.float32) / 10,
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", CROP, CROP, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", DIM])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def record(recipe=RECIPE, classes=CLASSES, dim=DIM, tta=None, **fields) -> dict:
    """What metadata_props and model.json say of the bundle."""
    return {
        "format_version": 1,
        "backbone": "tiny",
        "head": "logistic",
        "kind": "logistic",
        "source": "pixels",
        "fingerprint": "f" * 64,
        "fingerprints": {"embeddings": "f" * 64},
        "layers": ["penultimate"],
        "dim": dim,
        "storage": "float16",
        "precision": "float32",
        "runtime": "onnx",
        "classes": list(classes),
        "preprocessing": recipe.as_dict(),
        "tta": tta,
        "pixel_probe": pixel_probe(recipe),
        "enhance": [],
        "temperature": None,
        "abstention": {"wanted": 0.9, "threshold": 0.5, "sure": 0.7},
        "licence": "none",
        "weights": "random",
        "metrics": {"val": {"accuracy": 0.5}, "test": {"accuracy": 0.5}},
        "hashes": {},
        "best": {"backbone": "tiny", "head": "logistic"},
        "skipped": [],
    } | fields


def model(
    backbone: onnx.ModelProto, weights: np.ndarray, bias: np.ndarray, said: dict, *, known=True
) -> onnx.ModelProto:
    """The bundle as a message. weights: (D, K), bias: (K,); known: whether it has probabilities."""
    (given,), (made,) = backbone.graph.input, backbone.graph.output
    dims = [one.dim_value for one in given.type.tensor_type.shape.dim[1:]]
    views = TTA.get(said["tta"] or "", 0)
    nodes, constants = list(backbone.graph.node), list(backbone.graph.initializer)

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    raw = made.name
    if views:
        for node in nodes:
            node.input[:] = ["flat_images" if one == "images" else one for one in node.input]
        shape = constant("flat_shape", np.array([-1, *dims], np.int64))
        nodes.insert(0, helper.make_node("Reshape", ["images", shape], ["flat_images"]))
        shape = constant("view_shape", np.array([-1, views, said["dim"]], np.int64))
        axes = constant("view_axis", np.array([1], np.int64))
        nodes.append(helper.make_node("Reshape", [raw, shape], ["of_views"]))
        nodes.append(helper.make_node("ReduceMean", ["of_views", axes], ["mean"], keepdims=0))
        raw = "mean"
    constant("weights", weights.astype(np.float32))
    constant("bias", bias.astype(np.float32))
    nodes += [
        helper.make_node("Cast", [raw], ["stored"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["stored"], ["embedding"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["embedding", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    if not known:
        nodes = [node for node in nodes if node.op_type != "Softmax"]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])]
    for name, size in (("probabilities", len(bias)), ("embedding", said["dim"])):
        if known or name == "embedding":
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]))
    axes = ["N", views, *dims] if views else ["N", *dims]
    graph = helper.make_graph(
        nodes,
        "bundle",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, axes)],
        outputs,
        constants,
    )
    whole = helper.make_model(
        graph, opset_imports=backbone.opset_import, ir_version=backbone.ir_version
    )
    for key, value in said.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        whole.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(whole)
    return whole


def tiny_model(*, known=True, tta=None, seed=0, **fields) -> onnx.ModelProto:
    """The tiny backbone and a random head."""
    random = np.random.default_rng(seed + 1)
    said = record(tta=tta, **fields)
    size = len(said["classes"])
    weights, bias = random.standard_normal((DIM, size)) * 4, random.standard_normal(size)
    return model(tiny_backbone(seed), weights, bias, said, known=known)


def write(whole: onnx.ModelProto, folder: Path, *, beside: bool = True) -> Path:
    """model.onnx, and model.json beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(whole.SerializeToString())
    if beside:
        said = {one.key: _value(one.value) for one in whole.metadata_props}
        files.write_json(
            path.with_name("model.json"),
            {**said, "file": path.name, "sha256": files.sha256_of(path)},
        )
    return path


def _value(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return text


def tiny(folder: Path, **fields) -> Path:
    """A bundle of the tiny model on disk."""
    return write(tiny_model(**fields), folder)


def of_frozen(backbone: Path, folder: Path, classes=("even", "odd")) -> Path:
    """The bundle of a frozen backbone's folder and a linear head of random coefficients."""
    from pipeline import frozen

    kept, random = frozen.load(backbone), np.random.default_rng(0)
    weights = random.standard_normal((kept.dim, len(classes))) / 10
    said = record(
        kept.preprocessing, classes, kept.dim, backbone=kept.name, fingerprint=kept.fingerprint
    )
    return write(model(onnx.load(kept.model), weights, np.zeros(len(classes)), said), folder)


def of_logistic(backbone: Path, head: Path, folder: Path) -> Path:
    """The bundle of a frozen backbone's folder and the joblib of a logistic head of two classes.

    Scaling and coefficients become one linear map, as they are of a vector x: its last fit is
    `coef @ ((x - mean) / scale) + intercept`.
    """
    import joblib

    from pipeline import frozen

    kept, fitted = frozen.load(backbone), joblib.load(head)
    scaler, linear = (step for _, step in fitted["train_val"].steps)
    slopes = linear.coef_[0] / scaler.scale_
    level = linear.intercept_[0] - slopes @ scaler.mean_
    weights, bias = np.stack([np.zeros_like(slopes), slopes], axis=1), np.array([0, level])
    said = record(
        kept.preprocessing,
        fitted["classes"],
        kept.dim,
        backbone=kept.name,
        fingerprint=kept.fingerprint,
    )
    return write(model(onnx.load(kept.model), weights, bias, said), folder)
