"""Signature: the tensors that a model takes and gives, as the protocol names them, and the check
of a request against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.bundle.accept import find_outside
from attar.bundle.manifest import Manifest
from attar.bundle.manifest import Tensor as Described
from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import suggest_name
from attar.serving.core.errors import BadRequestError, format_value

Axes = tuple[int | str, ...]
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


@dataclass(frozen=True, slots=True)
class Declared:
    """One tensor: its datatype and its axes, a number where fixed and a name where dynamic."""

    name: str
    datatype: str
    axes: Axes
    text: bool = False
    """Whether BYTES are UTF-8."""
    high: int | None = None
    """Integers lie in ``[0, high)``. None: any may come."""

    def describe_metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "datatype": self.datatype,
            "shape": [a if isinstance(a, int) else -1 for a in self.axes],
        }


@dataclass(frozen=True)
class Signature:
    """``ranges`` has the smallest and largest size of each named axis; of one without a range
    only equality counts."""

    inputs: Mapping[str, Declared]
    outputs: Mapping[str, Declared]
    ranges: Mapping[str, tuple[int, int]]
    labels: Sequence[str] = ()

    @property
    def is_batched(self) -> bool:
        """Whether rows of different requests may share a call: ``batch`` is the first axis of
        every tensor and no other."""
        every = [declared.axes for declared in [*self.inputs.values(), *self.outputs.values()]]
        return all(axes[:1] == ("batch",) and "batch" not in axes[1:] for axes in every)

    def largest_shape(self, declared: Declared) -> list[int | None]:
        """None where an axis may have any size."""
        return [
            axis if isinstance(axis, int) else self.ranges.get(axis, (0, None))[1]
            for axis in declared.axes
        ]

    def find_input(self, name: Any) -> Declared:
        """Raises BadRequestError for an unknown name."""
        return find_tensor(self.inputs, name, "input")

    def find_output(self, name: Any) -> Declared:
        return find_tensor(self.outputs, name, "output")

    def count_rows(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many samples are asked about.

        Raises BadRequestError for an input that is missing, or a shape that is not taken.
        """
        sizes: dict[str, int] = {}
        for name, declared in self.inputs.items():
            if name not in shapes:
                raise BadRequestError(f"the input {name!r} is missing")
            self._match(declared, shapes[name], sizes)
        return sizes.get("batch", 1)

    def check_values(self, inputs: Arrays) -> None:
        """What an engine would make of an integer that no training saw depends on the runtime.

        Raises BadRequestError.
        """
        for name, declared in self.inputs.items():
            if (wrong := find_outside(inputs[name], declared.high)) is not None:
                raise BadRequestError(
                    f"{name!r} has the value {wrong}, values lie from 0 to "
                    f"{(declared.high or 0) - 1}"
                )

    def _match(self, declared: Declared, shape: Sequence[int], sizes: dict[str, int]) -> None:
        if len(shape) != len(declared.axes):
            raise BadRequestError(format_mismatch(declared, shape))
        for axis, size in zip(declared.axes, shape, strict=True):
            if isinstance(axis, int):
                if size != axis:
                    raise BadRequestError(format_mismatch(declared, shape))
                continue
            if sizes.setdefault(axis, size) != size:
                raise BadRequestError(
                    f"{format_mismatch(declared, shape)}; another input has {axis} {sizes[axis]}"
                )
            low, high = self.ranges.get(axis, (0, size))
            if not low <= size <= high:
                raise BadRequestError(
                    f"{axis} is {size} in {declared.name!r}, promised and proven are {low} to "
                    f"{high}"
                )


def find_tensor(declared: Mapping[str, Declared], name: Any, kind: str) -> Declared:
    found = declared.get(name) if isinstance(name, str) else None
    if found is None:
        raise BadRequestError(
            f"there is no {kind} {format_value(name)!r}; "
            f"{suggest_name(format_value(name), declared)}"
        )
    return found


def format_mismatch(declared: Declared, shape: Sequence[int]) -> str:
    axes = ", ".join(map(str, declared.axes))
    return f"{declared.name!r} has the shape {list(shape)}, expected [{axes}]"


def read_graph_signature(manifest: Manifest) -> Signature:
    """The graph's own tensors."""
    inputs = {
        name: declare_tensor(name, tensor, tensor.high) for name, tensor in manifest.inputs.items()
    }
    outputs = {name: declare_tensor(name, tensor) for name, tensor in manifest.outputs.items()}
    return Signature(inputs, outputs, manifest.ranges, manifest.labels)


def declare_tensor(name: str, tensor: Described, high: int | None = None) -> Declared:
    return Declared(name, DATATYPES[tensor.dtype], tensor.axes, high=high)


def read_raw_signature(manifest: Manifest, golden: Mapping[str, Array]) -> Signature:
    """What the preprocessing steps read, as the raw golden requests show it; inputs without
    steps stay the graph's own."""
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
    return Signature(
        inputs, graph.outputs, {"batch": manifest.ranges.get("batch", (1, 1))}, manifest.labels
    )


def declare_raw(name: str, sample: Array, resized: bool) -> Declared:
    """``resized``: whether steps make sizes equal, so that any may come."""
    first: Any = sample[0]
    if isinstance(first, bytes | str):
        return Declared(name, BYTES, ("batch",), text=isinstance(first, str))
    free = resized or sample.dtype == object
    rest = [
        f"{name} axis {number}" if free else size
        for number, size in enumerate(first.shape, start=1)
    ]
    return Declared(name, DATATYPES[first.dtype.name], ("batch", *rest))
