"""What is tried for an option that the user left at null."""

import numpy as np

C_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-6, 5, 45))
"""The 45 values of the linear-probe protocol (SimCLR, Chen 2020; DINOv2, Oquab 2023)."""

SVM_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-6, -1, 11))
RBF_GRID = tuple(float(C) for C in 10.0 ** np.linspace(-2, 4, 13))
ALPHA_GRID = tuple(float(alpha) for alpha in 10.0 ** np.linspace(6, -2, 17))
K_GRID = (200, 100, 50, 20, 10, 5, 3, 1)
