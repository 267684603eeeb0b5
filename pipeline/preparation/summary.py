"""What was prepared, in counts and sentences: summary.json and the lines on the terminal."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.dataset import Labels, Problem, Split, problem_table
from pipeline.formats import counted, quoted
from pipeline.preparation.reading import Row


def summarize(
    readable: Sequence[Row], labels: Labels, problems: Iterable[Problem], notes: Iterable[str]
) -> dict[str, Any]:
    """The content of summary.json. readable: every file that could be read, used or not."""
    classes = sorted(set(labels.label))
    table = {
        str(split): Counter(labels.label[labels.split == split].tolist())
        for split in (Split.TRAIN, Split.VAL, Split.TEST)
    }
    return {
        "files": len({row.entry.path for row in readable}),
        "images": len({row.sha256 for row in readable}),
        "labelled": len(labels.label),
        "classes": classes,
        "splits": {split: dict(sorted(counts.items())) for split, counts in table.items()},
        "problems": dict(sorted(Counter(problem.reason for problem in problems).items())),
        "notes": [*notes, *_false_digests(readable), *_absent(table, classes)],
    }


def describe(summary: dict[str, Any], problems: Sequence[Problem]) -> str:
    """A summary, and a table of what was left out, for the terminal."""
    splits = ", ".join(f"{name} {sum(c.values())}" for name, c in summary["splits"].items())
    counts = f"{summary['images']} distinct images in {summary['files']} files"
    lines = [f"{counts}, {len(summary['classes'])} classes: {splits}", *summary["notes"]]
    return "\n".join([*lines, *problem_table(problems, "artifacts/dataset/problems.csv")])


def _absent(table: dict[str, Counter[str]], classes: Sequence[str]) -> list[str]:
    notes = list[str]()
    for split, counts in table.items():
        if absent := [label for label in classes if not counts[label]]:
            notes.append(f"{split} has no image of class {quoted(absent)}")
    if not table[Split.VAL]:
        notes.append(
            "val is empty, and heads are chosen on it: give each class at least three images, or "
            "a val split, before you train"
        )
    return notes


def _false_digests(rows: Iterable[Row]) -> list[str]:
    """A note where one sha256 belongs to files of several sizes: some manifest's row is wrong."""
    first: dict[str, Row] = {}
    false: dict[str, set[str]] = defaultdict(set)
    for row in sorted(rows, key=lambda row: row.entry.path):
        one = first.setdefault(row.sha256, row)
        if one.bytes != row.bytes:
            false[row.sha256] |= {one.entry.path, row.entry.path}
    if not false:
        return []
    example = quoted(sorted(min(map(sorted, false.values())))[:2])
    return [
        (
            f"the manifest gives {counted(len(false), 'sha256')} to files of different sizes, such as "
            f"{example}, so its column sha256 is wrong: correct or delete it"
        )
    ]
