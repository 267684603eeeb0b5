"""`headstart heads`: another project's head is a file of code until somebody says otherwise."""

import csv
import io
import json
import shutil
from pathlib import Path

import joblib
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import cli, dataset, embeddings, evaluation, files, frozen, heads, selection
from pipeline.cli.store import intake
from pipeline.evaluation.results import evaluate
from pipeline.extraction import Places, extract
from pipeline.formats import FORMATS
from pipeline.params import ExecutionParams, HeadParams, SplitParams
from pipeline.preparation import prepare, write
from pipeline.store import Store
from tests.conftest import make_photos
from tests.frozen_fixtures import pixels
from tests.test_head_layers import BLURRED, SHARP, fit
from tests.test_layers import freeze, weights
from tests.test_transformer import PARAMS

__all__ = ["freeze", "pixels", "weights"]

HEAD = "artifacts/heads/raw/logistic"


def make_artifacts(root: Path, backbone: Path, *, seed: int = 0) -> None:
    """A project in `root`, all stages up to train run in this process. seed: of its split."""
    make_photos(root / "photos", each=8)
    (root / "params.yaml").write_text(PARAMS)
    artifacts = root / "artifacts"
    shutil.copytree(backbone, artifacts / "backbones" / "raw")
    listing = FORMATS["folders"](root / "photos", None)
    write(prepare(listing, SplitParams(seed=seed)), artifacts / "dataset")
    places = Places.of("raw", artifacts=artifacts, root=root / "photos", store=artifacts / ".store")
    extract(places, ExecutionParams(), max_failed=0)
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    entry = HeadParams(kind="logistic", C=0.1)
    made = selection.train("logistic", entry, labels, embeddings.open(places.embeddings))
    heads.save(artifacts / "heads" / "raw", *made)


@pytest.fixture
def project(tmp_path, pixels, monkeypatch) -> Path:
    """A project whose head `logistic` is trained; the current folder."""
    make_artifacts(tmp_path / "mine", pixels)
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def foreign(project, pixels, tmp_path) -> Path:
    """A head of the same backbone that another project fitted, without its ending."""
    make_artifacts(tmp_path / "theirs", pixels, seed=1)
    return tmp_path / "theirs" / HEAD


