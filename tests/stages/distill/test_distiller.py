"""The distiller's equations against numbers worked by hand, and the traps that its docstring names."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from attar.stages.distill.distiller import (
    DistillerTerms,
    compute_divergences,
    compute_supervision,
    compute_terms,
    compute_weights,
    describe_weights,
)
from attar.stages.distill.distiller_settings import DistillerSettings

LN2, LN3 = math.log(2), math.log(3)
ROWS, CLASSES, FEATURES = 6, 4, 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_attention_by_hand() -> None:
    # softmax([ln 3, 0]) = [3/4, 1/4]; of two rows, floor 1/2: 1/2 + 1/2 * 2 * 3/4 = 5/4 and 1/2 + 1/2 * 2 * 1/4 = 3/4
    assert compute_weights(torch.tensor([LN3, 0.0]), 0.5).tolist() == pytest.approx([1.25, 0.75])


@given(arrays("float32", st.integers(2, 40), elements=st.floats(-50, 50, width=32)), st.floats(0.05, 1))
def test_attention_has_the_mean_one_and_keeps_its_floor(scores: object, floor: float) -> None:
    weights = compute_weights(torch.as_tensor(scores), floor)
    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    assert weights.min().item() >= floor - 1e-6


def test_a_collapse_onto_one_sample_stays_above_the_entropy_of_the_floor() -> None:
    scores = torch.zeros(128)
    scores[0] = 1000
    weights = compute_weights(scores, 0.5)
    assert weights[0].item() == pytest.approx(0.5 + 0.5 * 128)
    # half of the mass is spread over 128 rows: the entropy is at least half of log 128
    assert describe_weights("a", weights, torch.zeros(128, dtype=torch.bool))["a_entropy"] >= 0.5


def test_supervision_by_hand() -> None:
    # needs 3 and 1: shares 3/4 and 1/4; softmax([ln 3, 0]) is just that: the cross-entropy is its entropy, over log 2
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / LN2
    assert compute_supervision(torch.tensor([LN3, 0.0]), torch.tensor([3.0, 1.0])).item() == pytest.approx(entropy)
    assert compute_supervision(torch.tensor([0.0, 0.0]), torch.tensor([3.0, 1.0])).item() == pytest.approx(1)  # even scores


def test_supervision_is_least_where_the_scores_say_the_need() -> None:
    need = torch.tensor([0.5, 2.0, 1.5, 4.0])
    scores = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([scores], lr=2.0)
    for _ in range(300):
        optimizer.zero_grad()
        compute_supervision(scores, need).backward()  # type: ignore[no-untyped-call]  # torch does not annotate Tensor.backward
        optimizer.step()
    assert torch.softmax(scores.detach(), 0).tolist() == pytest.approx((need / need.sum()).tolist(), abs=1e-3)


def test_no_need_at_all_is_an_even_need() -> None:
    assert compute_supervision(torch.tensor([0.0, 0.0]), torch.zeros(2)).item() == pytest.approx(1)


def test_divergences_by_hand() -> None:
    # KL([1/2, 1/2] || [1/4, 3/4]) = 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3
    target, student = torch.log(torch.tensor([[1.0, 1.0]])), torch.log(torch.tensor([[1.0, 3.0]]))
    assert compute_divergences(target, student).tolist() == pytest.approx([0.5 * math.log(4 / 3)], abs=1e-6)


def batch(shares: tuple[float, float] = (0.5, 0.5), floor: float = 0.5) -> tuple[dict[str, torch.Tensor], DistillerTerms]:
    made = {
        "logits": random(ROWS, CLASSES, seed=1),
        "scores": random(ROWS, 2, seed=2),
        "student": random(ROWS, CLASSES, seed=3),
        "teacher": random(ROWS, CLASSES, seed=4),
        "labels": torch.arange(ROWS) % CLASSES,
    }
    rows = (made["logits"], made["scores"], made["student"], made["teacher"], made["labels"])
    return made, compute_terms(*rows, shares, floor)


def test_both_attention_terms_by_hand() -> None:
    """Two rows; the distiller says [1/2, 1/2] of both, the student [1/4, 3/4] and [1/2, 1/2]: KL ln(4/3)/2 and 0."""
    logits, student = torch.zeros(2, 2), torch.tensor([[0.0, LN3], [0.0, 0.0]])
    scores = torch.tensor([[LN3, 0.0], [0.0, LN3]])  # Teacher Attention [5/4, 3/4], Student Attention [3/4, 5/4]
    teacher, labels = torch.zeros(2, 2), torch.tensor([0, 0])  # it needs both rows alike: shares [1/2, 1/2]
    kl = 0.5 * math.log(4 / 3)
    of_teacher, of_student = 1.25 * kl / 2, 0.75 * kl / 2
    # CE([1/2, 1/2], [3/4, 1/4]) / ln 2, and all the student's need is in row 0, of which its attention says 1/4: ln 4 / ln 2
    learned_of_teacher, learned_of_student = -0.5 * math.log(3 / 16) / LN2, 2.0
    for shares in ((0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (0.0, 1.0)):
        found = compute_terms(logits, scores, student, teacher, labels, shares, 0.5)
        assert found.compared.item() == pytest.approx(shares[0] * of_teacher + shares[1] * of_student, abs=1e-6)
        expected = shares[0] * learned_of_teacher + shares[1] * learned_of_student
        assert found.supervision.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("on", [(False, False), (True, False), (False, True), (True, True)])
def test_even_attention_is_the_plain_divergence_whichever_are_on(on: tuple[bool, bool]) -> None:
    """So that rows of a table that differ in the attentions differ in nothing else."""
    shares = DistillerSettings(teacher_attention=on[0], student_attention=on[1]).compute_shares()
    made, found = batch(shares, floor=1.0)
    assert found.compared.item() == pytest.approx(compute_divergences(made["logits"], made["student"]).mean().item())


def test_the_share_of_teacher_attention_is_a_setting_where_both_are_on() -> None:
    assert DistillerSettings().compute_shares() == (0.5, 0.5)
    assert DistillerSettings(teacher_share=0.75).compute_shares() == (0.75, 0.25)
    with pytest.raises(ValidationError, match=r"teacher_share = 0.75"):
        DistillerSettings(teacher_share=0.75, student_attention=False)
    with pytest.raises(ValidationError, match="less than 1"):
        DistillerSettings(teacher_share=1)


def test_its_own_loss_is_the_cross_entropy_with_the_labels() -> None:
    made, found = batch()
    picked = torch.log_softmax(made["logits"], 1)[torch.arange(ROWS), made["labels"]]
    assert found.own.item() == pytest.approx(-picked.mean().item())


def test_what_is_logged_says_where_the_weight_goes() -> None:
    made, found = batch()
    wrong = made["teacher"].argmax(1) != made["labels"]
    weights = compute_weights(made["scores"][:, 0], 0.5)
    assert found.logged["teacher_attention_on_wrong"].item() == pytest.approx(weights[wrong].mean().item())
    assert found.logged["distiller_kdl"].item() == pytest.approx(
        compute_divergences(made["logits"], made["student"]).mean().item()
    )
    assert set(found.logged) == {
        *(f"{who}_attention_{what}" for who in ("teacher", "student") for what in ("entropy", "on_wrong")),
        *("distiller_score", "distiller_kdl"),
    }
