"""Saboteurs of sequences: each puts one function of the pipeline out of order while a stage runs, or spoils its graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import field_validator

from attar.engines.graphs.assembly import assemble_graph
from attar.models import generation
from attar.models.generation import MODEL, START, STEP, Decoding, Integers, measure_lengths, require_decoding
from attar.models.task import Array, Predict, Task
from attar.models.views import ViewBatch
from attar.pipeline.core import names
from attar.pipeline.core.stage import CodeName, Facts
from attar.stages.artifacts import Answers, Model, OnnxModel, Ranges, Weights
from attar.stages.distill.stage import Distill
from attar.stages.export import sequences
from attar.stages.export.stage import Export
from attar.stages.label.sequence_labels import SequenceLabels, read_labels
from attar.stages.label.shards import Shard
from attar.stages.label.stage import Label
from attar.stages.learning import paths
from attar.stages.measure.stage import Measure
from attar.stages.optimize.stage import Optimize
from attar.stages.teach.stage import Teach
from tests.system.sabotage.graphs import spoil


@contextmanager
def put_in(module: Any, name: str, fault: Callable[..., Any]) -> Iterator[None]:
    """Replace a function or a method while a stage runs."""
    honest = getattr(module, name)
    setattr(module, name, fault)
    try:
        yield
    finally:
        setattr(module, name, honest)


class FaultyTeach(Teach):
    fault: CodeName

    def run(self, out: Path) -> Facts:
        with names.load_object(self.fault)():
            return super().run(out)


class FaultyLabel(Label):
    fault: CodeName

    def run(self, out: Path, *, teacher: Model) -> Facts:
        with names.load_object(self.fault)():
            return super().run(out, teacher=teacher)


class FaultyDistill(Distill):
    fault: CodeName

    def run(self, out: Path, *, teacher: Model, answers: Answers, start: Weights | None = None) -> Facts:
        with names.load_object(self.fault)():
            return super().run(out, teacher=teacher, answers=answers, start=start)


def wrong_begin() -> Any:
    """A path is read from behind the end token on."""

    def shift(path: Integers, words: generation.Vocabulary) -> Integers:
        return np.concatenate([np.full((len(path), 1), words.end, np.int64), path[:, :-1]], 1)

    return put_in(paths, "shift_path", shift)


def unshifted_pairs() -> Any:
    """Each token is paired with itself in place of the one before it."""
    return put_in(paths, "shift_path", lambda path, words: path)


def end_left_out() -> Any:
    """No loss is about the end token."""

    def mask(path: Integers, decoding: Decoding) -> npt.NDArray[np.bool_]:
        lengths = measure_lengths(path, decoding.vocabulary) - 1
        return np.asarray(np.arange(path.shape[1]) < np.maximum(lengths, 1)[:, None])

    return put_in(paths, "mask_path", mask)


def forgotten_hypotheses() -> Any:
    """The states of a beam stay where they are when its hypotheses change places."""
    honest = generation.BeamSearch.advance

    def advance(search: generation.BeamSearch, logs: generation.Floats) -> Integers:
        return np.arange(len(honest(search, logs)))

    return put_in(generation.BeamSearch, "advance", advance)


def labels_for_answers() -> Any:
    """The teacher follows the labels, and they are stored as its own sequences."""

    def generate(
        labels: SequenceLabels, task: Task, graphs: Mapping[str, Predict], batch: ViewBatch, decoding: Decoding
    ) -> tuple[Integers, None]:
        return read_labels(task, decoding, batch), None

    return put_in(SequenceLabels, "generate", generate)


def late_answers() -> Any:
    """Every answer to a sample of a batch is stored one row late."""
    honest = SequenceLabels.answer

    def answer(
        labels: SequenceLabels, task: Task, graphs: Mapping[str, Predict], batch: ViewBatch, shard: Shard
    ) -> dict[str, Array]:
        return {name: np.roll(array, 1, 0) for name, array in honest(labels, task, graphs, batch, shard).items()}

    return put_in(SequenceLabels, "answer", answer)


class SpoiltStep(Export):
    """The exporter writes a wrong step."""

    spoil: CodeName

    def run(self, out: Path, *, weights: Model) -> Facts:
        honest = sequences.export_form

        def export_form(form: sequences.GraphForm, file: Path, opset: int, exporter: str) -> None:
            honest(form, file, opset, exporter)
            if file.stem == STEP:
                spoil(file, self.spoil)

        with put_in(sequences, "export_form", export_form):
            return super().run(out, weights=weights)


class SpoiltParts(Optimize):
    """A wrong graph ``part`` after the conversion, and the loop that is assembled of it."""

    spoil: CodeName
    part: str = STEP

    def run(self, out: Path, *, student: Weights, onnx: OnnxModel, calibration: Ranges, answers: Answers) -> Facts:
        facts = super().run(out, student=student, onnx=onnx, calibration=calibration, answers=answers)
        spoil(out / f"{self.part}.onnx", self.spoil)
        task, graphs = onnx.load_task(), {name: out / f"{name}.onnx" for name in (START, STEP, MODEL)}
        assemble_graph(graphs[START], graphs[STEP], graphs[MODEL], task, require_decoding(task))
        return facts


class LateSentences(Measure):
    """Measures on a test split whose labels stand one row late."""

    @field_validator("task")
    @classmethod
    def _other(cls, task: str) -> str:
        return "spelled.py:LateSpelled"