def run(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_show__prints_the_record__and_opens_no_pickle(project, capsys, monkeypatch):
    monkeypatch.setattr(joblib, "load", None)
    for name in (HEAD, f"{HEAD}.joblib", f"{HEAD}.json"):
        code, out, _ = run(capsys, "heads", "show", name)
        assert code == 0
        assert json.loads(out)["kind"] == "logistic"


def test_predict__own_head__answers_as_evaluate_does(project, capsys):
    labels = "artifacts/dataset/labels.parquet"
    of_test = ("--labels", labels, "--split", "test", "--format", "jsonl")
    code, out, err = run(capsys, "heads", "predict", HEAD, *of_test)
    (result,) = [
        one for one in evaluate(Path("artifacts"), ["raw"], ["logistic"]) if one.split == "test"
    ]
    rows = {row["path"]: row for row in map(json.loads, out.splitlines())}
    assert code == 0
    assert set(rows) == set(result.labels.path)
    for path, code, known in zip(
        result.labels.path,
        result.scored.predicted,
        result.scored.probabilities.max(axis=1),
        strict=True,
    ):
        assert rows[path]["prediction"] == result.classes[code]
        assert rows[path]["probability"] == pytest.approx(known, abs=1e-6)
    right = int(result.scored.right.sum())
    assert f"{right} of {len(rows)} are right" in err


def test_predict__without_labels__has_a_row_an_image(project, capsys):
    code, out, _ = run(capsys, "heads", "predict", HEAD, "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 24
    assert {row["prediction"] for row in rows} <= {"cat", "dog", "owl"}
    code, out, _ = run(capsys, "heads", "predict", HEAD)
    assert len(out.splitlines()) == 25


def test_predict__table__pads_nothing_to_the_longest_path__and_has_no_empty_column(project, capsys):
    Path("photos/cat/000.png").rename(f"photos/cat/{'long' * 20}.png")
    listing = FORMATS["folders"](project / "photos", None)
    write(prepare(listing, SplitParams(seed=0)), project / "artifacts" / "dataset")
    labels = "artifacts/dataset/labels.parquet"
    code, out, _ = run(capsys, "heads", "predict", HEAD, "--labels", labels)
    header, *rows = out.splitlines()
    assert code == 0
    assert header.split() == ["label", "prediction", "probability", "sha256", "path"]
    widths = sorted(map(len, rows))
    assert widths[-1] > 100 and widths[-2] < 60, "the long one's row alone is long"
    code, out, _ = run(capsys, "heads", "predict", HEAD)
    assert out.splitlines()[0].split() == ["prediction", "probability", "sha256"]


def test_predict__foreign_head__is_refused_until_trusted(project, foreign, capsys):
    code, out, err = run(capsys, "heads", "predict", foreign)
    assert (code, out) == (4, "")
    assert "no record of this project names its sha256" in err
    assert err.count("\n") == 1
    code, out, _ = run(capsys, "heads", "predict", foreign, "--trust-pickle")
    assert code == 0
    assert len(out.splitlines()) == 25


def test_predict__copy_of_an_own_head__is_known(project, tmp_path, capsys):
    for ending in ("joblib", "json"):
        shutil.copy(f"{HEAD}.{ending}", tmp_path / f"copy.{ending}")
    assert run(capsys, "heads", "predict", tmp_path / "copy")[0] == 0


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def plant(head: Path, content: object) -> None:
    """Put a pickle into a head's joblib and its digest into the record beside it."""
    joblib.dump(content, head.with_suffix(".joblib"))
    path = head.with_suffix(".json")
    record = json.loads(path.read_bytes())
    record["sha256"] = files.sha256_of(head.with_suffix(".joblib"))
    path.write_text(json.dumps(record))


def test_predict__payload__is_not_run__though_the_record_beside_names_it(
    project, foreign, tmp_path, capsys
):
    plant(foreign, Payload(tmp_path / "ran"))
    code, _, err = run(capsys, "heads", "predict", foreign)
    assert code == 4
    assert "may run any code" in err
    run(capsys, "heads", "show", foreign)
    assert not (tmp_path / "ran").exists()
    code, _, err = run(capsys, "heads", "predict", foreign, "--trust-pickle")
    assert (tmp_path / "ran").exists()  # so the test above could have failed
    assert code == 4
    assert "holds no head" in err


def test_predict__payload_behind_a_link__is_not_run(project, foreign, tmp_path, capsys):
    plant(foreign, Payload(tmp_path / "ran"))
    for ending in (".joblib", ".json"):
        (tmp_path / f"link{ending}").symlink_to(foreign.with_suffix(ending))
    assert run(capsys, "heads", "predict", tmp_path / "link")[0] == 4
    assert not (tmp_path / "ran").exists()


def test_predict__record_of_another_file__is_an_error_of_integrity(project, capsys):
    path = Path(f"{HEAD}.joblib")
    path.write_bytes(path.read_bytes()[:-10])
    code, _, err = run(capsys, "heads", "predict", HEAD, "--trust-pickle")
    assert code == 4
    assert "its record says" in err


def test_predict__of_other_vectors__names_both_fingerprints(project, foreign, capsys):
    path = foreign.with_suffix(".json")
    record = json.loads(path.read_bytes())
    record["fingerprint"] = record["fingerprints"]["embeddings"] = "0" * 64
    path.write_text(json.dumps(record))
    code, _, err = run(capsys, "heads", "predict", foreign, "--trust-pickle")
    own = embeddings.open(Path("artifacts/embeddings/raw.h5")).fingerprint
    assert code == 4
    assert "0" * 64 in err
    assert own in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere/head"], 2, "nowhere/head.json is not there"),
        ([HEAD, "--embeddings", "none.h5"], 2, "none.h5 is not a file"),
        ([HEAD, "--labels", "none.parquet"], 2, "none.parquet is not a file"),
        ([HEAD, "--split", "test"], 2, "--split is of labels"),
    ],
)
def test_predict__what_is_not_there__is_one_line(project, capsys, words, code, said):
    found, _, err = run(capsys, "heads", "predict", *words)
    assert found == code
    assert said in err
    assert err.count("\n") == 1


