"""Ctrl-C at any moment: one line that says how to go on, nothing half-written, nobody left behind."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Project, make_photos, make_project, use_pixels

LINE = "headstart: error: interrupted; nothing is half-written, run the same command to go on"

STAGES = {
    "prepare": ["dataset/images.parquet", "dataset/labels.parquet", "dataset/summary.json"],
    "freeze raw": ["backbones/raw/model.onnx", "backbones/raw/backbone.json"],
    "extract raw": ["embeddings/raw.h5", "embeddings/raw.problems.csv"],
    "train raw logistic": ["heads/raw/logistic.joblib", "heads/raw/logistic.json"],
    "evaluate": ["evaluation/metrics.json", "evaluation/predictions.parquet"],
    "bundle": ["model/model.onnx", "model/model.json"],
    "report": ["report.html"],
}
"""A stage's command line, and some of what it writes."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Project:
    """A project that ran undisturbed."""
    project = make_project(tmp_path_factory.mktemp("whole") / "project")
    make_photos(project.folder / "photos", each=60)

    def change(params):
        use_pixels(params)
        params["run"]["heads"] = ["logistic"]
        params["data"]["path"] = "photos"
        params["bundle"] = {"backbone": "raw", "head": "logistic"}

    project.edit(change)
    for stage in STAGES:
        done = project.stage(*stage.split())
        assert done.code == 0, done.text
    return project


@pytest.fixture
def project(whole, tmp_path) -> Project:
    """Its copy, with nothing left for the next stage to find done."""
    shutil.copytree(whole.folder, tmp_path / "project")
    shutil.rmtree(tmp_path / "project/artifacts/.store")
    return Project(tmp_path / "project")


def digests(project: Project, outs: list[str]) -> list[str]:
    files = [project.folder / "artifacts" / out for out in outs]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def begin(project: Project, *command: str) -> subprocess.Popen:
    environment = {name: text for name, text in os.environ.items() if name != "HEADSTART_STORE"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        command,
        cwd=project.folder,
        env={**environment, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def interrupt(process: subprocess.Popen, times: int = 1) -> tuple[int, str]:
    """Press Ctrl-C, as a terminal does: every process of the group hears it."""
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.05)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def left_behind(project: Project) -> list[str]:
    """Temporary files, and processes that still run in the project."""
    files = [str(path) for path in project.folder.rglob("*.partial")]
    time.sleep(0.3)  # a child that lost its parent ends by itself
    running = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(project.folder):
                running.append(" ".join(process.cmdline()))
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
    return files + running


def check_interrupted(code: int, out: str) -> None:
    assert "Traceback" not in out, out
    assert "Exception" not in out, out
    if code == 0:
        return  # it had just finished
    assert code == 130
    assert out.count(LINE) == 1, out


def seconds_of(project: Project, stage: str) -> float:
    """How long the stage takes undisturbed; its outs are there again afterwards."""
    begun = time.monotonic()
    done = project.stage(*stage.split())
    assert done.code == 0, done.text
    shutil.rmtree(project.folder / "artifacts/.store", ignore_errors=True)
    return time.monotonic() - begun


def try_moments(project: Project, stage: str, moments: list[float], times: int = 1) -> None:
    """Interrupt the stage at shares of its time; then run it through."""
    outs = STAGES[stage]
    expected = digests(project, outs)
    whole = seconds_of(project, stage)
    interrupted = 0
    for moment in moments:
        process = begin(
            project, "python", "-m", f"stages.{stage.split(maxsplit=1)[0]}", *stage.split()[1:]
        )
        time.sleep(0.15 + moment * (whole - 0.15))  # before that, Python itself has not started
        code, out = interrupt(process, times)
        check_interrupted(code, out)
        interrupted += code != 0
        assert left_behind(project) == []
    assert interrupted
    done = project.stage(*stage.split())
    assert done.code == 0, done.text
    assert digests(project, outs) == expected


@pytest.mark.parametrize("stage", ["prepare", "extract raw", "train raw logistic"])
def test_stage__interrupted_here_and_there__says_how_to_go_on_and_does(project, stage):
    try_moments(project, stage, [0.0, 0.4, 0.7])


def test_stage__impatient_user__is_told_once(project):
    try_moments(project, "extract raw", [0.2, 0.5], times=5)


ENDING = """
import atexit, time
from pipeline.errors import hear_interrupts, leave
hear_interrupts()
atexit.register(time.sleep, 5)
print("done", flush=True)
leave(0)
"""


def test_stage__interrupted_while_it_ends__does_not_let_dvc_go_on(whole):
    """DVC does not hear Ctrl-C while a stage runs, and would start the next one."""
    process = begin(whole, "python", "-c", ENDING)
    assert process.stdout.readline() == "done\n"
    begun = time.monotonic()
    assert interrupt(process) == (130, LINE + "\n")
    assert time.monotonic() - begun < 4


def test_stage__interrupted_again_while_it_ends__is_told_once(whole):
    program = ENDING.replace("leave(0)", "leave(exit_status(lambda: time.sleep(5)))")
    program = program.replace("import hear_interrupts", "import exit_status, hear_interrupts")
    process = begin(whole, "python", "-c", program)
    assert process.stdout.readline() == "done\n"
    assert interrupt(process, times=4) == (130, LINE + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_stage__interrupted_at_40_moments__says_how_to_go_on_and_does(project, stage):
    moments = random.Random(stage)
    try_moments(project, stage, [moments.random() for _ in range(40)], times=2)


@pytest.mark.slow
def test_extract__interrupted_on_dask_workers__ends_them_too(project):
    project.edit(lambda params: params["execution"].update(workers=2))
    moments = random.Random(5)
    try_moments(project, "extract raw", [moments.random() for _ in range(20)])


@pytest.mark.slow
def test_repro__interrupted__the_next_one_goes_on_and_ends_in_the_same_files(project):
    whole = {stage: digests(project, outs) for stage, outs in STAGES.items()}
    shutil.rmtree(project.folder / "artifacts")
    for name in ("curve", "finetuned"):
        (project.folder / "artifacts" / name).mkdir(parents=True)
        (project.folder / "artifacts" / name / ".gitkeep").touch()
    moments = random.Random(6)
    for _ in range(12):
        process = begin(project, "dvc", "repro")
        time.sleep(1 + 8 * moments.random())
        code, out = interrupt(process)
        assert "half-written" in out or "nterrupted" in out or code == 0, out
        assert "Traceback" not in out, out
        assert left_behind(project) == []
    project.repro()
    assert {stage: digests(project, outs) for stage, outs in STAGES.items()} == whole
