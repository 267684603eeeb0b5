"""A user's ONNX file: read without following it elsewhere, and what it takes in."""

from pathlib import Path

import onnx
import onnx.inliner
from onnx import TensorProto

from pipeline.architectures import graphs
from pipeline.architectures.ends import TYPES, Taken
from pipeline.errors import InputError

OLDEST = 7
"""The first opset whose arithmetic broadcasts; onnxruntime takes none before it."""

LARGEST = 2**31 - 1
"""Bytes of a protobuf message."""

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Of the operators that onnxruntime brings."""

CHANNELS, IMAGE_AXES = 3, 4


def read(path: Path, at: str) -> onnx.ModelProto:
    """The model of a file, its functions put where they are called. Raises InputError.

    Nothing beside the file is opened, whatever it names.
    """
    wrong = f"{at}.weights: {path.name}"
    if path.stat().st_size > LARGEST:
        raise InputError(f"{wrong} is larger than 2 GiB, which no ONNX file can be")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - protobuf raises a kind of its own
        raise InputError(
            f"{wrong} cannot be read, it is truncated or no ONNX file ({shortly(error)}); get it again"
        ) from None
    if not model.graph.node or not model.opset_import:
        raise InputError(f"{wrong} is truncated or no ONNX file, parts are missing; get it again")
    _refuse(model, wrong)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model


def _refuse(model: onnx.ModelProto, wrong: str) -> None:
    """Raise InputError for what a frozen file must not hold, or onnxruntime does not know."""
    if any(
        tensor.external_data or tensor.data_location == TensorProto.EXTERNAL
        for tensor in graphs.messages(model, TensorProto)
    ):
        raise InputError(
            f"{wrong} holds external data; save it as one file: "
            "onnx.save(model, path, save_as_external_data=False)"
        )
    own = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in graphs.messages(model, onnx.NodeProto)}
    if foreign := sorted(
        f"{domain}.{kind}" for domain, kind in used - own if domain not in DOMAINS
    ):
        raise InputError(
            f"{wrong} needs custom operators ({', '.join(foreign[:3])}), which onnxruntime does not "
            "have; export it without them"
        )
    if graphs.opset(model) < OLDEST:
        raise InputError(
            f"{wrong} has opset {graphs.opset(model)}, older than {OLDEST}; "
            "convert it with onnx.version_converter.convert_version"
        )
    if model.graph.sparse_initializer:
        raise InputError(f"{wrong} holds sparse tensors; save them as dense ones")
    try:
        graphs.check(model)
    except Exception as error:  # noqa: BLE001 - it raises several kinds
        raise InputError(f"{wrong} is no valid ONNX file ({shortly(error)})") from None


def taken_in(model: onnx.ModelProto, name: str, at: str) -> Taken:
    """What it takes in; name: of the file. Raises InputError where that is no images."""
    wrong = f"{at}.weights: {name}"
    constant = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constant]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs[:3]) or "none"
        raise InputError(f"{wrong} has {len(inputs)} inputs ({names}); a backbone has one, images")
    (given,) = inputs
    tensor = given.type.tensor_type
    dims = [one.dim_value or None for one in tensor.shape.dim]
    said = f"its input {given.name!r} is {_kind(tensor.elem_type)} {_shown(dims)}"
    types = {number: dtype for dtype, number in TYPES.items()}
    if tensor.elem_type not in types or len(dims) != IMAGE_AXES:
        raise InputError(
            f"{wrong}: {said}; images are float32, float16 or uint8, (N, 3, H, W) or (N, H, W, 3)"
        )
    last = dims[1] != CHANNELS and (dims[3] == CHANNELS or dims[1] not in (None, CHANNELS))
    channels, (height, width) = (dims[3], dims[1:3]) if last else (dims[1], dims[2:])
    if channels not in (CHANNELS, None):
        raise InputError(f"{wrong}: {said}; images have 3 channels")
    if height and width and height != width:
        raise InputError(f"{wrong}: {said}; images are cut to squares")
    return Taken(given.name, types[tensor.elem_type], last, height or width, dims[0])


def licence(model: onnx.ModelProto) -> str:
    """As the file itself states it."""
    notes = {one.key.lower(): one.value for one in model.metadata_props}
    return " ".join((notes.get("license") or notes.get("licence") or "not stated").split())[:200]


def shortly(error: Exception) -> str:
    """The first line of what onnx, protobuf or onnxruntime say."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rpartition(" : ")[2] if lines else type(error).__name__
    return text[:160]


def _kind(number: int) -> str:
    return str(TensorProto.DataType.Name(number)).lower()


def _shown(dims: list[int | None]) -> str:
    return f"({', '.join(str(one or '?') for one in dims)})"
