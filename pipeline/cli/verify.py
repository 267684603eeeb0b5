"""`headstart backbones verify`: frozen against original, on the user's own images, step by step."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import backbones, dataset, files, verification
from pipeline.cli.wording import counted, table
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.images.headers import SNIFF_BYTES, sniff
from pipeline.project import Project, open_project
from pipeline.verdicts import Verified


def run(name: str, paths: Sequence[str], *, most: int, as_json: bool = False) -> int:
    """Print what differs, step by step. paths: files or folders; none: images that prepare listed.

    most: images at most. Raises IntegrityError, exit 4, where the frozen backbone is not the
    original.
    """
    project = open_project()
    entry, folder = project.backbone(name), project.artifacts / "backbones" / name
    if backbones.already_frozen(entry, folder) is None:
        raise InputError(
            f"{folder} is not there yet, or of another entry; run 'dvc repro freeze@{name}'"
        )
    photos = _given(paths, most) if paths else _listed(project, most)
    shown = tqdm(photos, unit="img", disable=None, desc="verifying")
    found = verification.verify(name, entry, folder, _read(shown), locate=project.locate)
    print((_as_json if as_json else _as_text)(name, found), end="")
    if not found.holds:
        step = next(step for step in found.steps if not step.holds)
        raise IntegrityError(
            f"backbone {name}: step '{step.name}' makes something else of "
            f"{counted(step.differing, 'image')}, such as {step.named[0]}; "
            f"run 'dvc repro -f freeze@{name}'"
        )
    return 0


def _listed(project: Project, most: int) -> list[tuple[str, Path]]:
    """The first images by sha256, which is a random sample of them."""
    table = project.artifacts / "dataset" / "images.parquet"
    if not table.exists():
        raise InputError(f"{table} is not there yet; run 'dvc repro prepare', or give paths")
    paths = dataset.read_images(table).path[:most]
    return [(path, project.data_root / path) for path in paths]


def _given(paths: Sequence[str], most: int) -> list[tuple[str, Path]]:
    found = list[Path]()
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(Path(top, name) for top, _, names in os.walk(path) for name in names)
            found += [one for one in below if _is_image(one)]
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigurationError(f"{path} is not there; give images, or folders of some")
    if not found:
        raise InputError(f"no image in {', '.join(paths)}; give other paths")
    return [(str(one), one) for one in found[:most]]


def _is_image(path: Path) -> bool:
    from pipeline.errors import ImageError

    try:
        with path.open("rb") as file:
            sniff(file.read(SNIFF_BYTES))
    except (ImageError, OSError):
        return False
    return True


def _read(photos: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, bytes]]:
    for name, path in photos:
        try:
            yield name, path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _as_text(name: str, found: Verified) -> str:
    rows = [("step", "images that differ", "largest difference", "")]
    for step in found.steps:
        largest = f"{step.largest:.2g} {step.unit}" if step.largest else "none"
        largest = largest if math.isfinite(step.largest) else "another size"
        note = f"such as {step.named[0]}" if step.named else ""
        if step.expected:
            which = "" if step.expected == step.differing else f"{step.expected} of them "
            note += f"; {which}by the rules of docs/images.md"
        rows.append((step.name, f"{step.differing} of {found.images}", largest, note))
    lines = [
        f"{name}: {counted(found.images, 'image')} through its maker's code and through the frozen file",
        *table(rows),
    ]
    if found.own_recipe:
        lines.append(
            "decode, resize and crop: not compared, since there is no maker's preprocessing to compare with"
        )
    whole = found.whole
    lines.append(
        f"from file to stored vector: cosine at least {whole.cosine:.6f}, "
        f"max |d| {found.max_abs:.2g} ({whole.relative:.2g} of RMS)"
    )
    if found.top1 is not None:
        lines.append(f"the original classifier's top-1 agrees on {found.top1} of {found.images}")
    if found.tta:
        lines.append(f"of the crops that {found.tta} averages, the centre alone was compared")
    lines += [f"left out: {image}: {reason}" for image, reason in found.failed]
    return "".join(f"{line}\n" for line in lines)


def _as_json(name: str, found: Verified) -> str:
    steps: list[dict[str, Any]] = [
        {**asdict(step), "largest": _finite(step.largest), "holds": step.holds}
        for step in found.steps
    ]
    return files.json_text(
        {"backbone": name, **asdict(found), "steps": steps, "holds": found.holds}
    )


def _finite(value: float) -> float | None:
    """What JSON can say of a difference; None for another size."""
    return value if math.isfinite(value) else None
