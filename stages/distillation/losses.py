"""Losses: pure functions of tensors, and the settings that a recipe picks them by.

To add one: a function, a settings class with its own ``kind``, its name in ``Loss``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor


def kd(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over all axes but the last.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, section 2: soft targets give
    gradients of size 1/T^2, so T^2 keeps their share when the temperature is changed.
    """
    from torch.nn.functional import kl_div, log_softmax

    expected = log_softmax(teacher.flatten(0, -2) / temperature, -1)  # (B, ..., classes) -> (rows, classes)
    got = log_softmax(student.flatten(0, -2) / temperature, -1)
    return kl_div(got, expected, reduction="batchmean", log_target=True) * temperature**2


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference over all entries (for logits: Ba and Caruana 2014, arXiv:1312.6184, eq. 1)."""
    return (student - teacher).square().mean()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-log softmax(logits)[label]``, the mean over all axes but the last; ``labels`` are class indices.

    ``smoothing`` gives that share of the target to all classes alike (Szegedy et al. 2016, arXiv:1512.00567, section 7).
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)


class _Loss(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    applies: ClassVar[frozenset[str]]
    """The kinds of output that it is defined for."""

    weight: float = Field(1.0, gt=0)
    output: str | None = None
    """The only output that it reads; None: all of a kind that it applies to."""


class Kd(_Loss):
    """``kd``."""

    applies = frozenset({"logits"})
    kind: Literal["kd"] = "kd"
    temperature: float = Field(4.0, gt=0)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kd(student, teacher, self.temperature)


class Mse(_Loss):
    """``mse``."""

    applies = frozenset({"logits", "values"})
    kind: Literal["mse"] = "mse"

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return mse(student, teacher)


Loss = Annotated[Kd | Mse, Field(discriminator="kind")]
"""Every loss that a recipe can name, by ``kind``."""
