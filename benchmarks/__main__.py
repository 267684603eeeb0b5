"""Run every benchmark and write benchmarks/results.json and results.md."""

import datetime as dt
import os
import platform
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import pipeline_overhead
from pipeline import files

HERE = Path(__file__).parent


def main() -> None:
    """Measure in a temporary folder; the results go beside this file."""
    with TemporaryDirectory(prefix="headstart-bench-") as folder:
        rows = pipeline_overhead.measure(Path(folder))
    machine = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    files.write_json(HERE / "results.json", {"machine": machine, "rows": rows})
    files.write_bytes(HERE / "results.md", _table(machine, rows).encode())
    print((HERE / "results.md").read_text())


def _cpu() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def _table(machine: dict[str, object], rows: list[dict[str, object]]) -> str:
    head = ["what", "expected", "median", "runs", "beside", "median beside", "ratio"]
    lines = [
        "# Results",
        "",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}.",
        "Seconds of wall time; medians; interleaved where two things stand side by side.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(str(row.get(key, "")) for key in head) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
