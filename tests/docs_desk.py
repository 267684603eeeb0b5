"""A reader of the docs: types a page's blocks, from top to bottom, in a project made for them."""

import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.cli import check
from pipeline.errors import HeadstartError
from tests.conftest import Project, edit_yaml, environment
from tests.doc_blocks import Block, commands, misfits
from tests.docs_projects import SETTINGS, Library

MARK = "--- the output of command "

LOOPBACK = {
    "--port 8786": "--host 127.0.0.1 --port 0",
    "--dashboard-address 127.0.0.1:8787": "--dashboard-address 127.0.0.1:0",
}
"""What listens for other machines, or where somebody else may, listens here on a free port."""

PREAMBLE = """
set -e
trap 'export -p > "$READER_STATE"' EXIT
make() { command make -n "$@"; }  # asked what it would do: it would install, or measure for minutes
[ -f "$READER_STATE" ] && { . "$READER_STATE"; cd "$PWD"; }
"""
"""Folder and variables are kept from block to block of a page, as in a terminal."""


@dataclass
class Reader:
    """Types the blocks of a page; printed: what commands gave, the latest last."""

    library: Library
    folder: Path
    projects: dict[str, Project] = field(default_factory=dict)
    printed: dict[str, str] = field(default_factory=dict)
    code: str = ""
    latest: str = ""

    def read(self, block: Block) -> None:
        """Type one block. AssertionError: it does not do what the page says."""
        runner = RUNNERS.get(block.language)
        assert runner, (
            f"{block.place}: nothing here runs a block of {block.language or 'no language'}"
        )
        runner(self, block)

    def project(self, block: Block) -> Project:
        """The page's own copy of the project that the block asks for."""
        setting = block.attributes.get("in", "ran")
        assert setting in SETTINGS, f"{block.place}: in={setting} is none of {', '.join(SETTINGS)}"
        if setting not in self.projects:
            self.projects[setting] = self.library.copy(setting, self.folder / setting / "project")
        return self.projects[setting]

    def console(self, block: Block) -> None:
        """Each line after `$ ` runs; what stands below it is what it prints."""
        typed = commands(block.text)
        self.bash(block, [one.words for one in typed])
        for one in typed:
            self.compare(block, one.shown, one.words)

    def shell(self, block: Block) -> None:
        """The block runs as a script; with until=TEXT, up to where it prints that."""
        text = block.text
        for said, here in LOOPBACK.items():
            text = text.replace(said, here)
        self.bash(block, [text])

    def bash(self, block: Block, typed: list[str]) -> None:
        """Run commands in one bash; what they print is kept under their words."""
        project = self.project(block)
        state = project.folder.parent / "state.sh"
        script = PREAMBLE + "\n".join(f"echo '{MARK}'\n{words}" for words in typed)
        code, out = _typed(["bash", "-c", script], project.folder, block, READER_STATE=str(state))
        outputs = out.split(f"{MARK}\n")[1:]
        last = typed[max(len(outputs) - 1, 0)]
        wanted = int(block.attributes.get("code", 0))
        assert code == wanted, f"{block.place}: {last}\nexit code {code}, not {wanted}\n{out}"
        self.keep(dict(zip(typed, outputs, strict=True)))

    def python(self, block: Block) -> None:
        """The block runs as a program; with `continued`, after those above it."""
        self.code = f"{self.code}\n{block.text}" if "continued" in block.attributes else block.text
        program = self.project(block).folder.parent / f"line_{block.line}.py"
        program.write_text(self.code)
        self.bash(block, [f"python - < {shlex.quote(str(program))}"])

    def yaml(self, block: Block) -> None:
        """A part of params.yaml: put into it, and checked."""
        if "file" in block.attributes:
            return self.write(block)
        project, part = self.project(block), YAML(typ="safe").load(block.text)
        edit_yaml(project.folder / "params.yaml", lambda params: merge(params, part))
        printed = io.StringIO()
        with contextlib.chdir(project.folder), contextlib.redirect_stdout(printed):
            try:
                check.run()
            except HeadstartError as error:
                raise AssertionError(f"{block.place}: {error}") from error
        return self.keep({"headstart check": printed.getvalue()})

    def output(self, block: Block) -> None:
        """What the command above prints, or the one that of=COMMAND names; file=PATH: a file."""
        if "file" in block.attributes:
            return self.write(block)
        words = block.attributes.get("of", self.latest)
        assert words, f"{block.place}: whose output is this? say of=COMMAND"
        if words not in self.printed:
            self.bash(block, [words])
        return self.compare(block, block.text, words)

    def write(self, block: Block) -> None:
        """Put the block where the page says, for those below."""
        path = self.project(block).folder / block.attributes["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)

    def program(self, block: Block) -> None:
        """JavaScript and C++: what their own compiler says, where there is one; nothing run."""
        suffix, tool = COMPILERS[block.language]
        if not shutil.which(tool[0]):
            return
        path = self.folder / f"program{suffix}"
        path.write_text(block.text)
        code, out = _typed([*tool, str(path)], self.folder, block)
        assert code == 0, f"{block.place}: {shlex.join(tool)}\n{out}"

    def compare(self, block: Block, shown: str, words: str) -> None:
        odd = misfits(shown, self.printed[words], exact="exact" in block.attributes)
        said = "\n".join(odd)
        assert not odd, f"{block.place}: {words}\nnot printed:\n{said}\nbut:\n{self.printed[words]}"

    def keep(self, printed: dict[str, str]) -> None:
        self.printed |= printed
        self.latest = list(printed)[-1]


COMPILERS = {
    "js": (".mjs", ["node", "--check"]),
    "cpp": (".cpp", ["g++", "-std=c++17", "-fsyntax-only"]),
}
"""By language: the file's suffix and what reads it."""

RUNNERS: dict[str, Callable[[Reader, Block], None]] = {
    "console": Reader.console,
    "sh": Reader.shell,
    "python": Reader.python,
    "yaml": Reader.yaml,
    **dict.fromkeys(("text", "json", "jsonl", "csv"), Reader.output),
    **dict.fromkeys(COMPILERS, Reader.program),
}


def merge(params, part) -> None:
    """Put a part of params.yaml into the whole; an entry that is there is replaced."""
    for name, value in part.items():
        if isinstance(value, dict) and isinstance(params.get(name), dict):
            params[name].update(value)
        else:
            params[name] = value


def _typed(command: list[str], folder: Path, block: Block, **more: str) -> tuple[int, str]:
    """Exit code and output of a command; whatever it left running is ended with it."""
    log = folder.parent / "printed.txt"
    with log.open("w") as file:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(CUDA_VISIBLE_DEVICES="", **more),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = _awaited(running, log, block.attributes.get("until"))
        finally:
            for kind in (signal.SIGTERM, signal.SIGKILL):
                _end(running.pid, kind)
            running.wait()
    return code, log.read_text()


def _awaited(running: subprocess.Popen, log: Path, until: str | None) -> int:
    """Its exit code; 0 once it printed `until`."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            return running.wait(timeout=0.2 if until else 300)
        except subprocess.TimeoutExpired:
            if until and until in log.read_text():
                return 0
    return pytest.fail(f"still running, or never printed {until!r}:\n{log.read_text()}")


def _end(group: int, kind: signal.Signals) -> None:
    try:
        os.killpg(group, kind)
    except ProcessLookupError:
        return
    time.sleep(0.5)
