"""Class folders: CLASS/image.jpg, or train/CLASS/image.jpg and so on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipeline.dataset import Problem, Split
from pipeline.errors import ConfigurationError, InputError, is_shortage
from pipeline.formats.listing import Entry, Listing, counted, quoted

_LIKE_SPLITS = {
    "train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval",
}  # fmt: skip
"""Words, in small letters, for which a folder is not taken as a class without asking."""


def folders(path: Path, group: str | None) -> Listing:
    """Class folders, with train/val/test above them or without; files may lie deeper.

    Names that start with a dot are skipped. A file outside any class folder is a problem.
    """
    if group is not None:
        raise ConfigurationError(
            f"params.yaml: data.split.group is {group!r}, but class folders have no groups; "
            "use a manifest with that column, or set it to null"
        )
    if not path.is_dir():
        raise ConfigurationError(f"params.yaml: data.path: {path} is a file, not a folder")
    tree = _walk(path)
    splits = _split_folders(path, tree)
    entries, problems, padded = list[Entry](), tree.problems, 0
    for name in tree.files:
        parts = name.split("/")
        split = Split(parts.pop(0)) if splits and len(parts) > 1 else None
        label = parts[0].strip()
        if _shown(name) != name:
            detail = "the name is not UTF-8; rename it"
            problems.append(Problem(_shown(name), "", "bad_name", detail))
        elif len(parts) < 2:
            problems.append(Problem(name, "", "no_label", "lies in no class folder"))
        elif not label:
            problems.append(Problem(name, "", "no_label", "its class folder's name is blank"))
        else:
            padded += label != parts[0]
            entries.append(Entry(path=name, label=label, split=split))
    notes = _notes(tree, splits, padded)
    return Listing(path, tuple(entries), tuple(problems), tuple(notes), _stops_dvc(tree))


@dataclass
class _Tree:
    """What lies below the root, relative to it, in order; dot names are not in it."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Folders that a link leads to, the first of each."""
    broken: list[str] = field(default_factory=list)
    """Links that lead to nothing, or in a circle."""
    special: list[str] = field(default_factory=list)
    """Pipes, sockets and devices."""
    problems: list[Problem] = field(default_factory=list)


def _walk(root: Path) -> _Tree:
    """List the tree below `root`, links followed once: a folder's files, then its subfolders.

    A folder that cannot be opened, or that a link leads to once more, becomes a problem.
    Without recursion, for folders nest deeper than Python's calls. Raises ConfigurationError
    where the root itself cannot be listed.
    """
    tree, seen, todo = _Tree(), dict[tuple[int, int], str](), [("", False)]
    while todo:
        inside, is_link = todo.pop()
        try:
            found = sorted(_scan(root, inside))
            status = os.stat(root / inside)
        except OSError as error:
            if is_shortage(error):
                raise
            reason = error.strerror or str(error)
            if not inside:
                raise ConfigurationError(
                    f"params.yaml: data.path: {root} cannot be listed: {reason}; "
                    "correct data.path or the folder's permissions"
                ) from None
            tree.problems.append(Problem(_shown(inside), "", "unreadable", reason))
            continue
        first = seen.setdefault((status.st_dev, status.st_ino), inside)
        if first != inside:
            detail = f"a link to {_shown(first or '.')!r}, which is listed"
            tree.problems.append(Problem(_shown(inside), "", "repeated_folder", detail))
            continue
        tree.folders.append(inside)
        tree.links += [inside] * is_link
        tree.files += [name for name, kind in found if not kind.folder]
        tree.broken += [name for name, kind in found if kind.broken]
        tree.special += [name for name, kind in found if kind.special]
        todo += [(name, kind.link) for name, kind in reversed(found) if kind.folder]
    return tree


class _Kind(NamedTuple):
    folder: bool
    link: bool
    broken: bool
    special: bool


def _scan(root: Path, inside: str) -> Iterator[tuple[str, _Kind]]:
    """Names in one folder with the folder's own before them, and what each is."""
    above = f"{inside}/" if inside else ""
    with os.scandir(root / inside) as found:
        for one in found:
            if one.name.startswith("."):
                continue
            link = one.is_symlink()
            folder = os.path.isdir(one.path) if link else one.is_dir()
            broken = link and not folder and not os.path.exists(one.path)
            special = not (folder or broken or one.is_file())
            yield above + one.name, _Kind(folder, link, broken, special)


def _split_folders(path: Path, tree: _Tree) -> bool:
    """Whether the folders at the top are splits rather than classes."""
    found = [*tree.folders, *(problem.path for problem in tree.problems)]
    names = {_shown(name) for name in found if name and "/" not in name}
    known = {str(split) for split in Split}
    if not names & known:
        like = {name for name in names if name.strip().lower() in _LIKE_SPLITS}
        if len(like) > 1 and like == names:
            raise InputError(
                f"{path}: the folders {quoted(like)} look like splits, but splits are named train, "
                "val and test; rename them, or use a manifest if they are classes"
            )
        return False
    if Split.TRAIN not in names:
        raise InputError(f"{path}: found {sorted(names & known)} but no folder train; add it")
    if names - known:
        raise InputError(
            f"{path}: beside train lies {min(names - known)!r}, which is neither val nor"
            " test; rename it or move it away"
        )
    return True


def _notes(tree: _Tree, splits: bool, padded: int) -> list[str]:
    notes = list[str]()
    filled = {name.split("/")[0] for name in tree.files}
    if unused := [name for name in tree.folders if name in set(Split) - filled] if splits else []:
        notes.append(f"no file lies in the folder {quoted(unused)}")
    if empty := _empty_classes(tree, splits):
        notes.append(
            f"no file lies in class folder {quoted(empty)}: no class is made of it; "
            "put images there or delete it"
        )
    if padded:
        notes.append(
            f"{counted(padded, 'file')} in class folders whose names begin or end with white space: "
            "their labels are taken without it"
        )
    if links := [_shown(name) for name in tree.links]:
        notes.append(
            f"{counted(len(links), 'folder')} reached through a link: {quoted(links, most=4)}; DVC "
            "does not look behind it, so run 'dvc repro -f prepare' after a change there"
        )
    if broken := [_shown(name) for name in tree.broken]:
        notes.append(
            f"{counted(len(broken), 'link')} that cannot be followed: {quoted(broken, most=4)}; DVC "
            "stops at such a link when it looks for changes, so mend or delete it"
        )
    return notes


def _stops_dvc(tree: _Tree) -> tuple[str, ...]:
    names = [*tree.files, *(name for name in tree.folders if name)]
    misnamed = [name for name in names if _shown(name) != name]
    return tuple(sorted({*tree.broken, *tree.special, *misnamed}))


def _empty_classes(tree: _Tree, splits: bool) -> set[str]:
    """Names of class folders, in any split, without a file or a problem anywhere below them."""
    depth = 1 if splits else 0

    def classes(names: list[str], parts: int) -> set[str]:
        every = (name.split("/") for name in names)
        return {_shown(name[depth]) for name in every if len(name) >= depth + parts}

    known = classes(tree.files, 2) | classes([problem.path for problem in tree.problems], 1)
    return classes(list(filter(None, tree.folders)), 1) - known


def _shown(name: str) -> str:
    r"""A file's name as text; bytes that are not UTF-8 become `\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode()
