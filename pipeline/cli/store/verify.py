"""`headstart store verify`: every byte of the store against what names and notes say."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from pipeline import index, segments, shards, uses
from pipeline.cli.store import inventory
from pipeline.cli.store.inventory import Holding
from pipeline.cli.wording import counted, size
from pipeline.errors import ConfigurationError, IntegrityError, ResourceError
from pipeline.project import open_project
from pipeline.store import Store
from pipeline.uses import SHORT


def run(prefix: str = "") -> int:
    """Name every damaged file of the fingerprints that begin so.

    Raises IntegrityError where one is damaged, ResourceError where one cannot be read, and
    ConfigurationError where no fingerprint begins so.
    """
    project = open_project()
    found = inventory.opened(project.store)
    chosen = _chosen(found.holdings, prefix, project.store)
    total, damaged, unread = 0, list[Holding](), 0
    with tqdm(
        total=sum(one.bytes for one in chosen), unit="B", unit_scale=True, disable=None
    ) as bar:
        for holding in chosen:
            for path in _files(holding):
                total += 1
                try:
                    bar.update(_check(path, holding))
                except IntegrityError as error:
                    damaged.append(holding)
                    bar.write(str(error))
                except ResourceError as error:
                    unread += 1
                    bar.write(str(error))
    names = inventory.names(project.artifacts / "backbones")
    if damaged:
        raise IntegrityError(_advice(damaged, total, project.store, names))
    if unread:
        raise ResourceError(
            f"{counted(unread, 'file')} in {project.store} cannot be read; see to the disk and to "
            "who may read there, then run the same command again"
        )
    whole = f"{counted(len(chosen), 'fingerprint')}, {counted(total, 'file')}"
    print(f"{project.store}: {whole}, {size(sum(one.bytes for one in chosen))}: ok")
    return 0


def _chosen(holdings: Sequence[Holding], prefix: str, root: Path) -> list[Holding]:
    chosen = [one for one in holdings if one.fingerprint.startswith(prefix)]
    if prefix and not chosen:
        there = ", ".join(one.fingerprint[:SHORT] for one in holdings) or "none"
        raise ConfigurationError(f"no fingerprint in {root} begins with {prefix}; there: {there}")
    return chosen


def _files(holding: Holding) -> Iterator[Path]:
    """Shards, their index, the probe and notes; what is not whole yet is none of them."""
    yield from inventory.files_in(holding.path, shards.ENDING)
    yield from inventory.files_in(holding.path, index.ENDING)
    yield from inventory.files_in(holding.path, ".npy")
    yield from inventory.files_in(holding.path, uses.FIELDS)
    yield from inventory.files_in(holding.path / uses.USES, ".json")


def _check(path: Path, holding: Holding) -> int:
    """The bytes of a file that is as it should be; 0 where a run deleted it meanwhile."""
    try:
        if path.suffix == shards.ENDING:
            shards.check(path, holding.fingerprint)
        elif path.suffix == index.ENDING:
            segments.opened(path, holding.fingerprint)
        elif path.suffix == ".npy":
            Store(holding.path.parent, holding.fingerprint).reference_probe()
        elif path.name == uses.FIELDS:
            uses.read_made(holding.path, holding.fingerprint)
        else:
            uses.read_use(path)
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}") from None


def _advice(damaged: Sequence[Holding], total: int, root: Path, names: dict[str, list[str]]) -> str:
    """What is wrong and what to type. DVC runs no stage for the store's sake, so it is forced."""
    mine = sorted({name for one in damaged for name in names.get(one.fingerprint, ())})
    stages = " ".join(f"extract@{name}" for name in mine)
    are = "is" if len(damaged) == 1 else "are"
    text = f"{len(damaged)} of {counted(total, 'file')} in {root} {are} damaged, named above"
    if mine:
        return f"{text}; delete them, then run 'dvc repro -f -s {stages}', which makes them anew"
    return f"{text}; delete them: the next run that needs their rows computes them anew"
