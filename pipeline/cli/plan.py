"""`headstart plan`: what the next run would do and need, before it runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import changes, files, planning
from pipeline.changes import Changes
from pipeline.cli import dvc, work
from pipeline.cli.check import check_store, list_images
from pipeline.cli.dvc import Outlook
from pipeline.cli.images import BY_FORCE, moved, seen_by_dvc
from pipeline.cli.wording import seconds, size, table
from pipeline.cli.work import Work
from pipeline.dataset import Images
from pipeline.errors import ConfigurationError, ResourceError
from pipeline.extraction import Places
from pipeline.formats import Listing
from pipeline.frozen import RECORD
from pipeline.planning import Cost, Disk
from pipeline.project import Project, open_project

Notes = list[str]


@dataclass(frozen=True)
class Plan:
    """What is printed. images: distinct ones, None where they are not made yet."""

    images: int | None
    costs: dict[str, Cost]
    disks: list[Disk]
    outlook: Outlook | None
    work: dict[str, Work]
    notes: Notes


def run(*, as_json: bool = False) -> int:
    """Print images, new ones, seconds, disk and stages. Raises ResourceError where it won't fit."""
    project, notes = open_project(), Notes()
    check_store(project)
    listing = list_images(project)
    images, unseen = _images(project, listing, notes) if listing else (None, False)
    outlook = _outlook(project, notes, unseen=unseen)
    costs = dict[str, Cost]()
    if images:
        for name in project.params.run.backbones:
            costs[name] = _cost(project, name, images, outlook, notes)
    else:
        notes.append("the sample is not made yet; run 'dvc repro prepare' for a plan with figures")
    disks = planning.disks(_needs(project, costs, outlook))
    runs = project.artifacts / "runs"
    todo = work.ahead(outlook.all, project.params, runs) if outlook else {}
    plan = Plan(len(images.sha256) if images else None, costs, disks, outlook, todo, notes)
    print(
        files.json_text(_as_json(plan)) if as_json else "".join(map("{}\n".format, _lines(plan))),
        end="",
    )
    _refuse_full_disk(project, disks)
    return 0


def _images(project: Project, listing: Listing, notes: Notes) -> tuple[Images, bool]:
    """The distinct images as they are now, and whether DVC is blind to what changed."""
    before = changes.prepared(project.artifacts)
    digests, found = dict[str, str](), Changes()
    if before and before.timed:
        found = changes.compare(before.seen, listing)
        digests = {k: v for k, v in before.digests.items() if k not in set(found.unseen)}
    todo = set(planning.unhashed(listing, digests))
    if count := len(todo.intersection(found.unseen) if digests else todo):
        notes.append(f"{_files(count)} hashed for this plan; nothing was written")
    images = planning.distinct_images(listing, project.params.data.split, digests)
    if before and moved(project, before):
        return images, False
    now = set(images.sha256.astype(str))
    if (
        before
        and not (found.count or project.data.is_dir())
        and set(before.digests.values()) != now
    ):
        notes.append(f"files changed, which DVC does not see; {BY_FORCE}")
        return images, True
    touched = len(found.kinds["touched"])
    if not before or not found.count or project.data.is_dir() or seen_by_dvc(project, found):
        return images, False
    if found.count == touched and set(before.digests.values()) == now:
        return images, False
    notes.append(f"{_files(found.count)} changed, which DVC does not see; {BY_FORCE}")
    return images, True


def _files(count: int) -> str:
    return "1 file was" if count == 1 else f"{count} files were"


def _outlook(project: Project, notes: Notes, *, unseen: bool) -> Outlook | None:
    try:
        return dvc.outlook(project.root, also=("prepare",) if unseen else ())
    except ConfigurationError as error:
        notes.append(str(error))
        return None


