"""attar: from knowledge distillation to an optimized inference artifact, proven at every hop."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from attar.pipeline.core.version import VERSION

__version__ = VERSION
# ONNX Runtime from 1.29 on sends telemetry from Linux too, and reads this once, when it is
# initialised.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from attar.api import run
    from attar.bundle.opening import open_bundle as open  # the public name reads attar.open
    from attar.models.postprocess import Detokenize
    from attar.models.preprocess import (
        CenterCrop,
        ChannelsFirst,
        DecodeImage,
        Normalize,
        Resize,
        Scale,
        Tokenize,
    )
    from attar.models.scores import (
        compute_f1,
        compute_mean_ap,
        compute_mean_iou,
        compute_share,
        count_decisions,
        count_hits,
        count_overlaps,
        join_labels,
    )
    from attar.models.splits.arrays import NpySplit
    from attar.models.splits.datasets import MapSplit
    from attar.models.splits.dealing import deal_samples, read_split_list
    from attar.models.splits.files import FileSplit
    from attar.models.splits.shards import ShardSplit
    from attar.models.splits.subset import Subset
    from attar.models.splits.tables import TableSplit
    from attar.models.task import Batch, InMemory, Output, Split, Task, Tensor, hits
    from attar.pipeline.core.stage import Artifact, Stage

__all__ = [
    "Artifact",
    "Batch",
    "CenterCrop",
    "ChannelsFirst",
    "DecodeImage",
    "Detokenize",
    "FileSplit",
    "InMemory",
    "MapSplit",
    "Normalize",
    "NpySplit",
    "Output",
    "Resize",
    "Scale",
    "ShardSplit",
    "Split",
    "Stage",
    "Subset",
    "TableSplit",
    "Task",
    "Tensor",
    "Tokenize",
    "compute_f1",
    "compute_mean_ap",
    "compute_mean_iou",
    "compute_share",
    "count_decisions",
    "count_hits",
    "count_overlaps",
    "deal_samples",
    "hits",
    "join_labels",
    "open",
    "read_split_list",
    "run",
]

_HOMES = {
    "Artifact": "attar.pipeline.core.stage:Artifact",
    "Batch": "attar.models.task:Batch",
    "CenterCrop": "attar.models.preprocess:CenterCrop",
    "ChannelsFirst": "attar.models.preprocess:ChannelsFirst",
    "DecodeImage": "attar.models.preprocess:DecodeImage",
    "Detokenize": "attar.models.postprocess:Detokenize",
    "FileSplit": "attar.models.splits.files:FileSplit",
    "InMemory": "attar.models.task:InMemory",
    "MapSplit": "attar.models.splits.datasets:MapSplit",
    "Normalize": "attar.models.preprocess:Normalize",
    "NpySplit": "attar.models.splits.arrays:NpySplit",
    "Output": "attar.models.task:Output",
    "Resize": "attar.models.preprocess:Resize",
    "Scale": "attar.models.preprocess:Scale",
    "ShardSplit": "attar.models.splits.shards:ShardSplit",
    "Split": "attar.models.task:Split",
    "Stage": "attar.pipeline.core.stage:Stage",
    "Subset": "attar.models.splits.subset:Subset",
    "TableSplit": "attar.models.splits.tables:TableSplit",
    "Task": "attar.models.task:Task",
    "Tensor": "attar.models.task:Tensor",
    "Tokenize": "attar.models.preprocess:Tokenize",
    "compute_f1": "attar.models.scores:compute_f1",
    "compute_mean_ap": "attar.models.scores:compute_mean_ap",
    "compute_mean_iou": "attar.models.scores:compute_mean_iou",
    "compute_share": "attar.models.scores:compute_share",
    "count_decisions": "attar.models.scores:count_decisions",
    "count_hits": "attar.models.scores:count_hits",
    "count_overlaps": "attar.models.scores:count_overlaps",
    "deal_samples": "attar.models.splits.dealing:deal_samples",
    "hits": "attar.models.task:hits",
    "join_labels": "attar.models.scores:join_labels",
    "open": "attar.bundle.opening:open_bundle",
    "read_split_list": "attar.models.splits.dealing:read_split_list",
    "run": "attar.api:run",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that ``import attar`` costs
    nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attar' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
