"""Rungs: what is tried, in which order, when a graph in int8 or fp16 loses too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attar.engines.graphs import int8
from attar.engines.graphs.int8 import Form
from attar.engines.graphs.placement import MULTIPLYING
from attar.models.task import Task
from attar.stages.artifacts import Ranges
from attar.stages.optimize import fp16
from attar.stages.optimize.ladder import Rung, Tried, best
from attar.stages.optimize.sensitivity import sensitivity

METHODS = ("percentile", "entropy", "mse")
"""Of ranges, beside the least and the largest value."""
STRICTER = (0.01, 0.001)
"""How far a tensor in half precision may be away: a float32 that is rounded to it is 0.0002 to 0.0005 of itself away."""
Tune = Callable[[Path, Path], dict[str, Any]]
"""``tune(quantized, file)`` trains the Q-DQ graph ``quantized``, writes ``file``, the float graph with the new weights, and gives
facts."""


@dataclass
class Int8:
    """One scale a channel, other ranges, the worst nodes out of int8, and then a training of the graph.

    Each rung starts from the most faithful form so far.
    """

    source: Path
    calibration: Ranges
    asked: Form
    task: Task
    tune: Tune | None
    forms: dict[str, Form] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    """Of the worst nodes, where they were looked for."""

    def __call__(self, tried: Sequence[Tried]) -> Iterator[Rung]:
        yield self.rung("per-channel" if self.asked.per_channel else "per-tensor", self.asked)
        if not self.asked.per_channel:
            yield self.rung("per-channel", replace(self.asked, per_channel=True))
        for method in METHODS:
            if method != self.asked.method:
                yield self.rung(method, replace(self.kept(tried), method=method))
        yield from self.without_the_worst(self.kept(tried))
        if tune := self.tune:
            yield Rung("distillation", lambda file: self.distilled(tune, self.kept(tried), file))

    def rung(self, name: str, form: Form) -> Rung:
        self.forms[name] = form
        return Rung(name, lambda file: self.write(self.source, file, form))

    def kept(self, tried: Sequence[Tried]) -> Form:
        return self.forms[best(tried).name]

    def write(self, source: Path, file: Path, form: Form) -> dict[str, Any]:
        return int8.quantize(source, file, self.calibration.of(form.method), form)

    def without_the_worst(self, form: Form) -> Iterator[Rung]:
        """1, 2, 4, ... of them in float, or in half precision where the runtime gains from that.

        Half of what multiplies stays in int8 at least: with less it would be another precision than the one that was asked for.
        """
        ranges = self.calibration.of(form.method)
        inside = [node.name for node in int8.quantized(self.source, ranges, form).inside if node.op_type in MULTIPLYING]
        found = sensitivity(self.source, ranges, form, self.task)
        self.costs |= {name: cost for name, cost in found.items() if cost > 0}
        for count in powers(len(self.costs)):
            worst = list(self.costs)[:count]
            if 2 * len(set(inside) & set(worst)) > len(inside):
                break
            reasons = {name: f"costs {self.costs[name]:.2g} of the correlation" for name in worst}
            half = frozenset(worst) if form.placement.halves else frozenset()
            yield self.rung(f"without-{count}", replace(form, exclude={**form.exclude, **reasons}, half=half))

    def distilled(self, tune: Tune, form: Form, file: Path) -> dict[str, Any]:
        """What is trained has no halves, which a CPU would compute slowly; the graph that is written has."""
        plain = file.with_name("untuned.onnx")
        self.write(self.source, plain, replace(form, half=frozenset()))
        floats = file.with_name("tuned.onnx")
        found = tune(plain, floats)
        return self.write(floats, file, form) | {"tuning": found}


@dataclass
class Fp16:
    """More and more islands of float."""

    source: Path
    ranges: Mapping[str, tuple[float, float]]
    task: Task
    exclude: Sequence[str]

    def __call__(self, tried: Sequence[Tried]) -> Iterator[Rung]:
        for allowed in (fp16.HUGE, *STRICTER):
            yield Rung(f"within-{allowed:g}", self.writing(allowed))

    def writing(self, allowed: float) -> Callable[[Path], dict[str, Any]]:
        return lambda file: fp16.convert(self.source, file, self.ranges, self.task, self.exclude, allowed)


def powers(most: int) -> list[int]:
    """1, 2, 4, ... and no more."""
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]
