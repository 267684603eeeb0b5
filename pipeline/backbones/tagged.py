"""The file of a source's tag: in torch's cache or the hub's, or fetched, and what it must be."""

import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import files
from pipeline.backbones import download, recognition, weights
from pipeline.backbones.source import Origin
from pipeline.backbones.transfer import FailedError
from pipeline.errors import InputError
from pipeline.params import BackboneParams


def find_address(url: str) -> Origin:
    """What torch keeps of an address in TORCH_HOME, if it is what its name says."""
    path = _torch_cache(url)
    return Origin(path) if _is_whole(path, path.name) else Origin(download=url)


def fetch_address(url: str, entry: BackboneParams, at: str) -> Path:
    """The same file, downloaded into torch's cache where it is not there, or damaged.

    Raises InputError with the command that fetches it elsewhere.
    """
    path = _torch_cache(url)
    if not _is_whole(path, path.name):
        damaged = f"{path} is damaged and " if path.exists() else ""
        digest = recognition.digest_in_name(path.name) or entry.sha256 or ""
        try:
            download.fetch(url, path, digest=digest)
        except FailedError as failed:
            command = shlex.join(["curl", "-fL", "-o", path.name, url])
            raise InputError(
                f"{at}.weights: {damaged}{url} could not be downloaded: {failed}; where there is a "
                f"network type '{command}' and put the file into {path.parent}, or give it as "
                "weights: file:PATH"
            ) from None
    weights.compare(entry, path, files.sha256_of(path), at)
    return path


def name_of(url: str) -> str:
    """What torch calls the file of an address."""
    return Path(urlsplit(url).path).name


def _torch_cache(url: str) -> Path:
    from torch import hub

    return Path(hub.get_dir(), "checkpoints", name_of(url))


def _is_whole(path: Path, name: str) -> bool:
    """Whether a kept file is there, and has the digest that its name says."""
    digest = recognition.digest_in_name(name)
    return path.is_file() and files.sha256_of(path).startswith(digest)


def find_in_hub(repository: str, names: Sequence[str]) -> Origin:
    """The first of these files in the hub's cache, if it is what the cache calls it."""
    path = _hub_kept(repository, names)
    return Origin(path) if path and _is_blob(path) else Origin(download=repository)


def fetch_from_hub(repository: str, names: Sequence[str], entry: BackboneParams, at: str) -> Path:
    """The same, downloaded by the hub's own client where it is not there, or damaged.

    A file in the cache is taken without a word to the hub. Raises InputError with the command
    that fetches it elsewhere.
    """
    path = kept = _hub_kept(repository, names)
    if path is None or not _is_blob(path):
        try:
            path = _hub_download(repository, names, anew=kept is not None)
        except Exception as error:  # noqa: BLE001 - the hub's client raises a dozen kinds
            what = f"{kept} is damaged and {repository}" if kept else repository
            raise InputError(
                f"{at}.weights: {what} could not be downloaded: {_hub_reason(error)}; "
                f"{_hub_advice(repository, names[0])}"
            ) from None
    weights.compare(entry, path, files.sha256_of(path), at)
    return path


def _hub_kept(repository: str, names: Sequence[str]) -> Path | None:
    """The first of these files that the hub's cache has, whatever is in it."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    found = (try_to_load_from_cache(repository, name, revision=revision or None) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _is_blob(path: Path) -> bool:
    """Whether a file of the hub's cache has the sha256 that its large files are named by there."""
    blob = path.resolve()
    named = files.is_digest(blob.name)
    return blob.is_file() and (not named or files.sha256_of(blob) == blob.name)


def _hub_download(repository: str, names: Sequence[str], *, anew: bool) -> Path:
    """The first of these files that the hub has. Raises what its client raises."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = repository.partition("@")
    for name in names:
        try:
            with _quiet():
                path = Path(
                    hf_hub_download(
                        repository, name, revision=revision or None, force_download=anew
                    )
                )
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
        if not _is_blob(path):
            raise OSError("what came has the wrong sha256")
        return path
    raise OSError(f"it has none of {', '.join(names)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the two lines that the hub's client prints of each failed attempt."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _hub_advice(repository: str, name: str) -> str:
    from huggingface_hub import constants

    scripts = {script.name for script in entry_points(group="console_scripts")}
    program = "hf" if "hf" in scripts else "huggingface-cli"
    repository, _, revision = repository.partition("@")
    chosen = f" --revision {revision}" if revision else ""
    folder = "models--" + repository.replace("/", "--")
    return (
        f"where there is a network type '{program} download {repository} {name}{chosen}' and put "
        f"its {folder} (from ~/.cache/huggingface/hub) into {constants.HF_HUB_CACHE}, or give the "
        "file as weights: file:PATH"
    )


def _hub_reason(error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, GatedRepoError):
        return "its makers ask you to accept a licence on its page, and to type 'hf auth login'"
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # type: ignore[assignment]
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[0].split())[:150]
