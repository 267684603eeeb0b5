"""A foreign file in a bundle's place: refused in one line, nothing of it run, nothing beside it read."""

import json
import os
import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import predictor
from pipeline.errors import ConfigurationError, HeadstartError, InputError
from pipeline.predictor import contents, record, sessions
from pipeline.predictor.contents import Refused
from pipeline.predictor.messages import MESSAGES, Banned, Inside
from pipeline.predictor.wire import BYTES, VARINT, WireError, parts, varint
from tests import bundle_files


@pytest.fixture
def never(monkeypatch):
    """No session is to be opened."""

    def opened(*_, **__):
        raise AssertionError("a session was opened")

    monkeypatch.setattr(sessions, "Session", opened)


def refused(model, folder) -> str:
    """The one line that a model is refused with."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(InputError) as caught:
        predictor.open(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def external(where="../../../etc/passwd", **more) -> TensorProto:
    """A tensor whose values lie elsewhere."""
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": where, "offset": "0", "length": "16", **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["made"], value=tensor)


def graph_of(*nodes, initializers=()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inner", [], [], initializers)


def sparse(values: TensorProto) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.arange(4), "indices")
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[9])


def in_branch(inner) -> onnx.NodeProto:
    return helper.make_node("If", ["yes"], ["made"], then_branch=inner, else_branch=graph_of())


def listed(*tensors) -> onnx.NodeProto:
    node = helper.make_node("Odd", [], ["made"])
    node.attribute.add(name="many", type=onnx.AttributeProto.TENSORS).tensors.extend(tensors)
    return node


def nested(node: onnx.NodeProto, depth: int) -> onnx.NodeProto:
    for _ in range(depth):
        node = in_branch(graph_of(node))
    return node


def function(*nodes, domain="") -> onnx.FunctionProto:
    return helper.make_function(
        domain, "Own", [], ["made"], list(nodes), [helper.make_opsetid("", 18)]
    )


def training(where: str) -> onnx.TrainingInfoProto:
    made = onnx.TrainingInfoProto()
    getattr(made, where).CopyFrom(graph_of(constant(external())))
    return made


def many_graphs(*graphs) -> onnx.NodeProto:
    node = helper.make_node("Odd", [], ["made"])
    node.attribute.add(name="all", type=onnx.AttributeProto.GRAPHS).graphs.extend(graphs)
    return node


PLACES = {
    "initializer": lambda model: model.graph.initializer.append(external()),
    "of an absolute path": lambda model: model.graph.initializer.append(external("/etc/passwd")),
    "of a neighbour": lambda model: model.graph.initializer.append(external("weights.bin")),
    "constant": lambda model: model.graph.node.append(constant(external())),
    "list of tensors": lambda model: model.graph.node.append(listed(external())),
    "branch": lambda model: model.graph.node.append(in_branch(graph_of(constant(external())))),
    "branch's initializer": lambda model: model.graph.node.append(
        in_branch(graph_of(initializers=[external()]))
    ),
    "loop in a branch": lambda model: model.graph.node.append(
        in_branch(graph_of(helper.make_node("Loop", [], [], body=graph_of(constant(external())))))
    ),
    "list of graphs": lambda model: model.graph.node.append(
        many_graphs(graph_of(), graph_of(constant(external())))
    ),
    "twenty deep": lambda model: model.graph.node.append(nested(constant(external()), 20)),
    "values of a sparse initializer": lambda model: model.graph.sparse_initializer.append(
        sparse(external())
    ),
    "sparse constant": lambda model: model.graph.node.append(
        helper.make_node("Constant", [], ["made"], sparse_value=sparse(external()))
    ),
    "function": lambda model: model.functions.append(function(constant(external()))),
    "function's branch": lambda model: model.functions.append(
        function(in_branch(graph_of(constant(external()))))
    ),
    "training, at first": lambda model: model.training_info.append(training("initialization")),
    "training, each step": lambda model: model.training_info.append(training("algorithm")),
}


@pytest.mark.parametrize("place", PLACES)
def test_open__external_data_anywhere__is_refused_before_anything_runs(tmp_path, never, place):
    model = bundle_files.tiny_model()
    PLACES[place](model)
    text = refused(model, tmp_path / "m")
    words = ("external data", "sparse tensors", "functions of its own", "training information")
    assert any(f"it holds {one}, which a bundle does not" in text for one in words)


def test_open__external_data_told_by_half__is_refused(tmp_path, never):
    """Entries without the location that makes them count, and the location without entries."""
    for field in ("data_location", "external_data"):
        model, tensor = bundle_files.tiny_model(), external()
        tensor.ClearField(field)
        model.graph.initializer.append(tensor)
        assert "external data" in refused(model, tmp_path / field)


def test_open__external_data_after_a_harmless_twin__is_refused(tmp_path, never):
    """Of a message that is there twice, protobuf joins both."""
    model, harmful = bundle_files.tiny_model(), bundle_files.tiny_model()
    harmful.graph.initializer.append(external())
    both = model.SerializeToString() + onnx.ModelProto(graph=harmful.graph).SerializeToString()
    assert "more than one graph" in refused(both, tmp_path / "graphs")
    attribute = constant(numpy_helper.from_array(np.zeros(4, np.float32))).attribute[0]
    twice = attribute.SerializeToString() + onnx.AttributeProto(t=external()).SerializeToString()
    node = onnx.NodeProto(op_type="Constant").SerializeToString() + bytes([5 << 3 | 2])
    node += bytes([len(twice) & 0x7F | 0x80, len(twice) >> 7]) + twice
    assert onnx.NodeProto.FromString(node).attribute[0].t.external_data  # so protobuf sees it
    model.graph.node.append(onnx.NodeProto.FromString(node))
    assert "external data" in refused(model, tmp_path / "tensors")


@pytest.mark.parametrize("domain", ["com.microsoft", "evil", "ai.onnx.ml", " "])
def test_open__operators_of_another_domain__are_refused(tmp_path, never, domain):
    inside, imported = bundle_files.tiny_model(), bundle_files.tiny_model()
    odd = helper.make_node("EPContext", [], ["made"], domain=domain)
    inside.graph.node.append(in_branch(graph_of(odd)))
    imported.opset_import.add(domain=domain, version=1)
    for number, model in enumerate((inside, imported)):
        assert f"operators of the domain {domain!r}" in refused(model, tmp_path / str(number))


def test_open__shape_bombs__are_refused(tmp_path, never):
    for number, dims in enumerate(([1 << 40], [1 << 31] * 3, [-1], [1] * 100)):
        model = bundle_files.tiny_model()
        model.graph.initializer.append(
            TensorProto(name="bomb", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(4))
        )
        assert "it holds a tensor of" in refused(model, tmp_path / str(number))


def test_open__too_deep_or_too_many_parts__are_refused(tmp_path, never, monkeypatch):
    model = bundle_files.tiny_model()
    model.graph.node.append(nested(constant(TensorProto()), 29))
    assert "messages within each other" in refused(model, tmp_path / "deep")
    monkeypatch.setattr(contents, "MOST_PARTS", 100)
    assert "more than 100 parts" in refused(bundle_files.tiny_model(), tmp_path / "many")


def test_open__onnxruntimes_own_format__is_not_taken(tmp_path, never):
    assert "no ONNX file" in refused(b"\x20\0\0\0ORTM" + bytes(100), tmp_path / "ort")
    hidden = bundle_files.tiny_model()
    content = b"\x12\x06..ORTM" + hidden.SerializeToString()  # a producer's name at that place
    assert contents.metadata(content)["backbone"] == "tiny"


def test_open__hidden_mark_of_another_format__is_read_as_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x12\x06..ORTM" + bundle_files.tiny_model().SerializeToString())
    assert predictor.open(path).classes == bundle_files.CLASSES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"", "truncated or no ONNX file"),
        (b"\x80\x02}q\x00.", "no ONNX file"),  # a pickle
        (b"PK\x03\x04" + bytes(99), "no ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "no ONNX file"),
        (b"<!DOCTYPE html><html>", "no ONNX file"),
        (bytes(500), "no ONNX file"),
        (b"\xff" * 500, "no ONNX file"),
    ],
)
def test_open__what_is_no_onnx_file__is_refused(tmp_path, never, content, words):
    assert words in refused(content, tmp_path / "m")


def test_open__truncated_anywhere__is_refused(tmp_path, never):
    whole = bundle_files.tiny_model().SerializeToString()
    path = tmp_path / "model.onnx"
    for end in random.Random(0).sample(range(len(whole)), 400):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="truncated or no ONNX file|is no bundle"):
            predictor.open(path)


def test_metadata__flipped_bytes__end_in_a_refusal_or_in_texts():
    """And whatever protobuf still reads and passes, has nothing that is refused."""
    whole, chance = bundle_files.tiny_model(), random.Random(1)
    whole.graph.node.append(in_branch(graph_of(constant(numpy_helper.from_array(np.zeros(3))))))
    content, passed = whole.SerializeToString(), 0
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            contents.metadata(bytes(changed))
        except (WireError, Refused):
            continue
        passed += 1
        try:
            read = onnx.ModelProto.FromString(bytes(changed))
        except Exception:
            continue
        assert not read.functions
        assert not read.training_info
        tensors = [*read.graph.initializer, *read.graph.node[-1].attribute[0].g.initializer]
        assert not any(tensor.external_data or tensor.data_location for tensor in tensors)
        assert all(node.domain in contents.DOMAINS for node in read.graph.node)
    assert passed > 300


def test_messages__are_those_of_onnx__field_by_field():
    """A field that a newer ONNX adds is unknown here, so refused; this tells that one came."""
    kinds = {1: {"double"}, 2: {"float"}, 3: {"varint"}, 4: {"varint"}, 5: {"varint"}}
    kinds |= {9: {"bytes"}, 12: {"bytes"}, 11: {"bytes"}, 14: {"varint"}}
    names = {VARINT: "varint", BYTES: "bytes", 5: "float", 1: "double"}
    for message, table in MESSAGES.items():
        fields = {field.number: field for field in getattr(onnx, message).DESCRIPTOR.fields}
        assert set(table) == set(fields), message
        for number, said in table.items():
            kind = fields[number].message_type.name if fields[number].message_type else ""
            if isinstance(said, Inside):
                assert said.kind == kind
            elif not isinstance(said, Banned):
                found = {names[wire] for wire in said}
                packed = {"bytes"} if len(found) > 1 else set()
                assert found == kinds[fields[number].type] | packed, (message, number)


def test_messages__what_is_skipped__holds_no_tensor_node_or_function():
    walked = {getattr(onnx, name).DESCRIPTOR.full_name for name in MESSAGES}
    walked |= {onnx.SparseTensorProto.DESCRIPTOR.full_name, onnx.FunctionProto.DESCRIPTOR.full_name}
    walked -= {onnx.StringStringEntryProto.DESCRIPTOR.full_name}

    def below(descriptor, seen):
        for field in descriptor.fields:
            inner = field.message_type
            if inner and inner.full_name not in seen:
                seen.add(inner.full_name)
                below(inner, seen)
        return seen

    for message, table in MESSAGES.items():
        fields = {field.number: field for field in getattr(onnx, message).DESCRIPTOR.fields}
        for number, said in table.items():
            inner = fields[number].message_type
            if inner and not isinstance(said, Inside | Banned):
                assert not (below(inner, {inner.full_name}) & walked), (message, number)


def test_metadata__of_every_real_bundle__is_what_onnx_reads():
    for known, tta in ((True, None), (False, "flip")):
        model = bundle_files.tiny_model(known=known, tta=tta)
        read = {one.key: one.value for one in model.metadata_props}
        assert contents.metadata(model.SerializeToString()) == read


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format_version", "2", "format_version is 2, and this headstart knows 1"),
        ("classes", "[]", "classes is no list of different names"),
        ("classes", '["a", "a"]', "classes is no list"),
        ("classes", "[" * 100_000, "classes is no list"),
        ("preprocessing", "{}", "resize"),
        ("preprocessing", "3", "in its metadata"),
        ("tta", "sideways", "tta is 'sideways'"),
        ("dim", "100000000000", "dim is 100000000000"),
        ("dim", "true", "dim is True"),
        ("abstention", '"soon"', "in its metadata"),
        ("abstention", '{"threshold": NaN}', "abstention.threshold is nan, not 0 to 1"),
        ("classes", '["a", "\\ud800"]', "classes is no list of different names"),
    ],
)
def test_open__metadata_that_cannot_be__is_no_bundle(tmp_path, never, key, value, words):
    model = bundle_files.tiny_model()
    next(one for one in model.metadata_props if one.key == key).value = value
    assert words in refused(model, tmp_path / "m")


@pytest.mark.parametrize("side", [0, 100_000, -1, 2.5])
def test_open__absurd_sides__are_no_bundle(tmp_path, never, side):
    recipe = {**bundle_files.RECIPE.as_dict(), "crop": side}
    model = bundle_files.tiny_model()
    said = next(one for one in model.metadata_props if one.key == "preprocessing")
    said.value = json.dumps(recipe)
    assert "preprocessing.crop is" in refused(model, tmp_path / "m")


def test_open__a_frozen_backbone__is_told_from_a_bundle(tmp_path, never):
    text = refused(bundle_files.tiny_backbone(), tmp_path / "m")
    assert "is no bundle: its metadata has no format_version, backbone, head" in text
    assert "'headstart predict' wants a bundle" in text


def test_open__inputs_or_outputs_other_than_said__are_refused(tmp_path):
    said = {"dim": "13", "tta": "flip", "classes": '["one", "two"]'}
    for key, value in said.items():
        model = bundle_files.tiny_model()
        next(one for one in model.metadata_props if one.key == key).value = value
        assert "where its metadata means" in refused(model, tmp_path / key)
    model = bundle_files.tiny_model()
    del model.graph.output[2]
    assert "is no bundle: it has 3 inputs and outputs, not 4" in refused(model, tmp_path / "less")


def test_open__a_graph_that_onnxruntime_does_not_run__is_one_line(tmp_path):
    model = bundle_files.tiny_model()
    model.graph.node[0].op_type = "Nonsense"
    assert "does not run it (" in refused(model, tmp_path / "m")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_open__no_plain_file__is_one_line_and_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "model.onnx"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(ConfigurationError, match="--model"):
        predictor.open(path)


def test_open__larger_than_an_onnx_file_can_be__is_not_read(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(record.LARGEST + 1)
    with pytest.raises(HeadstartError, match="larger than 2 GiB"):
        predictor.open(path)


def test_wire__numbers_and_lengths__are_bounded():
    assert varint(b"\xac\x02", 0, 2) == (300, 2)
    for wrong in (b"\x80", b"\xff" * 11, b""):
        with pytest.raises(WireError):
            varint(wrong, 0, len(wrong))
    for wrong in (b"\x0a\x05abc", b"\x0b", b"\x0d\0\0", b"\x09\0", b"\x0a\xff\xff\xff\xff\x7f"):
        with pytest.raises(WireError):
            list(parts(wrong, 0, len(wrong)))
