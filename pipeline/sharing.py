"""Whether machines share what a run on several of them must share; tried, not assumed.

The driver leaves a file in the store; each worker says whether it finds it, leaves one of its own,
and all of them make one file at once, of which exactly one may be the maker.
"""

import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import admission, files
from pipeline.admission import Terms
from pipeline.errors import HeadstartError

FROM_DRIVER, RACE = "from-driver", "race"


@dataclass(frozen=True)
class Trial:
    """What workers take part in. folder: below the store; word: what the driver wrote there."""

    terms: Terms
    root: str
    folder: str
    word: str


@dataclass(frozen=True)
class Part:
    """A worker's part. trouble: empty where all was well; word: what it wrote, in `name`."""

    host: str
    trouble: str = ""
    name: str = ""
    word: str = ""


@contextmanager
def trial(terms: Terms, root: Path, store: Path) -> Iterator[Trial]:
    """A trial in a folder of the store that is there for as long. Raises OSError."""
    made = [folder for folder in (store, *store.parents) if not folder.exists()]
    store.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=store, prefix=".doctor-"))
    try:
        word = secrets.token_hex(8)
        files.write_bytes(folder / FROM_DRIVER, word.encode())
        yield Trial(terms, str(root), str(folder), word)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for each in made:
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()


def take_part(given: Trial) -> Part:
    """A worker's part; runs there."""
    host, word = socket.gethostname(), secrets.token_hex(8)
    try:
        admission.check(given.terms, given.root)
        folder = Path(given.folder)
        if not folder.is_dir():
            return Part(host, f"the store {folder.parent} is not there, or another one")
        if (folder / FROM_DRIVER).read_bytes() != given.word.encode():
            return Part(host, f"what this machine wrote to {folder.parent} reads otherwise there")
        with files.replacing(folder / RACE, first=True) as beside:
            beside.write_bytes(word.encode())
        files.write_bytes(folder / word, word.encode())
    except (HeadstartError, OSError) as error:
        return Part(host, " ".join(str(error).split()))
    return Part(host, name=word, word=word)


def troubles(given: Trial, parts: dict[str, Part]) -> dict[str, str]:
    """By worker, what is wrong; empty where nothing is. parts: of all workers, by name."""
    found = {name: part.trouble or _arrived(given, part) for name, part in parts.items()}
    well = {parts[name].word for name, trouble in found.items() if not trouble}
    if well and _read(Path(given.folder, RACE)) not in well:
        store = Path(given.folder).parent
        words = f"of several machines that made one file in {store} at once, none did"
        return {name: trouble or words for name, trouble in found.items()}
    return found


def _arrived(given: Trial, part: Part) -> str:
    if _read(Path(given.folder, part.name)) == part.word:
        return ""
    return f"what it wrote to {Path(given.folder).parent} did not arrive here"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
