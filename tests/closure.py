"""The import closure of a module: which of the repository's files it needs.

python -m tests.closure      rewrites the code deps of every stage in dvc.yaml
"""

import ast
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages")
READS = {
    "pipeline/frozen.py": "pipeline/probe",
    "pipeline/reporting/__init__.py": "pipeline/reporting/report.html",
}
"""What a module reads beside its imports; a dep of every stage that imports it."""


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The file of a module of ours, None for anything else."""
    if name.split(".", maxsplit=1)[0] not in PACKAGES:
        return None
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Names of our modules that a file imports anywhere, also inside functions."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if module_file(name, root)}


def closure(module: str, root: Path = ROOT) -> set[str]:
    """Files, relative to the root, that importing `module` can need."""
    todo, seen = [module], set[str]()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = module_file(name, root)
        assert path is not None, name
        parents = name.split(".")
        todo += [".".join(parents[:depth]) for depth in range(1, len(parents))]
        todo += imported(path, root)
    return {str(module_file(name, root).relative_to(root)) for name in seen}  # type: ignore[union-attr]


def code_deps(stage: str, root: Path = ROOT) -> list[str]:
    """The code deps of a stage, sorted."""
    files = closure(f"stages.{stage}", root)
    return sorted(files | {READS[file] for file in files if file in READS})


def is_code(dep: str) -> bool:
    """Whether a dep of dvc.yaml is one of ours rather than data."""
    return dep.split("/", maxsplit=1)[0] in PACKAGES


def main() -> None:
    """Rewrite the code deps in dvc.yaml."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 100, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    path = ROOT / "dvc.yaml"
    content = yaml.load(path)
    for name, stage in content["stages"].items():
        body = stage.get("do", stage)
        body["deps"] = [dep for dep in body["deps"] if not is_code(dep)] + code_deps(name)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(content, file)


if __name__ == "__main__":
    main()
