"""A runtime whose hardware is here only while a variable says so; else it is ONNX Runtime on the CPU."""

from __future__ import annotations

import os

from attar.engines.runtimes.onnxruntime import OnnxRuntime
from attar.engines.runtimes.runtime import BuildSpec

HERE = "ATTAR_TEST_HARDWARE"
MISSING = "there is no such accelerator in this machine"


class Late(OnnxRuntime):
    """Builds everywhere."""

    title = "Late"

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return None

    def explain_unrunnable(self, asked: BuildSpec) -> str | None:
        return None if os.environ.get(HERE) else MISSING


class PlanRuntime(OnnxRuntime):
    """Its engines are called as TensorRT's are."""

    suffix = ".engine"


class Later(Late):
    """Does not even build elsewhere."""

    def explain_unbuildable(self, asked: BuildSpec) -> str | None:
        return self.explain_unrunnable(asked)
