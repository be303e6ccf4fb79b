"""Which packages a fresh interpreter has imported, and which of them are heavy."""

from __future__ import annotations

import subprocess
import sys

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


def list_loaded_packages(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after running ``code``."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\n{PRINT_LOADED}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())
