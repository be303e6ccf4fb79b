"""The inputs and outputs of a model, as the protocol names them, and the check of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.bundle.accept import find_outside
from attar.bundle.manifest import Manifest
from attar.models.tensors import Array, Arrays, TensorSpec, find_mismatch
from attar.pipeline.core.errors import suggest_name
from attar.serving.core.errors import BadRequestError, format_value

DATATYPES = {
    "bool": "BOOL",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}"
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
"""The protocol's name of a numpy dtype."""
BYTES = "BYTES"


def find_datatype(spec: TensorSpec) -> str:
    """Return the protocol's name of a tensor's dtype. Those of texts and of files are BYTES."""
    return DATATYPES.get(spec.dtype, BYTES)


def is_text(spec: TensorSpec) -> bool:
    """Whether the elements of BYTES are UTF-8."""
    return spec.dtype == "str"


def describe_tensor(spec: TensorSpec) -> dict[str, Any]:
    """Return a tensor's entry in the metadata of a model."""
    shape = [axis if isinstance(axis, int) else -1 for axis in spec.axes]
    return {"name": spec.name, "datatype": find_datatype(spec), "shape": shape}


@dataclass(frozen=True)
class Signature:
    """The tensors of a model. ``ranges`` has the smallest and largest size of named axes; axes of
    one name have equal sizes."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    ranges: Mapping[str, tuple[int, int]]
    labels: Sequence[str] = ()

    @property
    def is_batched(self) -> bool:
        """Whether rows of different requests may share a call: ``batch`` is the first axis of
        every tensor and no other."""
        every = [spec.axes for spec in [*self.inputs.values(), *self.outputs.values()]]
        return all(axes[:1] == ("batch",) and "batch" not in axes[1:] for axes in every)

    def largest_shape(self, spec: TensorSpec) -> list[int | None]:
        """Return the largest sizes; None where an axis may have any."""
        return [
            axis if isinstance(axis, int) else self.ranges.get(axis, (0, None))[1]
            for axis in spec.axes
        ]

    def find_input(self, name: Any) -> TensorSpec:
        """Return the input of a name. Raises BadRequestError for an unknown one."""
        return find_tensor(self.inputs, name, "input")

    def find_output(self, name: Any) -> TensorSpec:
        return find_tensor(self.outputs, name, "output")

    def count_rows(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """Return how many samples are asked about.

        Raises BadRequestError for an input that is missing, or a shape that is not taken.
        """
        sizes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            if name not in shapes:
                raise BadRequestError(f"the input {name!r} is missing")
            mismatch = find_mismatch(spec, shapes[name], ranges=self.ranges, sizes=sizes)
            if mismatch:
                raise BadRequestError(f"{name!r} {mismatch}")
        return sizes.get("batch", 1)

    def check_values(self, inputs: Arrays) -> None:
        """Raise BadRequestError for an integer beyond those of the training: runtimes differ in
        what they make of it."""
        for name, spec in self.inputs.items():
            if (wrong := find_outside(inputs[name], spec.high)) is not None:
                raise BadRequestError(
                    f"{name!r} has the value {wrong}, values lie from 0 to {(spec.high or 0) - 1}"
                )


def find_tensor(spec: Mapping[str, TensorSpec], name: Any, kind: str) -> TensorSpec:
    found = spec.get(name) if isinstance(name, str) else None
    if found is None:
        raise BadRequestError(
            f"there is no {kind} {format_value(name)!r}; {suggest_name(format_value(name), spec)}"
        )
    return found


def read_graph_signature(manifest: Manifest) -> Signature:
    """Return the signature of the graph's own tensors."""
    return Signature(manifest.input_specs, manifest.output_specs, manifest.ranges, manifest.labels)


def read_raw_signature(manifest: Manifest, golden: Mapping[str, Array]) -> Signature:
    """Return the signature of the steps: raw inputs as the golden requests show them, and texts as
    answers. Tensors without steps are the graph's own."""
    graph = read_graph_signature(manifest)
    inputs = {
        name: declare_raw(
            name,
            golden[f"raw.{name}"],
            any(step.step in ("resize", "center_crop") for step in manifest.preprocess[name]),
        )
        if manifest.preprocess.get(name)
        else own
        for name, own in graph.inputs.items()
    }
    outputs = {
        name: TensorSpec("str", ("batch",), high=None, name=name)
        if manifest.postprocess.get(name)
        else own
        for name, own in graph.outputs.items()
    }
    return Signature(
        inputs, outputs, {"batch": manifest.ranges.get("batch", (1, 1))}, manifest.labels
    )


def declare_raw(name: str, sample: Array, resized: bool) -> TensorSpec:
    """Return a raw input; ``resized``: whether its steps make all sizes equal, so that any may
    come."""
    first: Any = sample[0]
    if isinstance(first, bytes | str):
        return TensorSpec(type(first).__name__, ("batch",), high=None, name=name)
    free = resized or sample.dtype == object
    rest = [
        f"{name} axis {number}" if free else size
        for number, size in enumerate(first.shape, start=1)
    ]
    return TensorSpec(first.dtype.name, ("batch", *rest), high=None, name=name)
