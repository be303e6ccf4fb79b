"""Losses of outputs against numbers worked by hand, their gradients against finite differences, what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attar.proof.estimates import metrics
from attar.stages.learning.losses import (
    binary_cross_entropy,
    binary_kd,
    compute_correlations,
    cosine,
    cross_entropy,
    dist,
    dkd,
    kd,
    label_pearson,
    logit_pearson,
    mse,
    scale_to_unit_norm,
    standardize_logits,
    subtract_mean,
)

LN2, LN3 = math.log(2), math.log(3)

Compare = Callable[[Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, Compare] = {
    "kd": lambda s, t, labels: kd(s, t, 3.0),
    "kd of standardized": lambda s, t, labels: kd(standardize_logits(s), standardize_logits(t), 2.0),
    "dkd": lambda s, t, labels: dkd(s, t, labels, 1.0, 8.0, 4.0),
    "dist": lambda s, t, labels: dist(s, t, 2.0, 3.0, 1.5),
    "logit_pearson": lambda s, t, labels: logit_pearson(s, t),
    "mse": lambda s, t, labels: mse(s, t),
    "cosine": lambda s, t, labels: cosine(s, t),
    "binary_kd": lambda s, t, labels: binary_kd(s, t, 2.0),
    "label_pearson": lambda s, t, labels: label_pearson(s, t),
}
OF_LABELS = {"binary_kd", "label_pearson"}
"""Their entries are decisions of their own: no row of them is a distribution."""
CORRELATIONS = ("kd of standardized", "dist", "logit_pearson")

seeds = st.integers(0, 2**32 - 1)
patient = settings(deadline=None)  # torch is slow at first
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def drawn(seed: int, *shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher ``shape`` in float64, labels ``shape[:-1]``."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(shape[-1], shape[:-1], generator=generator)


def logits(*probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


# ---- by hand


def test_kd_by_hand() -> None:
    teacher = torch.tensor([[LN3, 0.0]])  # softmax: 3/4, 1/4
    student = torch.tensor([[0.0, 0.0]])  # softmax: 1/2, 1/2
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)


def test_kd_at_temperature_two_by_hand() -> None:
    teacher = torch.tensor([[2 * LN3, 0.0]])  # divided by T: 3/4, 1/4
    student = torch.tensor([[2 * LN2, 0.0]])  # divided by T: 2/3, 1/3
    expected = 0.75 * math.log(0.75 * 3 / 2) + 0.25 * math.log(0.25 * 3)
    assert kd(student, teacher, 2.0).item() == pytest.approx(4 * expected, abs=1e-6)


def test_kd_nears_mse_of_centred_logits_when_hot() -> None:
    """Hinton et al. 2015, eq. 4: at a high temperature the gradient is that of the squared difference over 2 * classes."""
    student, teacher, _ = drawn(2, 8, 10)
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    assert kd(student, teacher, 1000.0).item() == pytest.approx(mse(*centred).item() / 2, rel=1e-2)


def test_standardized_by_hand() -> None:
    """Mean 4, deviations -2, 0, 0, 2; their mean square is 2."""
    got = standardize_logits(torch.tensor([[2.0, 4.0, 4.0, 6.0], [5.0, 5.0, 5.0, 5.0]]))
    root = math.sqrt(2)
    assert got.flatten().tolist() == pytest.approx([-root, 0, 0, root, 0, 0, 0, 0], abs=1e-6)


def test_kd_of_standardized_logits_by_hand() -> None:
    """Standardized: 1, -1 and -1, 1. At T = 2 / ln 3 the probabilities are 3/4, 1/4 and 1/4, 3/4.

    KL = 3/4 ln 3 - 1/4 ln 3 = ln 3 / 2; times T^2 = 4 / (ln 3)^2 that is 2 / ln 3.
    """
    student, teacher = torch.tensor([[0.0, 10.0]]), torch.tensor([[5.0, 3.0]])
    assert kd(standardize_logits(student), standardize_logits(teacher), 2 / LN3).item() == pytest.approx(2 / LN3, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dkd_by_hand(temperature: float) -> None:
    """The label is class 0. Label against the rest: teacher 1/2, 1/2, student 1/4, 3/4.

    The others alone: teacher 3/8 and 1/8 of 1/2, so 3/4, 1/4; student 1/4 and 1/2 of 3/4, so 1/3, 2/3.
    """
    teacher = temperature * logits([1 / 2, 3 / 8, 1 / 8])
    student = temperature * logits([1 / 4, 1 / 4, 1 / 2])
    tckd = math.log(2) / 2 + math.log(2 / 3) / 2
    nckd = 3 / 4 * math.log(9 / 4) + 1 / 4 * math.log(3 / 8)
    got = dkd(student, teacher, torch.tensor([0]), 2.0, 5.0, temperature)
    assert got.item() == pytest.approx(temperature**2 * (2 * tckd + 5 * nckd), rel=1e-9)


@patient
@given(seeds)
def test_kd_is_dkd_with_the_weights_that_couple_it(seed: int) -> None:
    """Zhao et al. 2022, eq. 6, row by row."""
    student, teacher, labels = drawn(seed, 5, 4)
    for s, t, label in zip(student[:, None], teacher[:, None], labels[:, None], strict=True):
        sure = (t / 3.0).softmax(1)[0, label].item()
        assert dkd(s, t, label, 1.0, 1 - sure, 3.0).item() == pytest.approx(kd(s, t, 3.0).item(), rel=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dist_by_hand(temperature: float) -> None:
    """By row: a student row and a teacher row are constant, so r = 0; the third are equal, r = 1: inter is (1 + 1 + 0) / 3.

    By column: deviations -1/4, 0, 1/4 and 0, -1/4, 1/4; r = (1/16) / (2/16) = 1/2; the other column is 1 minus this one and
    has the same r: intra is 1/2.
    """
    teacher = temperature * logits([1 / 4, 3 / 4], [1 / 2, 1 / 2], [3 / 4, 1 / 4])
    student = temperature * logits([1 / 2, 1 / 2], [1 / 4, 3 / 4], [3 / 4, 1 / 4])
    got = dist(student, teacher, 3.0, 2.0, temperature)
    assert got.item() == pytest.approx(temperature**2 * (3 * 2 / 3 + 2 * 1 / 2), rel=1e-9)


def test_the_rows_of_dist_by_hand() -> None:
    """Deviations from 1/3: 1/6, 0, -1/6 and -1/6, 1/6, 0; r = (-1/36) / (2/36) = -1/2."""
    got = dist(logits([1 / 6, 1 / 2, 1 / 3]), logits([1 / 2, 1 / 3, 1 / 6]), 1.0, 0.0, 1.0)
    assert got.item() == pytest.approx(1.5, rel=1e-9)


def test_logit_pearson_by_hand() -> None:
    """Centred: 1, -1, 0, 0 and 1, -1, 2, -2; r = 2 / (sqrt(2) sqrt(10)) = 1 / sqrt(5)."""
    student, teacher = torch.tensor([[3.0, 1.0], [7.0, 7.0]]), torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    assert logit_pearson(student, teacher).item() == pytest.approx(1 - 1 / math.sqrt(5), abs=1e-6)


@patient
@given(seeds)
def test_logit_pearson_is_what_the_proof_measures(seed: int) -> None:
    student, teacher, _ = drawn(seed, 6, 3, 5)
    measured = metrics.compare_outputs("logits", teacher.numpy(), student.numpy()).numbers["correlation"]
    assert measured is not None
    assert logit_pearson(student, teacher).item() == pytest.approx(1 - measured, abs=1e-12)


def test_binary_cross_entropy_by_hand() -> None:
    """Sigmoids 3/4, 1/2 and 1/4, labels 1, 0 and 1; smoothing by 0.2 makes 0.9, 0.1 and 0.9 of them."""
    scores, labels = torch.tensor([[LN3, 0.0, -LN3]]), torch.tensor([[1.0, 0.0, 1.0]])
    expected = -(math.log(3 / 4) + math.log(1 / 2) + math.log(1 / 4)) / 3
    opposite = -(math.log(1 / 4) + math.log(1 / 2) + math.log(3 / 4)) / 3
    assert binary_cross_entropy(scores, labels).item() == pytest.approx(expected, abs=1e-6)
    assert binary_cross_entropy(scores, labels, 0.2).item() == pytest.approx(0.9 * expected + 0.1 * opposite, abs=1e-6)


def test_binary_kd_by_hand() -> None:
    """Divided by T = 2: teacher 3/4 and 1/2, student 1/2 and 1/2; the second label has no divergence."""
    teacher, student = torch.tensor([[2 * LN3, 0.0]]), torch.tensor([[0.0, 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert binary_kd(student, teacher, 2.0).item() == pytest.approx(4 * expected / 2, abs=1e-6)


@patient
@given(seeds)
def test_binary_kd_is_kd_of_the_logits_0_and_z(seed: int) -> None:
    student, teacher, _ = drawn(seed, 6, 3)
    p, q = (torch.stack([torch.zeros_like(side), side], -1) for side in (student, teacher))
    assert binary_kd(student, teacher, 3.0).item() == pytest.approx(kd(p, q, 3.0).item(), abs=1e-12)


def test_binary_kd_is_finite_where_a_sigmoid_is_not_told_from_1() -> None:
    student = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = binary_kd(student, torch.tensor([[200.0, -200.0]]), 1.0)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    assert loss.item() == pytest.approx(200)
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([-0.5, 0.5])


def test_label_pearson_by_hand() -> None:
    """Centred by label: -1, 1 and 2, -2; -2, 2 and -1, 1: the products are 2, 2, -2, -2; of the first label alone r is 1."""
    student, teacher = torch.tensor([[9.0, -8.0], [11.0, -12.0]]), torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    assert label_pearson(student, teacher).item() == pytest.approx(1, abs=1e-6)
    assert label_pearson(student[:, :1], teacher[:, :1]).item() == pytest.approx(0, abs=1e-6)
    assert label_pearson(student[:1], teacher[:1]).item() == 1  # one row is constant


@patient
@given(seeds)
def test_label_pearson_and_binary_kd_are_what_the_proof_measures(seed: int) -> None:
    student, teacher, _ = drawn(seed, 6, 3)
    measured = metrics.compare_outputs("multilabel", teacher.numpy(), student.numpy()).numbers
    assert label_pearson(student, teacher).item() == pytest.approx(1 - (measured["correlation"] or 0), abs=1e-12)
    assert binary_kd(student, teacher, 1.0).item() == pytest.approx(measured["kdl"], abs=1e-12)


def test_mse_by_hand() -> None:
    assert mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5


def test_cosine_by_hand() -> None:
    """(3, 4) and (4, 3): cosine 24/25; (1, 0) and (0, 2): 0; zeros point nowhere: 0."""
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[8.0, 6.0], [0.0, 2.0], [1.0, 0.0]])
    assert cosine(student, teacher).item() == pytest.approx(1 - 24 / 25 / 3, abs=1e-6)
    assert cosine(-teacher[:2], teacher[:2]).item() == pytest.approx(2, abs=1e-6)


@patient
@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
def test_cosine_is_what_the_proof_measures_whatever_the_lengths(seed: int, of_student: float, of_teacher: float) -> None:
    student, teacher, _ = drawn(seed, 6, 5)
    measured = metrics.compare_outputs("embedding", teacher.numpy(), student.numpy()).numbers["cosine"]
    assert measured is not None
    scales = torch.linspace(of_student, of_teacher, 6, dtype=torch.float64)[:, None]
    assert cosine(scales * student, of_teacher * teacher).item() == pytest.approx(1 - measured, abs=1e-9)


def test_cross_entropy_by_hand() -> None:
    scores = torch.tensor([[LN3, 0.0], [0.0, 0.0]])
    assert cross_entropy(scores, torch.tensor([0, 1])).item() == pytest.approx((math.log(4 / 3) + LN2) / 2, abs=1e-6)


def test_label_smoothing_by_hand() -> None:
    scores = torch.tensor([[LN3, 0.0]])
    expected = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)  # 0.2 of the target goes to both classes alike
    assert cross_entropy(scores, torch.tensor([0]), smoothing=0.2).item() == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_reads_a_label_for_each_position() -> None:
    scores, _, labels = drawn(3, 2, 3, 5)
    flat = cross_entropy(scores.flatten(0, 1), labels.flatten())
    assert cross_entropy(scores, labels).item() == pytest.approx(flat.item())


# ---- gradients


@each_loss
@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5)], ids=["rows", "sequences"])
def test_gradients(loss: Compare, shape: tuple[int, ...]) -> None:
    student, teacher, labels = drawn(4, *shape)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, labels), (student.requires_grad_(),))


def test_gradient_of_cross_entropy() -> None:
    student, _, labels = drawn(4, 4, 6)
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, labels, 0.1), (student.requires_grad_(),))


# ---- what they do not depend on


@each_loss
@patient
@given(seed=seeds)
def test_a_student_that_answers_as_the_teacher_has_no_loss(loss: Compare, seed: int) -> None:
    student, teacher, labels = drawn(seed, 6, 5)
    assert loss(teacher, teacher, labels).item() == pytest.approx(0, abs=1e-12)
    assert loss(student, teacher, labels).item() > 0


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - OF_LABELS))
@patient
@given(seed=seeds)
def test_positions_are_rows(name: str, seed: int) -> None:
    loss, (student, teacher, labels) = LOSSES[name], drawn(seed, 4, 3, 5)
    rows = loss(student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten())
    assert loss(student, teacher, labels).item() == pytest.approx(rows.item(), rel=1e-9)


@each_loss
@patient
@given(seed=seeds)
def test_the_order_of_samples_and_classes_does_not_matter(loss: Compare, seed: int) -> None:
    student, teacher, labels = drawn(seed, 6, 5)
    generator = torch.Generator().manual_seed(seed)
    samples, classes = (torch.randperm(count, generator=generator) for count in student.shape)
    moved = loss(student[samples][:, classes], teacher[samples][:, classes], classes.argsort()[labels[samples]])
    assert moved.item() == pytest.approx(loss(student, teacher, labels).item(), rel=1e-9)


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"mse", "cosine"} - OF_LABELS))
@patient
@given(seed=seeds)
def test_logits_are_defined_up_to_a_constant_in_each_row(name: str, seed: int) -> None:
    loss, (student, teacher, labels) = LOSSES[name], drawn(seed, 6, 5)
    up, down = drawn(seed + 1, 6, 1)[:2]
    assert loss(student + up, teacher + down, labels).item() == pytest.approx(loss(student, teacher, labels).item(), rel=1e-8)


@patient
@given(seeds, st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_magnitude_of_logits_does_not_matter_to_a_correlation(seed: int, of_student: float, of_teacher: float) -> None:
    student, teacher, _ = drawn(seed, 6, 5)
    pooled = logit_pearson(student, teacher).item()
    assert logit_pearson(of_student * student, of_teacher * teacher).item() == pytest.approx(pooled, rel=1e-9)
    scales = torch.linspace(of_student, of_teacher, 6, dtype=torch.float64)[:, None]  # standardized: any in each row
    assert torch.allclose(standardize_logits(scales * student), standardize_logits(student), rtol=1e-9)


@patient
@given(seeds, st.floats(0.1, 0.9))
def test_dist_accepts_a_student_that_is_less_sure_by_the_same_share(seed: int, share: float) -> None:
    """Probabilities mixed with the uniform ones are a linear function of them, by row and by column."""
    _, teacher, _ = drawn(seed, 6, 5)
    student = (share * teacher.softmax(1) + (1 - share) / 5).log()
    assert dist(student, teacher, 1.0, 1.0, 1.0).item() == pytest.approx(0, abs=1e-9)
    assert kd(student, teacher, 1.0).item() > 1e-6


@patient
@given(seeds)
def test_means_do_not_grow_with_the_batch(seed: int) -> None:
    student, teacher, labels = drawn(seed, 6, 5)
    twice = [torch.cat([x, x]) for x in (student, teacher, labels)]
    for loss in LOSSES.values():
        assert loss(*twice).item() == pytest.approx(loss(student, teacher, labels).item(), rel=1e-9)


# ---- where a formula is 0/0


HARD = {
    "all 0": torch.zeros(4, 5),
    "constant rows": torch.tensor([[0.1], [1e4], [-0.3], [0.0]]).expand(4, 5),
    "constant columns": torch.tensor([[0.1, 3.0, -2.0, 0.7, 0.3]]).expand(4, 5),
    "sure": 1e4 * torch.eye(4, 5),
    "tiny": 1e-30 * torch.eye(4, 5),
    "almost constant": 1 + 1e-6 * torch.eye(4, 5),
    "one sample": torch.tensor([[0.1, 3.0, -2.0, 0.7, 0.3]]),
    "two samples": torch.tensor([[0.1, 3.0, -2.0, 0.7, 0.3], [1.0, 0.0, 0.5, 2.0, -3.0]]),
}


@each_loss
@pytest.mark.parametrize("student", HARD.values(), ids=HARD)
@pytest.mark.parametrize("teacher", ["other", "same", "constant"])
def test_no_loss_and_no_gradient_leaves_the_numbers(loss: Compare, student: Tensor, teacher: str) -> None:
    _, drawn_teacher, labels = drawn(0, *student.shape)
    expected = {"other": drawn_teacher.float(), "same": student.clone(), "constant": torch.full_like(student, 0.1)}[teacher]
    student = student.clone().requires_grad_()
    found = loss(student, expected, labels)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", CORRELATIONS)
def test_a_constant_student_learns_nothing_from_a_correlation(name: str) -> None:
    _, teacher, labels = drawn(0, 4, 10)
    student = torch.full((4, 10), 0.1, requires_grad=True)
    found = LOSSES[name](student, teacher.float(), labels)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.item() > 0
    assert not gradient.any()


def test_the_columns_of_one_sample_and_of_two() -> None:
    """One sample: r is 0, so the loss is 1. Two: r is 1 or -1 in each column, so it is even, and flat."""
    student, teacher, _ = drawn(0, 2, 5)
    student.requires_grad_()
    one, two = dist(student[:1], teacher[:1], 0.0, 1.0, 1.0), dist(student, teacher, 0.0, 1.0, 1.0)
    assert one.item() == 1
    assert 5 * two.item() / 2 == pytest.approx(round(5 * two.item() / 2), abs=1e-9)
    for found in (one, two):
        assert torch.autograd.grad(found, student)[0].abs().max().item() < 1e-12


@patient
@given(st.sampled_from([1 / 3, 0.1, 1e4 + 0.1, -7.3, 1e-20]), st.integers(1, 20_000))
def test_rounding_is_no_deviation(value: float, count: int) -> None:
    """The mean of many 0.1 in float32 is not 0.1."""
    assert not subtract_mean(torch.full((count,), value), 0).any()


def test_what_is_small_beside_its_mean_is_a_deviation() -> None:
    got = subtract_mean(torch.tensor([1.0, 1.0001, 0.9999]), 0)
    assert got.tolist() == pytest.approx([0, 1e-4, -1e-4], abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_by_hand(scale: float) -> None:
    """In float32 the square of 1e-30 is 0 and that of 1e30 is infinite."""
    got = scale_to_unit_norm(scale * torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1)
    assert got.flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0], rel=1e-6)


def test_a_correlation_with_a_constant_is_0_as_in_the_proof() -> None:
    constant, line = torch.full((1, 3), 0.1), torch.tensor([[1.0, 2.0, 3.0]])
    assert compute_correlations(constant, line, 1).item() == compute_correlations(constant, constant, 1).item() == 0
    assert metrics.compare_outputs("values", constant.numpy(), line.numpy()).numbers["correlation"] == 0
