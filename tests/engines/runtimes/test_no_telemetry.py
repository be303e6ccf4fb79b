"""No telemetry: ONNX Runtime is told before it starts, in this process and in those that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import attar
from attar.engines.runtimes import onnxruntime
print(onnxruntime.OnnxRuntime().get_version())
"""


def test_onnx_runtime_prepares_nothing_to_be_sent(tmp_path: Path) -> None:
    """With its telemetry on, ONNX Runtime 1.32 writes a session file and a cache when it is imported."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    homes = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CODE], check=True, env=environment | homes, capture_output=True)
    assert not list(tmp_path.iterdir())
