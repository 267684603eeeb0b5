"""Heads that draw planes: logistic regression, the linear SVM, ridge regression."""

from pydantic import PositiveFloat
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from pipeline.heads.grids import ALPHA_GRID, C_GRID, SVM_GRID
from pipeline.heads.recipe import ClassWeight, Recipe, Setting


def logistic(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Multinomial logistic regression, L2; C: inverse regularisation, chosen when null."""

    def build(at: Setting) -> Pipeline:
        return make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=at.value, tol=at.tolerance, max_iter=1000, class_weight=class_weight
            ),
        )

    return Recipe(build, "C", C, C_GRID, warm=True)


def linear_svm(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Linear support vector machine, one against the rest; no probabilities."""

    def build(at: Setting) -> Pipeline:
        svm = LinearSVC(
            C=at.value,
            # liblinear's scale: 1e-3 changes no prediction seen, at half the time of 1e-4
            tol=100 * at.tolerance,  # 1e-2 in the end: 1e-4 changed no accuracy, at twice the time
            max_iter=2000,
            class_weight=class_weight,
            dual=True,  # the primal solver took 5 to 60 times as long on standardised embeddings
            random_state=at.seed,
        )
        return make_pipeline(StandardScaler(), svm)

    return Recipe(build, "C", C, SVM_GRID)


def ridge(*, alpha: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Ridge regression on the classes as -1 and 1; alpha chosen when null; no probabilities."""

    def build(at: Setting) -> Pipeline:
        classifier = RidgeClassifier(alpha=at.value, class_weight=class_weight)
        return make_pipeline(StandardScaler(), classifier)

    return Recipe(build, "alpha", alpha, ALPHA_GRID)
