"""Golden requests: ``golden.safetensors`` as the manifest says that it is."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import load_file

from attar.bundle import ragged
from attar.bundle.finished import apart
from attar.bundle.fitness import AGAIN, unfit
from attar.bundle.manifest import Manifest, Needs, Output
from attar.engines.runtimes.runtime import load_runtime
from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import InvalidBundleError

FILE = "golden.safetensors"


def read(bundle: Path, manifest: Manifest) -> dict[str, Array]:
    """``raw.INPUT`` and the answers that the manifest names, each with a row a request. Raises
    InvalidBundleError for anything else."""
    path = bundle / FILE
    with unfit(f"{path} cannot be read"):
        tensors = ragged.decoded(load_file(path))
    if wrong := problem(tensors, manifest):
        raise InvalidBundleError(f"{path} is not what the manifest says: {wrong}. {AGAIN}")
    return tensors


def check_finished(bundle: Path, manifest: Manifest) -> None:
    """Raises InvalidBundleError where the engine's answers are not as close to its graph's as the
    bundle says, or as its precision needs."""
    distance = proven(bundle, manifest.engine, read(bundle, manifest))
    said = manifest.finished and manifest.finished.largest_difference
    if distance != said:
        raise InvalidBundleError(
            f"{bundle} says that its engine is off by {said} of its graph, its answers say {distance}. {AGAIN}"
        )


def within(needs: Needs) -> float:
    """How far an engine may be from its graph. Raises InvalidBundleError for a runtime that is none."""
    with unfit(f"the engine needs {needs.runtime}"):
        return load_runtime(needs.runtime).get_tolerance(needs.precision)


def proven(bundle: Path, needs: Needs, tensors: Arrays) -> float:
    """How far the engine's answers are from its graph's. Raises InvalidBundleError where that is
    more than its precision explains."""
    distance, allowed = max(apart(tensors).values()), within(needs)
    if not distance <= allowed:
        raise InvalidBundleError(
            f"{bundle}: its engine answers otherwise than the graph that it was built from: off by {distance:.2g} of their "
            f"magnitude, allowed for {needs.precision} {allowed:g}"
        )
    return distance


def problem(tensors: Arrays, manifest: Manifest) -> str | None:
    """The first thing that is wrong with them; None if nothing is."""
    answered = {
        f"{who}.{name}": output
        for who in manifest.answered
        for name, output in manifest.outputs.items()
    }
    wanted = {*answered, *(f"raw.{name}" for name in manifest.inputs)}
    if tensors.keys() != wanted:
        return f"it holds {', '.join(sorted(tensors)) or 'nothing'}, expected {', '.join(sorted(wanted))}"
    for name, array in tensors.items():
        if array.shape[:1] != (manifest.golden.requests,):
            return f"{name} is of shape {list(array.shape)}, expected {manifest.golden.requests} requests"
    for name, output in answered.items():
        if not fits(tensors[name], output) or (
            not name.startswith("teacher.") and tensors[name].dtype != output.dtype
        ):
            axes = ", ".join(map(str, output.axes))
            return f"{name} is {tensors[name].dtype}{list(tensors[name].shape)}, expected {output.dtype}[{axes}]"
    return None


def fits(array: Array, output: Output) -> bool:
    """By its axes, none of them empty: an empty answer would be repeated by anything."""
    if array.ndim != len(output.axes) or array.size == 0:
        return False
    return all(
        axis == size
        for axis, size in zip(output.axes, array.shape, strict=True)
        if isinstance(axis, int)
    )
