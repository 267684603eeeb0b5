"""A module from its frozen file: model.safetensors holds its tensors and what it makes of the probe.

The probe's vectors, made on the CPU, tell a library that builds another module of that name, and
a device that computes otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import architectures, frozen
from pipeline.architectures.tapped import Tapped
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images import Preprocessing
from pipeline.taps import PENULTIMATE, Tap

MODEL = "model.safetensors"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Of weights and arithmetic, by the recipe's precision."""

_PREFIX = "backbone."
_PROBE = "probe"


class Normalised(torch.nn.Module):
    """(N, H, W, 3) uint8 -> (N, D) float32: normalisation, in float32, then the backbone.

    backbone: gives a tensor (N, D), or one a layer, which then stand side by side; dtype: of what
    it takes in.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, backbone: torch.nn.Module, recipe: Preprocessing, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dtype = dtype
        for name, values in (("mean", recipe.mean), ("std", recipe.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: (N, H, W, 3) uint8, on the module's device."""
        layers = self.each(images)
        return layers[0] if len(layers) == 1 else torch.cat(layers, dim=1)

    def each(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same, a tensor (N, D_i) a layer."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        made = self.backbone(((pixels - self.mean) / self.std).to(self.dtype))
        layers = made if isinstance(made, tuple) else (made,)
        return tuple(layer.to(torch.float32) for layer in layers)


@dataclass(frozen=True)
class Restored:
    """A frozen module on the CPU. probe: (K, D) float32, what it made of the probe's images."""

    module: Normalised
    probe: Vectors


def write(module: torch.nn.Module, record: FrozenBackbone) -> Vectors:
    """Write a float32 module's tensors as the record's model file, in its precision.

    Returns what it then makes of the probe, (K, D) float32, D of all layers together. Equal
    modules give equal bytes on processors of one type.
    """
    bare, state = _bare(record), module.state_dict()
    kept = {
        name: state[name].detach().to(own.dtype).clone().contiguous()
        for name, own in bare.state_dict().items()
    }
    probe = _made(bare, kept, record)
    tensors = {_PREFIX + name: tensor for name, tensor in kept.items()}
    content = save({**tensors, _PROBE: torch.from_numpy(probe)})
    record.model.write_bytes(content)  # save_file makes one that nobody else may read
    return probe


def restore(backbone: FrozenBackbone, layers: Sequence[int] = (0,)) -> Restored:
    """The module of a frozen model.safetensors, channels last, in eval mode.

    layers: which of the backbone's it gives, by number; the probe is of these as well. Raises IntegrityError where the file cannot be read, or is not that of the module which the
    installed library builds.
    """
    again = f"run 'dvc repro -f freeze@{backbone.name}'"
    try:
        tensors = load_file(backbone.model)
        probe = tensors.pop(_PROBE).numpy()
    except Exception as error:  # noqa: BLE001 - safetensors raises a kind of its own, and OSError
        reason = " ".join(str(error).split())[:200]
        raise IntegrityError(f"{backbone.model} cannot be read ({reason}); {again}") from None
    bare = _bare(backbone)
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    if differing := _differing(bare.state_dict(), state):
        raise IntegrityError(
            f"{backbone.model} is not that of the {backbone.fields['architecture']} which is built "
            f"here: {differing}; install {backbone.fields['package']}, or {again}"
        )
    ends = np.cumsum([0, *(layer.dim for layer in backbone.layers)])
    kept = [probe[:, ends[number] : ends[number + 1]] for number in layers]
    taps = [backbone.taps[number] for number in layers]
    return Restored(_filled(bare, state, backbone, taps), np.concatenate(kept, axis=1))


def probe_of(module: torch.nn.Module, backbone: FrozenBackbone, device: torch.device) -> Vectors:
    """What a module on a device makes of the probe's images, (K, D) float32."""
    images = torch.from_numpy(frozen.probe_pixels(backbone.preprocessing).copy())
    with torch.inference_mode():
        vectors: Vectors = module(images.to(device)).cpu().numpy()
    return np.ascontiguousarray(vectors)  # of some models it is a view


def _bare(backbone: FrozenBackbone) -> torch.nn.Module:
    """The module of a record in its precision, without its weights.

    Batch normalisation stays in float32, which libraries do at no cost: its statistics span more
    than a short float resolves.
    """
    bare = architectures.build(backbone.fields)
    dtype = DTYPES[str(backbone.fields["precision"])]
    for part in bare.modules():
        if isinstance(part, _BatchNorm):
            continue
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    return bare


def _filled(
    bare: torch.nn.Module,
    state: dict[str, torch.Tensor],
    backbone: FrozenBackbone,
    taps: Sequence[Tap],
) -> Normalised:
    own = bare.state_dict()
    own.update(state)  # keeps the versions of its parts, which some of them ask for
    bare.load_state_dict(own)
    for part in bare.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.to(memory_format=torch.channels_last)
    dtype = DTYPES[str(backbone.fields["precision"])]
    plain = [tap.layer for tap in taps] == [PENULTIMATE]  # no hooks, which compilers dislike
    tapped = bare if plain else Tapped(bare, taps)
    return Normalised(tapped, backbone.preprocessing, dtype).eval().requires_grad_(False)


def _made(bare: torch.nn.Module, state: dict[str, torch.Tensor], record: FrozenBackbone) -> Vectors:
    """The probe's vectors, by one thread, so that the number of cores changes no bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = _filled(bare, state, record, record.taps)
        return probe_of(module, record, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


def _differing(own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str:
    """The first tensor that is not alike, in words; empty where all are."""
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            return f"it lacks {name}"
        if name not in own:
            return f"it has {name}"
        if _kind(own[name]) != _kind(state[name]):
            return f"{name} is {_kind(state[name])}, not {_kind(own[name])}"
    return ""


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