def test_predict__record_that_is_no_record(project, capsys):
    Path(f"{HEAD}.json").write_text('{"backbone": "raw"}')
    code, _, err = run(capsys, "heads", "show", HEAD)
    assert code == 4
    assert "is damaged" in err
    Path(f"{HEAD}.joblib").unlink()
    assert run(capsys, "heads", "predict", HEAD)[0] == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": 5},
        {"layers": [5]},
        {"fingerprints": []},
        {"fingerprints": {"embeddings": None}},
        {"backbone": 3},
        {"classes": None},
        {"rows": {"train": "many"}},
    ],
    ids=str,
)
def test_predict__record_of_other_types__is_one_line(project, capsys, wrong):
    path = Path(f"{HEAD}.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    code, out, err = run(capsys, "heads", "predict", HEAD)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert f"is damaged ({next(iter(wrong))} is " in err


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "null", "\ufeff{}"])
def test_show__record_that_json_cannot_be__is_one_line(project, capsys, content):
    Path(f"{HEAD}.json").write_text(content)
    code, _, err = run(capsys, "heads", "show", HEAD)
    assert (code, err.count("\n")) == (4, 1)


@pytest.mark.parametrize("head", ["", ".", "/", "..", "artifacts/heads/raw"])
def test_show__what_names_no_head__is_one_line(project, capsys, head):
    code, _, err = run(capsys, "heads", "show", head)
    assert (code, err.count("\n")) == (2, 1)
    assert "give the path of a head" in err


@pytest.mark.parametrize("layers", [["b", "a"], "best", "all"], ids=str)
def test_predict__head_of_several_layers_and_views__says_what_evaluate_says(
    tmp_path, capsys, layers
):
    seen = {"a": SHARP, "b": BLURRED}
    fit(tmp_path, seen, seen, views=True, layers=layers)
    results = evaluation.evaluate(tmp_path / "artifacts", ["toy"], ["mine"])
    evaluation.write(tmp_path / "artifacts/evaluation", results)
    told = pq.read_table(tmp_path / "artifacts/evaluation/predictions.parquet").to_pylist()
    code, out, _ = run(
        capsys, "heads", "predict", tmp_path / "artifacts/heads/toy/mine", "--trust-pickle",
        "--embeddings", tmp_path / "artifacts/embeddings/toy.h5", "--format", "jsonl",
        "--labels", tmp_path / "artifacts/dataset/labels.parquet", "--split", "test",
    )  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    wanted = [row for row in told if row["split"] == "test"]
    columns = ("path", "sha256", "label", "prediction", "probability")
    assert code == 0
    assert len(rows) == 30
    assert sorted([row[name] for name in columns] for row in rows) == sorted(
        [row[name] for name in columns] for row in wanted
    )


def test_predict__without_its_joblib(project, capsys):
    Path(f"{HEAD}.joblib").unlink()
    code, _, err = run(capsys, "heads", "predict", HEAD)
    assert code == 3
    assert "logistic.joblib cannot be read: No such file" in err


