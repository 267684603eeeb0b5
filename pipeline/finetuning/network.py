"""The whole network that is trained: normalisation, backbone, its layers joined, head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pipeline import cgroups
from pipeline.architectures.tapped import Tapped
from pipeline.finetuning.folding import LINEAR, Unit
from pipeline.images import Preprocessing
from pipeline.taps import Tap

State = dict[str, torch.Tensor]

_TAPPED, _BACKBONE = "tapped.network.", "backbone."
_RECIPE = ("mean", "std")
_RUNNING = "running_"


class Network(torch.nn.Module):
    """(N, 3, H, W) float32, normalised -> (N, K) logits.

    head: (N, D) -> (N, K), its last layer named LINEAR; D: of all tapped layers, joined as
    `features.gather` does.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        body: torch.nn.Module,
        taps: Sequence[Tap],
        head: torch.nn.Sequential,
        recipe: Preprocessing,
    ) -> None:
        super().__init__()
        self.tapped = Tapped(body, taps)
        self.head = head
        self._unit = Unit()
        for name, values in zip(_RECIPE, (recipe.mean, recipe.std), strict=True):
            buffer = torch.tensor(values).view(1, 3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    @property
    def body(self) -> torch.nn.Module:
        """The backbone, whose blocks may be frozen."""
        return self.tapped.network

    @property
    def last(self) -> torch.nn.Linear:
        """The layer that makes logits."""
        made: torch.nn.Linear = self.head.get_submodule(LINEAR)  # type: ignore[assignment]
        return made

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) float32."""
        values = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
        return (values - self.mean) / self.std

    def embed(self, images: torch.Tensor, views: int = 1) -> torch.Tensor:
        """(N * V, 3, H, W) float32, normalised, the views of an image together -> (N, D) float32."""
        layers: list[torch.Tensor] = [layer.float() for layer in self.tapped(images)]
        if views > 1:
            layers = [layer.view(-1, views, layer.shape[1]).mean(dim=1) for layer in layers]
        if len(layers) == 1:
            return layers[0]
        return torch.cat([self._unit(layer) for layer in layers], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: (N, 3, H, W) float32, normalised. The head reckons in float32 whatever the backbone does:
        folded through a whitening its numbers are too large for short floats.
        """
        embedding = self.embed(images)
        with torch.autocast(embedding.device.type, enabled=False):
            logits: torch.Tensor = self.head(embedding.float())
        return logits

    def of_pixels(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (N, D) and logits (N, K) of (N, V, H, W, 3) uint8, whatever the V views."""
        embedding = self.embed(self.normalise(pixels.flatten(0, 1)), pixels.shape[1])
        return embedding, self.head(embedding)

    def tensors(self) -> State:
        """Every tensor by the name it has in a file: `backbone.…` and `head.…`."""
        state = self.state_dict()
        return {_renamed(name): tensor.detach() for name, tensor in state.items()}


def _renamed(name: str) -> str:
    return _BACKBONE + name.removeprefix(_TAPPED) if name.startswith(_TAPPED) else name


def reached(network: Network, side: int) -> set[str]:
    """Names of the parameters that the logits depend on. side: of the images, in pixels.

    Not all of a backbone's are where the head sees an inner layer. Leaves it in eval mode, everything
    trainable; each epoch says anew what is.
    """
    pixels = torch.zeros((1, 1, side, side, 3), dtype=torch.uint8, device=network.mean.device)
    known = dict(network.named_parameters())
    network.eval().requires_grad_(True)  # in training its statistics would follow these pixels
    _, logits = network.of_pixels(pixels)
    grads = torch.autograd.grad(logits.sum(), list(known.values()), allow_unused=True)
    return {name for name, grad in zip(known, grads, strict=True) if grad is not None}


def learn(network: Network, *, statistics: bool) -> None:
    """Training mode, in which blocks without a trainable parameter, and BatchNorm, stay as they are.

    statistics: whether BatchNorm, and whatever else has statistics, follows the images where it is trained.
    """
    network.train()
    for part in network.modules():
        trained = [one.requires_grad for one in part.parameters()]
        if (trained and not any(trained)) or (not statistics and _statistics(part)):
            part.eval()  # with what it holds: dropout within a frozen block rests as well


def moving(network: torch.nn.Module, names: Sequence[str], *, statistics: bool) -> State:
    """What training can change: parameters of these names, and statistics where they follow."""
    state = network.state_dict()
    kept = {name: state[name] for name in names}
    return kept | (followed(network) if statistics else {})


def followed(network: torch.nn.Module) -> State:
    """What BatchNorm, and whatever else has statistics, knows of the images so far."""
    found = {
        f"{name}.{buffer}": values
        for name, part in network.named_modules()
        for buffer, values in _statistics(part).items()
    }
    return dict(sorted(found.items()))


def _statistics(part: torch.nn.Module) -> State:
    """Buffers of a module that has statistics of its own: told by what torch and timm call them."""
    own = dict(part.named_buffers(recurse=False))
    return own if any(name.startswith(_RUNNING) for name in own) else {}


def copied(state: State) -> State:
    """The same numbers in memory of their own."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def put(network: torch.nn.Module, state: State) -> None:
    """Write numbers over those of the same names."""
    own = network.state_dict()
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Within, torch uses algorithms that repeat bit for bit, on a GPU as far as it has them.

    On a CPU sums are parted by the number of threads, so that is one for each core, whatever
    else ran in this process or stands in OMP_NUM_THREADS.
    """
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.set_num_threads(cgroups.cores())
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.set_num_threads(threads)


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Within, random numbers are those of the seed; afterwards as if nothing had been.

    So no generator has a state that outlives a step, and a step repeats by its number alone.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
