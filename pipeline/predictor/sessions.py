"""A session of onnxruntime for a bundle, which is checked to be what its record says."""

from typing import Any

import onnxruntime
from onnxruntime import InferenceSession as Session

from pipeline import gpus
from pipeline.errors import ConfigurationError, InputError, ResourceError
from pipeline.images import Pixels
from pipeline.predictor.record import Bundle
from pipeline.runtimes.sessions import CUDA, PROVIDERS, has_cuda, is_out_of_memory

__all__ = ["Session", "choose_device", "has_probabilities", "open_session", "run"]

_UINT8, _INT64, _FLOAT = "tensor(uint8)", "tensor(int64)", "tensor(float)"


def choose_device(wanted: str) -> str:
    """`cpu` or `cuda`, of `auto` or one of these. Raises ConfigurationError where it is not there."""
    if wanted not in ("auto", *PROVIDERS):
        raise ConfigurationError(f"device is {wanted!r}; write auto, cpu or cuda")
    if wanted == "cpu":
        return "cpu"
    built = has_cuda()
    if built and gpus.count():
        return "cuda"
    if wanted == "cuda":
        reason = "no GPU is seen" if built else "the installed onnxruntime has no CUDA"
        raise ConfigurationError(f"device is cuda, but {reason} here; write --device cpu")
    return "cpu"


def open_session(content: bytes, bundle: Bundle, device: str) -> Session:
    """A session of one thread, or on the first GPU; content: the file's bytes.

    Raises InputError where onnxruntime cannot run it or it is not what its record says,
    ConfigurationError where the device does not work.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never its own format
    own = CUDA if device == "cuda" else {}
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA's libraries lie in wheels, out of the loader's path
    try:
        session = Session(content, options, providers=[(PROVIDERS[device], own)], enable_fallback=0)
    except Exception as error:  # noqa: BLE001 - onnxruntime has a dozen kinds, without a common one
        raise InputError(
            f"{bundle.path}: onnxruntime {onnxruntime.__version__} does not run it "
            f"({_shortly(error)}); run 'dvc repro -f bundle', or install a newer onnxruntime"
        ) from None
    if session.get_providers()[0] != PROVIDERS[device]:
        raise ConfigurationError(
            f"{PROVIDERS[device]} does not run here, 'headstart doctor' tells why; "
            "mend that or write --device cpu"
        )
    _check(session, bundle)
    return session


def run(session: Session, images: Pixels, bundle: Bundle) -> list[Any]:
    """Its outputs for a batch. Raises ResourceError where memory runs out, else InputError."""
    try:
        made: list[Any] = session.run(None, {"images": images})
    except Exception as error:  # noqa: BLE001 - see `open_session`
        told = f"{bundle.path}: onnxruntime gave up on {len(images)} images ({_shortly(error)})"
        if is_out_of_memory(str(error)) or "bad_alloc" in str(error):
            raise ResourceError(f"{told}; lower --threads, or write --device cpu") from None
        raise InputError(f"{told}; run 'dvc repro -f bundle'") from None
    return made


def has_probabilities(session: Session) -> bool:
    """Whether its head gives some."""
    return any(output.name == "probabilities" for output in session.get_outputs())


def _check(session: Session, bundle: Bundle) -> None:
    """Raise InputError where what goes in and comes out is not what the record says."""
    known, classes = has_probabilities(session), len(bundle.classes)
    wanted: list[tuple[str, str, tuple[int, ...]]] = [("images", _UINT8, bundle.shape)]
    wanted += [("label", _INT64, ())]
    wanted += [("probabilities", _FLOAT, (classes,))] * known
    wanted += [("embedding", _FLOAT, (bundle.dim,))]
    found = [_said(one) for one in (*session.get_inputs(), *session.get_outputs())]
    for said, meant in zip(found, wanted, strict=False):
        if said != meant:
            raise InputError(_mismatch(bundle, said, meant))
    if len(found) != len(wanted):
        raise InputError(
            f"{bundle.path} is no bundle: it has {len(found)} inputs and outputs, not {len(wanted)}"
            "; run 'dvc repro -f bundle'"
        )


def _said(one: Any) -> tuple[str, str, tuple[int, ...]]:
    """Name, type and shape without the first axis, which is the images'."""
    return one.name, one.type, tuple(one.shape[1:])


def _mismatch(bundle: Bundle, said: tuple[Any, ...], meant: tuple[Any, ...]) -> str:
    shown = [
        f"{name} {kind} (N{''.join(f', {size}' for size in shape)})"
        for name, kind, shape in (said, meant)
    ]
    return (
        f"{bundle.path} is no bundle: it has {shown[0]} where its metadata means {shown[1]}; "
        "run 'dvc repro -f bundle'"
    )


def _shortly(error: Exception) -> str:
    """The last part of what onnxruntime says, which is the cause."""
    return " ".join(str(error).split()).rpartition(" : ")[2][:160] or type(error).__name__
