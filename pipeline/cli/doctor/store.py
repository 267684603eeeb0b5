"""Whether the embedding store can be reached and written, and what it holds."""

import errno
import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import files
from pipeline.cli.doctor import commands
from pipeline.cli.doctor.disk import existing
from pipeline.cli.doctor.finding import Finding, Place, error, ok, warning
from pipeline.cli.store import inventory
from pipeline.cli.store.inventory import Inventory
from pipeline.cli.wording import size
from pipeline.errors import ConfigurationError, ResourceError

if TYPE_CHECKING:
    from pipeline.project import Project

SECONDS = 3.0
"""How long counting may take: a team's store can hold millions of shards."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_A_FILE = {errno.ENOTDIR, errno.EEXIST}
_FORBIDDEN = {errno.EACCES, errno.EPERM}


def store(place: Place) -> Iterator[Finding]:
    """Write a file as a shard is written, then count."""
    if place.project is None:
        return
    folder = place.project.store
    try:
        links = try_writing(folder)
    except OSError as refused:
        yield _refused(folder, refused, place.project)
        return
    content = inventory.take(folder, seconds=SECONDS)
    yield ok(f"{folder}: {_described(content, place.project)}; {_manner(folder, links, place)}")
    if leftovers := sum(len(one.stale) for one in content.holdings):
        yield warning(
            f"{folder}: {leftovers} files that killed runs left half-written",
            f"find {commands.quoted(folder)} -name '*{files.PARTIAL}' -mmin +1440 -delete",
        )


def try_writing(folder: Path) -> bool:
    """Make, flush, link, rename and delete a file in a folder; returns whether links work.

    Leaves nothing behind, not the folder either where it was not there. Raises OSError.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as inside:
            path = Path(inside, "shard")
            files.write_bytes(path, bytes(4096))
            try:
                os.link(path, path.with_name("link"))
            except OSError:
                return False
            return True
    finally:
        for path in made:
            try:
                path.rmdir()
            except OSError:  # it could not be made, or another run writes there by now
                break


def _refused(folder: Path, refused: OSError, project: "Project") -> Finding:
    why = refused.strerror or str(refused)
    elsewhere = f"export HEADSTART_STORE={_usable(project)}"
    if refused.errno in _FULL:
        return error(f"{folder} cannot be written: {why}", elsewhere, ResourceError.exit_code)
    code = ConfigurationError.exit_code
    nearest = existing(folder)
    if refused.errno in _A_FILE and not nearest.is_dir():
        old, new = (
            commands.quoted(nearest),
            commands.quoted(nearest.with_name(nearest.name + ".old")),
        )
        fix = f"mv {old} {new} && mkdir -p {commands.quoted(folder)}"
        return error(f"{nearest} is a file where the store's folder should be", fix, code)
    text = f"{folder} cannot be written: {why}"
    if refused.errno in _FORBIDDEN and nearest.is_relative_to(project.root):
        mine = nearest.stat().st_uid == os.geteuid()
        quoted = commands.quoted(nearest)
        own = f"chmod u+rwx {quoted}" if mine else f'sudo chown -R "$(id -un)" {quoted}'
        return error(text, own, code)
    return error(text, elsewhere, code)


def _usable(project: "Project") -> str:
    """Another folder that a store can be in, as a word of a command; it was tried."""
    for folder in (project.artifacts / ".store", Path.home() / "headstart-store"):
        try:
            if folder != project.store:
                try_writing(folder)
                return shlex.quote(str(folder))
        except OSError:
            continue
    return "/a/folder/you/can/write"


def _described(content: Inventory, project: "Project") -> str:
    known = inventory.names(project.artifacts / "backbones")
    names = {fingerprint: ", ".join(here) for fingerprint, here in known.items()}
    shards = {one.fingerprint: one.shards for one in content.holdings if one.shards}
    most = sorted(shards, key=lambda one: (one not in names, -shards[one], one))
    listed = [f"{names.get(one, one[:12])} {shards[one]}" for one in most[:5]]
    more = [f"{len(most) - 5} others"] if len(most) > 5 else []
    total = f"{sum(shards.values())} shards, {size(content.bytes)}"
    said = total if content.whole else f"at least {total}"
    return f"{said} ({', '.join(listed + more)})" if most else said


def _manner(folder: Path, links: bool, place: Place) -> str:
    mine = os.stat(existing(place.folder / "artifacts")).st_dev
    where = "on" if os.stat(existing(folder)).st_dev == mine else "not on"
    return f"writable, {'with' if links else 'without'} hard links, {where} the artifacts' disk"
