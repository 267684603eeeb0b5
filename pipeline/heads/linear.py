"""Heads that draw planes: logistic regression, the linear SVM, ridge regression."""

from pydantic import PositiveFloat
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import LinearSVC

from pipeline.heads.enhancement import enhanced
from pipeline.heads.grids import ALPHA_GRID, C_GRID, SVM_GRID
from pipeline.heads.recipe import Recipe, Setting
from pipeline.heads.weights import ClassWeight, by_code


def logistic(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Multinomial logistic regression, L2; C: inverse regularisation, chosen when null."""

    def classifier(at: Setting) -> LogisticRegression:
        weight = by_code(class_weight, at)
        return LogisticRegression(C=at.value, tol=at.tolerance, max_iter=1000, class_weight=weight)

    return enhanced(classifier, "C", C, C_GRID, warm=True, default=0.01)


def linear_svm(*, C: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Linear support vector machine, one against the rest; no probabilities of its own."""

    def classifier(at: Setting) -> LinearSVC:
        return LinearSVC(
            C=at.value,
            # liblinear's scale: 1e-3 changes no prediction seen, at half the time of 1e-4
            tol=100 * at.tolerance,  # 1e-2 in the end: 1e-4 changed no accuracy, at twice the time
            max_iter=2000,
            class_weight=by_code(class_weight, at),
            dual=True,  # the primal solver took 5 to 60 times as long on standardised embeddings
            random_state=at.seed,
        )

    # liblinear draws from one state of the process: two fits at a time would not repeat
    return enhanced(classifier, "C", C, SVM_GRID, default=1e-4, alone=True)


def ridge(*, alpha: PositiveFloat | None = None, class_weight: ClassWeight = None) -> Recipe:
    """Ridge regression on the classes as -1 and 1; alpha chosen when null."""

    def classifier(at: Setting) -> RidgeClassifier:
        return RidgeClassifier(alpha=at.value, class_weight=by_code(class_weight, at))

    return enhanced(classifier, "alpha", alpha, ALPHA_GRID, default=1000.0)
