"""report.html: what it shows, what it must not hold, and what it refuses."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import dataset, evaluation, files, frozen, heads, reporting
from pipeline.dataset import Images, Labels, Problem, Split
from pipeline.errors import IntegrityError
from pipeline.evaluation import Result
from pipeline.frozen import FrozenBackbone
from pipeline.metrics import Scored
from pipeline.reporting import inspection, plots, records, scores

PER_SPLIT = {Split.TRAIN: 2, Split.VAL: 4, Split.TEST: 4}
VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE_PATH = "<script>alert(1)</script>.png"
HOSTILE_LABEL = "\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A parsed page: tags with their attributes, visible text, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.tags, self.words, self.open, self.tables = text, [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.tables.append([])
        if tag in ("td", "th"):
            self.tables[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def rows(self) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.tables]

    def having(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]


@dataclass
class Case:
    """An artifacts folder made by hand, with the images it speaks of."""

    folder: Path
    classes: tuple[str, ...] = ("cat", "dog")
    heads: tuple[str, ...] = ("logistic",)
    backbones: tuple[str, ...] = ("small",)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    without_probabilities: tuple[str, ...] = ()
    splits: tuple[Split, ...] = tuple(Split)
    weights: str = "wheel:small_weights"
    record: dict[str, object] = dataclasses.field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    path_of: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    def build(self) -> "Case":
        labels = self._labels()
        self._dataset(labels)
        for backbone in self.backbones:
            self._backbone(backbone)
            for head in self.heads:
                self._head(backbone, head)
        results = [
            self._result(backbone, head, split, labels)
            for backbone in self.backbones
            for head in self.heads
            for split in (Split.VAL, Split.TEST)
        ]
        evaluation.write(self.artifacts / "evaluation", results)
        self._inspected()
        return self

    def write(self, path: Path | None = None) -> Path:
        path = path or self.artifacts / "report.html"
        reporting.write(
            path,
            self.artifacts,
            self.photos,
            backbones=list(self.backbones),
            heads=list(self.heads),
        )
        return path

    def page(self) -> Page:
        return Page(self.write().read_text(encoding="utf-8"))

    def _labels(self) -> Labels:
        rows = []
        for place, label in enumerate(self.classes):
            for split in self.splits:
                for number in range(PER_SPLIT[split]):
                    path = f"{split}/{place}/{number}.png"
                    path = self.path_of.get(path, path)
                    colour = (place, number, list(Split).index(split))
                    rows.append((path, self._photo(path, colour), label, str(split), None))
        columns = [
            np.array([*column, None], dtype=object)[:-1]
            for column in zip(*sorted(rows), strict=True)
        ]
        path, sha256, label, split, group = columns
        return Labels(path, dataset.digests(sha256), label, split, group)

    def _photo(self, name: str, colour: tuple[int, int, int]) -> str:
        path = self.photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100), colour).save(path, "PNG")
        return files.sha256_of(path)

    def _dataset(self, labels: Labels) -> None:
        folder = self.artifacts / "dataset"
        order = np.argsort(labels.sha256)
        images = Images(labels.sha256[order], tuple(labels.path[order]), (1,) * len(order))
        dataset.write_images(folder / "images.parquet", images)
        dataset.write_labels(folder / "labels.parquet", labels)
        dataset.write_problems(folder / "problems.csv", self.problems)
        summary = {
            "files": len(labels.path),
            "images": len(labels.path),
            "labelled": len(labels.path),
            "classes": sorted(self.classes),
            "splits": {
                str(split): dict.fromkeys(self.classes, PER_SPLIT[split])
                for split in Split
                if split in self.splits
            },
            "problems": {},
            "notes": ["val cut from 12 images, stratified, seed 0"],
        }
        files.write_json(folder / "summary.json", summary)

    def _backbone(self, name: str) -> None:
        folder = self.artifacts / "backbones" / name
        files.write_bytes(folder / "model.onnx", b"a model")
        fields = {
            "source": self.sources.get(name, "timm"),
            "preprocessing": {"resize": 256, "mean": [0.5, 0.25, 0.125]},
        }
        digest = files.sha256_of_bytes(b"a model")
        frozen.write(
            FrozenBackbone(folder, name, "model.onnx", digest, 8, self.weights, "mit", fields)
        )
        files.write_bytes(self.artifacts / "embeddings" / f"{name}.h5", b"embeddings")
        dataset.write_problems(self.artifacts / "embeddings" / f"{name}.problems.csv", [])

    def _inspected(self) -> None:
        for name in self.backbones:
            folder = self.artifacts / "inspect" / name
            counts = ("exact", "near", "across_splits", "suspects", "outliers")
            files.write_json(folder / "summary.json", dict.fromkeys(counts, 0))
            files.write_csv(folder / "suspects.csv", inspection.SUSPECT_COLUMNS, [])
            files.write_csv(folder / "duplicates.csv", inspection.PAIR_COLUMNS, [])
            files.write_csv(folder / "outliers.csv", inspection.OUTLIER_COLUMNS, [])

    def _head(self, backbone: str, name: str) -> None:
        folder = self.artifacts / "heads" / backbone
        content = f"{backbone} {name}".encode()
        files.write_bytes(folder / f"{name}.joblib", content)
        record = heads.Record(
            backbone=backbone,
            head=name,
            kind=self.kinds.get(name, "logistic"),
            fingerprint="f" * 64,
            classes=list(self.classes),
            rows={"train": 4, "val": 8},
            choice={"C": 0.5},
            chosen_by="accuracy",
            trace=[{"value": value, "accuracy": 0.5 + value / 10} for value in (0.1, 0.5, 1.0)],
            at_edge=False,
            converged=True,
            sha256=files.sha256_of_bytes(content),
        )
        files.write_json(
            folder / f"{name}.json", dataclasses.asdict(dataclasses.replace(record, **self.record))
        )

    def _result(self, backbone: str, head: str, split: Split, labels: Labels) -> Result:
        """Right but for the images numbered 2 (surely) and 3 (less so), taken for the next class.

        A later head errs on more images of val.
        """
        rows = labels.where(labels.split == split)
        names = tuple(sorted(self.classes))
        y = np.array([names.index(label) for label in rows.label], dtype=np.int64)
        number = np.array([self._number(path) for path in rows.path])
        wrong = number >= (2 if split == Split.TEST else 4 - self.heads.index(head))
        predicted = np.where(wrong, (y + 1) % len(names), y)
        sure = np.where(number == 2, 0.9, 0.8) if len(number) else np.zeros(0)
        probabilities = np.full((len(y), len(names)), 0.0) + (0.1 / len(names))
        probabilities[np.arange(len(y)), predicted] = sure
        known = head not in self.without_probabilities and len(y)
        normal = probabilities / probabilities.sum(axis=1, keepdims=True) if known else None
        control = self.kinds.get(head) == "dummy" or self.sources.get(backbone) == "pixels"
        return Result(
            *(
                backbone,
                head,
                split,
                rows,
                Scored(y, predicted, normal, len(names)),
                names,
                control,
            ),
            kind=self.kinds.get(head, "logistic"),
            source=self.sources.get(backbone, "timm"),
        )

    def _number(self, path: str) -> int:
        original = {renamed: name for name, renamed in self.path_of.items()}.get(path, path)
        return int(Path(original).stem)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("built"), heads=("logistic", "knn")).build()


@pytest.fixture
def case(built, tmp_path):
    return dataclasses.replace(built, folder=shutil.copytree(built.folder, tmp_path / "project"))


class TestPage:
    def test_report__any_run__is_self_contained(self, case):
        page = case.page()
        assert "://" not in page.source
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
        for _, attributes in page.tags:
            for name in ("src", "href", "data", "action"):
                assert attributes.get(name, "#").startswith(("#", "data:image/jpeg;base64,"))
        assert "url(" not in page.source
        assert "@import" not in page.source

    def test_report__any_run__forbids_what_it_does_not_hold(self, case):
        policy = case.page().having("meta", **{"http-equiv": "Content-Security-Policy"})
        assert policy[0]["content"].startswith("default-src 'none'")

    def test_report__anchors__lead_somewhere(self, case):
        page = case.page()
        ids = {attributes.get("id") for _, attributes in page.tags}
        assert {link["href"][1:] for link in page.having("a")} <= ids

    def test_report__written_twice__is_byte_identical(self, case, tmp_path):
        first = case.write(tmp_path / "a.html").read_bytes()
        assert case.write(tmp_path / "b.html").read_bytes() == first

    def test_report__project_moved__is_byte_identical(self, case, tmp_path):
        first = case.write().read_bytes()
        shutil.copytree(case.folder, tmp_path / "elsewhere" / "deeper")
        moved = dataclasses.replace(case, folder=tmp_path / "elsewhere" / "deeper")
        assert moved.write().read_bytes() == first
        assert str(tmp_path).encode() not in first

    def test_report__nothing_else__is_left_beside_it(self, case):
        before = {path.name for path in case.artifacts.iterdir()}
        case.write()
        assert {path.name for path in case.artifacts.iterdir()} - before == {"report.html"}

    def test_report__hostile_file_name__is_escaped(self, tmp_path):
        case = Case(
            tmp_path,
            path_of={"test/0/2.png": HOSTILE_PATH},
            problems=(Problem(HOSTILE_PATH, "", "<b>reason</b>", "<svg onload=alert(1)>"),),
        ).build()
        page = case.page()
        assert "<script" not in page.source
        assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in page.source
        assert HOSTILE_PATH in page.text
        self._check_harmless(page)

    def test_report__hostile_label__is_escaped(self, tmp_path):
        page = Case(tmp_path, classes=("cat", HOSTILE_LABEL)).build().page()
        assert HOSTILE_LABEL in page.text
        self._check_harmless(page)

    @staticmethod
    def _check_harmless(page: Page) -> None:
        assert not [name for _, a in page.tags for name in a if name.startswith("on")]
        assert all(image["src"].startswith("data:image/jpeg") for image in page.having("img"))


class TestScores:
    def test_headline__best_head__says_accuracy_interval_and_n(self, case):
        page = case.page()
        title = "logistic on small labels 50.0 % of 8 test images correctly"
        assert title in page.text.replace("\u00a0", " ")
        assert "95 % interval: 21.5 % to 78.5 %" in page.text.replace("\u00a0", " ")
        assert "by validation accuracy: 100.0 % of 8 images" in page.text.replace("\u00a0", " ")

    def test_table__several_heads__follow_validation_and_mark_the_best(self, case):
        rows = [row for row in case.page().rows if row[1:2] == ["small"]][:2]
        assert [row[0] for row in rows] == ["logisticbest", "knn"]
        assert rows[0][2:5] == ["1.0000", "0.5000", "0.2152 to 0.7848"]
        assert "–" not in rows[0]

    def test_table__head_without_probabilities__has_dashes(self, tmp_path):
        page = Case(tmp_path, without_probabilities=("logistic",)).build().page()
        row = next(row for row in page.rows if row[0] == "logisticbest")
        assert row[-2:] == ["–", "–"]

    @pytest.mark.parametrize(
        "options",
        [
            {"heads": ("logistic", "prior"), "kinds": {"prior": "dummy"}},
            {"backbones": ("small", "raw"), "sources": {"raw": "pixels"}},
        ],
    )
    def test_table__control__is_marked_and_last(self, tmp_path, options):
        page = Case(tmp_path, **options).build().page()
        marked = [row for row in page.rows if "control" in row[0]]
        assert len(marked) == 1
        assert page.rows[2] == marked[0]

    @pytest.mark.parametrize(("reached", "said"), [(1.0, True), (0.99, False)])
    def test_headline__control_as_good_as_the_best__says_so(self, tmp_path, reached, said):
        case = Case(tmp_path, backbones=("small", "raw"), sources={"raw": "pixels"}).build()
        path = case.artifacts / "evaluation/metrics.json"
        metrics = json.loads(path.read_text())
        metrics["raw"]["logistic"]["val"]["accuracy"] = reached
        path.write_text(json.dumps(metrics))
        text = case.page().text.replace("\u00a0", " ")
        assert ("The control logistic on raw is no worse there, 100.0 %" in text) == said

    def test_report__all_controls__says_there_is_no_best(self, tmp_path):
        case = Case(tmp_path, heads=("prior",), kinds={"prior": "dummy"}).build()
        assert "best" not in json.loads((case.artifacts / "evaluation/metrics.json").read_text())
        page = case.page()
        assert "There is no best head: all heads of this run are controls" in page.text
        assert "Mistakes of the best head" not in page.text
        assert page.having("svg", role="img")
        assert any("prior" in row[0] for row in page.rows)

    def test_report__no_test_images__shows_validation(self, tmp_path):
        page = Case(tmp_path, splits=(Split.TRAIN, Split.VAL)).build().page()
        assert "no image is in test" in page.text
        assert "Mistakes of the best head" not in page.text
        assert page.rows[1][2:5] == ["1.0000", "–", "–"]

    def test_plot__every_head__has_dot_and_hint(self, case):
        page = case.page()
        assert len([c for c in page.having("circle") if c.get("r") == "6"]) == 2
        assert "knn on small: 0.5000, 0.2152 to 0.7848" in page.text

    @pytest.mark.parametrize(
        ("low", "high"), [(0.92, 0.96), (0.0, 1.0), (0.995, 1.0), (0.5, 0.5), (0.1234, 0.1236)]
    )
    def test_ticks__intervals__lie_inside(self, low, high):
        ticks = plots.ticks([(low, high)])
        assert ticks[0] <= low + 1e-9
        assert high - 1e-9 <= ticks[-1]
        assert 2 <= len(ticks) <= plots.MOST_TICKS

    def test_plot__control_far_below__does_not_stretch_the_axis(self):
        good = self._head(0.9, 0.95)
        control = dataclasses.replace(self._head(0.05, 0.15), control=True)
        plot = scores._plot(records.Run([], [good, control], good, {}))
        assert [dot.beyond for dot in plot.dots] == ["", "left"]
        assert plot.ticks[0] == ("0.00%", "0.90")

    def test_layers__no_head_sees_several__are_not_shown(self, case):
        page = case.page()
        assert "Validation accuracy by layer" not in page.text
        assert not page.having("a", href="#layers")

    def test_layers__of_heads_that_see_several__are_a_plot_with_intervals(self, tmp_path):
        figures = {"accuracy": 0.5, "accuracy_ci95": [0.25, 0.75], "choice": {}}
        names = ["stem"], ["top <b>"], ["stem", "top <b>"]
        record = {
            "layers": ["top <b>"],
            "views": 2,
            "images": {"train": 4, "val": 8},
            "rows": {"train": 12, "val": 24},
            "by_layer": [{"layers": layers, **figures} for layers in names],
            "notes": ["a note"],
        }
        page = Case(tmp_path, record=record).build().page()
        assert page.having("a", href="#layers")
        assert len([c for c in page.having("circle") if c.get("r") == "6"]) == 1 + 3
        for name in ("stem", "top <b>", "stem + top <b>"):
            assert f"{name}, logistic on small: 0.5000, 0.2500 to 0.7500" in page.text
        assert "logistic on small: a note." in page.text
        row = next(row for row in page.rows if row[3:4] == ["C = 0.5"])
        assert row[5:7] == ["top <b>, 3 views", "4 train + 8 val"]

    @staticmethod
    def _head(low: float, high: float) -> records.Head:
        test = {"accuracy": (low + high) / 2, "accuracy_ci95": [low, high], "n": 9}
        return records.Head("b", "h", "k", {}, "given", [], False, True, {}, "", False, None, test)


class TestMistakes:
    def test_mistakes__few_classes__are_a_matrix(self, case):
        page = case.page()
        assert "4 of 8 test images are labelled wrongly." in page.text
        assert ["cat", "2", "2"] in page.rows
        assert ["dog", "2", "2"] in page.rows
        assert page.having("td", title="cat taken for dog: 2 of 4", **{"class": "miss strong"})

    def test_mistakes__sixty_classes__are_pairs_and_worst_classes(self, tmp_path):
        classes = tuple(f"class {number:02}" for number in range(60))
        page = Case(tmp_path, classes=classes).build().page()
        assert "Most confused classes" in page.text
        assert ["class 00", "class 01", "2", "50.0 %"] in [
            [cell.replace("\u00a0", " ") for cell in row] for row in page.rows
        ]
        assert len([row for row in page.rows if "50.0\u00a0%" in row or "50.0 %" in row]) == 30
        assert "Lowest F1 first" in page.text
        assert not page.having("table", **{"class": "heat long"})
        assert len(page.having("li")) >= 24

    def test_classes__each__has_recall_with_interval(self, case):
        row = next(row for row in case.page().rows if row[0] == "cat" and len(row) == 7)
        assert row[1:6] == ["4", "0.5000", "0.5000", "0.1500 to 0.8500", "0.5000"]

    def test_pictures__mistakes__come_surest_first(self, case):
        captions = re.findall(r"test/\d/\d\.png", case.page().text)
        assert captions == ["test/0/2.png", "test/1/2.png", "test/0/3.png", "test/1/3.png"]

    def test_pictures__no_probabilities__come_by_path(self, tmp_path):
        page = Case(tmp_path, without_probabilities=("logistic",)).build().page()
        captions = re.findall(r"test/\d/\d\.png", page.text)
        assert captions == sorted(captions)
        assert len(captions) == 4
        assert "no probabilities" in page.text

    def test_pictures__large_image__is_made_small(self, case):
        assert {(i["width"], i["height"]) for i in case.page().having("img")} == {("160", "80")}

    @pytest.mark.parametrize("change", ["changed", "gone", "folder", "broken"])
    def test_pictures__image_not_as_recorded__shows_no_picture(self, case, change):
        path = case.photos / "test/0/2.png"
        path.unlink()
        if change == "changed":
            Image.new("RGB", (8, 8), "red").save(path)
        elif change == "folder":
            path.mkdir()
        elif change == "broken":
            path.write_bytes(b"\x89PNG\r\n\x1a\n")
        page = case.page()
        assert page.text.count("image not found") == 1
        assert len(page.having("img")) == 3

    def test_pictures__photos_moved_away__still_make_a_report(self, case):
        shutil.rmtree(case.photos)
        page = case.page()
        assert page.text.count("image not found") == 4
        assert not page.having("img")

    def test_pictures__many_mistakes__are_cut_at_24(self, tmp_path):
        case = Case(tmp_path, classes=tuple("abcdefghijklmnop")).build()
        assert len(case.page().having("img")) == 24


class TestProvenance:
    def test_problems__none__says_so(self, case):
        assert "None: every image was read" in case.page().text

    def test_problems__many__are_counted_and_cut(self, tmp_path):
        problems = tuple(
            Problem(f"{number:03}.jpg", "", "empty" if number < 3 else "truncated", "")
            for number in range(130)
        )
        page = Case(tmp_path, problems=problems).build().page()
        assert "130 problems in artifacts/dataset/problems.csv" in page.text
        assert "truncated 127 empty 3" in page.text
        assert "30 more are in artifacts/dataset/problems.csv" in page.text
        assert "099.jpg" in page.text
        assert "100.jpg" not in page.text

    def test_problems__of_a_backbone__are_shown(self, case):
        path = case.artifacts / "embeddings" / "small.problems.csv"
        dataset.write_problems(path, [Problem("a.jpg", "0" * 64, "corrupt", "bad Huffman code")])
        text = case.page().text
        assert "1 problem in artifacts/embeddings/small.problems.csv" in text
        assert "bad Huffman code" in text

    def test_problems__image_that_can_be_shown__stands_beside_its_row(self, case):
        sha256 = files.sha256_of(case.photos / "train/0/0.png")
        problem = Problem("twice.png", sha256, "conflicting_labels", "the same bytes are two")
        gone = Problem("gone.png", "1" * 64, "unreadable", "No such file")
        dataset.write_problems(case.artifacts / "dataset/problems.csv", [problem, gone])
        page = case.page()
        assert ["image", "path", "reason", "detail"] in page.rows
        assert len(page.having("img", **{"class": "small"})) == 1

    def test_problems__image_that_no_decoder_survives__is_not_decoded_again(
        self, case, monkeypatch
    ):
        sha256 = files.sha256_of(case.photos / "train/0/0.png")
        problem = Problem("bomb.png", sha256, "conflicting_labels", "the same bytes are two")
        crashed = Problem("bomb.png", sha256, "crashed", "the decoder crashed (SIGSEGV)")
        dataset.write_problems(case.artifacts / "dataset/problems.csv", [problem])
        dataset.write_problems(case.artifacts / "embeddings/small.problems.csv", [crashed])
        page = case.page()
        assert not page.having("img", **{"class": "small"})
        assert ["path", "reason", "detail"] in page.rows

    def test_problems__file_that_was_never_embedded__is_not_decoded(self, case, monkeypatch):
        sha256 = case._photo("../outside.png", (9, 9, 9))
        problem = Problem("../outside.png", sha256, "outside_root", "not below the folder")
        dataset.write_problems(case.artifacts / "dataset/problems.csv", [problem])
        assert not case.page().having("img", **{"class": "small"})

    def test_data__splits_and_notes__are_shown(self, case):
        page = case.page()
        assert ["class", "train", "val", "test"] in page.rows
        assert ["cat", "2", "4", "4"] in page.rows
        assert ["all", "4", "8", "8"] in page.rows
        assert "val cut from 12 images" in page.text

    def test_backbone__record__is_shown(self, case):
        text = case.page().text
        record = json.loads((case.artifacts / "backbones/small/backbone.json").read_text())
        for shown in ("wheel:small_weights", "mit", record["fingerprint"]):
            assert shown in text
        assert "preprocessing.mean 0.5, 0.25, 0.125" in text

    def test_backbone__weights_from_a_file__shows_no_folder(self, tmp_path):
        text = Case(tmp_path, weights="file:/home/somebody/w.pth").build().page().text
        assert "file:w.pth" in text
        assert "somebody" not in text

    def test_fit__choice__is_shown_with_its_search(self, case):
        page = case.page()
        assert ["logistic", "small", "logistic", "C = 0.5"] in [row[:4] for row in page.rows]
        assert page.having("svg", **{"class": "spark"})
        assert "validation accuracy: worst 0.5100, best 0.6000, 3 values tried" in page.text

    def test_fit__nothing_searched__has_no_curve(self, tmp_path):
        page = Case(tmp_path, record={"choice": {}, "trace": []}).build().page()
        assert not page.having("svg", **{"class": "spark"})

    def test_fit__edge_of_grid_or_no_convergence__warns(self, tmp_path):
        text = Case(tmp_path, record={"at_edge": True, "converged": False}).build().page().text
        assert "logistic on small: The choice lies at an end of the grid" in text
        assert "The solver stopped before it converged." in text

    def test_digests__every_input__is_listed(self, case):
        page, names = (
            case.page(),
            re.compile(r"(artifacts/\S+\.(?:parquet|h5|onnx|joblib)) (\w{64})"),
        )
        found = dict(names.findall(page.text))
        assert found == {name: files.sha256_of(case.folder / name) for name in found}
        assert len(found) == 6


class TestInputs:
    def test_report__files_of_removed_heads__are_not_read(self, case):
        first = case.write().read_bytes()
        for name in ("old.json", "old.joblib"):
            (case.artifacts / "heads" / "small" / name).write_text("not JSON")
        shutil.copytree(case.artifacts / "backbones/small", case.artifacts / "backbones/gone")
        (case.artifacts / "backbones/gone/backbone.json").write_text("{")
        (case.artifacts / "embeddings/gone.problems.csv").write_text("nonsense")
        assert case.write().read_bytes() == first

    @pytest.mark.parametrize(
        ("path", "stage"),
        [
            ("dataset/summary.json", "prepare"),
            ("dataset/problems.csv", "prepare"),
            ("dataset/images.parquet", "prepare"),
            ("dataset/labels.parquet", "prepare"),
            ("backbones/small/backbone.json", "freeze@small"),
            ("backbones/small/model.onnx", "freeze@small"),
            ("embeddings/small.h5", "extract@small"),
            ("embeddings/small.problems.csv", "extract@small"),
            ("heads/small/knn.json", "train@small-knn"),
            ("heads/small/knn.joblib", "train@small-knn"),
            ("evaluation/metrics.json", "evaluate"),
            ("evaluation/predictions.parquet", "evaluate"),
            ("evaluation/per_class.csv", "evaluate"),
        ],
    )
    def test_report__input_missing__names_it_and_the_stage(self, case, path, stage):
        (case.artifacts / path).unlink()
        with pytest.raises(IntegrityError) as caught:
            case.write()
        assert str(caught.value) == f"{case.artifacts / path} is missing; run 'dvc repro {stage}'"
        assert not (case.artifacts / "report.html").exists()

    @pytest.mark.parametrize(
        "path",
        [
            "dataset/summary.json",
            "dataset/problems.csv",
            "backbones/small/backbone.json",
            "heads/small/knn.json",
            "evaluation/metrics.json",
            "evaluation/predictions.parquet",
            "evaluation/per_class.csv",
        ],
    )
    @pytest.mark.parametrize("content", [b"[1]\n2\n", b"\xff\xfe{"])
    def test_report__input_damaged__names_it_in_one_line(self, case, path, content):
        (case.artifacts / path).write_bytes(content)
        with pytest.raises(IntegrityError, match="is damaged") as caught:
            case.write()
        assert str(case.artifacts / path) in str(caught.value)
        assert "run 'dvc repro" in str(caught.value)

    @pytest.mark.parametrize("path", ["heads/small/knn.joblib", "backbones/small/model.onnx"])
    def test_report__file_not_as_recorded__is_refused(self, case, path):
        (case.artifacts / path).write_bytes(b"another")
        with pytest.raises(IntegrityError, match=r"sha256 is \w{64}, recorded \w{64}; run"):
            case.write()

    def test_report__head_not_evaluated__is_refused(self, case):
        path = case.artifacts / "evaluation" / "metrics.json"
        metrics = json.loads(path.read_text())
        del metrics["small"]["knn"]
        files.write_json(path, metrics)
        with pytest.raises(IntegrityError, match="has no small / knn; run 'dvc repro evaluate'"):
            case.write()

    def test_report__best_not_in_the_run__is_refused(self, case):
        case.heads = ("knn",)
        with pytest.raises(IntegrityError, match="small / logistic, is not in the run"):
            case.write()


class TestCost:
    def test_import__stage__brings_nothing_heavy(self):
        heavy = ["dask", "h5py", "matplotlib", "onnxruntime", "pandas", "scipy", "sklearn", "torch"]
        code = f"import sys, stages.report; print([m for m in {heavy} if m in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        assert done.stdout.strip() == "[]"
