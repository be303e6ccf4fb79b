"""What may be loaded when: the light parts must stay light, so each is imported in a process of its own."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes.loaded_packages import HEAVY, list_loaded_packages
from tests.support.projects.copies import ROOMS, ROOT

HELP = """
try:
    from attar.cli.main import main
    sys.argv = ["attar", "--help"]
    main()
except SystemExit as finished:
    assert not finished.code, finished.code
"""


REPORT = (
    "import attar.proof.report, attar.proof.report.data, attar.proof.report.formats.terminal, attar.proof.report.formats.html"
)
OFFERS = "from attar.stages.choose.offers import list_runnable_candidates; list_runnable_candidates()"


@pytest.mark.parametrize(
    ("code", "unneeded"),
    [
        pytest.param("import attar", HEAVY, id="import attar"),
        pytest.param("import attar.stages.slots", HEAVY, id="slots and their settings"),
        pytest.param("import attar.models.task", HEAVY, id="tasks"),
        pytest.param(HELP, HEAVY | {"numpy", "pydantic", "uvloop", "grpc"}, id="attar --help"),
        pytest.param(REPORT, HEAVY | {"rich", "numpy", "safetensors"}, id="the report, before it is drawn"),
        pytest.param(OFFERS, HEAVY | {"tensorrt_rtx"}, id="offers of runtimes"),
        pytest.param("import attar.serving.server", {"prometheus_client"}, id="a server, before its metrics are asked for"),
    ],
)
def test_light_parts_load_nothing_heavy(code: str, unneeded: set[str]) -> None:
    packages = list_loaded_packages(code)
    assert "attar" in packages
    assert not packages & unneeded


def test_the_probe_sees_what_is_loaded() -> None:
    """Guards the test above: a heavy import does show."""
    assert "onnxruntime" in list_loaded_packages("import onnxruntime")


def test_no_top_level_name_but_attar_is_taken() -> None:
    assert not list_loaded_packages("import attar, attar.stages, attar.models.task") & {"models", "stages", "pipeline"}


def list_imports(file: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test_module(name: str) -> bool:
    """Whether this name, ``tests.ROOM.test_SUBJECT`` or what it holds, belongs to a module of tests."""
    parts = name.split(".")
    return parts[0] == "tests" and any(part.startswith("test_") for part in parts[1:])


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "docs"])
def test_nothing_imports_a_test_module(folder: str) -> None:
    """What several tests share is in ``tests/support``, or it is a fixture of a ``conftest.py``."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [(str(file), name) for file in files for name in list_imports(file) if is_test_module(name)] == []


IN_STRING = re.compile(r"from (attar[\w.]*) import (\w+(?:, \w+)*)")


def list_imports_in_strings(file: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of what code in strings imports: programs for other processes, which no linter reads."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for module, names in IN_STRING.findall(node.value):
                yield from ((module, name) for name in names.split(", "))


def can_import(module: str, name: str) -> bool:
    with contextlib.suppress(ImportError):
        found = importlib.import_module(module)
        return hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
    return False


@pytest.mark.parametrize("folder", [*ROOMS, "attar", "tests", "benchmarks", "docs"])
def test_code_in_strings_imports_what_is_there(folder: str) -> None:
    wanted = {(str(file), *name) for file in (ROOT / folder).rglob("*.py") for name in list_imports_in_strings(file)}
    assert [each for each in sorted(wanted) if not can_import(each[1], each[2])] == []
