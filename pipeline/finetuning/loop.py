"""The training loop: epochs of steps, a validation after each, the best kept, a place to go on from."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors.torch import save

from pipeline import files
from pipeline.errors import IntegrityError
from pipeline.finetuning import memory, pictures, ranks, scoring, state
from pipeline.finetuning.blocks import HEAD, moved_at
from pipeline.finetuning.course import Course, Told, Watch, silent
from pipeline.finetuning.network import Network, State, copied, followed, learn, moving, put
from pipeline.finetuning.optimising import Machinery, set_rates
from pipeline.finetuning.pictures import Augmented
from pipeline.finetuning.scoring import Score
from pipeline.finetuning.state import Row, Standing
from pipeline.finetuning.step import Step
from pipeline.params import FinetuneParams

BEST = "best.safetensors"
"""Weights that a run leaves which broke off."""


def train(
    network: Network, machinery: Machinery, course: Course, first: Score, watch: Watch = silent
) -> tuple[Standing, State]:
    """Train to the end, or from where a killed run was left.

    first: of the validation images before the first step. Returns where it ended, which has the
    best epoch's moving tensors, and those of the start. Raises ConfigurationError (another run was
    left), IntegrityError (the loss is no number), ResourceError (no memory for one image).
    """
    start = copied(moving(network, machinery.parameters, statistics=course.statistics))
    left = state.load(course.folder, course.identity, course.name)
    if left is None:
        standing = Standing(best=start, passes=course.entry.accumulate)
        standing.history.append(_row(standing, first))
    else:
        standing = state.resume(left, network, machinery, network.mean.device)
        _tell(course, f"goes on after {standing.epoch} epochs and {standing.update} steps")
    steps = Step(network, machinery, course.entry, start)
    run = _Run(network, machinery, course, standing, steps, watch)
    while standing.epoch < course.entry.epochs and not _is_enough(standing, course.entry):
        run.epoch()
    if standing.epoch < course.entry.epochs:
        _tell(course, f"stops: no epoch was better for {standing.waited}, which is patience")
    return standing, start


def _tell(course: Course, what: str) -> None:
    if ranks.own() == 0:
        print(f"headstart: finetune.{course.name} {what}", flush=True)


def _is_enough(standing: Standing, entry: FinetuneParams) -> bool:
    return entry.patience is not None and standing.waited >= entry.patience


def _row(standing: Standing, score: Score, rate: float | None = None) -> Row:
    """Of the history."""
    seen = standing.seen
    return {
        "epoch": standing.epoch,
        "rate": rate,
        "train_loss": standing.total / seen if seen else None,
        "train_accuracy": standing.right / seen if seen else None,
        "val_loss": score.loss,
        "val_accuracy": score.accuracy,
    }


@dataclass(frozen=True)
class _Run:
    """One run's pieces."""

    network: Network
    machinery: Machinery
    course: Course
    standing: Standing
    steps: Step
    watch: Watch

    def epoch(self) -> None:
        """The rest of an epoch, its validation, and the best so far."""
        standing, course = self.standing, self.course
        self._unfreeze()
        saved = time.monotonic()
        for pixels, y in self._batches():
            loss = self._step(pixels, y)
            if time.monotonic() - saved >= course.every:
                self._save()
                saved = time.monotonic()
            self.watch(Told(standing.epoch, standing.update, course.updates, loss))
        row = self._validate()
        self._save()
        self.watch(Told(standing.epoch, 0, course.updates, row["train_loss"], row))

    def _unfreeze(self) -> None:
        """Let this epoch's parameters, and no others, be trained."""
        course, names = self.course, self.machinery.names
        moved = moved_at(course.chosen, course.entry, self.standing.epoch)
        free = {name for block in (*(one.name for one in moved), HEAD) for name in names[block]}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in free)
            if name not in free:
                parameter.grad = None

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels and classes of the steps that are left of the epoch."""
        course, epoch, seed = self.course, self.standing.epoch, self.course.entry.seed
        transform = pictures.augmentation(course.entry.augment, course.recipe)
        augmented = Augmented(course.learn, transform, seed, epoch)
        places = pictures.order(len(course.learn.listed), course.step_size, seed, epoch)
        left = [ranks.share(step) for step in places[self.standing.update :]]
        return pictures.steps(augmented, left, course.workers)

    def _step(self, pixels: torch.Tensor, y: torch.Tensor) -> float:
        """Other weights; where memory runs out, with half the images a pass."""
        standing, device = self.standing, self.network.mean.device
        number = self._number
        self._set_rates(number)
        learn(self.network, statistics=self.course.statistics)
        pixels, y = pixels.to(device), y.to(device)
        before = copied(followed(self.network)) if self.course.statistics else {}
        while True:
            try:
                loss, right = self.steps.gradients(
                    pixels, y, passes=standing.passes, number=number, of=self.course.step_size
                )
                break
            except (RuntimeError, MemoryError) as error:
                if not memory.has_run_out(error) or not self._can_halve(len(y)):
                    raise
            put(self.network, before)  # or a pass that is done again would move them twice
            self._halve(len(y))
        loss, whole = ranks.total(loss, right)
        if not math.isfinite(loss):
            raise self._broken(loss, f"in epoch {standing.epoch + 1}, step {standing.update + 1}")
        ranks.sum_up(self.network)
        self.steps.change(number)
        standing.count(loss, int(whole), self.course.step_size)
        return loss

    @property
    def _number(self) -> int:
        """Of the step that comes next, over all epochs."""
        return self.standing.epoch * self.course.updates + self.standing.update

    def _set_rates(self, number: int) -> float:
        course = self.course
        losses = self.standing.losses
        return set_rates(self.machinery, course.entry, number, course.updates, losses)

    def _can_halve(self, images: int) -> bool:
        return -(-images // self.standing.passes) > 1

    def _halve(self, images: int) -> None:
        """Half the images a pass from now on."""
        standing = self.standing
        memory.give_back()
        standing.passes *= 2
        size = -(-images // standing.passes)
        print(
            f"headstart: finetune.{self.course.name}: memory is short: a step goes on in "
            f"{standing.passes} passes of {size} images; to begin like that write batch_size: {size}, "
            f"accumulate: {standing.passes}",
            flush=True,
        )

    def _broken(self, loss: float, where: str) -> IntegrityError:
        """The loss is no number: the best weights so far are restored, kept, and told."""
        standing, course = self.standing, self.course
        put(self.network, standing.best)
        kept = course.folder / BEST
        tensors = {name: one.cpu().contiguous() for name, one in self.network.tensors().items()}
        if ranks.own() == 0:
            files.write_bytes(kept, save(tensors))
            (course.folder / state.FILE).unlink(missing_ok=True)
        reached = standing.score(standing.best_epoch).accuracy
        best = f"epoch {standing.best_epoch}, validation accuracy {reached:.4f}"
        return IntegrityError(
            f"finetune.{course.name}: the loss is {loss} {where}; lower lr or set clip, then run it "
            f"again ({kept} has the best weights before it: {best})"
        )

    def _validate(self) -> Row:
        """What an epoch has led to, by the average of the weights where one is kept."""
        standing, average = self.standing, self.machinery.average
        rate = self._set_rates(self._number - 1)
        judged = self.network if average is None else average.module
        score = ranks.told(lambda: self._score(judged))
        if not math.isfinite(score.loss):
            raise self._broken(score.loss, f"on validation after epoch {standing.epoch + 1}")
        standing.epoch, standing.update = standing.epoch + 1, 0
        row = _row(standing, score, rate)
        standing.add(row)
        if standing.score(standing.epoch) > standing.score(standing.best_epoch):
            standing.best, standing.best_epoch = copied(self._moving(judged)), standing.epoch
        return row

    def _score(self, judged: Network) -> Score:
        course = self.course
        found = scoring.logits(judged, course.judge, workers=course.workers)
        return scoring.score(found, course.judge.listed.y)

    def _moving(self, network: torch.nn.Module) -> State:
        """The tensors that training changes."""
        return moving(network, self.machinery.parameters, statistics=self.course.statistics)

    def _save(self) -> None:
        if ranks.own() != 0:
            return
        average = self.machinery.average
        state.save(
            self.course.folder,
            self.standing,
            self._moving(self.network),
            {} if average is None else self._moving(average.module),
            self.machinery,
            self.course.identity,
        )
