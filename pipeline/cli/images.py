"""`headstart check --images`: are the files those that prepare saw? Decodes and hashes none."""

from typing import NoReturn

from pipeline import changes
from pipeline.changes import KINDS, Changes, Prepared
from pipeline.dataset import on_one_line
from pipeline.errors import InputError
from pipeline.formats import Listing
from pipeline.project import Project

SHOWN = 5
"""How many names of a kind are printed."""

BY_FORCE = "run 'dvc repro -f prepare', then 'dvc repro'"


def run(project: Project, listing: Listing) -> None:
    """Print what changed since prepare, by kind.

    Raises InputError where anything did, data.path too, or where too little is left to run on.
    """
    before = changes.prepared(project.artifacts)
    if before is None:
        print("images: not prepared yet, so only looked at")
        found = changes.compare(changes.NOTHING, listing)
        _say_unusable(listing, found.absent, found.unseen)
        return
    found = changes.compare(before.seen, listing)
    if moved(project, before):
        _refuse_moved(project, before, found, listing)
    if not before.timed:
        print("images: artifacts/runs/prepare.parquet is missing or old: sizes alone are compared")
    for kind, words in KINDS.items():
        _say(found.kinds[kind], words)
    _say_unusable(listing, found.absent, found.unseen)
    if found.count:
        saw = (
            "file is not as prepare saw it"
            if found.count == 1
            else "files are not as prepare saw them"
        )
        raise InputError(f"{found.count} {saw}; {remedy(project, listing, found)}")
    print(f"images: {len(listing.entries) - len(found.absent)} files are as prepare saw them")


def moved(project: Project, before: Prepared) -> bool:
    """Whether data.path is another than prepare saw, as far as is known; DVC sees that too."""
    return before.seen.data not in ("", project.params.data.path)


def _refuse_moved(project: Project, before: Prepared, found: Changes, listing: Listing) -> NoReturn:
    """Say of the files of another data.path what they are, and nothing of those before."""
    paths = {entry.path for entry in listing.entries}
    alike = len(paths.difference(found.unseen, found.absent))
    now, then = (on_one_line(path) for path in (project.params.data.path, before.seen.data))
    print(f"images: data.path is {now}; prepare saw {then}, which is not looked at")
    print(f"images: {alike} of {len(paths)} files have name, size and time of one that prepare saw")
    _say_unusable(listing, found.absent, found.unseen)
    raise InputError(f"data.path changed since prepare, from {then} to {now}; run 'dvc repro'")


def remedy(project: Project, listing: Listing, found: Changes) -> str:
    """What to type so that the changes count."""
    stated = {entry.path for entry in listing.entries if entry.sha256}
    if not stated.isdisjoint(found.kinds["changed"]):
        return "correct their sha256 in the manifest, then run 'dvc repro'"
    return "run 'dvc repro'" if seen_by_dvc(project, found) else BY_FORCE


def seen_by_dvc(project: Project, found: Changes) -> bool:
    """Whether DVC will run prepare by itself: it tracks a folder's bytes, or the manifest alone."""
    kinds = set(KINDS) - {"touched"} if project.data.is_dir() else {"new", "dropped"}
    return any(found.kinds[kind] for kind in kinds)


def _say_unusable(listing: Listing, absent: list[str], unseen: list[str]) -> None:
    """Name what prepare will leave out. Raises InputError where fewer than two classes are left."""
    _say(absent, "named, but cannot be read")
    refused = changes.unsupported(listing.root, unseen)
    _say(refused, "unsupported: no image by the first bytes")
    left_out = {*absent, *refused}
    classes = {entry.label for entry in listing.entries if entry.path not in left_out}
    if len(classes) < 2:
        usable = len(listing.entries) - len({entry.path for entry in listing.entries} & left_out)
        raise InputError(
            f"{usable} of {len(listing.entries)} files can be used, in {len(classes)} of the two "
            "classes needed at least; correct data.path or put the images there"
        )


def _say(paths: list[str], words: str) -> None:
    if paths:
        more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
        print(f"images: {len(paths)} {words}: {', '.join(map(on_one_line, paths[:SHOWN]))}{more}")
