"""Golden requests: ``golden.safetensors`` as the manifest says that it is."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file

from attar.models.task import Array, Arrays
from attar.pipeline.errors import Unfit
from attar.stages.packaging import ragged
from attar.stages.packaging.fitness import AGAIN, unfit
from attar.stages.packaging.manifest import Manifest, Output

FILE = "golden.safetensors"


def read(bundle: Path, manifest: Manifest) -> dict[str, Array]:
    """``raw.INPUT``, ``teacher.OUTPUT`` and ``engine.OUTPUT``, each with a row a request. Raises Unfit for anything else."""
    path = bundle / FILE
    with unfit(f"{path} cannot be read"):
        tensors = ragged.decoded(load_file(path))
    if wrong := problem(tensors, manifest):
        raise Unfit(f"{path} is not what the manifest says: {wrong}. {AGAIN}")
    return tensors


def problem(tensors: Arrays, manifest: Manifest) -> str | None:
    """The first thing that is wrong with them; None if nothing is."""
    answered = {f"{who}.{name}": output for who in ("teacher", "engine") for name, output in manifest.outputs.items()}
    wanted = {*answered, *(f"raw.{name}" for name in manifest.inputs)}
    if tensors.keys() != wanted:
        return f"it holds {', '.join(sorted(tensors)) or 'nothing'}, expected {', '.join(sorted(wanted))}"
    for name, array in tensors.items():
        if array.shape[:1] != (manifest.golden.requests,):
            return f"{name} is of shape {list(array.shape)}, expected {manifest.golden.requests} requests"
    for name, output in answered.items():
        if not fits(tensors[name], output) or (name.startswith("engine.") and tensors[name].dtype != output.dtype):
            axes = ", ".join(map(str, output.axes))
            return f"{name} is {tensors[name].dtype}{list(tensors[name].shape)}, expected {output.dtype}[{axes}]"
    return None


def fits(array: Array, output: Output) -> bool:
    """By its axes, none of them empty: an empty answer would be repeated by anything."""
    if array.ndim != len(output.axes) or array.size == 0:
        return False
    return all(axis == size for axis, size in zip(output.axes, array.shape, strict=True) if isinstance(axis, int))
