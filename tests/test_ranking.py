"""The scores of `pipeline.ranking`, held against values that were derived another way."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline import ranking, spectra
from pipeline.ranking import SCORES, h_score, logme, loo_knn

SHAPES = [(30, 6), (12, 40), (20, 20)]
"""(N, D): more rows, more dimensions, as many."""


def clouds(rows: int, dim: int, *, classes: int = 3, apart: float = 1.0, seed: int = 0):
    """(N, D) float64 around each class's centre and off the origin, and (N,) labels by turns."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    centres = apart * random.normal(size=(classes, dim))
    return 0.5 + centres[y] + random.normal(size=(rows, dim)), y


# LogME


def highest_evidence(X: np.ndarray, target: np.ndarray) -> float:
    """Over the precisions of weights and noise, by the density of N(0, I / b + XX' / a)."""

    def against(precisions: np.ndarray) -> float:
        a, b = np.exp(precisions)
        covariance = np.eye(len(X)) / b + X @ X.T / a
        return -stats.multivariate_normal(cov=covariance).logpdf(target)

    found = [
        optimize.minimize(against, start, method="Nelder-Mead", options={"xatol": 1e-7})
        for start in ([0.0, 0.0], [3.0, 1.0], [-2.0, 3.0])
    ]
    return -min(result.fun for result in found) / len(X)


@pytest.mark.parametrize(("rows", "dim"), SHAPES)
def test_logme__is_the_highest_evidence_that_brute_force_finds(rows, dim):
    X, y = clouds(rows, dim)
    expected = np.mean([highest_evidence(X, (y == k).astype(float)) for k in range(3)])
    assert logme(X, y) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("rows", "dim"), [(30, 6), (60, 20)])
def test_logme__is_where_the_published_iteration_arrives(rows, dim):
    """You 2021, Algorithm 1: alpha and beta in turns, until they stay."""
    X, y = clouds(rows, dim, apart=0.5)
    evidences = []
    for k in range(3):
        target, a, b = (y == k).astype(float), 1.0, 1.0
        for _ in range(1000):
            A = a * np.eye(dim) + b * X.T @ X
            m = b * np.linalg.solve(A, X.T @ target)
            misfit = np.sum((X @ m - target) ** 2)
            known = dim - a * np.trace(np.linalg.inv(A))
            a, b = known / (m @ m), (rows - known) / misfit
        fit = b / 2 * misfit + a / 2 * m @ m + np.linalg.slogdet(A)[1] / 2
        constants = rows * math.log(b / (2 * math.pi)) + dim * math.log(a)
        evidences.append((constants / 2 - fit) / rows)
    assert logme(X, y) == pytest.approx(np.mean(evidences), abs=1e-6)


def test_logme__by_hand():
    """y = (1 ± x) / 2 and x = ±1: with u = 1 / (1 + 4 / ratio) noise is 1 + u, best at u = 1/3."""
    X, y = np.array([[1.0], [-1], [1], [-1]]), np.array([0, 1, 0, 1])
    expected = -(math.log(2 * math.pi / 3) + 1 + math.log(3) / 4) / 2
    assert logme(X, y) == pytest.approx(expected, abs=1e-12)


def test_logme__nothing_to_learn__is_the_evidence_of_noise_alone():
    X, y = np.array([[1.0], [-1], [1], [-1]]), np.array([0, 0, 1, 1])
    assert logme(X, y) == pytest.approx(-(math.log(math.pi) + 1) / 2, abs=1e-9)
    assert logme(0 * X, y) == pytest.approx(-(math.log(math.pi) + 1) / 2, abs=1e-12)


def test_logme__rotated_or_scaled__is_the_same():
    X, y = clouds(40, 8)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    assert logme(1000 * X @ turn, y) == pytest.approx(logme(X, y), abs=1e-9)


def test_logme__labels_among_the_dimensions__is_finite_and_the_highest():
    X, y = clouds(40, 8, apart=0.2)
    assert logme(X, y) < 1 < logme(np.hstack([X, np.eye(3)[y]]), y) < 20


def test_logme__dimensions_of_zeros__do_not_count():
    X, y = clouds(40, 8)
    assert logme(np.hstack([X, np.zeros((40, 60))]), y) == pytest.approx(logme(X, y), abs=1e-9)


