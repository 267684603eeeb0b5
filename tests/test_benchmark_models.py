"""The table of models that freeze: each in a process of its own, its failure its own."""

import json
import sys

import pytest
import timm

from benchmarks import models
from benchmarks.models import Limit, NotDoneError, Outcome

DONE = Outcome("timm/a", "onnx", 1_500_000, 64, 12, 0.99999999, 1e-6, 3.2)
REFUSED = Outcome("timm/b", reason="onnx: too | wide; torch: more than 2 GiB")


def ran(program: str, limit: Limit | None = None) -> str:
    return models.watched([sys.executable, "-c", program], limit or Limit(20, 2))


def test_models__of_timm__are_a_small_one_of_thirty_families_and_more():
    assert len(models.FAMILIES) >= 30
    for family, name in models.FAMILIES.items():
        assert name in timm.list_models(module=family)
    listed = models.models()
    assert len(set(listed)) == len(listed)
    assert {"torchvision/alexnet", "torchvision/swin_t", "timm/resnet10t"} <= set(listed)


def test_watched__process__gives_what_it_prints():
    assert ran("print('{}')").strip() == "{}"


@pytest.mark.parametrize(
    ("program", "limit", "said"),
    [
        ("import time; time.sleep(60)", Limit(0.3, 2), r"more than 0\.3 s"),
        ("import time; a = bytearray(b'1') * 2**28; time.sleep(60)", Limit(60, 0.1), "0.1 GiB"),
        ("raise ValueError('no such layer')", None, "ValueError: no such layer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", None, r"crashed \(signal 11\)"),
    ],
)
def test_watched__process_that_gives_nothing__says_why(program, limit, said):
    with pytest.raises(NotDoneError, match=said):
        ran(program, limit)


def test_outcome__onnx_does_not_do__is_torch_with_the_reason(monkeypatch):
    told = {
        "onnx": json.dumps({"error": "runtime: onnx does not do for it (X); write runtime: torch"}),
        "torch": "a warning\n" + json.dumps({"params": 3, "dim": 2}),
    }
    monkeypatch.setattr(models, "watched", lambda command, limit: told[command[-2]])
    found = models.outcome("timm/a", Limit())
    assert (found.runtime, found.params, found.dim) == ("torch", 3, 2)
    assert found.reason == "onnx: X"


def test_outcome__neither_does__has_both_reasons(monkeypatch):
    def fails(command, limit):
        raise NotDoneError("more than 1 GiB")

    monkeypatch.setattr(models, "watched", fails)
    found = models.outcome("timm/a", Limit())
    assert (found.runtime, found.reason) == ("", "onnx: more than 1 GiB; torch: more than 1 GiB")


def test_run__what_stands_in_the_file__is_not_done_again(tmp_path, monkeypatch):
    (tmp_path / models.RESULTS).write_text(json.dumps(vars(DONE)) + "\n")
    asked = []
    monkeypatch.setattr(models, "outcome", lambda name, limit: asked.append(name) or REFUSED)
    found = models.run(["timm/b", "timm/a"], tmp_path, Limit())
    assert found == [REFUSED, DONE]
    assert asked == ["timm/b"]
    assert models.run(["timm/b", "timm/a"], tmp_path, Limit()) == found
    assert asked == ["timm/b"]
    assert (tmp_path / models.PAGE).read_text() == models.page([DONE, REFUSED])


def test_page__a_line_a_model__says_what_it_freezes_for_and_why_not():
    page = models.page([REFUSED, DONE])
    assert "1 of 2 freeze for onnx, 0 for torch alone, 1 for neither; torch " in page
    assert "| timm/a | 1.5 M | 64 | 12 | onnx | 1e-08 | 1e-06 |  |" in page
    assert "| timm/b |  |  |  | neither |  |  | onnx: too \\| wide; torch: more" in page
    assert page.index("timm/a") < page.index("timm/b")


def test_child__architecture_that_is_none__is_an_error_in_words():
    assert models.child("timm/none_such", "onnx")["error"].startswith("model: unknown model")
