import copy

import pytest
from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

from pipeline import params
from pipeline.errors import ConfigurationError
from pipeline.params import HeadParams, load, parse
from tests.closure import ROOT

GOOD = {
    "data": {"path": "photos", "split": {"val": 0.2, "test": 0.2, "seed": 0, "group": None}},
    "backbones": {"lite": {"source": "timm", "model": "x"}, "raw": {"source": "pixels"}},
    "heads": {"logistic": {"kind": "logistic", "C": None}, "knn": {"kind": "knn"}},
    "run": {"backbones": ["lite"], "heads": ["logistic"]},
}
RECIPE = {"resize": 256, "crop": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def changed(key: str, value: object) -> dict:
    """GOOD with the dotted key set."""
    content = copy.deepcopy(GOOD)
    *above, last = key.split(".")
    block = content
    for part in above:
        block = block.setdefault(part, {})
    block[last] = value
    return content


def without(key: str) -> dict:
    content = copy.deepcopy(GOOD)
    *above, last = key.split(".")
    block = content
    for part in above:
        block = block[part]
    del block[last]
    return content


def refusal(content: object) -> str:
    with pytest.raises(ConfigurationError) as raised:
        parse(content)
    message = str(raised.value)
    assert message == " ".join(message.split()), "not one line"
    assert message.startswith("params.yaml: ")
    return message


def refused_text(tmp_path, text: str | bytes) -> str:
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_load__the_repositorys_own_params__are_right():
    loaded = load(ROOT / "params.yaml")
    assert set(loaded.run.backbones) <= set(loaded.backbones)
    assert set(loaded.run.heads) <= set(loaded.heads)
    assert loaded.curve == loaded.finetune == {}


def test_load__the_repositorys_own_params__write_out_every_key_a_user_may_sweep():
    written = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    assert set(written) == set(params.Params.model_fields)
    assert set(written["data"]) == set(params.DataParams.model_fields)
    assert set(written["data"]["split"]) == set(params.SplitParams.model_fields)
    assert set(written["run"]) == set(params.RunParams.model_fields)
    assert set(written["execution"]) == set(params.ExecutionParams.model_fields)
    for head in written["heads"].values():
        assert set(head) >= set(params.HeadParams.model_fields)


def test_parse__what_is_left_out__has_its_default():
    parsed = parse(without("data.split"))
    assert (parsed.data.split.val, parsed.data.split.test, parsed.data.split.seed) == (0.2, 0.2, 0)
    assert parsed.data.max_failed == 0.01
    assert parsed.execution.store == "artifacts/.store"
    assert parsed.backbones["lite"].storage == "float16"


def test_parse__head__keeps_the_options_beside_its_kind():
    assert parse(GOOD).heads["logistic"].options == {"C": None}
    assert HeadParams(kind="knn").options == {}
    assert HeadParams(kind="knn", layers="all", views=True, k=3).options == {"k": 3}


@pytest.mark.parametrize("layers", [None, "all", "best", ["penultimate"], ["a.1", "b@max"]])
def test_parse__layers_of_a_head__are_a_list_or_all_or_best_or_the_default(layers):
    assert parse(changed("heads.knn.layers", layers)).heads["knn"].layers == layers


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("exekution", {}, ["unknown key exekution", "{}", "did you mean 'execution'?"]),
        ("colour", 1, ["unknown key colour", "(= 1)", "data, backbones, heads, run"]),
        ("data.pth", "x", ["unknown key data.pth", "'x'", "did you mean 'path'?"]),
        ("data.split.vall", 0.1, ["data.split.vall", "0.1", "did you mean 'val'?"]),
        ("data.split.zzz", 1, ["data.split.zzz", "allowed here: val, test, seed, group"]),
        ("backbones.lite.precison", "float32", ["backbones.lite.precison", "'precision'"]),
        ("backbones.lite.zzz", 1, ["backbones.lite.zzz", "source, model, weights"]),
        (
            "backbones.lite.preprocessing",
            {**RECIPE, "cropp": 1},
            ["backbones.lite.preprocessing.cropp", "did you mean 'crop'?"],
        ),
        ("execution.wrokers", 2, ["execution.wrokers", "(= 2)", "did you mean 'workers'?"]),
        ("run.head", ["knn"], ["run.head", "['knn']", "did you mean 'heads'?"]),
    ],
)
def test_parse__unknown_key__is_named_with_its_value_and_what_is_near(key, value, words):
    message = refusal(changed(key, value))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("key", "misspelt"), [("data.path", "data.paht"), ("backbones", "bakcbones")]
)
def test_parse__misspelt_required_key__is_named_before_the_missing_one(key, misspelt):
    content = changed(misspelt, "x")
    *above, last = key.split(".")
    del (content[above[0]] if above else content)[last]
    message = refusal(content)
    assert f"unknown key {misspelt}" in message
    assert f"did you mean {last!r}?" in message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data", 3, ["data is 3 (int)", "a mapping"]),
        ("data.path", 7, ["data.path is 7 (int)", "a valid string"]),
        ("data.path", "", ["data.path is '' (text)", "at least 1 character"]),
        ("data.path", None, ["data.path is None (null)", "a valid string"]),
        ("data.max_failed", "1e-3", ["data.max_failed is '1e-3' (text)", "a valid number"]),
        ("data.max_failed", 1.5, ["data.max_failed is 1.5", "less than or equal to 1"]),
        ("data.max_failed", float("nan"), ["data.max_failed is nan", "finite"]),
        ("data.split.val", 1, ["data.split.val is 1", "less than 1"]),
        ("data.split.test", 0, ["data.split.test is 0", "greater than 0"]),
        ("data.split.val", True, ["data.split.val is True (true/false)", "a valid number"]),
        ("data.split.seed", 1.5, ["data.split.seed is 1.5 (float)", "a valid integer"]),
        ("backbones.lite.precision", "fp16", ["is 'fp16'", "'float32'"]),
        ("backbones.lite.storage", "int8", ["is 'int8'", "'float16' or 'float32'"]),
        ("backbones.lite.sha256", "abc", ["backbones.lite.sha256 is 'abc'", "[0-9a-f]{64}"]),
        ("backbones.lite.preprocessing", {**RECIPE, "mean": [1.0]}, ["mean is [1.0]", "3 items"]),
        (
            "backbones.lite.preprocessing",
            {**RECIPE, "std": [1.0, 1.0, "x"]},
            ["preprocessing.std.2 is 'x'", "a valid number"],
        ),
        ("heads.knn", "knn", ["heads.knn is 'knn' (text)", "a mapping"]),
        ("heads.knn.layers", "pooled", ["layers is 'pooled' (text)", "a valid list", "'best'"]),
        ("heads.knn.layers", [], ["heads.knn.layers is []", "at least 1 item"]),
        ("heads.knn.layers", ["a", 2], ["heads.knn.layers.1 is 2", "a valid string"]),
        ("heads.knn.views", 3, ["heads.knn.views is 3 (int)", "a valid boolean"]),
        ("heads.knn.enhance", [], ["heads.knn.enhance is [] (list)", "at least 1 item"]),
        ("run.heads", "knn", ["run.heads is 'knn'", "a valid list"]),
        ("run.backbones", [], ["run.backbones is []", "at least 1 item"]),
        ("run.heads", ["logistic", 3], ["run.heads.1 is 3", "a valid string"]),
        ("execution.workers", "two", ["'two' (text)", "integer", "'auto'"]),
        ("execution.workers", -1, ["execution.workers is -1", "equal to 0", "'auto'"]),
        ("execution.workers", True, ["True (true/false)", "integer", "'auto'"]),
        ("execution.threads", 0, ["execution.threads is 0", "equal to 1", "'auto'"]),
        ("execution.device", "gpu", ["'gpu'", "'auto', 'cpu' or 'cuda'"]),
    ],
)
def test_parse__wrong_value__is_named_with_its_type_and_what_is_allowed(key, value, words):
    message = refusal(changed(key, value))
    assert all(word in message for word in words), message