# H-score


def covariances(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of X and of its class means, summed row by row."""
    middle, dim = X.mean(axis=0), X.shape[1]
    whole, between = np.zeros((dim, dim)), np.zeros((dim, dim))
    for row, label in zip(X, y, strict=True):
        mean = X[y == label].mean(axis=0)
        whole += np.outer(row - middle, row - middle) / len(X)
        between += np.outer(mean - middle, mean - middle) / len(X)
    return whole, between


@pytest.fixture
def unshrunk(monkeypatch):
    monkeypatch.setattr(ranking, "shrinkage", lambda *_: 0.0)


def test_h_score__one_dimension_by_hand():
    """Class means 1 and 5 about 3: their variance is 4, that of all is 5."""
    assert h_score(np.array([[0.0], [2], [4], [6]]), np.array([0, 0, 1, 1])) == pytest.approx(0.8)


def test_h_score__unshrunk__is_the_textbook_formula(unshrunk):
    X, y = clouds(40, 5)
    whole, between = covariances(X, y)
    assert h_score(X, y) == pytest.approx(np.trace(np.linalg.inv(whole) @ between), abs=1e-10)


def test_h_score__unshrunk__does_not_hang_on_an_invertible_map(unshrunk):
    X, y = clouds(40, 5)
    mapped = X @ np.random.default_rng(1).normal(size=(5, 5)) + 7
    assert h_score(mapped, y) == pytest.approx(h_score(X, y), abs=1e-9)


def test_h_score__unshrunk__does_not_see_constant_dimensions(unshrunk):
    X, y = clouds(40, 5)
    wider = np.hstack([X, np.full((40, 3), 1000.0)])
    assert h_score(wider, y) == pytest.approx(h_score(X, y), abs=1e-9)


def test_h_score__unshrunk_with_as_many_dimensions_as_rows__says_nothing(unshrunk):
    X, y = clouds(12, 40, apart=0)
    assert h_score(X, y) == pytest.approx(2)


@pytest.mark.parametrize(("rows", "dim"), SHAPES)
def test_h_score__is_the_formula_with_scikit_learns_shrunk_covariance(rows, dim):
    X, y = clouds(rows, dim)
    _, between = covariances(X, y)
    whole, shrunk = ledoit_wolf(X)
    expected = np.trace(np.linalg.inv(whole) @ ((1 - shrunk) * between))
    assert h_score(X, y) == pytest.approx(expected, abs=1e-9)
    assert 0 < expected < 2


@pytest.mark.parametrize(("rows", "dim"), [*SHAPES, (2000, 3), (5, 1)])
def test_shrinkage__is_scikit_learns(rows, dim):
    X, _ = clouds(rows, dim, apart=3)
    centred = X - X.mean(axis=0)
    values = np.linalg.eigvalsh(centred.T @ centred)
    expected = ledoit_wolf_shrinkage(X) if dim > 1 else 0
    found = ranking.shrinkage(values, (centred**2).sum(axis=1), dim)
    assert found == pytest.approx(expected, abs=1e-12)


def test_h_score__embeddings_all_alike__is_0():
    assert h_score(np.full((6, 3), 7.3), np.arange(6) % 2) == 0


# leave-one-out nearest neighbours


def right_one_by_one(X: np.ndarray, y: np.ndarray) -> float:
    right = 0
    for i in range(len(X)):
        others = []
        for j in range(len(X)):
            if j != i:
                cosine = X[i] @ X[j] / (np.linalg.norm(X[i]) * np.linalg.norm(X[j]))
                others.append((-cosine, j))
        votes: dict[int, float] = {}
        for distance, j in sorted(others)[: ranking.NEIGHBOURS]:
            votes[y[j]] = votes.get(y[j], 0) + math.exp(-distance / ranking.TEMPERATURE)
        right += max(votes, key=lambda label: votes[label]) == y[i]
    return right / len(X)


@pytest.mark.parametrize("cells", [1, 200, 1 << 20])
def test_loo_knn__is_what_a_loop_finds_whatever_the_blocks(monkeypatch, cells):
    monkeypatch.setattr(ranking, "CELLS", cells)
    X, y = clouds(60, 4, apart=0.7)
    expected = right_one_by_one(X, y)
    assert loo_knn(X, y) == expected
    assert 0.4 < expected < 0.9


def test_loo_knn__by_hand():
    """The only one of its class is never known; an image is not its own neighbour."""
    X = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1]])
    assert loo_knn(X, np.array([0, 0, 0, 1])) == 0.75
    assert loo_knn(np.array([[1.0, 0], [0, 1]]), np.array([0, 1])) == 0


def test_loo_knn__length_does_not_count_and_zeros_are_no_error():
    X, y = clouds(30, 4, apart=2)
    longer = X * np.arange(1, 31)[:, None]
    assert loo_knn(longer, y) == loo_knn(X, y)
    X[0] = 0
    assert 0 <= loo_knn(X, y) <= 1


# every score


@pytest.mark.parametrize("of", SCORES.values(), ids=SCORES)
class TestScore:
    def test_rows_in_another_order__is_the_same(self, of):
        X, y = clouds(40, 8)
        order = np.random.default_rng(1).permutation(40)
        assert of(X[order], y[order]) == pytest.approx(of(X, y), abs=1e-10)

    def test_names_of_classes__do_not_count(self, of):
        X, y = clouds(40, 8)
        assert of(X, 7 * y + 3) == of(X, y)

    def test_constant_dimensions__are_no_error(self, of):
        X, y = clouds(40, 8)
        wider = np.hstack([X, np.full((40, 3), 1000.0)])
        assert math.isfinite(of(wider, y))

    def test_float32__is_nearly_the_same(self, of):
        X, y = clouds(40, 8)
        assert of(X.astype(np.float32), y) == pytest.approx(of(X, y), abs=1e-5)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_class_of_one_image__is_no_error(self, of, shape):
        X, y = clouds(*shape)
        y[0] = 9
        assert math.isfinite(of(X, y))

    @pytest.mark.parametrize("shape", [(90, 8), (30, 100)])
    def test_classes_further_apart__are_higher_and_shuffled_labels_lowest(self, of, shape):
        scores = [of(*clouds(*shape, apart=apart)) for apart in (0.3, 0.6, 1.2)]
        X, y = clouds(*shape, apart=0.3)
        shuffled = of(X, np.random.default_rng(5).permutation(y))
        assert shuffled < scores[0] <= scores[1] <= scores[2]
        assert scores[0] < scores[2]

    @pytest.mark.parametrize(
        ("X", "y"),
        [
            (np.ones((4, 2)), np.zeros(4, int)),
            (np.ones((4, 2)), np.arange(3)),
            (np.ones(4), np.arange(4)),
            (np.array([[1, np.nan], [1, 2]]), np.arange(2)),
        ],
        ids=["one class", "other rows", "no matrix", "NaN"],
    )
    def test_what_cannot_be_scored__is_refused(self, of, X, y):
        with pytest.raises(ValueError, match=r"class|shape|NaN"):
            of(X, y)


def test_score__is_every_score_with_its_seconds():
    X, y = clouds(40, 8)
    measured = ranking.score(X, y)
    assert measured.scores == {name: of(X, y) for name, of in SCORES.items()}
    assert set(measured.seconds) == set(SCORES)
    assert all(seconds >= 0 for seconds in measured.seconds.values())
    assert (measured.n, measured.dim) == (40, 8)


@pytest.mark.parametrize("shape", SHAPES)
def test_score__other_blocks__is_the_same(monkeypatch, shape):
    X, y = clouds(*shape)
    whole = ranking.score(X, y).scores
    monkeypatch.setattr(spectra, "BLOCK", 7)
    assert ranking.score(X, y).scores == pytest.approx(whole, abs=1e-9)


def test_score__runs_on_one_blas_thread_and_as_many_of_its_own_as_there_are_cores(monkeypatch):
    X, y = clouds(700, 300)
    monkeypatch.setattr(ranking, "CELLS", 20_000)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(ranking, "cores", lambda threads=threads: threads)
        found.append(ranking.score(X.astype(np.float32), y).scores)
    assert found[0] == found[1]

    def blas_threads(*_) -> float:
        return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")

    monkeypatch.setattr(ranking, "SCORES", {"threads": blas_threads})
    with threadpool_limits(2):
        assert ranking.score(X, y).scores == {"threads": 1}
