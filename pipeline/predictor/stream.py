"""Many images through a bundle: decoded in child processes, answered in the order they came in."""

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from pipeline.decoding import Decoders
from pipeline.errors import ImageError

if TYPE_CHECKING:
    from pipeline.predictor import Prediction, Predictor

Answers = list["Prediction | ImageError"]

QUESTION = 16
"""Images that a decoder is asked for at a time, as in extraction."""

MOST = 32
"""Images that a thread takes at a time; larger ones would leave the others idle at the end."""

PASSES = 4
"""Passes of a GPU's batch that it takes instead."""

GROWTH = 8
"""A thread takes one image first, and 1 / GROWTH of its share of those before later on."""

AHEAD = 2
"""What is waited for beside what the threads are at, in tasks of each."""


def ordered(
    predictor: "Predictor", images: Iterable[Any]
) -> "Generator[Prediction | ImageError, None, None]":
    """See `Predictor.predict`; a text is a path."""
    threads, decoders, images = predictor.threads, predictor.lend(), iter(images)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="headstart-predict")
    waiting, given = deque[Future[Answers]](), 0
    try:
        while True:
            while waiting and waiting[0].done():
                yield from waiting.popleft().result()
            while len(waiting) < threads * (1 + AHEAD):
                some = list(islice(images, _size(predictor, given)))
                if not some:
                    break
                given += len(some)
                waiting.append(pool.submit(_answers, predictor, decoders, some))
            if not waiting:
                predictor.take_back(decoders)
                return
            yield from waiting.popleft().result()
    except BaseException:  # an interrupt, or nobody wants the rest: no decoder is waited for
        decoders.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _size(predictor: "Predictor", given: int) -> int:
    """Images of the next task: few at first, so that the first answers come soon."""
    most = MOST if predictor.device == "cpu" else PASSES * predictor.batch
    return max(1, min(most, given // (GROWTH * predictor.threads)))


def _answers(predictor: "Predictor", decoders: Decoders, images: Sequence[Any]) -> Answers:
    found = Answers()
    for is_path, some in groupby(images, lambda image: isinstance(image, str)):
        if is_path:
            found += _of_paths(predictor, decoders, list(some))
        else:
            found += [_alone(predictor, image) for image in some]
    return found


def _alone(predictor: "Predictor", image: Any) -> "Prediction | ImageError":
    try:
        return predictor(image)
    except ImageError as error:
        return error


def _of_paths(predictor: "Predictor", decoders: Decoders, paths: Sequence[str]) -> Answers:
    found, at, here = Answers(), 0, os.getcwd()
    images = [("", os.path.join(here, path)) for path in paths]
    size = max(predictor.batch, QUESTION // len(predictor.bundle.views))
    on_gpu = predictor.device != "cpu"
    with decoders.borrow() as decoder:
        for batch in decoder.stream(images, size, ahead=on_gpu):
            count = len(batch.sha256) + len(batch.failed)
            pixels = batch.pixels.reshape(-1, *predictor.bundle.shape)
            made = iter(predictor.run(pixels) if batch.sha256 else ())
            failed = deque(batch.failed)
            for _, path in images[at : at + count]:
                if failed and failed[0][0] == path:
                    found.append(ImageError(*failed.popleft()[2:]))
                else:
                    found.append(next(made))
            at += count
    return found
