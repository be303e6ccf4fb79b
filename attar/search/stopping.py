"""Stopping: which training is not worth its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Prior = tuple[bool, float]
"""What is known of a variant before its training: whether it is as fast as promised, and its
objective, or its speed where training decides that. More is better."""


def suggest_rungs(epochs: int) -> list[int | None]:
    """Return the epochs after which a training may be stopped: a third and two thirds of it.

    None stands for its end, where nothing is left to save: of a single epoch there is no rung, of
    two there is the first.
    """
    rungs = math.ceil(epochs / 3), math.ceil(2 * epochs / 3)
    return [epoch if epoch < epochs else None for epoch in rungs]


@dataclass(frozen=True)
class StoppingRule:
    """Stops a training whose score at a rung is below the least that is worth its end."""

    least: Mapping[int, float] = field(default_factory=dict)
    """Scores on validation by epoch."""

    def stops(self, epoch: int, score: float) -> bool:
        return epoch in self.least and score < self.least[epoch]


@dataclass(frozen=True)
class Rival:
    """A variant whose training is whole."""

    epochs: int
    """Of the training as its settings say; it may have ended earlier."""
    scores: Mapping[int, float]
    """On validation, by epoch."""
    noise: float
    """How uncertain they are."""
    prior: Prior
    conversion: str
    """The settings behind its student, which decide what quantization costs."""
    wins_by_score: bool
    """Whether it keeps all promises, and the objective is no better where the score is not."""
    breaks_score: bool
    """Whether all its engines break a promise about the score."""

    def ends(self, prior: Prior, conversion: str) -> bool:
        """Whether a training that is behind this one can be ended for it.

        What a variant lost in its conversion says nothing of a student that is converted otherwise,
        and of a promise that is not about the score a lower score says nothing.
        """
        if self.breaks_score:
            return self.conversion == conversion
        return self.wins_by_score and self.prior >= prior

    def list_least(self) -> list[float | None]:
        """Return its score at each rung, less what it is uncertain; None where it has none."""
        rungs = suggest_rungs(self.epochs)
        found = [None if epoch is None else self.scores.get(epoch) for epoch in rungs]
        return [None if score is None else score - self.noise for score in found]


def create_rule(
    epochs: int, prior: Prior, conversion: str, rivals: Iterable[Rival]
) -> StoppingRule:
    """Return the rule of a training of so many epochs.

    A rung compares trainings at the same share of each, as successive halving does (Jamieson and
    Talwalkar 2016, arXiv:1502.07943). It keeps no fixed share, since the best variant that keeps
    the promises is sought and not that of the best score.
    """
    least: dict[int, float] = {}
    for rival in rivals:
        if rival.ends(prior, conversion):
            for epoch, score in zip(suggest_rungs(epochs), rival.list_least(), strict=True):
                if epoch is not None and score is not None:
                    least[epoch] = max(score, least.get(epoch, score))
    return StoppingRule(least)
