"""What comes of a run: the weights that are kept, its answers, its folder."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from pipeline import files, finetuned, frozen
from pipeline.architectures import exported
from pipeline.backbones import onnx_model
from pipeline.errors import IntegrityError
from pipeline.evaluation import tables
from pipeline.evaluation.results import Result
from pipeline.finetuning import scoring
from pipeline.finetuning.network import Network, State, put
from pipeline.finetuning.pictures import Decoded
from pipeline.finetuning.scoring import Score
from pipeline.finetuning.state import Row
from pipeline.images import Preprocessing
from pipeline.images.views import Views

ALPHAS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Shares of the way from start to finish that WiSE-FT tries; of equal scores the first stands."""

PARITY = 1e-4
"""How far a probability of the ONNX file may be from torch's, on the probe."""


@dataclass(frozen=True)
class Kept:
    """Which weights were kept. alpha: their share of the way, None where none was tried."""

    alpha: float | None
    score: Score


def keep(
    network: Network,
    ends: tuple[State, State],
    scores: tuple[Score, Score],
    judge: Decoded,
    *,
    wise: bool,
    workers: int = 0,
) -> Kept:
    """Put the best weights into the network, or with `wise` those between start and best that do
    best on validation (WiSE-FT, Wortsman 2022).

    ends, scores: of the start and of the best epoch.
    """
    known = {0.0: scores[0], 1.0: scores[1]}
    for alpha in ALPHAS if wise else ():
        if alpha not in known:
            put(network, between(*ends, alpha))
            found = scoring.logits(network, judge, workers=workers)
            known[alpha] = scoring.score(found, judge.listed.y)
    chosen = max(ALPHAS, key=lambda alpha: known[alpha]) if wise else 1.0
    put(network, between(*ends, chosen))
    return Kept(chosen if wise else None, known[chosen])


def between(start: State, best: State, alpha: float) -> State:
    """Weights a share of the way from start to best; at its ends they are those, bit for bit."""
    if alpha == 1:
        return best
    if alpha == 0:
        return start
    return {
        name: start[name] + alpha * (best[name] - start[name])
        if best[name].is_floating_point()
        else best[name]
        for name in best
    }


class Deployed(torch.nn.Module):
    """(N, H, W, 3) uint8, or with several views (N, V, H, W, 3) -> finetuned.OUTPUTS."""

    def __init__(self, network: Network, views: int) -> None:
        super().__init__()
        self.network, self.views = network, views

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pixels = images.unsqueeze(1) if self.views == 1 else images
        embedding, logits = self.network.of_pixels(pixels)
        return logits.argmax(dim=1), torch.softmax(logits, dim=1), embedding


def write_onnx(network: Network, recipe: Preprocessing, views: Views, path: Path, name: str) -> str:
    """Write model.onnx and compare it with torch on the probe; why it cannot be written, or nothing.

    name: of the entry. Raises IntegrityError where the two differ.
    """
    whole = Deployed(network.eval(), len(views)).eval()
    probe = frozen.probe_pixels(recipe, views)
    if len(views) > 1:
        probe = probe.reshape(-1, len(views), *probe.shape[1:])
    try:
        exported.export_named(whole, probe, path, finetuned.OUTPUTS)
    except exported.InexpressibleError as error:
        path.unlink(missing_ok=True)
        return str(error)
    _, known, embedding = onnx_model.run(path, probe)
    with torch.inference_mode():
        _, expected, vectors = whole(torch.from_numpy(probe.copy()))
    what = f"finetune.{name}: ONNX against torch"
    frozen.check_drift(embedding, vectors.numpy(), precision="float32", what=what)
    apart = float(np.abs(known - expected.numpy()).max())
    if not apart <= PARITY:
        raise IntegrityError(f"{what}: a probability differs by {apart:.1e} (at most {PARITY:g})")
    return ""


def write(
    folder: Path,
    network: Network,
    results: Sequence[Result],
    history: Sequence[Row],
    record: Mapping[str, Any],
    recipe: Preprocessing,
    views: Views,
) -> None:
    """Write the folder of `pipeline.finetuned`, whole or not at all."""
    network = network.cpu().to(memory_format=torch.contiguous_format)
    with files.replacing(folder) as beside:
        beside.mkdir()
        tensors = {name: one.clone().contiguous() for name, one in network.tensors().items()}
        (beside / finetuned.WEIGHTS).write_bytes(save(tensors))
        reason = write_onnx(network, recipe, views, beside / finetuned.ONNX, folder.name)
        if reason:
            (beside / finetuned.ONNX).touch()  # DVC wants every output to be there
            print(f"headstart: {folder.name}: no model.onnx ({reason})", file=sys.stderr)
        tables.write_predictions(beside / finetuned.PREDICTIONS, list(results))
        known = [result.scored.known for result in results]
        np.save(beside / finetuned.PROBABILITIES, np.concatenate(known))
        rows = [{**dict.fromkeys(finetuned.COLUMNS), **row} for row in history]
        files.write_csv(beside / finetuned.HISTORY, finetuned.COLUMNS, rows)
        finetuned.seal(beside, {**record, "onnx": reason or "written"})
