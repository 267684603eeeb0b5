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
    """A small model on the CPU and on each GPU; its result is compared."""
    device = _device(place)
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
    yield from _cuda(seen, device, name)
    if seen["others"]:
        yield ok(f"built in, and not used by Headstart: {', '.join(seen['others'])}")


def _device(place: Place) -> str:
    return place.project.params.execution.device if place.project else "auto"


def _cuda(seen: dict[str, Any], device: str, name: str) -> Iterator[Finding]:
    if not (seen["cuda"] and seen["gpus"]):
        yield _no_cuda(seen, device, name)
        return
    there = ", ".join(seen["gpus"])
    try:
        right = attempt("cuda")["right"]
    except TrialError as reason:
        text = f"CUDAExecutionProvider did not start on {there}: {reason}"
        fix = TO_CPU
        if "cannot open shared object" in text:
            fix = commands.pip("install", f"{name}[cuda,cudnn]")
        yield warning(f"{text}; not used", fix) if device == "cpu" else error(text, fix)
        return
    for gpu, fits in zip(seen["gpus"], right, strict=True):
        if fits:
            ran = "CUDAExecutionProvider ran a small model"
            yield ok(f"{gpu}: {ran} (execution.device: {device})")
        else:
            yield error(f"{gpu}: CUDAExecutionProvider computes a small model wrongly", TO_CPU)


def _no_cuda(seen: dict[str, Any], device: str, name: str) -> Finding:
    """Why the CPU is used, and what to do where that wastes a GPU."""
    why = "no GPU is seen" if seen["cuda"] else "the installed onnxruntime has no CUDA"
    if device == "cuda":
        return error(f"execution.device is cuda, but {why} here", TO_CPU)
    wanted = _wanted()
    if device == "cpu" or not seen["gpus"] or wanted == name:
        there = f"{', '.join(seen['gpus'])}: " if seen["gpus"] else ""
        return ok(f"{there}{why}: the CPU is used (execution.device: {device})")
    return warning(
        f"{', '.join(seen['gpus'])}: not used, {why}",
        f"{commands.pip('uninstall', '-y', name)} && {commands.pip('install', wanted)}",
    )


def torch(place: Place) -> Iterator[Finding]:
    """Whether torch and torchvision import, fit each other, and see the GPUs that they are to use."""
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
    there = f"torch {seen['torch']} with torchvision {seen['torchvision']}"
    users, device = _run_by_torch(place), _device(place)
    if not users:
        gpu = (
            "CUDA is there"
            if seen["cuda"]
            else "no CUDA, and it is used for freezing and fine-tuning"
        )
        yield ok(f"{there}; {gpu}")
    elif seen["cuda"]:
        yield ok(f"{there}; it sees {', '.join(seen['gpus'])}, and runs {users}")
    elif device == "cuda":
        yield error(f"{there} sees no CUDA, and is to run {users} on it", TO_CPU)
    elif device == "auto" and seen["driver"]:
        text = (
            f"{there} sees none of the {seen['driver']} GPUs that are there, and is to run {users}"
        )
        yield warning(text, commands.pip("install", "--force-reinstall", "torch", "torchvision"))
    else:
        yield ok(f"{there} sees no CUDA: {users} runs on the CPU (execution.device: {device})")


def _run_by_torch(place: Place) -> str:
    """The backbones of the run whose runtime is torch."""
    if place.project is None:
        return ""
    params = place.project.params
    entries = {name: params.backbones.get(name) for name in params.run.backbones}
    return ", ".join(name for name, entry in entries.items() if entry and entry.runtime == "torch")


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
