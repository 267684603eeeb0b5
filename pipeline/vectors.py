"""What vectors must be like for a head to be fitted on them, or asked about them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError


def check_fit(X: npt.NDArray[Any], y: npt.NDArray[Any], classes: Sequence[str]) -> None:
    """Raise InputError unless a head can be fitted: two classes, every number finite.

    X: (N, D) float; y: (N,) int, the place of each row's class in `classes`.
    """
    found = np.unique(y)
    if len(found) < 2:
        only = f"all of class {classes[int(found[0])]!r}" if len(found) else "none"
        raise InputError(
            f"the {len(y)} vectors to fit on are {only}, and a head tells classes apart; "
            "add images of another class to train, then run 'dvc repro'"
        )
    check_finite(X)


def check_predict(classifier: Any, X: npt.NDArray[Any]) -> None:
    """Raise InputError unless a fitted classifier can be asked about these vectors.

    X: (N, D) float, of the width it was fitted on, every number finite.
    """
    width = getattr(classifier, "n_features_in_", None)
    if width is not None and X.shape[1] != width:
        raise InputError(
            f"the vectors have {X.shape[1]} dimensions, the head was fitted on {width}: they are "
            "another backbone's or layer's; give those, or run 'dvc repro train'"
        )
    check_finite(X)


def check_finite(X: npt.NDArray[Any]) -> None:
    """Raise InputError if a number of X, (N, D) float, is NaN or infinite."""
    with np.errstate(all="ignore"):
        # NaN and infinity stay in a sum; a finite row whose sum overflows is looked at again
        doubtful = np.flatnonzero(~np.isfinite(X @ np.ones(X.shape[1], dtype=X.dtype)))
    bad = [row for row in doubtful if not np.isfinite(X[row]).all()]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(X)} vectors hold NaN or infinity, the first is row {bad[0]}; run "
            "'headstart embeddings verify' with the file they are from, then 'dvc repro -f extract'"
        )
