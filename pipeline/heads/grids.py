"""What is tried for an option that the user left at null."""

import numpy as np

from pipeline.errors import ConfigurationError
from pipeline.names import unknown

Grid = tuple[float, ...]

C_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-6, 5, 45))
"""The 45 values of the linear-probe protocol (SimCLR, Chen 2020; DINOv2, Oquab 2023)."""

SVM_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-6, -1, 11))
RBF_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-2, 4, 13))
ALPHA_GRID = tuple(float(alpha) for alpha in 10.0 ** np.linspace(6, -2, 17))
DECAY_GRID = (100.0, 10.0, 1.0, 0.1, 0.01)
K_GRID = (200, 100, 50, 20, 10, 5, 3, 1)

PRESETS: dict[str, Grid] = {
    "quick-7": tuple(float(C) for C in 10.0 ** np.linspace(-6, 6, 7)),
    "dinov2-45": C_GRID,
    "clip-96": tuple(float(C) for C in 10.0 ** np.linspace(-6, 6, 96)),
}
"""Values of C by name. CLIP's probe (Radford 2021) begins with the 7 and ends between two of
the 96."""

PRESET_OPTIONS = ("C", "alpha")
"""What they are for; alpha is the inverse of C."""


def preset(name: str, option: str, *, at: str) -> Grid:
    """A named grid for an option of PRESET_OPTIONS, from the most regularised value on.

    at: dotted key of the entry. Raises ConfigurationError, near misses named.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"params.yaml: {at}.search: {unknown('search', name, PRESETS)}")
    grid = PRESETS[name]
    return tuple(1 / C for C in grid) if option == "alpha" else grid
