"""Losses along a path: by hand over k + 1 outcomes, and against the divergence over all tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from attar.models.top_answers import describe_logits
from attar.proof.comparison.sequences import compare_sequences
from attar.stages.learning.sequence_losses import (
    DIVERGENCES,
    Divergence,
    StudentRows,
    TeacherRows,
    group_student,
    group_teacher,
    sequence_kd,
    top_pearson,
    word_kd,
)

patient = settings(deadline=None, max_examples=20)  # torch is slow at first
seeds = st.integers(0, 1000)
temperatures = st.sampled_from([0.5, 1.0, 2.0, 4.0])
LN = math.log
SIZE = 5


def take_top(logits: Tensor, top: int) -> TeacherRows:
    """Return what is stored of a teacher's logits ``(R, size)``."""
    logs = functional.log_softmax(logits, 1)
    values, indices = logs.topk(top, 1)
    others = logs.exp().scatter(1, indices, 0.0).sum(1)
    count = logits.shape[1] - top
    rest = (others / count).log() if count else torch.full((len(logits),), -math.inf)
    return TeacherRows(logits.argmax(1), values, indices, rest.to(logits.dtype))


def draw_logits(seed: int, rows: int = 3, size: int = SIZE, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)


def log_rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


# The teacher: tokens 2 and 0 with 1/2 and 1/4, the three others share 1/4.
TEACHER = TeacherRows(torch.tensor([2]), log_rows([1 / 2, 1 / 4]), torch.tensor([[2, 0]]), log_rows([1 / 12])[0])
# The student gives them 1/4 and 1/4, the three others 1/2.
STUDENT = log_rows([1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 8])


def test_the_outcomes_by_hand() -> None:
    expected, got = group_teacher(TEACHER, SIZE, 1), group_student(StudentRows(STUDENT), TEACHER.indices, 1)
    assert expected.exp().tolist() == [pytest.approx([1 / 2, 1 / 4, 1 / 4])]
    assert got.exp().tolist() == [pytest.approx([1 / 4, 1 / 4, 1 / 2])]


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("forward", LN(2) / 2 + LN(1 / 2) / 4),
        ("reverse", LN(1 / 2) / 4 + LN(2) / 2),
        # The mean is 3/8, 1/4, 3/8.
        ("jensen-shannon", (LN(4 / 3) / 2 + LN(2 / 3) / 4 + LN(2 / 3) / 4 + LN(4 / 3) / 2) / 2),
    ],
)
def test_word_kd_by_hand(divergence: Divergence, expected: float) -> None:
    found = word_kd(StudentRows(STUDENT), TEACHER, divergence=divergence).item()
    assert found == pytest.approx(expected)


def test_forward_and_reverse_differ() -> None:
    student = log_rows([0.7, 0.1, 0.1, 0.05, 0.05])  # over the outcomes: 0.1, 0.7, 0.2
    forward = 0.5 * LN(0.5 / 0.1) + 0.25 * LN(0.25 / 0.7) + 0.25 * LN(0.25 / 0.2)
    reverse = 0.1 * LN(0.1 / 0.5) + 0.7 * LN(0.7 / 0.25) + 0.2 * LN(0.2 / 0.25)
    assert word_kd(StudentRows(student), TEACHER).item() == pytest.approx(forward)
    assert word_kd(StudentRows(student), TEACHER, divergence="reverse").item() == pytest.approx(reverse)
    assert forward != pytest.approx(reverse, abs=0.05)


def test_word_kd_at_another_temperature_by_hand() -> None:
    # At T = 2 the roots count: teacher sqrt(1/2), sqrt(1/4) and three times sqrt(1/12).
    p = [math.sqrt(1 / 2), math.sqrt(1 / 4), 3 * math.sqrt(1 / 12)]
    q = [math.sqrt(1 / 4), math.sqrt(1 / 4), math.sqrt(1 / 4) + 2 * math.sqrt(1 / 8)]
    p, q = ([share / sum(side) for share in side] for side in (p, q))
    expected = 4 * sum(a * LN(a / b) for a, b in zip(p, q, strict=True))
    assert word_kd(StudentRows(STUDENT), TEACHER, temperature=2).item() == pytest.approx(expected)


def test_rows_count_alike() -> None:
    two = TeacherRows(*(torch.cat([part, part]) for part in vars(TEACHER).values()))
    same = group_teacher(TEACHER, SIZE, 1)[:, [1, 2, 0, 2, 2]] - torch.tensor([0, LN(3), 0, LN(3), LN(3)])
    assert word_kd(StudentRows(same), TEACHER).item() == pytest.approx(0, abs=1e-9)
    both = word_kd(StudentRows(torch.cat([STUDENT, same])), two).item()
    assert both == pytest.approx((LN(2) / 2 - LN(2) / 4) / 2)


