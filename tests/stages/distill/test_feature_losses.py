"""Losses of features against numbers worked by hand, their gradients against finite differences, what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from attar.pipeline.core.errors import StageError
from attar.stages.distill.feature_losses import (
    SHRINKAGE,
    attention,
    compute_angle_cosines,
    hint,
    rkd_angle,
    rkd_distance,
    similarity,
    simkd,
    standardize_features,
    vkd,
    whiten_features,
)
from attar.stages.learning.losses import mse

Compare = Callable[[Tensor, Tensor], Tensor]
RELATIONS: dict[str, Compare] = {"rkd_distance": rkd_distance, "rkd_angle": rkd_angle, "similarity": similarity}
LOSSES: dict[str, Compare] = RELATIONS | {"attention": attention}

seeds = st.integers(0, 2**32 - 1)
patient = settings(deadline=None)  # torch is slow at first
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
each_relation = pytest.mark.parametrize("loss", RELATIONS.values(), ids=RELATIONS)
each_rkd = pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def points(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# ---- by hand


def test_rkd_distance_by_hand() -> None:
    """Distances 1, 3, 2 over their mean 2, and 1, 2, 1 over their mean 4/3: 1/2, 3/2, 1 and 3/4, 3/2, 3/4.

    Huber's loss of 1/4, 0, 1/4 is 1/32, 0, 1/32; the mean is 1/48.
    """
    assert rkd_distance(points((0,), (1,), (3,)), points((0,), (1,), (2,))).item() == pytest.approx(1 / 48, rel=1e-9)


def test_rkd_distance_is_linear_far_out() -> None:
    """One point lies apart, in each network another: 3 of 6 distances are 2 means, the others 0.

    Four of the pairs differ by 2, and Huber's loss of 2 is 3/2; the mean is 4 * 3/2 / 6 = 1.
    """
    assert rkd_distance(points((1,), (0,), (0,), (0,)), points((0,), (0,), (0,), (1,))).item() == pytest.approx(1, rel=1e-9)


def test_rkd_angle_by_hand() -> None:
    """All cosines 1/2 in an equilateral triangle; 0, 1/sqrt(2), 1/sqrt(2) in half a square. Each angle counts twice of 6."""
    equal = points((0, 0), (1, 0), (1 / 2, math.sqrt(3) / 2))
    square = points((0, 0), (1, 0), (0, 1))
    expected = (0.5**2 / 2 + 2 * (1 / math.sqrt(2) - 1 / 2) ** 2 / 2) / 3
    assert rkd_angle(equal, square).item() == pytest.approx(expected, rel=1e-9)


@patient
@given(seeds)
def test_cosines_are_those_of_differences(seed: int) -> None:
    """Park et al. 2019: <e_ij, e_kj> of differences over their norms."""
    (features,) = drawn(seed, (6, 4))
    sides = normalize(features[None] - features[:, None], dim=2)  # [j, i] points from j to i
    expected = sides @ sides.transpose(1, 2)
    expected.diagonal(dim1=1, dim2=2).zero_()
    assert torch.allclose(compute_angle_cosines(features), expected, atol=1e-9)


@pytest.mark.parametrize("apart", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
def test_a_short_side_makes_no_angle_rather_than_a_wrong_one(apart: float) -> None:
    """In float32 the squares of the long sides differ by rounding, which a short side would blow up."""
    features = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    features[1] = features[0] + apart
    sides = normalize((features[None] - features[:, None]).double(), dim=2)
    error = compute_angle_cosines(features) - sides @ sides.transpose(1, 2)
    assert torch.where(compute_angle_cosines(features) == 0, 0, error).abs().max().item() < 2e-3
    assert compute_angle_cosines(features)[0, 1].any() == (apart >= 1e-4)


def test_similarity_by_hand() -> None:
    """Rows over their norms: (1, 0), (0, 1) and twice (1, 1) / sqrt(2)."""
    expected = (2 * (1 - 1 / math.sqrt(2)) ** 2 + 2 * (1 / 2)) / 4
    assert similarity(points((1, 0), (0, 1)), points((1, 1), (1, 1))).item() == pytest.approx(expected, rel=1e-9)


def test_attention_by_hand() -> None:
    """Sums of squares over the channels: 1 + 2, 4 + 0, over their norm 0.6, 0.8; the teacher's 1, 0."""
    student = torch.tensor([[[[1.0, 2.0]], [[math.sqrt(2), 0.0]]]], dtype=torch.float64)  # (1, 2 channels, 1, 2)
    teacher = torch.tensor([[[[-7.0, 0.0]]]], dtype=torch.float64)
    assert attention(student, teacher).item() == pytest.approx((0.4**2 + 0.8**2) / 2, rel=1e-9)


