"""The golden requests of a bundle: samples of the test split, with the answers to repeat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from attar.bundle import ragged
from attar.bundle.finished import compute_difference, limit_difference
from attar.bundle.golden import predict_in_batches
from attar.bundle.manifest import BatchEngine
from attar.models import preprocess
from attar.models.generation import Floats, Integers, find_decoding
from attar.models.task import Array, Arrays, Task
from attar.pipeline.core.errors import StageError
from attar.proof.artifacts import Evidence
from attar.stages.measure.bench import Bench
from attar.stages.package.proven import ProvenEngine

REQUESTS = 16


def make_golden(task: Task, packed: Sequence[ProvenEngine], tolerance: float) -> dict[str, Array]:
    """Return requests from the test split with the teacher's recorded answers and new ones.

    The new ones are those of the last hop of each engine that was run. Raises StageError if it
    does not repeat what was measured.
    """
    first = packed[0]
    rows = choose_requests(first.evidence, first.last_run, task, len(task.split("test")))
    raw = task.split("test").take(rows).inputs
    teacher = read_recorded(first.evidence, "teacher", task, rows)
    parts: dict[str, Arrays] = {"raw": raw, "teacher": teacher}
    for hop, proven in zip((first.last_run, BatchEngine.hop), packed, strict=False):
        parts[hop] = answer_again(task, proven, raw, tolerance)
    golden: dict[str, Array] = {}
    for who, arrays in parts.items():
        for name, array in arrays.items():
            golden |= ragged.encode_samples(f"{who}.{name}", array)
    return golden


def answer_again(task: Task, proven: ProvenEngine, raw: Arrays, tolerance: float) -> Arrays:
    """Return the answers to these requests. Raises StageError if measured ones are not repeated."""
    hop, evidence = proven.last_run, proven.evidence
    batch = task.ranges.get("batch", (1, 1))[1]
    # dynamic int8 rounds by the range of its whole call, so it is the same call
    bench = Bench(task, task.split("test"), evidence.facts["batch"])
    measured_call = next(bench.batches(f"the {hop} again"))
    with proven.last.open() as predictor:
        answers = predict_in_batches(predictor, preprocess.apply(task.preprocess, raw), batch)
        again = predictor(measured_call)
    samples = len(next(iter(answers.values())))
    measured = read_recorded(evidence, hop, task, np.arange(samples))
    check_repeated(hop, task, measured, again, tolerance)
    return answers


def check_repeated(hop: str, task: Task, measured: Arrays, again: Arrays, tolerance: float) -> None:
    """Raises StageError if the first answers are not those that were measured."""
    for name, answers in measured.items():
        common = min(len(answers), len(again[name]))
        apart = compute_difference(answers[:common], again[name][:common])
        allowed = limit_difference(task.outputs[name].kind, tolerance)
        if not apart <= allowed:
            raise StageError(
                f"the {hop} does not repeat what was measured: {name!r} is off by {apart:.2g} "
                f"of its magnitude, allowed {allowed:g}; it is not the {hop} of this "
                "evidence, or not deterministic. Build and measure again"
            )


def choose_requests(evidence: Evidence, hop: str, task: Task, samples: int) -> Integers:
    """Return the test samples that become golden requests: the first ones.

    Of a network that generates they are the samples whose tokens are surest, because a replay must
    give the same tokens: those with the largest least margin between first and second token.
    """
    decoding = find_decoding(task)
    if decoding is None:
        return np.arange(min(REQUESTS, samples))
    with safe_open(evidence.root / "hops.safetensors", framework="numpy") as file:
        tokens = [file.get_tensor(f"{who}.output.{decoding.output}") for who in ("teacher", hop)]
        followed = file.get_tensor(f"{hop}.followed.{decoding.output}")
        lengths = file.get_tensor(f"{hop}.lengths.{decoding.output}")
    margins = find_least(measure_margins(followed), lengths)
    is_same = (tokens[0] == tokens[1]).all(1)
    order = np.argsort(-np.where(is_same, margins, -np.inf), kind="stable")
    return np.sort(order[:REQUESTS])


def measure_margins(followed: npt.NDArray[np.float16]) -> Floats:
    """Return how much surer the first token of a place is than the second, ``[R, k + 1] -> [R]``.

    The last column is the share of all others. Where one token alone is known it stands for the
    second, as it is at least that.
    """
    logs = followed if followed.shape[1] == 2 else followed[:, :-1]
    first_two = np.sort(logs.astype(np.float32), 1)[:, -2:]
    margins: Floats = first_two[:, 1] - first_two[:, 0]
    return margins


def find_least(values: Floats, lengths: npt.NDArray[np.int32]) -> Floats:
    """Return the least value of each sample, ``[R] -> [N]``; minus infinity if it has none."""
    least = np.full(len(lengths), -np.inf, np.float32)
    ends = np.cumsum(lengths)
    for sample, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        if length:
            least[sample] = values[end - length : end].min()
    return least


def read_recorded(evidence: Evidence, hop: str, task: Task, rows: Integers) -> dict[str, Array]:
    """Return one hop's measured outputs for these samples."""
    end = int(rows.max()) + 1
    with safe_open(evidence.root / "hops.safetensors", framework="numpy") as file:
        slices = {name: file.get_slice(f"{hop}.output.{name}") for name in task.outputs}
        return {name: np.asarray(each[:end])[rows] for name, each in slices.items()}
