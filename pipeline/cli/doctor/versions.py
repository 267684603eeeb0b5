"""Whether the installed packages are those that Headstart asks for, and whole."""

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from pipeline.cli.doctor import commands
from pipeline.cli.doctor.finding import Finding, Place, error, ok, warning
from pipeline.cli.doctor.trial import TrialError, attempt

if TYPE_CHECKING:
    from packaging.requirements import Requirement

TOLD = ("torch", "torchvision", "timm", "onnxruntime", "onnxruntime-gpu", "pillow", "numpy",
        "scikit-learn", "dvc")  # fmt: skip
"""Packages whose version a bug report needs."""


def versions(place: Place) -> Iterator[Finding]:
    """Python and the required packages against what is installed."""
    from packaging.specifiers import SpecifierSet

    try:
        about = metadata.metadata("headstart")
    except metadata.PackageNotFoundError:
        yield warning("headstart itself is not installed", commands.install(place.folder))
        return
    wanted, python = about["Requires-Python"] or "", platform.python_version()
    if not SpecifierSet(wanted).contains(python, prereleases=True):
        yield error(f"Python is {python}, needed is {wanted}", "make a .venv with a newer Python")
    required = requirements()
    wrong = {str(each): fault for each in required if (fault := _fault(each))}
    if wrong:
        yield error("; ".join(wrong.values()), commands.install(place.folder, *wrong))
    else:
        there = {each.name for each in required}
        listed = ", ".join(f"{name} {metadata.version(name)}" for name in TOLD if name in there)
        yield ok(f"Python {python}; {len(required)} packages as required: {listed}")


def requirements() -> "list[Requirement]":
    """What the installed Headstart needs on this platform; the markers are evaluated away.

    Raises PackageNotFoundError where Headstart is not installed.
    """
    from packaging.requirements import Requirement

    listed = [Requirement(line) for line in metadata.requires("headstart") or []]
    kept = [each for each in listed if not each.marker or each.marker.evaluate({"extra": ""})]
    for each in kept:
        each.marker = None
    return kept


def _fault(wanted: "Requirement") -> str:
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} is not installed"
    if wanted.specifier.contains(version, prereleases=True):
        return ""
    return f"{wanted.name} is {version}, needed is {wanted.specifier}"


def libraries(_: Place) -> Iterator[Finding]:
    """Pillow's decoders and HDF5 themselves, which a build may lack."""
    try:
        seen = attempt("imaging")
    except TrialError as reason:
        yield error(f"Pillow or h5py does not run: {reason}", _again("pillow", "h5py"))
        return
    absent = [name for name, there in seen["decoders"].items() if not there]
    if absent:
        yield error(f"Pillow was built without {', '.join(absent)}", _again("pillow"))
    else:
        yield ok(f"Pillow decodes {', '.join(seen['decoders'])}; HDF5 {seen['hdf5']}")


def _again(*names: str) -> str:
    return commands.pip("install", "--force-reinstall", "--only-binary=:all:", "--no-deps", *names)