def test_import__rows_of_another_project__cost_no_forward_pass(project, capsys, tmp_path):
    """headstart store import; the second project has the same photos and an empty store."""
    tracked = Path("artifacts/embeddings/raw.h5")
    given = tmp_path / "theirs.h5"
    tracked.rename(given)
    shutil.rmtree("artifacts/.store")
    code, out, _ = run(capsys, "store", "import", given)
    assert code == 0
    assert "24 rows of 24 taken in, 0 were there" in out
    assert "8 were embedded here and compared: cosine 1.000000" in out
    places = Places.of(
        "raw",
        artifacts=project / "artifacts",
        root=project / "photos",
        store=project / "artifacts/.store",
    )
    summary = extract(places, ExecutionParams(), max_failed=0)
    assert (summary.computed, summary.reused) == (0, 24)
    assert tracked.read_bytes() == given.read_bytes()
    assert "0 rows of 24 taken in, 24 were there" in run(capsys, "store", "import", given)[1]


def test_import__vectors_that_are_not_what_the_file_says__are_refused(project, capsys, tmp_path):
    cached, backbone = (
        embeddings.open(Path("artifacts/embeddings/raw.h5")),
        "artifacts/backbones/raw",
    )
    wrong = np.array(cached.vectors)[::-1]
    given = tmp_path / "theirs.h5"
    record = frozen.read(Path(backbone))
    embeddings.write(given, record, [cached.sha256], [[wrong]], rows=len(cached.sha256))
    shutil.rmtree("artifacts/.store")
    code, _, err = run(capsys, "store", "import", given)
    assert code == 4
    assert "against 8 images embedded here: the embedding probe drifts: cosine" in err
    assert not list(Path("artifacts").glob(".store/*/*.h5"))


def test_import__vectors_that_are_not_finite__are_refused(project, capsys, tmp_path):
    """They lie between those that are compared, and would stay in the store for all its projects."""
    cached = embeddings.open(Path("artifacts/embeddings/raw.h5"))
    spoilt = np.array(cached.vectors)
    spoilt[1] = np.nan
    given = tmp_path / "theirs.h5"
    record = frozen.read(Path("artifacts/backbones/raw"))
    embeddings.write(given, record, [cached.sha256], [[spoilt]], rows=len(spoilt))
    shutil.rmtree("artifacts/.store")
    code, _, err = run(capsys, "store", "import", given)
    assert (code, err.count("\n")) == (4, 1)
    assert f"{given}: embeddings: 1 row holds NaN or infinity, the first is of the image " in err
    assert cached.sha256[1].decode() in err
    assert not list(Path("artifacts").glob(".store/*/*.h5"))


def test_import__killed_on_the_way__goes_on_where_it_was(project, capsys, monkeypatch):
    given, put, done = Path("artifacts/embeddings/raw.h5"), Store.put, list[int]()
    shutil.rmtree("artifacts/.store")
    monkeypatch.setattr(intake, "SHARD_ROWS", 10)
    store = project / "artifacts/.store"

    def once(self, sha256, vectors):
        if self.folder.is_relative_to(store) and done:
            raise KeyboardInterrupt
        done.extend([len(sha256)] * self.folder.is_relative_to(store))
        return put(self, sha256, vectors)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", once)
        assert run(capsys, "store", "import", given)[0] == 130
    assert done == [10]
    assert "14 rows of 24 taken in, 10 were there" in run(capsys, "store", "import", given)[1]
    assert run(capsys, "store", "verify")[0] == 0