def test_attention_averages_the_map_and_not_the_features() -> None:
    """Squares 1, 1, 9, 25 average to 1, 17; the mean of 1 and -1 would be 0."""
    teacher = torch.tensor([[[[1.0, -1.0, 3.0, -5.0]]]], dtype=torch.float64)
    student = torch.tensor([[[[1.0, math.sqrt(17)]]]], dtype=torch.float64)
    assert attention(student, teacher).item() == attention(teacher, student).item() == pytest.approx(0, abs=1e-12)
    assert attention(torch.ones(1, 1, 1, 2), teacher.float()).item() == pytest.approx(1 - 18 / math.sqrt(2 * 290), abs=1e-6)


@pytest.mark.parametrize(("positions", "smaller"), [((8, 2), (3, 2)), ((6, 4), (3, 5)), ((4, 4, 2), (2, 2, 2))])
def test_attention_maps_of_other_sizes(positions: tuple[int, ...], smaller: tuple[int, ...]) -> None:
    """Both come down to the smaller size on each axis; one map everywhere alike agrees with any such map."""
    assert attention(torch.full((2, 3, *positions), 2.0), torch.ones(2, 5, *smaller)).item() == pytest.approx(0, abs=1e-6)
    student, teacher = drawn(0, (2, 3, *positions), (2, 5, *smaller))
    assert 0 < attention(student, teacher).item() < 1
    assert attention(teacher, student).item() == attention(student, teacher).item()


def test_hint_by_hand() -> None:
    assert hint(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5


def test_simkd_by_hand() -> None:
    """Differences 1, -2, 0 and 3: the mean of their squares is 14 / 4."""
    assert simkd(points((1, 0), (2, 3)), points((0, 2), (2, 0))).item() == 3.5
    with pytest.raises(StageError, match="answers 2 numbers a sample, and the teacher's layer 3"):
        simkd(torch.zeros(4, 2), torch.zeros(4, 3))


def test_vkd_by_hand() -> None:
    """Differences 1/2, 3, 1 and 0: 1/8, 5/2, 1/2 and 0, of which the mean is 25/32."""
    assert vkd(points((0.5, 3), (1, 0)), points((0, 0), (0, 0))).item() == pytest.approx(25 / 32, rel=1e-9)


def test_a_row_is_standardized_over_its_own_numbers() -> None:
    """1, 3, 5, 7 have the mean 4 and the variance 5; a row of equal numbers becomes 0."""
    expected = [[number / math.sqrt(5) for number in (-3, -1, 1, 3)], [0.0] * 4]
    assert standardize_features(points((1, 3, 5, 7), (2, 2, 2, 2))) == pytest.approx(torch.tensor(expected).numpy(), rel=1e-5)


def test_whitening_by_hand() -> None:
    """Independent numbers of the variances 4 and 1/4 (with n - 1 = 3: sums of squares 12 and 3/4)."""
    root, small = math.sqrt(3), math.sqrt(3) / 4
    features = points((root, small), (root, -small), (-root, small), (-root, -small)) + 7
    expected = features - 7
    expected /= torch.tensor(
        [math.sqrt(4 * (1 - SHRINKAGE) + 2.125 * SHRINKAGE), math.sqrt((1 - SHRINKAGE) / 4 + 2.125 * SHRINKAGE)]
    )
    assert torch.allclose(whiten_features(features), expected)


@patient
@given(seeds, st.integers(1, 6))
def test_whitened_numbers_are_uncorrelated(seed: int, width: int) -> None:
    features, mixing = drawn(seed, (400, width), (width, width))
    mixed = features @ (mixing + 3 * torch.eye(width, dtype=mixing.dtype)) + 5
    whitened = whiten_features(mixed)
    assert torch.allclose(whitened.mean(0), torch.zeros(width, dtype=mixed.dtype), atol=1e-9)
    variances = torch.linalg.eigvalsh(whitened.T @ whitened / 399)
    assert variances.max() <= 1 + 2 * SHRINKAGE
    assert torch.allclose(whiten_features(100 * mixed), whitened, atol=1e-9)


@pytest.mark.parametrize("features", [torch.zeros(3, 4), torch.ones(1, 4), torch.eye(2, 8)], ids=["none", "one", "few"])
def test_whitening_of_too_few_samples_is_finite(features: Tensor) -> None:
    assert whiten_features(features).isfinite().all()


def test_a_hint_teaches_the_regressor_too() -> None:
    student, teacher = drawn(0, (4, 3), (4, 5))
    regressor = torch.nn.Linear(3, 5, dtype=torch.float64)
    hint(regressor(student.requires_grad_()), teacher).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    assert student.grad is not None
    assert regressor.weight.grad is not None
    assert student.grad.any()
    assert regressor.weight.grad.any()


# ---- gradients


@pytest.mark.parametrize("loss", [simkd, vkd])
def test_gradients_of_rows(loss: Compare) -> None:
    student, teacher = drawn(1, (3, 4), (3, 4))
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student.requires_grad_(),))


