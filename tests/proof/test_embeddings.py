"""How embeddings are compared: cosines of pairs, by hand; what they are blind to; and that the bounds are those of the pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.task import InMemory
from attar.pipeline.core.errors import StageError
from attar.proof.comparison.hop_comparer import HopComparer, find_labels
from attar.proof.comparison.hop_outputs import HopAnswers, score_outputs
from attar.proof.estimates import intervals, metrics
from attar.proof.estimates.bounds import ConfidenceBounds
from attar.proof.estimates.metrics import deal_into_groups, normalize_vectors
from attar.proof.estimates.sums import Numbers, Sums, correlate_sums, sum_products
from attar.proof.gate import Comparison, Metric
from attar.proof.hop import STUDENT_HOPS
from attar.proof.ledger.ledger import Hop
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.report.figures import answers
from attar.proof.verdicts.gate_evaluation import compare_hops, evaluate_gates
from attar.proof.verdicts.gate_text import format_gate
from attar.proof.verdicts.limits import GateLimits
from attar.stages.measure.bench import Bench
from tests.support.proof.proof_parts import a_ledger, line
from tests.support.proof.proof_parts import metrics as metrics_of
from tests.support.tasks.embedding_task import EmbeddedTexts

ROOT = math.sqrt(0.5)
seeds = st.integers(0, 2**32 - 1)


def found(expected: npt.NDArray[Any], got: npt.NDArray[Any]) -> metrics.Metrics:
    return metrics.compare_outputs("embedding", expected, got).numbers


def drawn(seed: int, samples: int = 40, dimensions: int = 5) -> tuple[Numbers, Numbers]:
    """Vectors along a few common directions, and the same with noise."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((3, dimensions))
    one = generator.standard_normal((samples, 3)) @ common + 0.3 * generator.standard_normal((samples, dimensions))
    return one, one + generator.standard_normal(one.shape)


def test_by_hand() -> None:
    """Cosines between samples 0, 1 and 2: the teacher's 0, sqrt(1/2), sqrt(1/2); the student's 0, 0, 1, whatever the lengths.

    Deviations: a (-2, 1, 1) with a = sqrt(1/2) / 3, and (-1, -1, 2) / 3; r = (2 - 1 + 2) / (sqrt(6) sqrt(6)) = 1/2. Cosines of
    both vectors of a sample: 1, 1, sqrt(1/2).
    """
    teacher = np.array([[2.0, 0], [0, 3], [1, 1]])
    student = np.array([[4.0, 0], [0, 1], [0, 2]])
    made = found(teacher, student)
    assert made["correlation"] == pytest.approx(0.5)
    assert made["cosine"] == pytest.approx((2 + ROOT) / 3)
    assert made["largest_difference"] == 2
    assert {name for name, value in made.items() if value is None} == {
        *("correlation_per_sample", "correlation_probabilities", "kdl", "agreement", "identical")
    }


def test_samples_are_dealt_like_cards() -> None:
    """Of 200 samples 50 groups of 4: neighbours, which may be siblings, fall into different ones."""
    groups = deal_into_groups(np.arange(203))
    assert [len(groups), {len(group) for group in groups}] == [50, {4, 5}]
    assert groups[0].tolist() == [0, 50, 100, 150, 200]
    assert len(deal_into_groups(np.arange(10_000))) == 156  # 64 at most in a group
    assert [group.tolist() for group in deal_into_groups(np.arange(5))] == [[0, 2, 4], [1, 3]]
    assert [group.tolist() for group in deal_into_groups(np.arange(1))] == [[0]]


