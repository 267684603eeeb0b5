"""The support vector machine with an RBF kernel."""

from typing import Any

from pydantic import PositiveFloat
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from pipeline.heads.grids import RBF_GRID
from pipeline.heads.recipe import ClassWeight, Recipe, Setting

PCA_ROWS = 1000
"""From this many training rows on, the RBF SVM works on PCA_DIMENSIONS principal components:
its cost grows with rows squared times dimensions."""
PCA_DIMENSIONS = 256


def rbf_svm(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Support vector machine, RBF kernel; on 256 principal components from 1,000 rows on."""

    def build(at: Setting) -> Pipeline:
        steps: list[Any] = [StandardScaler()]
        if at.rows >= PCA_ROWS and at.dim > PCA_DIMENSIONS:
            steps.append(PCA(PCA_DIMENSIONS, random_state=at.seed))
        svm = SVC(C=at.value, tol=at.tolerance, class_weight=class_weight)
        return make_pipeline(*steps, svm)

    return Recipe(build, "C", C, RBF_GRID)
