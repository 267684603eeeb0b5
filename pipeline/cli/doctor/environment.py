"""The environment variables in force, and which programs the shell finds."""

import os
import shutil
from collections.abc import Iterator

from pipeline.cli.doctor import commands
from pipeline.cli.doctor.finding import Finding, Place, error, ok, warning

VARIABLES = {
    "HEADSTART_STORE": "the store",
    "DASK_SCHEDULER_ADDRESS": "extraction runs on that cluster",
    "DVC_ROOT": "where relative paths of an experiment are looked up",
    "OMP_NUM_THREADS": "threads of a BLAS call",
    "HF_HOME": "timm's hub cache",
    "HF_HUB_OFFLINE": "timm's hub is not asked",
    "TORCH_HOME": "torch's cache",
    "TMPDIR": "temporary files",
    "CUDA_VISIBLE_DEVICES": "GPUs that are seen",
}
"""Variables that change a run, ours and the libraries', and what each is for."""


def settings(_: Place) -> Iterator[Finding]:
    """The variables that are set, one a line."""
    in_force = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    threads = in_force.get("OMP_NUM_THREADS", "1")
    if not all(part.strip().isdigit() and int(part) for part in threads.split(",")):
        yield warning(f"OMP_NUM_THREADS is {threads!r}, not a number", "unset OMP_NUM_THREADS")
    for name, value in in_force.items():
        yield ok(f"{name}={value} ({VARIABLES[name]})")
    if not in_force:
        yield ok("no environment variable changes a run")


def path(place: Place) -> Iterator[Finding]:
    """Whether `dvc`, and the `python` that its stages call, are those of this environment."""
    activate = commands.activate(place.folder)
    wrong = False
    for name in ("dvc", "python"):
        found = shutil.which(name)
        if found is None:
            wrong = True
            yield error(f"{name} is not on the PATH, so 'dvc repro' does not run", activate)
        elif not commands.of_this_environment(found):
            wrong = True
            text = f"{name} on the PATH is {found}, of another environment than this headstart"
            yield warning(text, activate)
    if not wrong:
        yield ok("dvc and python on the PATH are of this environment")
