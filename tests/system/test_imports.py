"""What may be loaded when: the light parts must stay light, so each is imported in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "accelerate",
    "cryptography",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "tensorrt",
    "openvino",
    "matplotlib",
    "jinja2",
    "sklearn",
    "scipy",
}

PRINT_LOADED = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
HELP = """
try:
    from attar.cli.main import main
    sys.argv = ["attar", "--help"]
    main()
except SystemExit as finished:
    assert not finished.code, finished.code
"""


def loaded(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after running ``code``."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\n{PRINT_LOADED}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import attar", id="import attar"),
        pytest.param("import attar.stages.slots", id="import attar.stages.slots"),
        pytest.param("import attar.models.task", id="import attar.models.task"),
        pytest.param(HELP, id="attar --help"),
    ],
)
def test_light_parts_load_nothing_heavy(code: str) -> None:
    packages = loaded(code)
    assert "attar" in packages
    assert not packages & HEAVY


def test_help_needs_no_library_of_numbers_or_settings() -> None:
    assert not loaded(HELP) & {"numpy", "pydantic", "uvloop", "grpc"}


def test_the_probe_sees_what_is_loaded() -> None:
    """Guards the test above: a heavy import does show."""
    assert "onnxruntime" in loaded("import onnxruntime")


def test_no_top_level_name_but_attar_is_taken() -> None:
    assert not loaded("import attar, attar.stages, attar.models.task") & {"models", "stages", "pipeline"}
