"""What several benchmarks share: CPU time of a call, and an artifact that one stage makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attar.pipeline.core.stage import Artifact, Stage

A = TypeVar("A", bound=Artifact)


def count_cpu_seconds(call: Callable[[], object]) -> float:
    """Count the seconds of this process's CPU: other load on the machine counts less than in wall
    time."""
    start = time.process_time()
    call()
    return time.process_time() - start


def make_artifact(kind: type[A], folder: Path, stage: Stage[Any], **inputs: Artifact) -> A:
    """Run a stage, and return what it makes in ``folder / "out"``."""
    out = folder / "out"
    out.mkdir(parents=True)
    return kind(key="", digest="", root=out, facts=stage.run(out, **inputs))
