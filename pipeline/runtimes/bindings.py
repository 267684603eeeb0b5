"""Passes through IOBinding: pixels and vectors have fixed places in a device's memory.

What onnxruntime does of it, read in its code (1.31): `update_inplace` is a cudaMemcpy that its
caller waits for, on the default stream; a run has a stream of its own, for as long as it lasts,
which does not wait for the default one, and its caller does not hold Python's lock meanwhile. So
the copy for one lane goes on while another lane of the same session computes. `user_compute_stream`
would put all runs of a session on one stream, and `synchronize_inputs` wait for the whole device:
neither is used.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnxruntime

from pipeline import gpus
from pipeline.errors import DeviceMemoryError
from pipeline.frozen import Vectors
from pipeline.images import Pixels
from pipeline.runtimes.sessions import memory_errors, out_of_memory


class Lane:
    """One pass at a time through a session: `batch_size` images, the last one padded.

    device: whose memory is used, `cpu` or `cuda`; gpu: its index. Raises DeviceMemoryError where
    that is full.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, device: str, gpu: int, batch_size: int
    ) -> None:
        self._session, self._gpu = session, gpu
        images = session.get_inputs()[0]
        shape = (batch_size, *images.shape[1:])
        place = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        with memory_errors(batch_size, gpu):
            self._given = place(shape, np.uint8, device, gpu)
            self._binding = session.io_binding()
            self._binding.bind_ortvalue_input(images.name, self._given)
            self._made = []
            for vectors in session.get_outputs():
                made = place((batch_size, *vectors.shape[1:]), np.float32, device, gpu)
                self._binding.bind_ortvalue_output(vectors.name, made)
                self._made.append(made)
        self._staged = gpus.pinned(shape, gpu) if device == "cuda" else np.empty(shape, np.uint8)

    def run(self, images: Pixels) -> Vectors:
        """(N, H, W, 3) uint8 -> (N, D) float32; N at least 1 and at most the batch size."""
        count = len(images)
        self._staged[:count] = images
        self._staged[count:] = images[-1]
        with memory_errors(len(self._staged), self._gpu):
            self._given.update_inplace(self._staged)
            self._session.run_with_iobinding(self._binding)
            parts = [made.numpy()[:count] for made in self._made]
            return np.concatenate(parts, axis=1)  # a copy: they may be the lane's own memory


class Lanes:
    """Lanes into a session each GPU, lent to callers that wait where all are out.

    A caller gets one of the GPU that is least busy. Where a GPU's memory runs out, the sessions
    are given up, since they keep what they took; whoever comes then gets a DeviceMemoryError.
    sessions: one a GPU; gpus: their indices; device, batch_size: see `Lane`.
    """

    def __init__(
        self,
        sessions: Sequence[onnxruntime.InferenceSession],
        gpus: Sequence[int],
        device: str,
        batch_size: int,
    ) -> None:
        self._sessions, self._gpus = list(sessions), tuple(gpus)
        self._device, self.batch_size = device, batch_size
        self._idle: list[list[Lane]] = []
        self._change = threading.Condition()

    @property
    def given_up(self) -> bool:
        """Whether memory ran out here."""
        return not self._sessions

    def spread(self, count: int) -> None:
        """Have so many lanes in all, at least one a GPU; for a time when none is out.

        Raises DeviceMemoryError where a GPU has no memory for their pixels.
        """
        each = range(len(self._gpus))
        shares = [len(range(first, max(count, len(each)), len(each))) for first in each]
        with self._giving_up():
            self._idle = [
                [Lane(session, self._device, gpu, self.batch_size) for _ in range(share)]
                for session, gpu, share in zip(self._sessions, self._gpus, shares, strict=True)
            ]

    @contextmanager
    def borrow(self) -> Iterator[Lane]:
        """A lane, for one caller. Raises DeviceMemoryError where memory ran out before."""
        with self._change:
            self._change.wait_for(lambda: self.given_up or any(self._idle))
            if self.given_up:
                raise out_of_memory(self.batch_size, self._gpus[0])
            idle = max(self._idle, key=len)
            lane = idle.pop()
        with self._giving_up():
            try:
                yield lane
            finally:
                with self._change:
                    idle.append(lane)
                    self._change.notify()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except DeviceMemoryError:
            with self._change:
                self._sessions.clear()
                for idle in self._idle:
                    idle.clear()
                self._idle = []
                self._change.notify_all()
            raise
