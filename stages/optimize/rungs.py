"""The attempts, in order, when a graph in int8 or fp16 loses too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attar.engines.graphs import int8
from attar.engines.graphs.int8 import QuantizationSpec
from attar.engines.graphs.placement import MULTIPLYING
from attar.models.task import Task
from attar.stages.artifacts import Ranges
from attar.stages.optimize import fp16
from attar.stages.optimize.ladder import Attempt, AttemptResult, select_best
from attar.stages.optimize.sensitivity import measure_sensitivity

METHODS = ("percentile", "entropy", "mse")
"""The other range methods."""
STRICTER = (0.01, 0.001)
"""How far tensors in half precision may be away, after ``fp16.HUGE``.

A float32 that is rounded to half precision is 0.0002 to 0.0005 of itself away.
"""
Tune = Callable[[Path, Path], dict[str, Any]]
"""``tune(quantized, file)`` trains the Q-DQ graph ``quantized``, writes ``file``, the float graph
with the new weights, and returns facts."""


@dataclass
class Int8Attempts:
    """A scale for each channel, other ranges, fewer int8 nodes, then a training of the graph.

    Each attempt starts from the best one so far.
    """

    source: Path
    calibration: Ranges
    spec: QuantizationSpec
    task: Task
    tune: Tune | None
    forms: dict[str, QuantizationSpec] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    """The loss of correlation by node, of the costliest ones, if it was measured."""

    def __call__(self, tried: Sequence[AttemptResult]) -> Iterator[Attempt]:
        yield self.make_attempt("per-channel" if self.spec.per_channel else "per-tensor", self.spec)
        if not self.spec.per_channel:
            yield self.make_attempt("per-channel", replace(self.spec, per_channel=True))
        for method in METHODS:
            if method != self.spec.method:
                yield self.make_attempt(method, replace(self.best_spec(tried), method=method))
        yield from self.exclude_costliest(self.best_spec(tried))
        if tune := self.tune:
            yield Attempt(
                "distillation", lambda file: self.distil(tune, self.best_spec(tried), file)
            )

    def make_attempt(self, name: str, form: QuantizationSpec) -> Attempt:
        self.forms[name] = form
        return Attempt(name, lambda file: self.write_graph(self.source, file, form))

    def best_spec(self, tried: Sequence[AttemptResult]) -> QuantizationSpec:
        return self.forms[select_best(tried).name]

    def write_graph(self, source: Path, file: Path, form: QuantizationSpec) -> dict[str, Any]:
        return int8.write_int8_graph(
            source, file, self.calibration.compute_ranges(form.method), form
        )

    def exclude_costliest(self, form: QuantizationSpec) -> Iterator[Attempt]:
        """Yield attempts with 1, 2, 4, ... of the costliest nodes out of int8.

        They are in half precision if the runtime gains from that, else in float. At least half of
        the multiplying nodes stay in int8: with fewer it would be another precision.
        """
        ranges = self.calibration.compute_ranges(form.method)
        inside = [
            node.name
            for node in int8.quantize_graph(self.source, ranges, form).inside
            if node.op_type in MULTIPLYING
        ]
        found = measure_sensitivity(self.source, ranges, form, self.task)
        self.costs |= {name: cost for name, cost in found.items() if cost > 0}
        for count in list_powers_of_two(len(self.costs)):
            worst = list(self.costs)[:count]
            if 2 * len(set(inside) & set(worst)) > len(inside):
                break
            reasons = {name: f"costs {self.costs[name]:.2g} of the correlation" for name in worst}
            half = frozenset(worst) if form.placement.halves else frozenset()
            yield self.make_attempt(
                f"without-{count}", replace(form, exclude={**form.exclude, **reasons}, half=half)
            )

    def distil(self, tune: Tune, form: QuantizationSpec, file: Path) -> dict[str, Any]:
        """Train the graph without half precision, which a CPU computes slowly, and write it with
        it."""
        plain = file.with_name("untuned.onnx")
        self.write_graph(self.source, plain, replace(form, half=frozenset()))
        floats = file.with_name("tuned.onnx")
        found = tune(plain, floats)
        return self.write_graph(floats, file, form) | {"tuning": found}


@dataclass
class Fp16Attempts:
    """More and more islands of float."""

    source: Path
    ranges: Mapping[str, tuple[float, float]]
    task: Task
    exclude: Sequence[str]

    def __call__(self, tried: Sequence[AttemptResult]) -> Iterator[Attempt]:
        for allowed in (fp16.HUGE, *STRICTER):
            yield Attempt(f"within-{allowed:g}", self.make_writer(allowed))

    def make_writer(self, allowed: float) -> Callable[[Path], dict[str, Any]]:
        return lambda file: fp16.write_fp16_graph(
            self.source, file, self.ranges, self.task, self.exclude, allowed
        )


def list_powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to the limit."""
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]