def test_parse__long_value__is_cut_short():
    assert len(refusal(changed("data.split", ["x" * 1000]))) < 200


@pytest.mark.parametrize(
    "key", ["data", "data.path", "run", "run.heads", "backbones.lite.source", "heads.knn.kind"]
)
def test_parse__missing_key__is_named(key):
    assert refusal(without(key)) == f"params.yaml: the key {key} is missing; add it"


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_parse__not_a_mapping__says_so(content):
    assert "(top level)" in refusal(content)
    assert "a mapping" in refusal(content)


@pytest.mark.parametrize("key", [1, None, ("a", "b")])
def test_parse__key_that_is_no_text__is_refused(key):
    assert str(key) in refusal({**GOOD, key: 2})


def test_parse__val_and_test_that_leave_nothing__are_refused():
    message = refusal(changed("data.split", {"val": 0.5, "test": 0.5}))
    assert "data.split" in message
    assert "below 1" in message


@pytest.mark.parametrize("block", ["backbones", "heads"])
@pytest.mark.parametrize("name", ["Lite", "a-b", "a b", "", "ü", "a\n"])
def test_parse__name_with_other_characters__is_refused(block, name):
    content = copy.deepcopy(GOOD)
    content[block][name] = {"source": "timm", "kind": "knn"}
    if block == "backbones":
        del content[block][name]["kind"]
    assert f"{block}: the name {name!r}" in refusal(content)


@pytest.mark.parametrize(
    ("block", "name", "near"),
    [("backbones", "lit", "'lite'"), ("heads", "logistc", "'logistic'")],
)
def test_parse__run_names_what_is_not_there__near_misses_are_named(block, name, near):
    message = refusal(changed(f"run.{block}", [name]))
    assert message == (
        f"params.yaml: run.{block}: unknown {block[:-1]} {name!r}; did you mean {near}?"
    )


def test_parse__run_names_what_resembles_nothing__all_are_listed():
    assert "choose one of: lite, raw" in refusal(changed("run.backbones", ["zzzzzz"]))


def test_parse__run_names_one_twice__is_refused():
    message = refusal(changed("run.heads", ["knn", "logistic", "knn"]))
    assert message == "params.yaml: run.heads: 'knn' stands twice; delete one"