def test_only_pairs_of_one_group_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups {0, 2} and {1, 3}: of the teacher's pairs one has cosine 1 and one 0, of the student's the other way round."""
    monkeypatch.setattr(metrics, "GROUP", 2)
    teacher, student = np.eye(3)[[0, 0, 0, 1]], np.eye(3)[[0, 2, 1, 2]]
    assert found(teacher, student)["correlation"] == pytest.approx(-1)
    assert len(metrics.compare_outputs("embedding", teacher, student).sums["correlation"].columns) == 2


@given(seeds, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_lengths_do_not_matter(seed: int, one: float, other: float) -> None:
    expected, got = drawn(seed)
    lengths = np.geomspace(one, other, len(got))[:, None]
    scaled, plain = found(expected, got * lengths), found(expected, got)
    for name in ("correlation", "cosine"):
        assert scaled[name] == pytest.approx(plain[name], abs=1e-9)


@given(seeds)
def test_a_rotation_of_the_student_s_space_does_not_change_which_samples_are_alike(seed: int) -> None:
    expected, got = drawn(seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))[0]
    assert found(expected, got @ rotation)["correlation"] == pytest.approx(found(expected, got)["correlation"], abs=1e-9)
    assert found(expected, expected @ rotation)["correlation"] == pytest.approx(1, abs=1e-9)
    assert (found(expected, expected @ rotation)["cosine"] or 0) < 1 - 1e-6  # but one space cannot stand for the other


@pytest.mark.parametrize("samples", [1, 2, 3, 120])
@pytest.mark.parametrize("length", [0.0, 1e-30, 0.1, 1e30])
def test_one_direction_for_all_correlates_with_nothing_and_no_vector_with_no_direction(samples: int, length: float) -> None:
    constant, (other, _) = np.full((samples, 5), length, np.float32), drawn(0, samples)
    for p, q in ((constant, other), (other, constant), (constant, constant)):
        assert found(p, q)["correlation"] == 0
        assert all(math.isfinite(value) for value in found(p, q).values() if value is not None)
    assert found(constant, constant)["cosine"] == pytest.approx(1 if length else 0)


def test_bounds_by_groups_are_as_wide_as_the_correlation_varies_and_by_samples_half_of_that() -> None:
    """Over 60 test splits of 1,000 samples. By samples: each with the sum over its pairs with all others."""
    values, by_groups, by_samples = [], [], []
    for seed in range(60):
        expected, got = drawn_from_one(seed)
        sums = metrics.compare_outputs("embedding", expected, got).sums["correlation"]
        values.append(sums.value)
        by_groups.append(deviation(sums))
        by_samples.append(deviation(all_pairs(expected, got)))
    spread = float(np.std(values))
    assert 0.8 < np.mean(by_groups) / spread < 1.25
    assert 0.35 < np.mean(by_samples) / spread < 0.65


def drawn_from_one(seed: int) -> tuple[Numbers, Numbers]:
    common, generator = np.random.default_rng(99).standard_normal((4, 8)), np.random.default_rng(seed)
    expected = generator.standard_normal((1000, 4)) @ common
    return expected, expected + generator.standard_normal(expected.shape)


def all_pairs(expected: Numbers, got: Numbers) -> Sums:
    cosines = [normalize_vectors(side) @ normalize_vectors(side).T for side in (expected, got)]
    apart = ~np.eye(len(expected), dtype=bool)
    return Sums(sum_products(*(each[apart].reshape(len(expected), -1) for each in cosines)), correlate_sums)


def deviation(sums: Sums) -> float:
    low, high = intervals.compute_bounds({"r": sums})["r"]
    return (high - low) / (2 * 1.645)


def test_metrics_by_groups_and_by_samples_have_bounds_beside_each_other() -> None:
    expected, got = drawn(0, 200)
    rests = intervals.list_metric_bounds(metrics.compare_outputs("embedding", expected, got))
    known, bounds = found(expected, got), intervals.compute_bounds(rests)
    assert bounds.keys() == {"correlation", "cosine"}
    for name, (low, high) in bounds.items():
        assert low < (known[name] or 0) < high
        assert bounds[name] == intervals.compute_bounds({name: rests[name]})[name]


# ---- in the ledger and in gates


def compare_vectors(noise: float) -> Hop:
    task, generator = EmbeddedTexts(), np.random.default_rng(0)
    vectors = generator.standard_normal((200, 8)).astype(np.float32)
    targets = {"source": np.repeat(np.arange(100), 2)}
    other = (vectors + noise * generator.standard_normal(vectors.shape)).astype(np.float32)
    measured = {
        "teacher": score_outputs(task, "teacher", HopAnswers({"vector": vectors}), targets),
        "student": score_outputs(task, "student", HopAnswers({"vector": other}), targets),
    }
    return HopComparer(task, find_labels(task, targets)).build_hops(measured)["student"]


def test_the_ledger_of_embeddings() -> None:
    hop = compare_vectors(noise=0.2)
    assert (hop.get_value("teacher", "cosine") or 0) > 0.9
    for metric in ("cosine", "correlation"):
        value, bounds = hop.get_value("teacher", metric), hop.get_bounds("teacher", metric)
        assert value is not None
        assert bounds is not None
        assert bounds.low < value < bounds.high
    assert {metric for _, metric in hop.comparisons} == {"score_drop", "correlation", "cosine", "largest_difference"}
    assert hop.worst_classes == {}


@pytest.mark.parametrize(("gate", "about"), [("kdl", "classes"), ("agreement", "classes"), ("cosine", "embeddings")])
def test_a_promise_of_other_outputs_is_refused(gate: Any, about: str) -> None:
    facts = a_ledger()
    line(facts, "engine")["teacher"] = metrics_of(0.0, **{gate: None})
    with pytest.raises(StageError, match=f"the gate '{gate}' is about {about}"):
        compare_hops(ledger_from_json(facts), gate, "engine", "teacher")


def test_a_cosine_can_be_promised() -> None:
    facts = a_ledger()
    for hop in STUDENT_HOPS:
        line(facts, hop)["teacher"] = metrics_of(cosine=0.9 if hop == "engine" else 0.97)
    gates = [
        gate for gate in evaluate_gates(ledger_from_json(facts), GateLimits(cosine=0.95)) if gate.comparison.metric == "cosine"
    ]
    verdicts = {gate.comparison.hop: gate.verdict for gate in gates}
    assert verdicts == dict.fromkeys(STUDENT_HOPS, "passed") | {"engine": "failed"}
    assert format_gate(gates[-1]) == "engine: cosine 0.9 (0.9 to 0.9), promised at least 0.95"


def test_the_report_draws_the_cosines_between_samples() -> None:
    """Of three vectors the cosines of 0 and 1, 0 and 2, 1 and 2, whatever their lengths; zeros point nowhere."""
    vectors = np.array([[2.0, 0], [3, 3], [0, 0]], np.float32)
    assert answers.flatten_outputs(vectors, "embedding").tolist() == pytest.approx([ROOT, 0, 0])
    many = np.random.default_rng(0).standard_normal((5000, 4))
    assert len(answers.flatten_outputs(many, "embedding")) == 1000 * 999 / 2


@pytest.mark.parametrize(("metric", "kind"), [("agreement", "logits"), ("cosine", "embedding"), ("correlation", "values")])
def test_the_report_tells_what_outputs_hold_by_their_metrics(metric: Metric, kind: str) -> None:
    comparison = Comparison(metric, "student", "teacher", 0.5, ConfidenceBounds(0.4, 0.6), 100)
    hop = Hop("student", comparisons={("teacher", metric): comparison})
    assert answers.guess_kind(hop) == kind


def test_pairs_need_twice_as_many_samples() -> None:
    task = EmbeddedTexts()
    Bench(task, task.split("test"), 32).check()
    few = InMemory({"words": np.zeros((99, 24), np.float32)}, {})
    with pytest.raises(StageError, match=r"99 samples, .* 100"):
        Bench(task, few, 32).check()
