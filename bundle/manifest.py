"""Manifest: everything that a bundle says about itself, as validated data in ``manifest.json``."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from attar.bundle.finished import Finished
from attar.bundle.steps import OUTPUT_FOLDER, find_outside
from attar.bundle.stored_verdict import StoredVerdict
from attar.bundle.strict_model import StrictModel
from attar.models.postprocess.known import KnownOutputStep
from attar.models.preprocess.known import KnownStep
from attar.models.task import Kind
from attar.models.tensors import TensorSpec
from attar.pipeline.core.errors import suggest_name

Size = Annotated[int, Field(ge=1)]
Axis = Size | Annotated[str, Field(min_length=1)]
DTYPES = {
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
MAX_TOLERANCE = 1e-2
"""The largest tolerance: beyond it a replay would let another engine pass."""
FORMAT_VERSION = 2
"""The newest format of a bundle that this code reads. What needs no newer one is written in the
oldest that has it."""
PAIR_FORMAT: Final = "attar bundle 2"
"""The format of a bundle with an engine of its own for batches, which version 1 does not have."""
BY_CALL = ("int8-dynamic",)
"""Precisions that round by the range of a whole call, so that an answer would depend on whom it
shares a call with."""


COMMON_SLOTS = ("teacher", "answers", "student", "onnx")
"""What both engines of a bundle come from, and are compared with."""


class StoredTensor(StrictModel):
    """A `TensorSpec` as JSON, under its name."""

    dtype: str
    axes: tuple[Axis, ...]

    @field_validator("dtype")
    @classmethod
    def _is_known(cls, dtype: str) -> str:
        if dtype not in DTYPES:
            raise ValueError(f"{dtype!r} is no dtype of a tensor; {suggest_name(dtype, DTYPES)}")
        return dtype


class StoredInput(StoredTensor):
    high: int | None = Field(None, ge=1)
    """Integers lie in ``[0, high)``. None: not known."""

    def to_spec(self, name: str) -> TensorSpec:
        return TensorSpec(self.dtype, self.axes, self.high, name=name)


class StoredOutput(StoredTensor):
    kind: Kind

    def to_spec(self, name: str) -> TensorSpec:
        return TensorSpec(self.dtype, self.axes, high=None, name=name)


class EngineRequirements(StrictModel):
    """What the engine needs to run: it was built for one runtime on one machine. Of an unfinished
    one, what was asked for."""

    runtime: str
    version: str | None
    """None where none was built."""
    provider: str | None
    threads: int = Field(ge=1, le=1024)
    precision: str
    machine: Mapping[str, Any]
    """Of the machine that built it; see ``attar.pipeline.keys.machine``."""
    profile: Mapping[str, tuple[int, int, int]] = {}
    """By dynamic axis the smallest, the usual and the largest size that it is built for."""
    options: Mapping[str, Any] = {}
    """What only some runtimes know, under the vendor's name."""


class Golden(StrictModel):
    """``golden.safetensors``: ``raw.INPUT``, before preprocessing, and ``teacher.OUTPUT`` and
    ``engine.OUTPUT`` for it.

    Where the engine was not run, ``model.OUTPUT`` stands for it: what ONNX Runtime makes of its
    graph on a CPU. It stays beside the engine's when the bundle is finished. Raw inputs that are no
    tensors are held as ``attar.bundle.ragged`` says.
    """

    requests: int = Field(ge=1)
    tolerance: float = Field(gt=0, le=MAX_TOLERANCE)
    """Largest difference to the recorded answers that a replay may show, relative to the largest
    magnitude among them (or 1)."""


class Origin(StrictModel):
    """Where an artifact in the bundle came from: its key and digest in the store that made it, and
    the facts about it."""

    key: str
    digest: str
    facts: Mapping[str, Any] = {}


def find_foreign_slot(first: Mapping[str, Origin], second: Mapping[str, Origin]) -> str | None:
    """Return the first slot that two engines of one bundle have to share and do not."""
    for slot in COMMON_SLOTS:
        made = [lineage[slot].digest if slot in lineage else None for lineage in (first, second)]
        if made[0] != made[1]:
            return slot
    return None


class BatchEngine(StrictModel):
    """The engine for batches, where it is another than that for single samples."""

    folder: ClassVar[str] = "batch/"
    """Where its ``graphs/`` and ``engines/`` lie in the bundle."""
    hop: ClassVar[str] = "batch"
    """What its golden answers are named by."""

    rows: int = Field(ge=2)
    """Calls of so many samples or more are its own, others the other engine's."""
    engine: EngineRequirements
    verdict: StoredVerdict
    ledger: Mapping[str, Any]
    """Every hop from the teacher to this engine."""
    lineage: Mapping[str, Origin]