def _cost(
    project: Project, name: str, images: Images, outlook: Outlook | None, notes: Notes
) -> Cost:
    freeze, places = f"freeze@{name}", _places(project, name)
    exact = f"run 'dvc repro {freeze}' for an exact plan"
    if outlook and f"extract@{name}" not in outlook.all:
        return planning.no_cost(images)
    if not (places.backbone / RECORD).exists():
        notes.append(f"{name}: not frozen yet: all images are new; {exact}")
        return planning.unknown_cost(images)
    if outlook and freeze in outlook.edited:
        notes.append(
            f"{name}: params.yaml changed since it was frozen: all images count as new; {exact}"
        )
        return planning.unknown_cost(images)
    if outlook and freeze in outlook.all:
        notes.append(f"{name}: will be frozen again; figures hold if that changes nothing; {exact}")
    cost = planning.cost(images, places, project.execution)
    if cost.new and cost.seconds is None:
        notes.append(
            f"{name}: seconds are not known: no run on these workers yet, or no image decodes"
        )
    return cost


def _places(project: Project, name: str) -> Places:
    return Places.of(name, artifacts=project.artifacts, root=project.data_root, store=project.store)


def _needs(
    project: Project, costs: dict[str, Cost], outlook: Outlook | None
) -> list[tuple[Path, int]]:
    """Where how many bytes go; DVC takes an old file away first and keeps a copy of the new."""
    needs = list[tuple[Path, int]]()
    for name, cost in costs.items():
        path = _places(project, name).embeddings
        written = cost.artifacts or 0
        freed = path.stat().st_size if path.exists() and written else 0
        needs.append((project.store, cost.store or 0))
        needs.append((path, max(0, written - freed)))
        needs.append((outlook.cache if outlook else path, written))
    return needs


def _refuse_full_disk(project: Project, disks: Sequence[Disk]) -> None:
    for disk in disks:
        if not disk.fits:
            movable = disk.path == project.store
            raise ResourceError(
                f"the run needs {size(disk.needed)} on the disk of {disk.path}, where "
                f"{size(disk.free)} are free; free some space there"
                + (", or set execution.store to a folder on a larger disk" if movable else "")
            )


def _as_json(plan: Plan) -> dict[str, Any]:
    outlook = plan.outlook
    return {
        "images": plan.images,
        "backbones": {name: asdict(cost) for name, cost in plan.costs.items()},
        "disks": [{**asdict(one), "path": str(one.path), "fits": one.fits} for one in plan.disks],
        "stages": {"run": outlook.run, "follow": outlook.follow} if outlook else None,
        "work": {kind: asdict(one) for kind, one in plan.work.items()} if outlook else None,
        "notes": plan.notes,
    }


def _lines(plan: Plan) -> list[str]:
    lines = [f"data: {plan.images} distinct images"] if plan.costs else []
    if plan.costs:
        rows = [["backbone", "images", "new", "seconds", "store", "artifacts"]]
        rows += [[name, *_row(cost)] for name, cost in plan.costs.items()]
        lines += table(rows)
    lines += [
        f"disk: {size(disk.needed)} needed at {disk.path}, {size(disk.free)} free"
        for disk in plan.disks
        if disk.needed
    ]
    lines += [*_stages(plan.outlook), *work.lines(plan.work)]
    return [*lines, *(f"note: {note}" for note in plan.notes)]


def _row(cost: Cost) -> list[str]:
    known = "?" if cost.seconds is None else seconds(cost.seconds)
    speed = f" ({cost.speed})" if cost.speed else ""
    sizes = ["?" if count is None else size(count) for count in (cost.store, cost.artifacts)]
    return [str(cost.images), str(cost.new), known + speed, *sizes]


def _stages(outlook: Outlook | None) -> list[str]:
    if outlook is None:
        return []
    if not outlook.run:
        return ["stages: none, all is up to date"]
    lines = [f"stages that will run, or come from DVC's cache: {_counted(outlook.run)}"]
    if outlook.follow:
        lines.append(f"and where what they read changes: {_counted(outlook.follow)}")
    return lines


def _counted(stages: Sequence[str]) -> str:
    """Names in their order, the heads of all backbones as their number."""
    heads = Counter(name.startswith("train@") for name in stages)[True]
    words = [
        name if not name.startswith("train@") else f"{heads} head{'s' if heads > 1 else ''}"
        for name in stages
    ]
    return ", ".join(dict.fromkeys(words))