def test_parse__backbone_named_best__is_refused():
    assert "backbones.best" in refusal(changed("backbones.best", {"source": "pixels"}))


FINETUNE = {"backbone": "lite", "head": "logistic"}


def finetuning(**keys) -> dict:
    return changed("finetune", {"mine": {**FINETUNE, **keys}})


def test_parse__finetune_entry__has_a_default_for_all_but_where_it_starts():
    parsed = parse(finetuning()).finetune["mine"]
    assert (parsed.init, parsed.unfreeze, parsed.epochs) == ("head", "last:1", 5)
    assert parse(finetuning(unfreeze=["blocks.6"])).finetune["mine"].unfreeze == ["blocks.6"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"backbone": "lit"}, ["finetune.mine.backbone", "did you mean 'lite'?", "run.backbones"]),
        ({"head": "logistik"}, ["finetune.mine.head", "did you mean 'logistic'?", "run.heads"]),
        ({"unfreez": "all"}, ["finetune.mine.unfreez", "did you mean 'unfreeze'?"]),
        ({"unfreeze": "last:0"}, ["finetune.mine.unfreeze is 'last:0'"]),
        (
            {"unfreeze": "blocks.6"},
            [
                "finetune.mine.unfreeze is 'blocks.6' (text): must be head, all, last:N or a list of",
                "[blocks.6]",
            ],
        ),
        ({"lr": "1e-3"}, ["finetune.mine.lr is '1e-3' (text)", "a valid number"]),
        ({"init": "random"}, ["finetune.mine.unfreeze is 'last:1'", "write unfreeze: all"]),
        ({"warmup_epochs": 5}, ["finetune.mine.warmup_epochs is 5", "below epochs (5)"]),
        ({"epochs": 0}, ["finetune.mine.epochs is 0"]),
    ],
)
def test_parse__finetune_entry_that_cannot_be__is_told_in_a_line(keys, words):
    message = refusal(finetuning(**keys))
    assert all(word in message for word in words), message


def test_parse__finetune_entry_with_a_heads_name__is_refused():
    assert "a head has this name" in refusal(changed("finetune", {"knn": FINETUNE}))
    assert "finetune: the name 'My'" in refusal(changed("finetune", {"My": FINETUNE}))


def test_parse__bundle__names_both_or_none_of_those_that_run():
    assert parse(changed("bundle", {"backbone": None, "head": None})).bundle.named is None
    run = parse(changed("curve", {})).run
    both = {"backbone": run.backbones[0], "head": run.heads[0]}
    assert parse(changed("bundle", both)).bundle.named == (run.backbones[0], run.heads[0])
    message = refusal(changed("bundle", {"head": run.heads[0]}))
    assert "bundle.head is given and bundle.backbone is not; name both" in message
    for key, name in both.items():
        message = refusal(changed("bundle", {**both, key: f"{name}x"}))
        assert f"bundle.{key}: unknown {key} '{name}x'; did you mean {name!r}" in message
        assert f"run.{key}s" in message
    assert "bundle.heads" in refusal(changed("bundle", {"heads": None}))


def test_load__missing_file__says_where_to_go(tmp_path):
    with pytest.raises(ConfigurationError, match=r"params\.yaml does not exist; run this in"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {path: x}\nrun: {}\ndata: {path: y}\n", ["params.yaml:3", "'data' stands twice"]),
        ("data:\n  path: x\n  path: y\n", ["params.yaml:3", "'path' stands twice"]),
        ("data: [\n", ["params.yaml:2", "not valid YAML"]),
        ("a: 1\nb: !python 1\n", ["params.yaml:2", "!python"]),
        ("a: 1\n\x01: 2\n", ["params.yaml", "not valid YAML", "#x0001"]),
        (b"a: \xff\xfe\n", ["params.yaml", "UTF-8"]),
        ("", ["params.yaml", "a mapping"]),
        ('"a\\nb": 1\n', ["unknown key a b"]),
    ],
)
def test_load__text_that_is_no_params__is_one_line_with_its_place(tmp_path, text, words):
    message = refused_text(tmp_path, text)
    assert all(word in message for word in words), message


def test_load__exponent_without_quotes__is_a_number(tmp_path):
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML().dump(GOOD, file)
    path.write_text(path.read_text().replace("path: photos", "path: photos\n  max_failed: 1e-3"))
    assert load(path).data.max_failed == 0.001


def test_checked__a_blocks_own_model__names_the_keys_below_the_given_place():
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        C: float | None = None
        degree: int = 2

    for content, words in [
        ({"zzz": 1}, "unknown key heads.x.zzz (= 1); allowed here: C, degree"),
        ({"degre": 1}, "unknown key heads.x.degre (= 1); did you mean 'degree'?"),
        ({"C": "1e-3"}, "heads.x.C is '1e-3' (text): should be a valid number"),
    ]:
        with pytest.raises(ConfigurationError) as raised:
            params.checked(Options, content, where="params.yaml", at="heads.x")
        assert str(raised.value) == f"params.yaml: {words}"
