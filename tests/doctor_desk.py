"""The doctor called on a project, its findings, and what it says typed for real."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.cli import doctor
from pipeline.cli.doctor.finding import Finding
from tests.conftest import Project, make_photos, make_project, use_pixels

SOME = (
    "import sys; from pipeline.cli import doctor; chosen = sys.argv[1:]; "
    "doctor.CHECKS = {k: v for k, v in doctor.CHECKS.items() if k in chosen or not chosen}; "
    "sys.exit(doctor.run(as_json=True))"
)
"""`headstart doctor --json`, of the checks that are named."""


@dataclass(frozen=True)
class Said:
    """What the doctor said: its exit code and findings."""

    code: int
    findings: list[Finding]

    def of(self, topic: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.topic == topic]

    @property
    def levels(self) -> list[str]:
        return [str(finding.level) for finding in self.findings]

    @property
    def bad(self) -> Finding:
        """The one finding that is not ok; its fix stands beside it."""
        (found,) = (finding for finding in self.findings if finding.level != "ok")
        assert found.fix
        return found

    def told(self, level: str, *parts: str, code: int = 0) -> str:
        """The fix of the one finding that is not ok, whose text has these parts."""
        bad = self.bad
        assert (bad.level, self.code, bad.code) == (level, code, code), bad
        for part in parts:
            assert part in bad.text, bad.text
        return bad.fix

    def all_right(self) -> None:
        assert self.findings
        assert self.code == 0
        assert set(self.levels) == {"ok"}, self.findings


@dataclass(frozen=True)
class Desk:
    """A project, and the doctor in it."""

    project: Project

    @property
    def folder(self) -> Path:
        return self.project.folder

    def doctor(self, *topics: str, first: str = "", env=None, cwd=None, under=()) -> Said:
        """Call it in a shell of its own, after the command `first`.

        topics: the checks that run, all without any; under: a program that starts the shell.
        """
        call = shlex.join([sys.executable, "-c", SOME, *topics])
        script = f"{first}\n{call}" if first else call
        done = self.project.run(*under, "bash", "-c", script, env=env, cwd=cwd)
        assert "Traceback" not in done.err, done.err
        lines = [line for line in done.out.splitlines() if line.startswith('{"level"')]
        return Said(done.code, [Finding(**json.loads(line)) for line in lines])

    def here(self, topic: str) -> Said:
        """One check in this process, which has imported torch already."""
        place = doctor.find_place(self.folder)
        checks = {topic: doctor.CHECKS[topic]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(doctor, "CHECKS", checks)
            found = list(doctor.examine(place))
        return Said(max(each.code for each in found), found)

    def type(self, command: str, env=None, cwd=None) -> None:
        done = self.project.run("bash", "-c", command, env=env, cwd=cwd)
        assert done.code == 0, f"{command}: {done.text}"

    def edit_as_told(self, fix: str) -> None:
        """Do what `in params.yaml, under execution, write …` says."""
        found = re.fullmatch(r"in params.yaml, under execution, write (.+)", fix)
        assert found, fix
        values = YAML(typ="safe").load("{" + found[1] + "}")
        self.project.edit(lambda params: params["execution"].update(values))


@pytest.fixture
def desk(tmp_path) -> Desk:
    """A project on raw pixels of 9 photos of 3 classes, in git and DVC."""
    project = make_project(tmp_path / "project")
    make_photos(project.folder / "photos", each=3)

    def change(params) -> None:
        use_pixels(params)
        del params["backbones"]["efficientnet_lite0"]
        params["data"]["path"] = "photos"

    project.edit(change)
    return Desk(project)


def own_mounts(mounted: str) -> tuple[str, ...]:
    """What starts a shell with mounts of its own, after this command; skips where that can't be."""
    tried = subprocess.run(
        ["unshare", "-rm", "bash", "-c", "mount -t tmpfs -o size=1m none /mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    return ("unshare", "-rm", "bash", "-c", f'{mounted} && exec "$@"', "bash")


def without_root() -> tuple[str, ...]:
    """What starts a program for which permissions count, though it is root's."""
    dropped = "-dac_override,-dac_read_search"
    under = ("setpriv", f"--bounding-set={dropped}")
    tried = subprocess.run([*under, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"root's rights cannot be dropped here: {tried.stderr.strip()}")
    return under


def installed_as(folder: Path, name: str, version: str) -> None:
    """Make a folder of sys.path claim a package of that version."""
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
