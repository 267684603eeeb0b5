"""The blocks of docs/embeddings.md and docs/neighbors.md run, one after another, in a project."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Project
from tests.test_neighbors import make_extracted


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """One whose backbone of raw pixels has the name that the docs use."""
    return make_extracted(tmp_path_factory.mktemp("docs") / "project", "efficientnet_lite0")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_embeddings_page__python_blocks__run(project):
    written = blocks("embeddings.md", "python")
    assert len(written) == 3
    checks = [
        "assert len(frame) == len(cached.sha256) == 36 and X.shape[0] == len(y) == len(paths)",
        "assert set(names) <= set(data.classes) == {'cat', 'dog', 'owl'}",
        "assert mean.shape == array.shape[1:]",
    ]
    program = "\n".join(f"{block}\n{check}" for block, check in zip(written, checks, strict=True))
    done = project.run(sys.executable, "-W", "error::UserWarning", "-c", program)
    assert done.code == 0, done.text


@pytest.mark.parametrize("page", ["embeddings.md", "neighbors.md"])
def test_pages__commands__run(project, page):
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line.removeprefix("$ "))
        done = project.headstart(*words[1:])
        assert done.code == 0, f"{line}: {done.text}"
        assert done.out


def test_neighbors_page__names_every_option():
    text = (ROOT / "docs/neighbors.md").read_text()
    said = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main(['neighbors', '--help'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in set(re.findall(r"(?<![\w-])--?[a-z]+\b", said)) - {"-h", "--help"}:
        assert f"`{option}" in text, option