@each_loss
@pytest.mark.parametrize("shapes", [((5, 3, 4, 1), (5, 6, 4, 1)), ((4, 2, 4, 4), (4, 3, 2, 5))], ids=["lines", "maps"])
def test_gradients(loss: Compare, shapes: tuple[tuple[int, ...], ...]) -> None:
    student, teacher = drawn(1, *shapes)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student.requires_grad_(),))


def test_gradient_of_hint() -> None:
    student, teacher = drawn(1, (3, 4), (3, 4))
    assert torch.autograd.gradcheck(lambda s: hint(s, teacher), (student.requires_grad_(),))


# ---- what they do not depend on


@each_loss
@patient
@given(seed=seeds)
def test_the_order_of_samples_does_not_matter(loss: Compare, seed: int) -> None:
    student, teacher = drawn(seed, (6, 3, 4, 1), (6, 2, 4, 1))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert loss(student[order], teacher[order]).item() == pytest.approx(loss(student, teacher).item(), rel=1e-9)


@each_loss
@patient
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_scale_does_not_matter(loss: Compare, seed: int, scale: float) -> None:
    student, teacher = drawn(seed, (6, 3, 4, 1), (6, 2, 4, 1))
    assert loss(scale * student, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-8)
    assert loss(scale * teacher, teacher).item() == pytest.approx(0, abs=1e-12)


@each_relation
@patient
@given(seed=seeds)
def test_rotation_and_width_do_not_matter(loss: Compare, seed: int) -> None:
    student, teacher, basis = drawn(seed, (6, 4), (6, 3), (7, 7))
    rotation = torch.linalg.qr(basis).Q[:4]  # orthonormal rows: into a space of 7 axes
    assert loss(student @ rotation, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-7)


@each_rkd
@patient
@given(seed=seeds)
def test_relational_losses_do_not_see_a_shift(loss: Compare, seed: int) -> None:
    student, teacher, shift = drawn(seed, (6, 4), (6, 3), (4,))
    assert loss(student + 10 * shift, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-7)


@patient
@given(seeds)
def test_attention_does_not_see_channels_signs_or_the_scale_of_a_sample(seed: int) -> None:
    student, teacher, scales = drawn(seed, (5, 3, 4, 1), (5, 2, 4, 1), (5, 1, 1, 1))
    other = (scales.abs() + 0.1) * -student.flip(1)
    assert attention(other, teacher).item() == pytest.approx(attention(student, teacher).item(), rel=1e-8)


@patient
@given(seeds)
def test_attention_is_one_minus_the_cosine_of_the_maps(seed: int) -> None:
    student, teacher = drawn(seed, (5, 3, 4, 1), (5, 2, 4, 1))
    p, q = (x.square().sum(1).flatten(1) for x in (student, teacher))
    assert attention(student, teacher).item() == pytest.approx(1 - torch.cosine_similarity(p, q).mean().item(), abs=1e-9)


# ---- where a formula is 0/0

