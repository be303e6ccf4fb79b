"""attar: from knowledge distillation to an optimized inference artifact, proven at every hop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.models.preprocess import Normalize, Scale, Tokenize
    from attar.models.task import InMemory, Output, Split, Task, Tensor, hits
    from attar.pipeline.stage import Artifact, Stage
    from attar.stages.bundle import open_bundle as open  # the public name reads attar.open
    from attar.stages.run import run

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "InMemory",
    "Normalize",
    "Output",
    "Scale",
    "Split",
    "Stage",
    "Task",
    "Tensor",
    "Tokenize",
    "hits",
    "open",
    "run",
]

_HOMES = {
    "Artifact": "attar.pipeline.stage:Artifact",
    "InMemory": "attar.models.task:InMemory",
    "Normalize": "attar.models.preprocess:Normalize",
    "Output": "attar.models.task:Output",
    "Scale": "attar.models.preprocess:Scale",
    "Split": "attar.models.task:Split",
    "Stage": "attar.pipeline.stage:Stage",
    "Task": "attar.models.task:Task",
    "Tensor": "attar.models.task:Tensor",
    "Tokenize": "attar.models.preprocess:Tokenize",
    "hits": "attar.models.task:hits",
    "open": "attar.stages.bundle:open_bundle",
    "run": "attar.stages.run:run",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that ``import attar`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
