"""The support vector machine with an RBF kernel."""

from pydantic import PositiveFloat
from sklearn.svm import SVC

from pipeline.heads import enhancement
from pipeline.heads.enhancement import Names, enhanced
from pipeline.heads.grids import RBF_GRID
from pipeline.heads.recipe import Recipe, Setting
from pipeline.heads.weights import ClassWeight, by_code

PCA_ROWS = 1000
"""From this many training rows on, the RBF SVM works on PCA_DIMENSIONS principal components:
its cost grows with rows squared times dimensions."""
PCA_DIMENSIONS = 256


def rbf_svm(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Support vector machine, RBF kernel; on 256 principal components from 1,000 rows on."""

    def classifier(at: Setting) -> SVC:
        return SVC(
            C=at.value,
            tol=at.tolerance,
            class_weight=by_code(class_weight, at),
            break_ties=True,  # or it predicts another class than its decision function says
        )

    return enhanced(classifier, "C", C, RBF_GRID, reduced=_reduced, notes=_notes, default=10.0)


def _reduced(names: Names, at: Setting) -> Names:
    """The steps, and principal components behind them where there are many rows."""
    many = at.rows >= PCA_ROWS and enhancement.width(names, at) > PCA_DIMENSIONS
    return (*names, f"pca:{PCA_DIMENSIONS}") if many else names


def _notes(at: Setting) -> tuple[str, ...]:
    named = enhancement.STANDARDISED if at.enhance is None else at.enhance
    said = (
        f"the kernel sees {PCA_DIMENSIONS} principal components, as always from {PCA_ROWS} rows "
        f"on: its time grows with rows squared times dimensions, here {at.rows} and {at.dim}"
    )
    return () if _reduced(named, at) == named else (said,)
