"""Whether onnxruntime and torch really run, on the device that params.yaml asks for."""

from collections.abc import Iterator
from importlib import metadata
from typing import Any

from pipeline.cli.doctor import commands
from pipeline.cli.doctor.finding import Finding, Place, error, ok, warning
from pipeline.cli.doctor.trial import TrialError, attempt

TO_CPU = "in params.yaml, under execution, write device: cpu"
PACKAGES = ("onnxruntime", "onnxruntime-gpu")


def onnxruntime(place: Place) -> Iterator[Finding]:
    """A small model on each provider that Headstart uses; its result is compared."""
    device = place.project.params.execution.device if place.project else "auto"
    both = [name for name in PACKAGES if _installed(name)]
    if len(both) == 2:
        yield warning(
            f"{' and '.join(both)} are both installed: each overwrites files of the other",
            f"{commands.pip('uninstall', '-y', *PACKAGES)} && {commands.pip('install', both[1])}",
        )
    name = both[-1] if both else _wanted()
    try:
        seen = attempt("cpu")
    except TrialError as reason:
        yield error(f"onnxruntime does not run: {reason}", _again(name))
        return
    if not seen["right"]:
        yield error("CPUExecutionProvider computes a small model wrongly", _again(name))
        return
    yield ok(f"CPUExecutionProvider of onnxruntime {seen['version']} ran a small model")
    yield _cuda(seen, device, name)
    if seen["others"]:
        yield ok(f"built in, and not used by Headstart: {', '.join(seen['others'])}")


def _cuda(seen: dict[str, Any], device: str, name: str) -> Finding:
    if not (seen["cuda"] and seen["gpu"]):
        why = "no GPU is seen" if seen["cuda"] else "the installed onnxruntime has no CUDA"
        if device == "cuda":
            return error(f"execution.device is cuda, but {why} here", TO_CPU)
        return ok(f"{why}: the CPU is used (execution.device: {device})")
    try:
        right = attempt("cuda")["right"]
    except TrialError as reason:
        text = f"CUDAExecutionProvider is built in and a GPU is there, but did not start: {reason}"
        fix = TO_CPU
        if "cannot open shared object" in text:
            fix = commands.pip("install", f"{name}[cuda,cudnn]")
        return warning(f"{text}; not used", fix) if device == "cpu" else error(text, fix)
    if not right:
        return error("CUDAExecutionProvider computes a small model wrongly", TO_CPU)
    return ok(f"CUDAExecutionProvider ran a small model (execution.device: {device})")


def torch(_: Place) -> Iterator[Finding]:
    """Whether torch and torchvision import, and fit each other."""
    try:
        seen = attempt("torch")
    except TrialError as reason:
        pair = ("torch", "torchvision")
        there = " and ".join(
            f"{name} {metadata.version(name)}" for name in pair if _installed(name)
        )
        advice = commands.pip("install", "--force-reinstall", *pair)
        yield error(f"{there or 'torch'} cannot be imported: {reason}", advice)
        return
    gpu = "CUDA is there" if seen["cuda"] else "no CUDA, and it is used for freezing alone"
    yield ok(f"torch {seen['torch']} with torchvision {seen['torchvision']}; {gpu}")


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _wanted() -> str:
    """The package of onnxruntime that Headstart asks for on this platform."""
    from pipeline.cli.doctor.versions import requirements

    names = [each.name for each in requirements() if each.name in PACKAGES]
    return names[0] if names else PACKAGES[0]


def _again(name: str) -> str:
    return commands.pip("install", "--force-reinstall", name)
