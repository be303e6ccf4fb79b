"""Every class has a name of its own, so that a name in a message or a search leads to one."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROOMS = ("pipeline", "models", "engines", "proof", "bundle", "stages", "serving", "attar", "benchmarks", "docs", "tests")
STARTER = ROOT / "attar" / "starter"
"""A project of the user's own."""
KEPT = {"Attention", "Block", "Origin", "Package", "Pretrained", "Record", "Rows", "Sentences"}
"""Names that recipes, users' programs or the keys of artifacts have: other names would make teachers and students anew."""


def find_classes() -> dict[str, list[str]]:
    """Return the files of each class by its name, where the text suggests more than one."""
    texts: dict[Path, str] = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):  # which follows no link
            if not path.is_relative_to(STARTER):
                texts[path] = path.read_text(encoding="utf-8")
    suggested: dict[str, list[Path]] = defaultdict(list)
    for path, text in texts.items():
        for name in re.findall(r"^ *class (\w+)", text, re.MULTILINE):
            suggested[name].append(path)
    several = {name: paths for name, paths in suggested.items() if len(paths) > 1}
    trees = {path: ast.parse(texts[path]) for paths in several.values() for path in paths}
    found: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(ROOT).as_posix())
    return found


def test_no_class_has_the_name_of_another() -> None:
    twice = {name: files for name, files in find_classes().items() if len(files) > 1}
    assert twice.keys() == KEPT, {name: twice.get(name) for name in twice.keys() ^ KEPT}
