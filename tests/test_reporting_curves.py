"""The report's learning curves: where things lie in the drawing, and what is said beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import files, reporting
from pipeline.errors import IntegrityError
from pipeline.reporting import curves
from pipeline.reporting.records import Curve, Run
from tests.test_reporting import Case, Page

SHOTS = (1, 5, 20, 50, "all")


def point(shots, accuracy: float) -> dict:
    images = 200 if shots == "all" else shots
    return {
        "shots": shots,
        "images": 2 * images,
        "images_per_class": float(images),
        "draws": 1 if shots == "all" else 5,
        "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.05, accuracy + 0.04],
        "std": None if shots == "all" else 0.02,
        "balanced_accuracy": accuracy,
    }


def backbone(*accuracies: float, control: bool = False, told: bool = True) -> dict:
    points = [point(*pair) for pair in zip(SHOTS, accuracies, strict=False)]
    return {
        "control": control,
        "points": points,
        "start": {key: points[0][key] for key in ("shots", "accuracy", "accuracy_ci95")},
        "slope": {"per_doubling": 0.0124, "per_doubling_ci95": [0.003, 0.0211]},
        "asymptote": {"accuracy": 0.85, "accuracy_ci95": [0.82, 0.89], "told": told},
        "law": {"floor": 0.15, "scale": 0.5, "power": 0.5},
        "sentence": "twice as many images would bring about +1.2 points (0.3 to 2.1)",
    }


def summary(**backbones: dict) -> dict:
    return {
        "head": {"kind": "logistic", "C": None},
        "option": "C",
        "seeds": 5,
        "classes": 2,
        "test_images": 300,
        "backbones": backbones,
        "notes": [],
    }


GOOD = backbone(0.4, 0.6, 0.7, 0.75, 0.8)
POOR = backbone(0.2, 0.21, 0.22, 0.23, 0.24, control=True, told=False)


def drawing(**backbones: dict) -> curves.Drawing:
    content = summary(**backbones)
    known = {name: content[name] for name in ("head", "seeds", "test_images", "backbones", "notes")}
    run = Run([], [], None, {}, [Curve("few", **known)])
    (made,) = curves.describe(run)["curves"]
    return made


def heights(line: curves.Line) -> list[float]:
    return [float(mark.y) for mark in line.marks]


class TestDrawing:
    def test_marks__more_images__lie_further_right_and_better_ones_higher(self):
        line, _ = drawing(good=GOOD, poor=POOR).lines
        xs = [float(mark.x) for mark in line.marks]
        assert xs == sorted(xs) and len(set(xs)) == len(xs)
        assert heights(line) == sorted(heights(line), reverse=True)
        for mark in line.marks:
            assert float(mark.high) < float(mark.y) < float(mark.low)

    def test_axis__of_images__is_logarithmic(self):
        marks = drawing(good=GOOD).lines[0].marks
        at = {shots: float(mark.x) for shots, mark in zip(SHOTS, marks, strict=True)}
        assert (at[50] - at[5]) / (at[5] - at[1]) == pytest.approx(1 / 0.699, abs=0.01)

    def test_everything__lies_within_the_axes(self):
        made = drawing(good=GOOD, poor=POOR)
        for line in made.lines:
            pairs = [pair.split(",") for pair in (line.points + " " + line.law).split()]
            assert all(curves.LEFT <= float(x) <= curves.RIGHT for x, _ in pairs)
            assert all(curves.TOP <= float(y) <= curves.BOTTOM for _, y in pairs)
        assert [text for _, text in made.x_ticks] == ["1", "5", "20", "50", "all (200)"]
        assert made.y_ticks[0][1] == "0.00" and made.y_ticks[-1][1] == "1.00"

    def test_law__goes_on_from_the_last_mark_to_twice_the_images(self):
        line = drawing(good=GOOD).lines[0]
        first, *_, last = line.law.split()
        assert first == f"{line.marks[-1].x},{line.marks[-1].y}"
        assert float(last.split(",")[0]) == curves.RIGHT
        assert float(last.split(",")[1]) < float(line.marks[-1].y)

    def test_start_slope_asymptote__are_named(self):
        line = drawing(good=GOOD).lines[0]
        assert line.start == (line.marks[0].y, "start 0.400")
        assert line.slope == "slope +1.2 points (0.3 to 2.1)"
        assert line.asymptote[1] == "asymptote 0.85 (0.82 to 0.89)"
        assert float(line.asymptote[0]) < min(heights(line))

    def test_asymptote__above_every_interval__lies_within_the_axes(self):
        high = GOOD | {"asymptote": {"accuracy": 0.97, "accuracy_ci95": [0.9, 0.99], "told": True}}
        made = drawing(good=high | {"points": GOOD["points"][:3]})
        assert float(made.y_ticks[-1][1]) >= 0.97
        assert float(made.lines[0].asymptote[0]) < float(made.lines[0].marks[-1].high)

    def test_asymptote__not_told__is_not_drawn(self):
        good, poor = drawing(good=GOOD, poor=POOR).lines
        assert good.asymptote and poor.asymptote is None

    def test_curve__too_short_for_a_law__is_drawn_without(self):
        short = backbone(0.4, 0.6) | {"slope": None, "asymptote": None, "law": None}
        line = drawing(good=short).lines[0]
        assert (line.law, line.asymptote) == ("", None)
        assert "too few" in line.slope
        assert len(line.marks) == 2

    def test_curve__of_one_point__is_drawn(self):
        one = backbone(0.4) | {"slope": None, "asymptote": None, "law": None}
        assert len(drawing(good=one).lines[0].marks) == 1

    def test_styles__controls_are_grey_and_others_have_colours_of_their_own(self):
        made = drawing(pixels=POOR, a=GOOD, b=GOOD)
        assert [line.style for line in made.lines] == ["control", "c0", "c1"]

    def test_names__of_lines_that_meet__do_not_lie_on_each_other(self):
        made = drawing(a=GOOD, b=GOOD, c=GOOD, poor=POOR)
        ends = sorted(float(line.y) for line in made.lines)
        starts = sorted(float(line.start[0]) for line in made.lines)
        assert all(b - a >= curves.LABEL for a, b in zip(ends, ends[1:], strict=False))
        assert all(b - a >= curves.START_LABEL for a, b in zip(starts, starts[1:], strict=False))
        assert ends[0] >= curves.TOP and ends[-1] <= curves.BOTTOM

    def test_table__has_a_row_a_number_of_images__and_dashes_where_nothing_was_measured(self):
        short = backbone(0.3, 0.5)
        rows = dict(drawing(good=GOOD, short=short).rows)
        assert list(rows) == ["1", "5", "20", "50", "all (200)"]
        assert [text for text, _ in rows["5"]] == ["0.6000", "0.5000"]
        assert [text for text, _ in rows["50"]] == ["0.7500", "\u2013"]
        assert "2.0\u00a0% (std)" in rows["5"][0][1]


@pytest.fixture
def case(tmp_path) -> Case:
    return Case(tmp_path, backbones=("small", "pixels"), sources={"pixels": "pixels"}).build()


def page(case: Case, *names: str) -> Page:
    path = case.folder / "report.html"
    chosen = {"backbones": list(case.backbones), "heads": list(case.heads), "curves": names}
    reporting.write(path, case.artifacts, case.photos, **chosen)
    return Page(path.read_text(encoding="utf-8"))


def save(case: Case, name: str, **backbones: dict) -> Path:
    path = case.artifacts / "curve" / name / "summary.json"
    files.write_json(path, summary(**backbones))
    return path


class TestPage:
    def test_report__no_curve__has_no_section(self, case):
        save(case, "stale", small=GOOD)
        made = page(case)
        assert not made.having("section", id="curve")
        assert not made.having("a", href="#curve")

    def test_report__curve__names_start_slope_and_asymptote(self, case):
        save(case, "few", small=GOOD, pixels=POOR)
        made = page(case, "few")
        assert made.having("section", id="curve") and made.having("a", href="#curve")
        for words in (
            "start 0.400",
            "slope +1.2 points (0.3 to 2.1)",
            "asymptote 0.85 (0.82 to 0.89)",
        ):
            assert words in made.text
        assert "small: twice as many images would bring about +1.2 points" in made.text
        assert ["5", "0.6000", "0.2100"] in made.rows
        (svg,) = made.having("svg", **{"class": "curve"})
        assert svg["viewbox"] == f"0 0 {curves.WIDTH} {curves.HEIGHT}"
        assert "://" not in made.source

    def test_report__two_curves__are_both_there_by_name(self, case):
        save(case, "few", small=GOOD)
        save(case, "knn", small=POOR)
        made = page(case, "few", "knn")
        assert made.text.count("Accuracy on 300 test images") == 2
        assert "Learning curves few" in made.text

    def test_report__written_twice__is_byte_identical(self, case):
        save(case, "few", small=GOOD, pixels=POOR)
        assert page(case, "few").source == page(case, "few").source

    def test_report__backbone_that_left_the_run__is_not_shown(self, case):
        save(case, "few", small=GOOD, gone=POOR)
        assert "gone" not in page(case, "few").text

    @pytest.mark.parametrize("content", [None, "{", json.dumps({"head": {}}), ""])
    def test_report__summary_missing_or_damaged__names_the_stage(self, case, content):
        path = save(case, "few", small=GOOD)
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        with pytest.raises(IntegrityError, match="curve@few"):
            page(case, "few")

    def test_report__no_backbone_of_the_run__names_the_stage(self, case):
        save(case, "few", gone=GOOD)
        with pytest.raises(IntegrityError, match="curve@few"):
            page(case, "few")

    def test_report__hostile_name__is_escaped(self, case):
        hostile = replace(case, backbones=("small",))
        noted = summary(small=GOOD | {"sentence": "<script>alert(1)</script>"})
        files.write_json(case.artifacts / "curve" / "few" / "summary.json", noted)
        assert "<script" not in page(hostile, "few").source
