"""Several processes that train one network, by torch.distributed: each has a share of a step's images.

The first is the process of the stage: it alone validates, saves, tells and writes. Gradients are
summed once a step, when all passes of it are done. A DistributedDataParallel around the network
would do so in each pass, and would have to be made anew whenever other blocks are let loose.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed

from pipeline.errors import HeadstartError, ResourceError

T = TypeVar("T")

MEETING = timedelta(minutes=5)
"""How long one waits for the others to begin."""

PATIENCE = timedelta(hours=12)
"""How long one waits for what another has to tell: the first may be validating many images."""

SUMMATION = timedelta(minutes=10)
"""How long one waits for the gradients of the others, who have all told their loss by then."""

DYING = 60.0
"""Seconds within which one that has broken off has an exit code, on a busy machine."""

GRACE = 30.0
"""Seconds that the others have to end, once the first is done."""

_GONE = ("Connection closed by peer", "Connection reset by peer")
_TELLING: list[Any] = []
_SUMMING: list[Any] = []
"""The groups that tell, and that sum gradients; empty where one process trains."""


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own() -> int:
    """Which of them this is, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def share(places: Sequence[int]) -> Sequence[int]:
    """Of a step's images those that are of this process."""
    return places[own() :: count()]


def sum_up(network: torch.nn.Module) -> None:
    """Add up the gradients of all processes; each has the sum then."""
    moved = [one for one in network.parameters() if one.requires_grad]
    if count() == 1 or not moved:
        return
    grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in moved]
    given = torch.tensor([float(one.grad is not None) for one in moved], device=grads[0].device)
    whole = torch.cat([given, *(grad.flatten() for grad in grads)])
    distributed.all_reduce(whole, group=_SUMMING[0])
    counts, at = whole[: len(moved)].tolist(), len(moved)
    for one, grad, known in zip(moved, grads, counts, strict=True):
        summed = whole[at : at + grad.numel()].view_as(grad).clone()
        one.grad = summed if known else None  # none anywhere stays none, or its weight would decay
        at += grad.numel()


def total(*values: float) -> list[float]:
    """Each number summed over all processes."""
    return [sum(column) for column in zip(*_gathered(values), strict=True)]


def _gathered(value: T) -> list[T]:
    found: list[Any] = [value] * count()
    if count() > 1:
        distributed.all_gather_object(found, value, group=_TELLING[0])
    return found


def told(find: Callable[[], T]) -> T:
    """What the first process finds; the others wait for it and have the same."""
    said: list[Any] = [find() if own() == 0 else None]
    if count() > 1:
        distributed.broadcast_object_list(said, src=0, group=_TELLING[0])
    found: T = said[0]
    return found


@contextmanager
def together(
    processes: int, device: torch.device, follow: Callable[..., None], *given: Any
) -> Iterator[None]:
    """Within, this is the first of so many processes; the others run `follow(*given)`, a module's function.

    Raises what one of them raised, and ResourceError where one ended before its time.
    """
    if processes == 1:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = (processes, str(Path(folder) / "meeting"), device.type)
        context = multiprocessing.get_context("spawn")
        arrived, raised = context.SimpleQueue(), context.SimpleQueue()
        others: list[BaseProcess] = [
            context.Process(target=_other, args=(rank, meeting, arrived, raised, follow, given))
            for rank in range(1, processes)
        ]
        for one in others:
            one.start()
        try:
            _await(others, arrived)
            _meet(0, meeting)
            yield
        except RuntimeError as error:
            lost = _lost(others, DYING if _is_gone(error) else 0.0)
            if not raised.empty():  # as of a photo that is in its share alone
                raise raised.get() from error
            if lost:
                raise lost from error
            raise
        finally:
            _part()
            _end(others)


def _await(others: Sequence[BaseProcess], arrived: "SimpleQueue[int]") -> None:
    """Wait until all others have begun. Raises ResourceError where one has ended instead."""
    here, until = 0, time.monotonic() + MEETING.total_seconds()
    while here < len(others) and time.monotonic() < until:
        if arrived.empty():
            time.sleep(0.05)
        else:
            arrived.get()
            here += 1
        if lost := _lost(others, 0.0):
            raise lost


def _meet(rank: int, meeting: tuple[int, str, str]) -> None:
    """Join the others: by gloo, which sees at once that one is gone, and for gradients on GPUs by NCCL."""
    processes, path, kind = meeting
    distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=processes, timeout=MEETING
    )
    _TELLING.append(distributed.new_group(backend="gloo", timeout=PATIENCE))
    if kind == "cuda":
        torch.cuda.set_device(rank)
    summing = "nccl" if kind == "cuda" else "gloo"
    _SUMMING.append(distributed.new_group(backend=summing, timeout=SUMMATION))


def _part() -> None:
    _TELLING.clear()
    _SUMMING.clear()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _other(
    rank: int,
    meeting: tuple[int, str, str],
    arrived: "SimpleQueue[int]",
    raised: "SimpleQueue[HeadstartError]",
    follow: Callable[..., None],
    given: tuple[Any, ...],
) -> None:
    arrived.put(rank)
    _meet(rank, meeting)
    try:
        follow(*given)
    except HeadstartError as error:  # the first process tells it
        raised.put(error)
        sys.exit(error.exit_code)
    except RuntimeError as error:
        if not _is_gone(error):
            raise
        sys.exit(ResourceError.exit_code)  # the first process has told why it went
    finally:
        _part()


def _is_gone(error: RuntimeError) -> bool:
    """Whether another process broke off the connection."""
    return any(words in str(error) for words in _GONE)


def _lost(others: Sequence[BaseProcess], wait: float) -> ResourceError | None:
    """The error where another process has ended. wait: seconds for it to do so."""
    until = time.monotonic() + wait
    while all(one.exitcode is None for one in others) and time.monotonic() < until:
        time.sleep(0.1)  # one that is dying has no exit code yet
    codes = [one.exitcode for one in others if one.exitcode not in (None, 0)]
    if not codes:
        return None
    return ResourceError(
        f"{len(codes)} of {len(others) + 1} processes that trained together ended (exit code {codes[0]}); "
        "the same command goes on from the last saved step"
    )


def _end(others: Sequence[BaseProcess]) -> None:
    until = time.monotonic() + GRACE
    for one in others:
        one.join(max(0.0, until - time.monotonic()))
        if one.is_alive():
            one.kill()
            one.join()