@patient
@given(seed=seeds, temperature=temperatures)
def test_of_all_tokens_it_is_the_divergence_over_all(seed: int, temperature: float) -> None:
    student, teacher = draw_logits(seed), draw_logits(seed + 1)
    rows = take_top(teacher, SIZE)
    p, q = (functional.log_softmax(side / temperature, 1) for side in (teacher, student))
    mean = ((p.exp() + q.exp()) / 2).log()
    by_hand = {
        "forward": (p.exp() * (p - q)).sum(1),
        "reverse": (q.exp() * (q - p)).sum(1),
        "jensen-shannon": ((p.exp() * (p - mean)).sum(1) + (q.exp() * (q - mean)).sum(1)) / 2,
    }
    for divergence in DIVERGENCES:
        found = word_kd(StudentRows(student), rows, temperature, divergence).item()
        expected = temperature**2 * by_hand[divergence].mean().item()
        assert found == pytest.approx(expected, rel=1e-9)


@patient
@given(seed=seeds, top=st.integers(1, SIZE))
def test_fewer_outcomes_are_at_most_as_far_apart(seed: int, top: int) -> None:
    student, teacher = draw_logits(seed), draw_logits(seed + 1)
    for divergence in DIVERGENCES:
        some = word_kd(StudentRows(student), take_top(teacher, top), 1.0, divergence).item()
        every = word_kd(StudentRows(student), take_top(teacher, SIZE), 1.0, divergence).item()
        assert 0 <= some <= every + 1e-9


@patient
@given(seed=seeds, top=st.integers(1, SIZE), divergence=st.sampled_from(list(DIVERGENCES)))
def test_the_same_answers_are_no_loss(seed: int, top: int, divergence: Divergence) -> None:
    logits = draw_logits(seed).requires_grad_()
    loss = word_kd(StudentRows(logits), take_top(logits.detach(), top), 1.0, divergence)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max().item() < 1e-6


@settings(deadline=None, max_examples=4)
@given(seed=seeds, top=st.integers(1, SIZE), temperature=temperatures)
def test_gradients_are_those_of_the_loss(seed: int, top: int, temperature: float) -> None:
    student = draw_logits(seed, rows=2).requires_grad_()
    rows = take_top(draw_logits(seed + 1, rows=2), top)
    for divergence in DIVERGENCES:
        torch.autograd.gradcheck(lambda x, d=divergence: word_kd(StudentRows(x), rows, temperature, d), student)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_that_is_all_sure_has_a_finite_loss(divergence: Divergence) -> None:
    logits = torch.tensor([[0.0, -200, 200, -200, -200]], requires_grad=True)
    teacher = TeacherRows(TEACHER.tokens, TEACHER.values.float(), TEACHER.indices, TEACHER.rest.float())
    loss = word_kd(StudentRows(logits), teacher, 1.0, divergence)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert math.isfinite(loss.item())
    assert torch.isfinite(gradient).all()


def test_top_pearson_by_hand() -> None:
    # Centred, in halves of ln 2: teacher (1, -1) twice; student (0, 0) and (2, -2).
    two = TeacherRows(*(torch.cat([part, part]) for part in vars(TEACHER).values()))
    student = torch.cat([STUDENT, log_rows([1 / 8, 1 / 8, 1 / 2, 1 / 8, 1 / 8])])
    assert top_pearson(StudentRows(student), two).item() == pytest.approx(1 - 4 / math.sqrt(4 * 8))
    assert top_pearson(StudentRows(student[1:]), TEACHER).item() == pytest.approx(0, abs=1e-9)


@patient
@given(seed=seeds, top=st.integers(2, SIZE))
def test_top_pearson_is_what_is_measured(seed: int, top: int) -> None:
    student, teacher = draw_logits(seed), draw_logits(seed + 1)
    rows = take_top(teacher, top)
    sides = [describe_logits(side.float().numpy(), rows.indices.numpy())[None] for side in (teacher, student)]
    measured = compare_sequences(*sides).numbers["correlation"]
    assert measured is not None
    assert top_pearson(StudentRows(student), rows).item() == pytest.approx(1 - measured, abs=1e-4)


def test_sequence_kd_by_hand() -> None:
    logits = log_rows([1 / 4, 3 / 4], [1 / 2, 1 / 2])
    found = sequence_kd(StudentRows(logits), torch.tensor([1, 0])).item()
    assert found == pytest.approx((LN(4 / 3) + LN(2)) / 2)


def test_smoothing_by_hand() -> None:
    # 0.8 for the token itself, 0.1 for each of the two.
    found = sequence_kd(StudentRows(log_rows([1 / 4, 3 / 4])), torch.tensor([1]), 0.2).item()
    assert found == pytest.approx(0.9 * LN(4 / 3) + 0.1 * LN(4))
