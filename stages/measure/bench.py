"""Bench: what a hop answers on one split, at which sizes, how fast and in what memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from attar.models import lengths, preprocess, views
from attar.models.generation import FOLLOW, START, STEP, Integers, generate_greedily
from attar.models.probabilities import from_logits
from attar.models.task import Array, Arrays, Predictor, Split, SplitName, Task, find_known
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress
from attar.pipeline.core.stage import Device
from attar.proof.checks.sizes import examine_sizes
from attar.proof.comparison import timing
from attar.proof.comparison.hop_comparer import HopComparer, find_labels
from attar.proof.comparison.hop_outputs import HopAnswers, HopOutputs, join_arrays, score_outputs
from attar.proof.gate import Baseline
from attar.proof.hop import HopName
from attar.proof.ledger.ledger import LatencySummary, SizesCheck, TimingConditions
from attar.stages.artifacts import Answers, Engine, Model, Weights
from attar.stages.measure.teacher_path import TeacherPath

FEWEST = 50
"""Samples. With fewer, bounds of a correlation are wrong more than twice as often as they say."""
SPEED_BASELINES: tuple[Baseline, ...] = ("reference", "teacher", "production")
"""What engines are timed against."""
SPREAD = 64
"""Places of the split that samples are taken from."""


OptimizeFor = Annotated[int, Field(ge=1)] | Literal["throughput"]
"""The batch size that a target is to be fast at; ``throughput`` stands for its ``batch``."""


def choose_timed_batch(optimize_for: OptimizeFor, batch: int) -> int:
    """Return the batch size that decides. Raises ValueError for one that is not timed."""
    chosen = batch if optimize_for == "throughput" else int(optimize_for)
    if chosen not in (1, batch):
        raise ValueError(
            f"optimize_for = {chosen}: batches of 1 and of batch = {batch} are timed; set "
            f"batch = {chosen}"
        )
    return chosen


@dataclass(frozen=True)
class TimingRun:
    """The calls of some models, all timed in the same rounds, and how they were timed."""

    seconds: Mapping[str, Mapping[int, timing.Seconds]]
    """By hop and batch size; entry i of every hop is from the same round."""
    conditions: TimingConditions
    devices: Mapping[str, str]
    """What each hop ran on: ``cpu`` or ``cuda``."""

    def summarize_latency(self, hop: str) -> dict[int, LatencySummary]:
        """Return the summaries by batch size; none of a hop that was not timed."""
        times = self.seconds.get(hop, {})
        return {batch: timing.summarize_times(taken, batch) for batch, taken in times.items()}


@dataclass(frozen=True)
class Bench:
    """One task's split, and what is asked of every hop on it."""

    task: Task
    split: Split
    batch: int
    name: SplitName = "test"
    """Of the split."""
    teacher_path: TeacherPath | None = None
    """What the hops of a network that generates are compared along."""
    device: Device = "cpu"
    """Where weights and the teacher's graph run."""

    def check(self) -> None:
        """Raises StageError for a batch that is not promised, and for a split that is too small."""
        low, high = self.task.ranges.get("batch", (1, 1))
        if not low <= self.batch <= high:
            promised = f"the {low} to {high} that {type(self.task).__name__} promises"
            raise StageError(f"batch {self.batch} is outside {promised}; set the target's batch")
        least = FEWEST * max(
            2 if output.kind == "embedding" else 1 for output in self.task.outputs.values()
        )  # pairs of samples
        if len(self.split) < least:
            raise StageError(
                f"the {self.name} split has {len(self.split)} samples, which prove nothing; give "
                f"it at least {least}"
            )

    @cached_property
    def targets(self) -> dict[str, Array]:
        """The targets of the whole split, in its order."""
        return join_arrays([seen.targets for seen in views.iterate_clean(self.task, self.split)])

    def recorded(self, answers: Answers) -> dict[str, Array]:
        """The teacher's answers. Raises StageError when they are not of this split."""
        stored = answers.read_split(self.name)
        made = {
            name: from_logits(output.kind, stored[name])
            for name, output in self.task.outputs.items()
        }
        if any(len(array) != len(self.split) for array in made.values()):
            raise StageError(
                f"the stored answers are not of these {len(self.split)} {self.name} samples; "
                "delete them and run again"
            )
        return made

    def of(self, model: Model) -> Bench:
        """Return the bench with the task that this model reads: it prepares the same samples."""
        return replace(self, task=model.load_task())

    def answers(self, hop: str, model: Model) -> HopAnswers:
        """Answers to the whole split, in its order."""
        with model.open(device=self.choose_device(hop, model)) as predictor:
            parts = [
                self.ask_along_path(hop, predictor, inputs, rows)
                for inputs, rows in self.of(model).number_batches(hop)
            ]
        return HopAnswers.join(parts)

    def choose_device(self, hop: str, model: Model) -> Device:
        """Return where to run a model: the teacher's graph on a GPU only if ONNX Runtime can."""
        if isinstance(model, Weights):
            return self.device
        return "auto" if hop in ("teacher", "reference") and self.device != "cpu" else "cpu"

    def choose_timing_device(self, hop: str, models: Mapping[str, Model]) -> Device:
        """Return where to time a model: what engines on a GPU are compared with, there, too."""
        engines = {
            model.find_device("auto")
            for name, model in models.items()
            if isinstance(model, Engine) and name not in SPEED_BASELINES
        }
        is_baseline = hop in SPEED_BASELINES and self.device != "cpu"
        return "auto" if is_baseline and engines == {"cuda"} else "cpu"

    def ask_along_path(
        self, hop: str, predictor: Predictor, inputs: Arrays, rows: Integers
    ) -> HopAnswers:
        """As ``ask``; of a network that generates also its next tokens along the teacher's path.

        ``rows`` are the places of the samples in the split.
        """
        outputs = self.ask(hop, predictor, inputs)
        path = self.teacher_path
        if path is None:
            return HopAnswers(outputs)
        name, graphs = path.decoding.output, predictor.graphs
        followed = {name: path.describe_model(graphs, inputs, rows)}
        if FOLLOW in graphs:
            return HopAnswers(outputs, followed)
        parts = {graph: graphs[graph] for graph in (START, STEP)}
        tokens = generate_greedily(parts, inputs, path.decoding)
        return HopAnswers(outputs, followed, {name: (tokens == outputs[name]).all(1)})

    @property
    def comparer(self) -> HopComparer:
        labels, known = find_labels(self.task, self.targets), find_known(self.task, self.targets)
        subsets = self.task.mark_subsets() if self.name == "test" else {}
        return HopComparer(self.task, labels, known, subsets)

    def score_teacher(self, answers: Answers) -> HopOutputs:
        """Return the scored outputs of the teacher as they are stored."""
        path = self.teacher_path
        followed = {path.decoding.output: path.describe_teacher()} if path else {}
        made = HopAnswers(self.recorded(answers), followed)
        return score_outputs(self.task, "teacher", made, self.targets)

    def score_model(self, hop: HopName, model: Model, name: str | None = None) -> HopOutputs:
        """Return the scored outputs of a model. ``name``: that of a candidate."""
        return score_outputs(self.task, hop, self.answers(name or hop, model), self.targets)

    def number_batches(self, hop: str) -> Iterator[tuple[dict[str, Array], Integers]]:
        """Yield the batches, and the places of their samples in the split."""
        start = 0
        for inputs in self.batches(hop):
            samples = len(next(iter(inputs.values())))
            yield inputs, np.arange(start, start + samples)
            start += samples

    def batches(self, hop: str) -> Iterator[dict[str, Array]]:
        for seen in views.iterate_clean(self.task, self.split):
            for start in range(0, len(seen.indices), self.batch):
                rows = np.arange(start, min(start + self.batch, len(seen.indices)))
                yield lengths.trim_inputs(
                    self.task, seen.take(rows).inputs
                )  # as it is asked for: without another's padding
                report_progress(
                    f"measuring {hop}", int(seen.indices[rows[-1]]) + 1, len(self.split)
                )

    def ask(self, hop: str, predictor: Predictor, inputs: Arrays) -> dict[str, Array]:
        """Raises StageError with the hop's name, whatever its runtime raises."""
        try:
            made = self.task.answer(predictor.graphs, inputs)
        except Exception as error:
            shapes = {name: array.shape for name, array in inputs.items()}
            raise StageError(f"{hop} cannot answer inputs of shape {shapes}: {error}") from error
        missing = set(self.task.outputs) - set(made)
        if missing:
            raise StageError(
                f"{hop} gives {sorted(made)} and lacks {sorted(missing)}, which the task names"
            )
        return made

    def first(self, samples: int) -> dict[str, Array]:
        """The first samples of the split, from the start again where it has fewer."""
        rows = np.arange(samples) % min(len(self.split), views.CHUNK)
        return lengths.trim_inputs(
            self.task, views.make_chunk(self.task, self.split, 0).take(rows).inputs
        )

    def some(self, samples: int, call: int) -> dict[str, Array]:
        """Samples from all over the split, which may be sorted by class; others for each call."""
        rows = (
            (np.arange(samples) + call * samples)
            * max(1, len(self.split) // SPREAD)
            % len(self.split)
        )
        return preprocess.apply(self.task.preprocess, self.split.take(rows).inputs)

    def memory(self, hop: str, model: Model) -> int | None:
        """Return the resident bytes of the host that opening it and answering one batch add.

        Libraries are not counted: ``answers`` loaded them.
        """
        inputs = self.of(model).first(self.batch)
        gc.collect()
        before = timing.read_resident_bytes()
        with model.open(threads=1) as predictor:
            self.ask(hop, predictor, inputs)
            after = timing.read_resident_bytes()
        return max(0, after - before) if before is not None and after is not None else None

    def sizes(self, hop: str, model: Model) -> SizesCheck:
        """Return whether it answers soundly at every size that the task promises."""
        with model.open(threads=1) as predictor:
            own = self.of(model)
            return examine_sizes(own.task, partial(own.ask, hop, predictor), own.some)

    def times(
        self, models: Mapping[str, Model], repeats: int, seconds: float, *, pinned: bool = True
    ) -> TimingRun:
        """Time all hops together, on one thread of one core.

        If not ``pinned``, each runs on as many threads as it was built for. An engine on a GPU and
        what it is compared with run there.
        """
        devices = {hop: self.choose_timing_device(hop, models) for hop in models}
        times: dict[str, dict[int, timing.Seconds]] = {hop: {} for hop in models}
        load_before = timing.read_load_average()
        batches = sorted({1, self.batch})
        with ExitStack() as stack:
            predictors = {
                hop: stack.enter_context(model.open(1 if pinned else None, devices[hop]))
                for hop, model in models.items()
            }
            cpu = stack.enter_context(timing.pin_to_core()) if pinned else None
            for done, batch in enumerate(batches):
                report_progress("timing", done, len(batches), f"batch {batch}")
                calls = {
                    hop: partial(self.ask, hop, predictors[hop], self.of(model).first(batch))
                    for hop, model in models.items()
                }
                settling = 0.0 if pinned else timing.SPINNING
                taken = timing.time_interleaved(calls, repeats, seconds, settling)
                for hop, each in taken.items():
                    times[hop][batch] = each
        rounds = {batch: len(each) for batch, each in next(iter(times.values())).items()}
        loads = (load_before, timing.read_load_average())
        conditions = TimingConditions(cpu, 1 if pinned else None, rounds, loads)
        places = {hop: model.find_device(devices[hop]) for hop, model in models.items()}
        return TimingRun(times, conditions, places)
