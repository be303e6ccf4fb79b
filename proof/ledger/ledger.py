"""The ledger: every hop between teacher and engine, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from attar.proof.estimates.bounds import ConfidenceBounds, Estimate
from attar.proof.gate import Baseline, Comparison, Metric
from attar.proof.hop import HopName

COMPARED_METRICS: tuple[Metric, ...] = (
    "score_drop",
    "correlation",
    "correlation_per_sample",
    "correlation_probabilities",
    "cosine",
    "kdl",
    "agreement",
    "identical",
    "largest_difference",
)
"""The metrics that compare the outputs of two hops."""
BASELINES: tuple[Baseline, ...] = ("teacher", "previous", "production")
"""The baselines that a hop is compared with."""


@dataclass(frozen=True)
class ClassDrop:
    """A class, and how far its score fell."""

    name: str
    drop: float


@dataclass(frozen=True)
class SizesCheck:
    """Whether a hop gives sound answers at every size that its task promises."""

    tried: int
    """Number of sizes."""
    faults: tuple[str, ...] = ()
    """What is wrong at each size without a sound answer."""


@dataclass(frozen=True)
class LatencySummary:
    """The calls of one hop at one batch size."""

    p50: float
    """Microseconds a call."""
    p99: float
    throughput: float
    """Samples a second: the batch size over ``p50``."""


@dataclass(frozen=True)
class TimingConditions:
    """How the hops of a ledger were timed, all in the same rounds."""

    cpu: int | None
    """The core that the calls were pinned to; None if they were not pinned."""
    threads: int | None
    """Intra-op threads; None if each engine had as many as it was built for."""
    rounds: Mapping[int, int]
    """Number of rounds by batch size."""
    load_average: tuple[float, ...]
    """Of the machine, before and after."""


@dataclass(frozen=True)
class NearDuplicate:
    """A test sample that is nearly a sample that is learned from."""

    test: int
    split: str
    sample: int
    distance: float | None
    """The share of the usual distance; None if that is 0."""
    entries: float | None
    """The share of the usual number of entries that differ."""


@dataclass(frozen=True)
class LeakCheck:
    """Which test samples are near-duplicates of what is learned from; see ``proof.checks.leak``."""

    looked_at: int = 0
    """Number of test samples that were compared."""
    count: Annotated[int, Field(alias="found")] = 0
    """Number of near-duplicates among them."""
    share: float | None = None
    """The same as a share; None if nothing was compared."""
    examples: tuple[NearDuplicate, ...] = ()
    """The nearest first."""
    limits: Mapping[str, float] | None = None
    """The shares of what is usual below which a sample is a near-duplicate."""
    why_unchecked: Annotated[str | None, Field(alias="why")] = None


@dataclass(frozen=True)
class Hop:
    """One form of the network, and what was measured of it."""

    name: HopName
    was_run: bool = True
    why_not_run: str | None = None
    """Of production that was run: why its engine was not, whose graph answered."""
    format: str = ""
    precision: str = ""
    parameters: int | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    """What opening it and one batch add to the resident memory of the host, not of a GPU; None if
    that is unknown."""
    score: Comparison | None = None
    """Its score, without a baseline."""
    subset_scores: Mapping[str, Comparison] = field(default_factory=dict)
    """That of each subset of the samples that the task names."""
    comparisons: Mapping[tuple[Baseline, Metric], Comparison] = field(default_factory=dict)
    """Without the metrics that its outputs do not have."""
    worst_classes: Mapping[Baseline, ClassDrop] = field(default_factory=dict)
    """The class that lost most; empty for a task without classes."""
    nonfinite_samples: int = 0
    """Samples with an answer that is not finite."""
    is_constant: bool = False
    """Whether it gives one answer to all samples."""
    endless_share: float | None = None
    """The share of generated sequences without an end; None if it generates none."""
    loop_faults: int | None = None
    """Samples to which the graph of the loop gives other tokens than its parts; None if there is no
    such graph."""
    sizes: SizesCheck | None = None
    latencies: Mapping[int, LatencySummary] = field(default_factory=dict)
    """On one thread, by batch size."""
    device: str = "cpu"
    """Where it was timed: ``cpu`` or ``cuda``."""

    @property
    def form(self) -> str:
        """Its format and precision, and where it was timed if that is no CPU."""
        place = "" if self.device == "cpu" else f"on {self.device}"
        return " ".join(filter(None, [self.format, self.precision, place]))

    def get_score(self) -> float | None:
        return None if self.score is None else self.score.value

    def get_score_bounds(self) -> ConfidenceBounds | None:
        return None if self.score is None else self.score.bounds

    def get_value(self, baseline: Baseline, metric: Metric) -> float | None:
        """Return None if the outputs do not have this metric."""
        comparison = self.comparisons.get((baseline, metric))
        return None if comparison is None else comparison.value

    def get_bounds(self, baseline: Baseline, metric: Metric) -> ConfidenceBounds | None:
        """Return None if the value is exact, or if there is none."""
        comparison = self.comparisons.get((baseline, metric))
        return None if comparison is None else comparison.bounds

    def has_baseline(self, baseline: Baseline) -> bool:
        """Whether it was compared with this."""
        return (baseline, "score_drop") in self.comparisons


@dataclass(frozen=True)
class Ledger:
    """All hops, measured on the same samples of one split."""

    hops: Mapping[str, Hop]
    samples: int
    score_name: str
    task: str = ""
    split: str = "test"
    batch: int = 1
    """The larger of the two batch sizes that are timed."""
    classes: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    """What each output holds: logits, probabilities, values or an embedding."""
    speedups: Mapping[Baseline, Comparison] = field(default_factory=dict)
    """How many times as fast as each baseline the engine is; empty if it was not run."""
    speed_batch: int = 1
    """The batch size that the speed-ups are of."""
    gain: Estimate | None = None
    """The student's score minus the control's; None without a control."""
    leak: LeakCheck | None = None
    """None in evidence from before there was such a check."""
    why_opaque: str | None = None
    """Why a teacher that only translates has neither reference nor CORR and KDL; None of others."""
    timing: TimingConditions | None = None
    """None if nothing was timed."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the machine that measured, as ``describe_machine`` gives them."""

    def was_run(self, *names: str) -> bool:
        """Whether all of these hops were run on this machine."""
        return all(self.hops[name].was_run for name in names)
