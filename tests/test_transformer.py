"""FrozenBackbone in scikit-learn: the pipeline's own vectors, each computed once."""

import hashlib
import os
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import check_estimator

from pipeline import computing, embeddings
from pipeline.errors import ConfigurationError, InputError
from pipeline.extraction import Places, extract
from pipeline.formats import FORMATS
from pipeline.params import ExecutionParams, SplitParams
from pipeline.preparation import prepare, write
from pipeline.transformer import FrozenBackbone
from tests.conftest import make_photos
from tests.frozen_fixtures import pixels

__all__ = ["pixels"]

PARAMS = """
data: {path: photos}
backbones: {raw: {source: pixels}, other: {source: pixels}}
heads: {logistic: {kind: logistic, C: 0.1}}
run: {backbones: [raw], heads: [logistic]}
execution: {threads: 1}
"""


@pytest.fixture
def project(tmp_path, pixels, monkeypatch) -> Path:
    """A project with photos and a frozen backbone `raw`; the current folder."""
    make_photos(tmp_path / "photos", each=4)
    (tmp_path / "params.yaml").write_text(PARAMS)
    shutil.copytree(pixels, tmp_path / "artifacts" / "backbones" / "raw")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEADSTART_STORE", raising=False)
    return tmp_path


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many images each extraction was to compute."""
    counted, compute = list[int](), computing.compute

    def counting(*arguments, total, **options):
        counted.append(total)
        return compute(*arguments, total=total, **options)

    monkeypatch.setattr("pipeline.extraction.compute", counting)
    return counted


def photos() -> list[str]:
    return sorted(str(path) for path in Path("photos").rglob("*.png"))


def kinds(paths) -> list[str]:
    return [Path(path).parent.name for path in paths]


def test_transform__gives_the_rows_of_the_tracked_file(project):
    write(
        prepare(FORMATS["folders"](project / "photos", None), SplitParams()),
        project / "artifacts/dataset",
    )
    places = Places.of(
        "raw",
        artifacts=project / "artifacts",
        root=project / "photos",
        store=project / "other store",
    )
    extract(places, ExecutionParams(), max_failed=0)
    cached = embeddings.open(places.embeddings)
    paths = photos()[::-1]
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest().encode() for path in paths]
    rows = cached.rows(np.array(digests, "S64"))
    made = FrozenBackbone("raw").fit_transform(paths)
    assert made.dtype == np.float32
    assert (rows >= 0).all()
    assert np.array_equal(made, cached.take(rows))


def test_second_fit_and_folds__compute_nothing(project, passes):
    paths = photos()
    pipeline = make_pipeline(FrozenBackbone("raw"), StandardScaler(), LogisticRegression(C=0.1))
    pipeline.fit(paths, kinds(paths))
    assert passes == [12]
    assert cross_val_score(pipeline, paths, kinds(paths), cv=2).mean() > 0.5
    assert pipeline.score(paths, kinds(paths)) == 1
    assert passes == [12]


def test_one_more_image__costs_one(project, passes):
    backbone = FrozenBackbone("raw")
    backbone.transform(photos())
    Image.effect_noise((30, 30), 80).save("photos/cat/new.png")
    backbone.transform(photos())
    assert passes == [12, 1]


def test_project_store__is_the_one_that_the_pipeline_uses(project):
    FrozenBackbone("raw").transform(photos())
    assert list((project / "artifacts" / ".store").glob("*/*.h5"))


def test_store__by_argument_and_by_environment(project, monkeypatch):
    FrozenBackbone("raw", store=project / "mine").transform(photos()[:1])
    monkeypatch.setenv("HEADSTART_STORE", str(project / "team"))
    FrozenBackbone("raw").transform(photos()[:1])
    assert list((project / "mine").glob("*/*.h5"))
    assert list((project / "team").glob("*/*.h5"))
    assert not (project / "artifacts" / ".store").exists()


def test_store__of_no_name__is_not_the_current_folder(project):
    with pytest.raises(ConfigurationError, match="store is ''; name a folder"):
        FrozenBackbone("raw", store="").transform(photos()[:1])


def test_current_folder__another_one_than_at_fit__says_so(project, monkeypatch):
    """Names are those of the current folder at each call; what is absolute can be used anywhere."""
    folder = project / "artifacts" / "backbones" / "raw"
    named, placed = FrozenBackbone("raw").fit(photos()), FrozenBackbone(folder).fit(photos())
    paths = [os.path.abspath(path) for path in photos()]
    before = placed.transform(photos())
    monkeypatch.chdir("/")
    with pytest.raises(ConfigurationError, match=r"no params.yaml in / .*change to your project"):
        named.transform(paths)
    assert (placed.transform(paths) == before).all()


def test_transform__image_changed_since_fit__is_embedded_as_it_is_now(project, passes):
    paths = photos()
    model = FrozenBackbone("raw").fit(paths)
    before = model.transform(paths)
    shutil.copy(paths[-1], paths[0])
    after = model.transform(paths)
    assert (after[0] == before[-1]).all()
    assert (after[1:] == before[1:]).all()
    assert passes == [len(paths)]


def test_copies_and_repeats__each_have_their_row(project, passes):
    first = photos()[0]
    shutil.copy(first, "copy.png")
    made = FrozenBackbone("raw").transform([first, "copy.png", first])
    assert passes == [1]
    assert (made[0] == made[1]).all()
    assert (made[0] == made[2]).all()


@pytest.mark.parametrize(
    "shaped",
    [
        list,
        np.array,
        lambda paths: np.array(paths, dtype=object)[:, None],
        pd.Series,
        lambda paths: pd.DataFrame({"path": paths}),
        lambda paths: [Path(path) for path in paths],
        lambda paths: [os.path.abspath(path) for path in paths],
    ],
)
def test_X__in_any_usual_shape(project, shaped):
    paths = photos()[:3]
    assert np.array_equal(
        FrozenBackbone("raw").transform(shaped(paths)), FrozenBackbone("raw").transform(paths)
    )


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ([], r"X has the shape \(0,\)"),
        (np.zeros((2, 3)), r"X has the shape \(2, 3\)"),
        ([1.0, 2.0], "X holds a float in row 0"),
        (["photos/cat/000.png", None], "X holds a NoneType in row 1"),
        (["photos/\udcff.png"], "the path in row 0 is not UTF-8"),
    ],
)
def test_X__of_something_else__is_one_line(project, X, said):
    with pytest.raises(InputError, match=said):
        FrozenBackbone("raw").transform(X)


def test_bad_images__are_named__or_rows_of_nan(project, passes):
    Path("cut.png").write_bytes(Path(photos()[0]).read_bytes()[:200])
    Path("words.png").write_text("no image")
    paths = [photos()[0], "words.png", "cut.png", "gone.png"]
    with pytest.raises(InputError, match=r"3 of 4 images .* the first is \S*/words.png \("):
        FrozenBackbone("raw").transform(paths)
    made = FrozenBackbone("raw", failed="nan").transform(paths)
    assert np.isnan(made).all(axis=1).tolist() == [False, True, True, True]


def test_no_usable_image__is_the_same(project):
    Path("cut.png").write_bytes(Path(photos()[0]).read_bytes()[:200])
    with pytest.raises(InputError, match=r"1 of 1 images .*cut.png \(truncated"):
        FrozenBackbone("raw").transform(["cut.png"])
    assert np.isnan(FrozenBackbone("raw", failed="nan").transform(["cut.png"])).all()


def test_fit__unknown_backbone__names_near_ones(project):
    with pytest.raises(ConfigurationError, match="did you mean 'raw'"):
        FrozenBackbone("rav").fit(photos())


def test_fit__not_frozen__says_what_to_type(project):
    with pytest.raises(
        ConfigurationError, match="add other to run.backbones.*'dvc repro freeze@other'"
    ):
        FrozenBackbone("other").fit(photos())


def test_fit__unknown_layer_or_option(project):
    with pytest.raises(ConfigurationError, match="frozen with penultimate, not 'blocks.2'"):
        FrozenBackbone("raw", layer="blocks.2").fit(photos())
    with pytest.raises(ConfigurationError, match="failed is 'skip'; write 'raise' or 'nan'"):
        FrozenBackbone("raw", failed="skip").fit(photos())


def test_folder__outside_any_project(project, tmp_path_factory, monkeypatch):
    alone = tmp_path_factory.mktemp("alone")
    shutil.copytree("artifacts/backbones/raw", alone / "raw")
    paths = [os.path.abspath(path) for path in photos()]
    inside = FrozenBackbone("raw").transform(paths)
    monkeypatch.chdir(alone)
    with pytest.raises(ConfigurationError, match="give FrozenBackbone a store="):
        FrozenBackbone("raw").transform(paths)
    assert np.array_equal(FrozenBackbone("raw", store="store").transform(paths), inside)


def test_folder_of_a_project__uses_its_store(project, tmp_path_factory, monkeypatch):
    paths = [os.path.abspath(path) for path in photos()]
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    FrozenBackbone(project / "artifacts" / "backbones" / "raw").transform(paths)
    assert list((project / "artifacts" / ".store").glob("*/*.h5"))


def test_clone_and_pickle__are_the_same(project):
    backbone = FrozenBackbone("raw", layer="penultimate", failed="nan")
    assert clone(backbone).get_params() == backbone.get_params()
    copied = pickle.loads(pickle.dumps(backbone))
    assert np.array_equal(copied.transform(photos()[:2]), backbone.transform(photos()[:2]))


@pytest.mark.slow
def test_grid_search__in_two_processes(project, pixels):
    shutil.copytree(pixels, project / "second" / "raw")
    paths = photos()
    pipeline = make_pipeline(FrozenBackbone("raw"), LogisticRegression())
    grid = {"frozenbackbone__backbone": ["raw", str(project / "artifacts/backbones/raw")]}
    search = GridSearchCV(pipeline, grid | {"logisticregression__C": [0.01, 0.1]}, cv=2, n_jobs=2)
    search.fit(paths, kinds(paths))
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_names_and_tables(project):
    backbone = FrozenBackbone("raw").set_output(transform="pandas")
    table = backbone.fit_transform(photos()[:2])
    assert table.columns[0] == "raw_0"
    assert len(table.columns) == len(backbone.get_feature_names_out())


def test_import__brings_neither_torch_nor_dask():
    from tests.test_architecture import loaded_by

    assert not loaded_by("pipeline.transformer") & {"torch", "dask", "distributed", "timm"}


class OfNumbers(FrozenBackbone):
    """Takes rows of numbers, of each of which it makes an image: scikit-learn's checks have no other."""

    folder = Path()

    def fit(self, X, y=None):
        return super().fit(self._images(X))

    def transform(self, X):
        return super().transform(self._images(X))

    def _images(self, X):
        rows = check_array(X, dtype=np.float64, order="C")
        if hasattr(self, "n_features_in_") and rows.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {rows.shape[1]} features, but {self.n_features_in_} were seen")
        self.n_features_in_ = rows.shape[1]
        return [self._image(row) for row in rows]

    def _image(self, row):
        content = np.frombuffer(hashlib.shake_128(row.tobytes()).digest(12 * 12 * 3), np.uint8)
        path = self.folder / f"{hashlib.sha256(row.tobytes()).hexdigest()}.png"
        if not path.exists():
            Image.fromarray(content.reshape(12, 12, 3)).save(path)
        return str(path)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, True
        tags.input_tags.string = False
        return tags


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_scikit_learn__its_own_checks(project, tmp_path):
    OfNumbers.folder = tmp_path / "rows"
    OfNumbers.folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        done = check_estimator(OfNumbers("raw"), on_fail=None)
    failed = {one["check_name"]: one["exception"] for one in done if one["status"] == "failed"}
    assert not failed, failed
    assert sum(one["status"] == "passed" for one in done) > 30


def test_scikit_learn__checks_that_need_no_numbers(project):
    with pytest.warns(SkipTestWarning):  # its other checks give numbers, not paths
        check_estimator(FrozenBackbone("raw"))