def test_import__layers_and_views__are_each_taken_in(project, capsys, tmp_path, freeze):
    """The file has a layer more than this project, which has one more than the file."""
    for layers in (["penultimate", "layer2", "layer3@max"], ["penultimate", "layer2", "layer1"]):
        shutil.rmtree("artifacts/backbones/raw")
        shutil.rmtree("artifacts/.store", ignore_errors=True)
        shutil.copytree(freeze(layers=layers, views=1), "artifacts/backbones/raw")
        params = PARAMS.replace(
            "{source: pixels}, other", "{source: timm, model: test_resnet}, other"
        )
        Path("params.yaml").write_text(params)
        places = Places.of(
            "raw", artifacts=Path("artifacts"), root=project / "photos",
            store=project / "artifacts/.store",
        )  # fmt: skip
        extract(places, ExecutionParams(workers=0), max_failed=0)
        if not (tmp_path / "theirs.h5").exists():
            places.embeddings.rename(tmp_path / "theirs.h5")
    clean = places.embeddings.read_bytes()
    shutil.rmtree("artifacts/.store")
    code, out, err = run(capsys, "store", "import", tmp_path / "theirs.h5")
    assert (code, err) == (0, "")
    assert [line.split(": ")[1] for line in out.splitlines()[:-1]] == [
        "embeddings", "layers/layer2", "views/1/penultimate", "views/1/layer2",
    ]  # fmt: skip
    assert out.count("24 rows of 24 taken in, 0 were there") == 4
    summary = extract(places, ExecutionParams(workers=0), max_failed=0)
    assert summary.computed == 24  # of the layer that the file lacks
    assert places.embeddings.read_bytes() == clean


def test_import__some_images_gone__counts_those_that_were_compared(project, capsys):
    shutil.rmtree("artifacts/.store")
    paths = sorted(Path("photos").rglob("*.png"))
    for path in paths[1:]:
        path.unlink()
    whole = ["store", "import", "artifacts/embeddings/raw.h5", "--compare", "24"]
    code, out, _ = run(capsys, *whole)
    assert code == 0
    assert "24 of them are images of this project; 1 was embedded here and compared" in out


def test_import__all_images_gone__takes_nothing_in(project, capsys):
    shutil.rmtree("artifacts/.store")
    shutil.rmtree("photos")
    code, _, err = run(capsys, "store", "import", "artifacts/embeddings/raw.h5")
    assert (code, err.count("\n")) == (3, 1)
    assert "not one of 8 images of this project could be embedded here (unreadable 8)" in err
    assert "max_failed" not in err
    assert not list(Path("artifacts").glob(".store/*/*.h5"))


def test_import__of_a_backbone_or_images_that_are_not_here(project, capsys, tmp_path):
    from tests.frozen_fixtures import edit_record

    given = shutil.copy("artifacts/embeddings/raw.h5", tmp_path / "theirs.h5")
    dataset.write_images(
        Path("artifacts/dataset/images.parquet"),
        dataset.Images(dataset.digests(["0" * 64]), ("photos/x.png",), (3,)),
    )
    code, _, err = run(capsys, "store", "import", given)
    assert code == 3
    assert "none of this project's 1 image" in err

    def other(record):
        record["fields"]["storage"] = "float32"
        record["fingerprint"] = files.sha256_of_json(record["fields"])

    edit_record(Path("artifacts/backbones/raw"), other)
    code, _, err = run(capsys, "store", "import", given)
    assert code == 4
    assert "storage is float32, was float16" in err
    shutil.rmtree("artifacts/backbones/raw")
    code, _, err = run(capsys, "store", "import", given)
    assert code == 4
    assert "none is frozen" in err
    assert run(capsys, "store", "import", "none.h5")[0] == 2


def test_export__ending_of_another_format__is_refused__and_what_is_replaced_is_told(
    project, capsys
):
    words = (capsys, "embeddings", "export", "artifacts/embeddings/raw.h5", "--to", "npy")
    code, _, err = run(*words, "--output", "out.csv")
    assert code == 2
    assert "out.csv ends as another format than --to npy" in err
    assert "replaced" not in run(*words, "--output", "out.npy")[1]
    assert "out.npy: replaced, 24 x" in run(*words, "--output", "out.npy")[1]


def test_embeddings__shown_in_a_notebook__are_a_line__and_another_file_is_told_as_such(
    project, capsys
):
    cached = embeddings.open(Path("artifacts/embeddings/raw.h5"))
    assert repr(cached) == f"Embeddings(raw, 24 x {cached.vectors.shape[1]} float16)"
    code, _, err = run(capsys, "embeddings", "verify", "params.yaml")
    assert code == 4
    assert "give the .h5 of an embeddings file" in err
