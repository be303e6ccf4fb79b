"""Losses of token states against numbers worked by hand, and what neither padding, nor width, nor other samples may change."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.pipeline.core.errors import StageError
from attar.stages.distill.token_losses import attention_relations, hidden_states

LN2, LN3 = math.log(2), math.log(3)
VALUES = (0.0, 0.0, 1.0, 0.0)
MINILM_V2 = (1.0, 1.0, 1.0, 0.0)
seeds = st.integers(0, 2**32 - 1)
patient = settings(deadline=None)  # torch is slow at first


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def masked(*lengths: int, size: int) -> Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


# ---- by hand


def test_hidden_states_by_hand() -> None:
    """Errors (1, 2), (0, 0) of one text, (2, 0) and padding of the other: means 5/2 and 0, then 2; texts 5/4 and 2."""
    projected = torch.tensor([[[1.0, 2.0], [5.0, 6.0]], [[2.0, 7.0], [1e6, -1e6]]])
    teacher = torch.tensor([[[0.0, 0.0], [5.0, 6.0]], [[0.0, 7.0], [0.0, 0.0]]])
    assert hidden_states(projected, teacher, masked(2, 1, size=2)).item() == pytest.approx((5 / 4 + 2) / 2)
    assert hidden_states(projected[:1], teacher[:1]).item() == pytest.approx(5 / 4)


def projections(values: list[list[float]]) -> Tensor:
    """One text whose queries and keys are 0, with these values."""
    made = torch.tensor([values])
    return torch.cat([torch.zeros_like(made), torch.zeros_like(made), made], 2)


def test_value_relations_by_hand() -> None:
    """The student's tokens are alike: 1/2, 1/2. The teacher's first stands to both as 3/4, 1/4, its second as 1/2, 1/2.

    Of four numbers s the product is 4 s^2, over sqrt(4): 2 s^2 = ln 3. KL is 3/4 ln 3/2 + 1/4 ln 1/2 for one token of two.
    """
    s = math.sqrt(LN3 / 2)
    student, teacher = projections([[0.0], [0.0]]), projections([[s, s, s, s], [0.0, 0.0, 0.0, 0.0]])
    expected = (0.75 * LN3 - LN2) / 2
    assert attention_relations(student, teacher, 1, VALUES).item() == pytest.approx(expected, rel=1e-5)
    assert attention_relations(student, teacher, 1, (0.0, 0.0, 2.0, 0.0)).item() == pytest.approx(2 * expected, rel=1e-5)


def test_relation_heads_by_hand() -> None:
    """Of two heads the second stands alike to all: half of the head above, whose width is 1, so that s^2 = ln 3."""
    s = math.sqrt(LN3)
    student, teacher = projections([[0.0, 0.0], [0.0, 0.0]]), projections([[s, 0.0], [0.0, 0.0]])
    expected = (0.75 * LN3 - LN2) / 2 / 2
    assert attention_relations(student, teacher, 2, VALUES).item() == pytest.approx(expected, rel=1e-5)


def test_attention_itself_by_hand() -> None:
    """Queries (1, 0), keys (ln 3, 0), width 1: the first token looks with 3/4, 1/4, the second with 1/2, 1/2."""
    teacher = torch.tensor([[[1.0, LN3, 0.0], [0.0, 0.0, 0.0]]])
    found = attention_relations(torch.zeros(1, 2, 3), teacher, 1, (0.0, 0.0, 0.0, 1.0))
    assert found.item() == pytest.approx((0.75 * LN3 - LN2) / 2, rel=1e-5)


def test_queries_keys_and_values_are_weighed_apart() -> None:
    student, teacher = drawn(0, (3, 4, 6), (3, 4, 12))
    single = [attention_relations(student, teacher, 2, [float(i == j) for j in range(4)]).item() for i in range(4)]
    both = attention_relations(student, teacher, 2, (1.0, 2.0, 3.0, 4.0)).item()
    assert both == pytest.approx(sum(share * value for share, value in zip((1, 2, 3, 4), single, strict=True)))
    assert len({round(value, 6) for value in single}) == 4


# ---- what they do not depend on


def relations(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    return attention_relations(student, teacher, 2, MINILM_V2, mask)


@patient
@given(seed=seeds, lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4), more=st.integers(0, 3))
def test_padding_is_neither_compared_nor_related_to(seed: int, lengths: list[int], more: int) -> None:
    count, size = len(lengths), max(1, *lengths)
    mask, longer = masked(*lengths, size=size), masked(*lengths, size=size + more)
    for loss, width in ((hidden_states, 6), (relations, 12)):
        student, teacher, padding = drawn(seed, (count, size, 6), (count, size, width), (2, count, size + more, 12))
        found = []
        for pad, own in ((padding, longer), (100 * padding.flip(0), longer)):
            s, t = pad[0, :, :, :6].clone(), pad[1, :, :, :width].clone()
            s[:, :size][mask], t[:, :size][mask] = student[mask], teacher[mask]
            found.append(loss(s, t, own).item())
        alone = [loss(student[i : i + 1, :n], teacher[i : i + 1, :n], None).item() for i, n in enumerate(lengths) if n]
        assert found[0] == pytest.approx(found[1], rel=1e-9)
        assert found[0] == pytest.approx(sum(alone) / count, rel=1e-9, abs=1e-12)


@patient
@given(seed=seeds)
def test_relations_do_not_see_a_rotation_within_a_head(seed: int) -> None:
    student, teacher, basis = drawn(seed, (2, 4, 6), (2, 4, 12), (4, 4))
    rotation = torch.linalg.qr(basis).Q
    turned = (teacher.reshape(2, 4, 3, 4) @ rotation).flatten(2)
    found = attention_relations(student, turned, 1, MINILM_V2).item()
    assert found == pytest.approx(attention_relations(student, teacher, 1, MINILM_V2).item(), rel=1e-7)


def test_the_same_relations_are_no_loss_and_others_are() -> None:
    student, teacher = drawn(0, (2, 4, 6), (2, 4, 6))
    assert attention_relations(teacher, teacher, 2, MINILM_V2).item() == pytest.approx(0, abs=1e-12)
    assert attention_relations(student, teacher, 2, MINILM_V2).item() > 0.01


# ---- gradients


def test_gradients() -> None:
    student, states, teacher = drawn(1, (2, 4, 6), (2, 4, 12), (2, 4, 12))
    mask = masked(4, 2, size=4)
    both = (1.0, 1.0, 1.0, 1.0)
    assert torch.autograd.gradcheck(lambda s: attention_relations(s, teacher, 2, both, mask), (student.requires_grad_(),))
    assert torch.autograd.gradcheck(lambda s: hidden_states(s, teacher, mask), (states.requires_grad_(),))


def test_a_batch_of_nothing_but_padding_teaches_nothing_and_stays_a_number() -> None:
    student = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = masked(0, 0, size=3)
    found = attention_relations(student, torch.ones(2, 3, 6), 1, MINILM_V2, mask) + hidden_states(
        student, torch.ones(2, 3, 6), mask
    )
    (gradient,) = torch.autograd.grad(found, student)
    assert found.item() == 0
    assert not gradient.any()


# ---- what a user may get wrong


@pytest.mark.parametrize(
    ("student", "teacher", "told"),
    [
        ((4, 8), (4, 8), r"features are \(4, 8\), .*hint"),
        ((4, 3, 8, 8), (4, 3, 8), r"\(4, 3, 8, 8\), .*token by token"),
        ((4, 5, 6), (4, 7, 6), r"\(4, 5, 6\), .*\(4, 7, 6\)"),
        ((7, 4, 6), (7, 4, 6), "4 samples of 7 tokens"),
    ],
)
def test_what_are_no_states_is_refused(student: tuple[int, ...], teacher: tuple[int, ...], told: str) -> None:
    mask = masked(7, 7, 7, 7, size=7)
    with pytest.raises(StageError, match=f"hidden_states .*{told}"):
        hidden_states(torch.ones(student), torch.ones(teacher), mask)
    with pytest.raises(StageError, match=f"attention_relations .*{told}"):
        attention_relations(torch.ones(student), torch.ones(teacher), 1, MINILM_V2, mask)


def test_widths_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(StageError, match=r"\(2, 3, 4\) .*\(2, 3, 6\)"):
        hidden_states(torch.ones(2, 3, 4), torch.ones(2, 3, 6))
    with pytest.raises(StageError, match=r"heads = 4 .*6, .*8;"):
        attention_relations(torch.ones(2, 3, 18), torch.ones(2, 3, 24), 4, MINILM_V2)
