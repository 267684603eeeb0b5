"""A bundle, loaded: images -> labels, by onnxruntime, numpy and Pillow alone.

    from pipeline import predictor

    model = predictor.open("artifacts/model/model.onnx")
    model("photo.jpg").label
    for found in model.predict(["a.jpg", "b.jpg"]): ...

Opening runs no code of the file and reads nothing beside it (`contents`). Images are decoded as for
training, by `pipeline.images`; where there are many, in child processes (`pipeline.decoding`).
"""

import os
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import cgroups, files
from pipeline.decoding import Decoders
from pipeline.decoding.child import MAX_BYTES
from pipeline.errors import ImageError, InputError
from pipeline.images import Pixels
from pipeline.images.views import render
from pipeline.predictor import record, sessions
from pipeline.predictor.record import Bundle
from pipeline.predictor.sessions import Session, choose_device, has_probabilities, open_session

__all__ = ["Bundle", "Prediction", "Predictor", "open"]

Vector = npt.NDArray[np.float32]

LARGE = 1 << 27
"""Bytes of a file from which on more than one image a pass pays: its constants are read each time."""

BATCH = {"cpu": 8, "cuda": 32}
"""Images a pass where one is too few."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a bundle says of an image.

    label: the class; probabilities: (K,) float32, of `classes` in their order, None where the head
    has none; embedding: (D,) float32, what the head saw of the backbone.
    """

    label: str
    probabilities: Vector | None
    embedding: Vector
    classes: tuple[str, ...]

    @property
    def probability(self) -> float | None:
        """Of the label."""
        return None if self.probabilities is None else self.of(self.classes.index(self.label))

    def of(self, code: int) -> float:
        """The probability of the class of that number, written as short as float32 allows."""
        known = self.probabilities
        return float("nan") if known is None else float(str(known[code]))

    def top(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, falling; none without probabilities."""
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[code], self.of(code)) for code in order]

    def __repr__(self) -> str:
        known = self.probability
        return f"Prediction({self.label!r}{'' if known is None else f', {known:.3f}'})"


class Predictor:
    """A bundle that is ready; made by `open`. Safe to call from several threads.

    bundle: what it says of itself; device: `cpu` or `cuda`; threads: images at once; batch: images
    a pass, the last one of which is padded, so that a result does not depend on its neighbours.
    """

    def __init__(
        self, bundle: Bundle, session: Session, decoders: Decoders, *, device: str, batch: int
    ) -> None:
        self.bundle, self.device, self.batch = bundle, device, batch
        self.threads = cgroups.cores()
        self._decoders, self._lock = decoders, threading.Lock()
        self._session = session
        self.has_probabilities = has_probabilities(session)

    def lend(self) -> Decoders:
        """The child processes there are, for one caller, and who comes then gets others."""
        with self._lock:
            lent, self._decoders = self._decoders, _decoders(self.bundle)
        return lent

    def take_back(self, decoders: Decoders) -> None:
        """Keep them for the next caller; they end by themselves when nobody asks for long."""
        self._decoders = decoders

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in the order of the probabilities."""
        return self.bundle.classes

    def __call__(self, image: Any) -> Prediction:
        """One image: a path, the bytes of a file, or (H, W, 3) uint8 as Pillow's images give it.

        Decoded here and now, so a file that crashes its decoder ends this process; `predict` is
        proof against that. Raises ImageError with its reason.
        """
        recipe = self.bundle.preprocessing
        pixels = render(_encoded(image), "", recipe, self.bundle.views)
        (found,) = self.run(pixels.reshape(1, *self.bundle.shape))
        if isinstance(found, ImageError):
            raise found
        return found

    def predict(self, images: Iterable[Any]) -> Generator[Prediction | ImageError, None, None]:
        """A prediction for each image, in their order, as they are ready; few are at hand.

        images: of the kinds that a call takes; paths are decoded in child processes, the others
        here. Where one cannot be used its place holds the ImageError that says why. Raises OSError
        or ResourceError where this machine is short of something.
        """
        from pipeline.predictor.stream import ordered

        paths = (os.fspath(one) if isinstance(one, os.PathLike) else one for one in images)
        return ordered(self, paths)

    def run(self, pixels: Pixels) -> list[Prediction | ImageError]:
        """What the bundle makes of preprocessed images, (N, *bundle.shape) uint8.

        An ImageError `not_finite` where it makes NaN or infinity of one. Raises InputError or
        ResourceError where onnxruntime gives up.
        """
        found = list[Prediction | ImageError]()
        for start in range(0, len(pixels), self.batch):
            some = pixels[start : start + self.batch]
            padding = np.repeat(some[-1:], self.batch - len(some), axis=0)
            made = sessions.run(self._session, np.concatenate([some, padding]), self.bundle)
            found += self._predictions([part[: len(some)] for part in made])
        return found

    def _predictions(self, made: list[Any]) -> Iterator[Prediction | ImageError]:
        codes, embeddings = made[0], made[-1]
        known = made[1] if self.has_probabilities else [None] * len(codes)
        for code, probabilities, embedding in zip(codes, known, embeddings, strict=True):
            told = [embedding] if probabilities is None else [embedding, probabilities]
            if not all(np.isfinite(values).all() for values in told):
                yield ImageError("not_finite", "the model makes NaN or infinity of it")
            else:
                label = self._label(int(code))
                yield Prediction(label, probabilities, embedding, self.classes)

    def _label(self, code: int) -> str:
        if not 0 <= code < len(self.classes):
            raise InputError(
                f"{self.bundle.path}: its label is {code}, of {len(self.classes)} classes; "
                "run 'dvc repro -f bundle'"
            )
        return self.classes[code]

    def __repr__(self) -> str:
        said = self.bundle
        return (
            f"Predictor({said.backbone}, {said.head}, {len(said.classes)} classes, {self.device})"
        )


def open(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | None = None,
    start: int = 0,
) -> Predictor:
    """Open a bundle, model.onnx, on `auto`, `cpu` or `cuda`.

    threads: images at once, as many as there are cores without; start: child processes to start
    meanwhile, for who will call `predict` at once. Raises ConfigurationError where the file or the
    device is not there, InputError where it is no bundle, IntegrityError where it is another than
    the model.json beside it says.
    """
    chosen = choose_device(device)
    bundle, content = record.read(Path(path))
    decoders = _decoders(bundle)
    decoders.start(start)
    session = open_session(content, bundle, chosen)
    batch = BATCH[chosen] if chosen != "cpu" or len(content) >= LARGE else 1
    made = Predictor(bundle, session, decoders, device=chosen, batch=batch)
    made.threads = threads or made.threads
    return made


def _decoders(bundle: Bundle) -> Decoders:
    """Of files anywhere, by their absolute paths."""
    return Decoders(Path(os.sep), bundle.preprocessing, bundle.views)


def _encoded(image: Any) -> bytes:
    """The bytes of an image file; of pixels, those of a PPM."""
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        with files.open_plain(os.fspath(image)) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise ImageError("too_many_bytes", f"{size} are more than {MAX_BYTES}")
            return file.readall()
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise TypeError(
            f"an image is a path, bytes or (H, W, 3) uint8, not {pixels.dtype} {pixels.shape}"
        )
    return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()
