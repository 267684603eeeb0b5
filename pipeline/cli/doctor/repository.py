"""Whether `dvc repro` can run here: git, DVC's folder and settings, its locks."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.cli.doctor import commands, locks
from pipeline.cli.doctor.finding import Finding, Place, error, of_error, ok, warning
from pipeline.errors import ConfigurationError

OPTIONAL = {"curve": "report", "finetuned": "evaluate"}
"""Folders of artifacts/ that may be empty, and the stage that depends on each."""

IGNORED = ("/artifacts/*", *(line.format(name) for name in OPTIONAL for line in (
    "!/artifacts/{}/", "/artifacts/{}/*", "!/artifacts/{}/.gitkeep")))  # fmt: skip
"""Lines of .gitignore that leave the artifacts to DVC."""


def repository(place: Place) -> Iterator[Finding]:
    """The set-up of the project's folder; nothing is said outside a project."""
    folder = place.folder
    if not (folder / "dvc.yaml").is_file():
        if place.project:
            yield warning(
                f"no dvc.yaml in {folder}, so 'dvc repro' has no stage here",
                "copy Headstart's dvc.yaml, pipeline/ and stages/ beside params.yaml",
            )
        return
    try:
        settings = _settings(folder)
    except ConfigurationError as wrong:
        yield of_error(wrong)
        return
    lacking = _lacking(folder, settings)
    if lacking:
        yield lacking
    else:
        yield ok(_described(folder, settings))
        yield from locks.locks(folder_of_dvc(folder), hardlink=_hardlink(settings))
    yield from _artifacts(folder)


def folder_of_dvc(folder: Path) -> Path:
    """The `.dvc` of a folder or of its nearest parent with one; its own where there is none."""
    return (_above(folder, ".dvc") or folder) / ".dvc"


def _above(folder: Path, name: str) -> Path | None:
    return next((each for each in (folder, *folder.parents) if (each / name).exists()), None)


def _settings(folder: Path) -> dict[str, Any]:
    """DVC's settings, of all its files. Raises ConfigurationError where one is wrong."""
    from dvc.config import Config, ConfigError

    dvc = folder_of_dvc(folder)
    try:
        return dict(Config(str(dvc) if dvc.is_dir() else None))
    except ConfigError as wrong:
        restore = f"git checkout -- {commands.quoted(dvc / 'config')}"
        raise ConfigurationError(f"{dvc}: {' '.join(str(wrong).split())}; {restore}") from None


def cache_folder(folder: Path) -> Path | None:
    """Where DVC's cache of a project lies; None where DVC does not say."""
    try:
        settings = _settings(folder)
    except (ConfigurationError, ImportError):
        return None
    cache = settings.get("cache", {}).get("dir") or "cache"
    return folder_of_dvc(folder) / cache


def _hardlink(settings: dict[str, Any]) -> bool:
    return bool(settings.get("core", {}).get("hardlink_lock"))


def _lacking(folder: Path, settings: dict[str, Any]) -> Finding | None:
    """What keeps DVC from taking the folder for its own."""
    git = _above(folder, ".git")
    enter = "" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    if folder_of_dvc(folder).is_dir():
        if git or settings.get("core", {}).get("no_scm"):
            return None
        return error(f"{folder} is in no git repository, where DVC wants one", f"{enter}git init")
    if git is None:
        return error(
            f"{folder} is no git repository, and has no .dvc", f"{enter}git init && dvc init"
        )
    below = "" if git == folder else " --subdir"
    return error(f"{folder} has no .dvc, so DVC does not run here", f"{enter}dvc init{below}")


def _described(folder: Path, settings: dict[str, Any]) -> str:
    kinds = settings.get("cache", {}).get("type") or ["reflink", "copy"]
    kinds = kinds if isinstance(kinds, list) else [kinds]
    remotes = ", ".join(settings.get("remote", {})) or "none"
    default = settings.get("core", {}).get("remote")
    chosen = f" (default {default})" if default else ""
    return f"cache {cache_folder(folder)} by {' or '.join(kinds)}; remotes: {remotes}{chosen}"


def _artifacts(folder: Path) -> Iterator[Finding]:
    for name, stage in OPTIONAL.items():
        if not (folder / "artifacts" / name).is_dir():
            path = commands.quoted(folder / "artifacts" / name)
            yield error(
                f"artifacts/{name} is missing, which the stage {stage} depends on",
                f"mkdir -p {path} && touch {path}/.gitkeep",
            )
    answer = subprocess.run(
        ["git", "check-ignore", "-q", "artifacts/report.html"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if answer.returncode == 1:  # 128: no repository
        lines = " ".join(map(shlex.quote, IGNORED))
        yield warning(
            "git does not ignore artifacts/, so DVC puts .gitignore files into folders it hashes",
            f"printf '%s\\n' {lines} >> {commands.quoted(folder / '.gitignore')}",
        )