HARD = {
    "all 0": torch.zeros(4, 3, 4),
    "one point": torch.full((4, 3, 4), 0.1),
    "one point up to rounding": 0.1 + 1e-8 * torch.arange(4.0)[:, None, None] * torch.ones(4, 3, 4),
    "two of four alike": torch.eye(4)[[0, 0, 1, 2]][:, None].repeat(1, 3, 1),
    "two almost alike": torch.eye(4)[:, None].repeat(1, 3, 1) * torch.tensor([1.0, 1e-9, 1.0, 1e-9])[:, None, None],
    "one all 0": torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None] * torch.ones(4, 3, 4),
    "tiny": 1e-30 * torch.eye(4)[:, None].repeat(1, 3, 1),
    "one sample": torch.ones(1, 3, 4),
    "two samples": torch.eye(4)[:2, None].repeat(1, 3, 1),
    "two samples alike": torch.ones(2, 3, 4),
}


@each_loss
@pytest.mark.parametrize("student", HARD.values(), ids=HARD)
@pytest.mark.parametrize("teacher", ["other", "same", "all 0"])
def test_no_loss_and_no_gradient_leaves_the_numbers(loss: Compare, student: Tensor, teacher: str) -> None:
    student = student[..., None]  # (samples, channels, height, width)
    other = drawn(0, (len(student), 2, 4, 1))[0].float()
    expected = {"other": other, "same": student.clone(), "all 0": torch.zeros_like(student)}[teacher]
    student = student.clone().requires_grad_()
    found = loss(student, expected)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.isfinite()
    assert gradient.isfinite().all()


@each_rkd
@pytest.mark.parametrize("name", ["all 0", "one point", "one point up to rounding"])
def test_a_student_at_one_point_is_not_moved_by_rounding(loss: Compare, name: str) -> None:
    student, (teacher,) = HARD[name].clone().requires_grad_(), drawn(0, (4, 5))
    found = loss(student, teacher.float())
    assert found.item() > 0
    assert not torch.autograd.grad(found, student)[0].any()


def test_a_gradient_at_distance_zero_leaves_the_pair_together_and_moves_the_others() -> None:
    """Where two samples are one, no direction parts them; their distances to the third still learn."""
    student = points((0, 0), (0, 0), (1, 0)).requires_grad_()
    (gradient,) = torch.autograd.grad(rkd_distance(student, points((0, 0), (1, 0), (0, 2))), student)
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize(
    ("loss", "samples"), [(rkd_distance, 1), (rkd_distance, 2), (rkd_angle, 1), (rkd_angle, 2), (similarity, 1)]
)
def test_too_few_samples_have_no_relations(loss: Compare, samples: int) -> None:
    student, teacher = drawn(0, (samples, 4), (samples, 3))
    found = loss(student.requires_grad_(), teacher)
    assert found.item() == 0
    assert torch.autograd.grad(found, student)[0].abs().max().item() < 1e-12


def test_a_sample_that_answers_zero_is_similar_to_none() -> None:
    """Rows of the student: (0, 0) and (0, 1); of the teacher: (1, 0) and (0, 1)."""
    assert similarity(points((0, 0), (0, 1)), points((1, 0), (0, 1))).item() == pytest.approx(1 / 4)


# ---- what a user may get wrong


def test_attention_needs_maps() -> None:
    """States of a text (batch, sequence, hidden) would be read as channels and positions."""
    said = r"maps \(batch, channels, height, width\); .* \(4, 7, 8\), the teacher's \(4, 7, 16\): .* use hidden_states or"
    with pytest.raises(StageError, match=said):
        attention(torch.ones(4, 7, 8), torch.ones(4, 7, 16))
    with pytest.raises(StageError, match=r"\(4, 8\), .*\(4, 8\): .*rkd"):
        attention(torch.ones(4, 8), torch.ones(4, 8))
    with pytest.raises(StageError, match=r"\(4, 8, 2, 2\), the teacher's \(4, 8, 2, 2, 2\)"):
        attention(torch.ones(4, 8, 2, 2), torch.ones(4, 8, 2, 2, 2))


def test_hint_needs_equal_shapes() -> None:
    """(4, 1) against (4, 8) would broadcast."""
    with pytest.raises(StageError, match=r"\(4, 1\) .*\(4, 8\)"):
        hint(torch.ones(4, 1), torch.ones(4, 8))
    assert mse(torch.ones(4, 1), torch.ones(4, 8)).item() == 0
