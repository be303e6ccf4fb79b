"""Regressors: layers that map a student's features to its teacher's, trained beside the student and
then dropped."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from attar.pipeline.core.errors import StageError
from attar.stages.distill.feature_loss_settings import FeatureLoss, HiddenStates, VkD
from attar.stages.distill.token_losses import check_states


def create_regressor(loss: FeatureLoss, got: Tensor, wanted: Tensor) -> nn.Module:
    """Return the layer that maps the student's features to the shape of the teacher's.

    It changes nothing if the loss needs none. Raises StageError if no such layer exists.
    """
    if not loss.needs_regressor:
        return nn.Identity()
    if isinstance(loss, HiddenStates):
        check_states(loss.kind, got, wanted, None)
        return nn.Linear(got.shape[2], wanted.shape[2], bias=False).to(got.device)
    if isinstance(loss, VkD):
        return create_orthogonal_projection(got.shape[1], wanted.shape[1]).to(got.device)
    return create_channel_regressor(got, wanted)


def create_orthogonal_projection(student: int, teacher: int) -> nn.Module:
    """Return ``z P`` for rows ``(B, student)``, with ``P P^T = I`` at every step.

    So distances and inner products of samples stay what they are (Miles et al. 2024,
    arXiv:2403.06213, section 3). Of a wider student no such P exists: there ``P^T P = I``.
    """
    # Not torch's default, Householder's product: weight decay makes columns of it 0.
    return orthogonal(nn.Linear(student, teacher, bias=False), orthogonal_map="cayley")


def create_channel_regressor(got: Tensor, wanted: Tensor) -> nn.Module:
    """Return a 1x1 convolution for images ``(B, C, H, W)`` or a linear layer for rows ``(B, C)``.

    Raises StageError for other shapes.
    """
    if got.ndim == wanted.ndim == 4 and got.shape[2:] == wanted.shape[2:]:
        return nn.Conv2d(got.shape[1], wanted.shape[1], 1).to(got.device)
    if got.ndim == wanted.ndim == 2:
        return nn.Linear(got.shape[1], wanted.shape[1]).to(got.device)
    advice = "name layers of the same height and width, or use attention, for maps of any size"
    if got.ndim == wanted.ndim == 3:
        advice = "use hidden_states for states (sequence, hidden)"
    raise StageError(
        f"hint: the student's features are {list(got.shape[1:])} and the teacher's "
        f"{list(wanted.shape[1:])}; {advice}, or write pooled = true"
    )