class Manifest(StrictModel):
    folder: ClassVar[str] = ""
    hop: ClassVar[str] = "engine"
    rows: ClassVar[int] = 1

    format: Literal["attar bundle 1", "attar bundle 2"] = "attar bundle 1"
    """The version of this schema; the last one is FORMAT_VERSION."""
    name: str
    task: str
    inputs: Mapping[str, StoredInput] = Field(min_length=1)
    outputs: Mapping[str, StoredOutput] = Field(min_length=1)
    ranges: Mapping[str, tuple[int, int]]
    """For each dynamic axis the smallest and the largest size that was promised to work."""
    preprocess: Mapping[str, Sequence[KnownStep]]
    postprocess: Mapping[str, Sequence[KnownOutputStep]] = Field({}, exclude_if=operator.not_)
    """Left out where it is empty, so that whatever reads this format reads such a bundle."""
    labels: Sequence[str]
    graphs: Sequence[Annotated[str, Field(pattern=r"^\w+$")]] = Field(min_length=1)
    """They name files, so they are words and lead nowhere else."""
    engine: EngineRequirements
    golden: Golden
    verdict: StoredVerdict
    """The gates and what became of them, see ``attar.proof.verdicts.verdict``."""
    ledger: Mapping[str, Any]
    """Every hop from the teacher to the engine, as ``measure`` found them."""
    lineage: Mapping[str, Origin]
    not_run_here: str | None = Field(None, min_length=1)
    """What kept the machine that packaged the bundle from running the engine; until it is finished,
    it is served nowhere."""
    finished: Finished | None = None
    batch: BatchEngine | None = Field(None, exclude_if=operator.not_)
    """None where one engine answers single samples and batches."""

    @property
    def input_specs(self) -> dict[str, TensorSpec]:
        return {name: tensor.to_spec(name) for name, tensor in self.inputs.items()}

    @property
    def output_specs(self) -> dict[str, TensorSpec]:
        return {name: tensor.to_spec(name) for name, tensor in self.outputs.items()}

    @property
    def parts(self) -> Sequence[Manifest | BatchEngine]:
        """What is said of each engine: that for single samples here, that for batches in
        ``batch``."""
        return (self,) if self.batch is None else (self, self.batch)

    @property
    def unfinished(self) -> bool:
        return self.not_run_here is not None and self.finished is None

    @property
    def answered(self) -> Sequence[str]:
        """Whose answers the golden requests have."""
        model = ("model",) if self.not_run_here else ()
        engines = () if self.unfinished else [part.hop for part in self.parts]
        return ("teacher", *model, *engines)

    @field_validator("graphs")
    @classmethod
    def _can_be_called(cls, graphs: Sequence[str]) -> Sequence[str]:
        if "model" not in graphs:
            raise ValueError(f"there is no graph 'model' among {', '.join(graphs)}")
        return graphs

    @field_validator("ranges")
    @classmethod
    def _are_sizes(cls, ranges: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
        for axis, (low, high) in ranges.items():
            least = 1 if axis == "batch" else 0  # a cache may be empty at first, a batch never is
            if not least <= low <= high or high == 0:
                raise ValueError(f"{axis} from {low} to {high} is no range of sizes")
        return ranges

    @model_validator(mode="after")
    def _names_belong_together(self) -> Manifest:
        axes = {
            axis
            for tensor in [*self.inputs.values(), *self.outputs.values()]
            for axis in tensor.axes
        }
        if unknown := {axis for axis in axes if isinstance(axis, str)} - self.ranges.keys():
            raise ValueError(f"no range of sizes is given for the axis {min(unknown)}")
        if unknown := self.preprocess.keys() - self.inputs.keys():
            raise ValueError(f"steps are given for {min(unknown)}, which is no input")
        if wrong := find_outside(step for todo in self.preprocess.values() for step in todo):
            raise ValueError(wrong)
        if unknown := self.postprocess.keys() - self.outputs.keys():
            raise ValueError(f"steps are given for {min(unknown)}, which is no output")
        output_steps = (step for todo in self.postprocess.values() for step in todo)
        if wrong := find_outside(output_steps, OUTPUT_FOLDER):
            raise ValueError(wrong)
        for part in self.parts:
            if list(self.labels) != part.ledger.get("classes", list(self.labels)):
                raise ValueError("the labels are not the classes that were measured")
        return self

    @model_validator(mode="after")
    def _has_a_sound_engine_for_batches(self) -> Manifest:
        if (self.batch is not None) != (self.format == PAIR_FORMAT):
            raise ValueError(f"an engine for batches is what the format {PAIR_FORMAT!r} has")
        if self.batch is None:
            return self
        most = self.ranges.get("batch", (1, 1))[1]
        if self.batch.rows > most:
            raise ValueError(f"batch.rows is {self.batch.rows}, and batches of {most} are promised")
        if not any("batch" in tensor.axes for tensor in self.inputs.values()):
            raise ValueError("it has an engine for batches, and no input has the axis batch")
        tasks = [part.ledger.get("task") for part in self.parts]
        if tasks[0] != tasks[1]:
            raise ValueError(f"its engines were measured on two tasks, {tasks[0]} and {tasks[1]}")
        if slot := find_foreign_slot(self.lineage, self.batch.lineage):
            raise ValueError(f"its engines do not come from one {slot}")
        if self.not_run_here:
            raise ValueError("it has two engines, and says that its engine was not run")
        return self

    @model_validator(mode="after")
    def _has_an_engine_or_a_reason(self) -> Manifest:
        if (self.not_run_here is not None) != (self.verdict.verdict == "not run here"):
            said = f"its verdict is {self.verdict.verdict!r}"
            raise ValueError(f"{said}, the reason why its engine was not run: {self.not_run_here}")
        if self.finished and not self.not_run_here:
            raise ValueError("it was finished, and nothing of it was unfinished")
        if self.engine.version is None and not self.unfinished:
            raise ValueError("the version of the engine's runtime is not said")
        return self
