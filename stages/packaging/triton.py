"""A Triton model repository: the precision-baked graphs under Triton's ONNX Runtime backend, batched dynamically.

The configuration is protobuf text of ``inference.ModelConfig`` (Triton's ``model_config.proto``), written by hand because
Triton's own protobuf is no dependency of a bundle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from attar.stages.packaging.manifest import Manifest, Tensor

TYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
QUEUE_DELAY = 100  # microseconds that a request may wait for others to join its batch


def write(folder: Path, manifest: Manifest, graphs: Path) -> None:
    """``folder/NAME/config.pbtxt`` and ``folder/NAME/1/``; of several graphs each is a model ``NAME-GRAPH``."""
    for graph in manifest.graphs:
        name = manifest.name if manifest.graphs == ["model"] else f"{manifest.name}-{graph}"
        version = folder / name / "1"
        version.mkdir(parents=True)
        for path in graphs.glob(f"{graph}.onnx*"):
            target = path.name if graph == "model" or path.suffix == ".data" else "model.onnx"
            (version / target).write_bytes(path.read_bytes())
        (version.parent / "config.pbtxt").write_text(config(name, manifest), encoding="utf-8")


def config(name: str, manifest: Manifest) -> str:
    batched = all(tensor.axes[:1] == ("batch",) for tensor in [*manifest.inputs.values(), *manifest.outputs.values()])
    largest = manifest.ranges.get("batch", (1, 1))[1] if batched else 0
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {largest}",
        *tensors("input", manifest.inputs, batched),
        *tensors("output", manifest.outputs, batched),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
    ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY} }}")
    return "\n".join(lines) + "\n"


def tensors(field: str, named: Mapping[str, Tensor], batched: bool) -> list[str]:
    """Triton adds the batch axis itself where there is a ``max_batch_size``; a dynamic axis is -1."""
    lines = []
    for name, tensor in named.items():
        axes = tensor.axes[1:] if batched else tensor.axes
        dims = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in axes)
        reshape = "" if axes else " reshape { shape: [ ] }"
        dims = dims or "1"  # Triton wants one dimension at least, and drops it again by `reshape`
        lines.append(f"{field} [ {{ name: {json.dumps(name)} data_type: {TYPES[tensor.dtype]} dims: [ {dims} ]{reshape} }} ]")
    return lines
