"""Several networks as one: the average of what they answer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from attar.pipeline.core import names


class Averaged(nn.Module):
    """The weighted average of networks that read the same inputs.

    Probabilities are averaged, not logits: of outputs with classes the answer is the logarithm of
    the mean of the members' softmax, of multilabel outputs the logit of the mean of their sigmoids.
    Values are averaged, and embeddings after each was divided by its length. ``kinds`` are those of
    the outputs in their order; ``shares`` weigh the members and sum to 1.
    """

    def __init__(
        self, members: Sequence[nn.Module], shares: Sequence[float], kinds: Sequence[str]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shares, self.kinds = tuple(shares), tuple(kinds)

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        made = [member(*inputs) for member in self.members]
        answers = [each if isinstance(each, tuple) else (each,) for each in made]
        by_output = zip(*answers, strict=True)
        averages = [
            average_outputs(kind, outputs, self.shares)
            for kind, outputs in zip(self.kinds, by_output, strict=True)
        ]
        return averages[0] if len(averages) == 1 else tuple(averages)


def average_outputs(kind: str, outputs: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the average of one output of all members, as ``Averaged`` defines it."""
    if kind in ("logits", "probabilities"):
        return average_logs([each.log_softmax(-1) for each in outputs], shares)
    if kind == "multilabel":
        positive = average_logs([functional.logsigmoid(each) for each in outputs], shares)
        return positive - average_logs([functional.logsigmoid(-each) for each in outputs], shares)
    if kind == "embedding":
        outputs = [functional.normalize(each, dim=-1) for each in outputs]
    terms = [share * each for share, each in zip(shares, outputs, strict=True)]
    return torch.stack(terms).sum(0)


def average_logs(logs: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Return the logarithm of the weighted mean of ``exp(logs)``."""
    terms = [each + math.log(share) for share, each in zip(shares, logs, strict=True)]
    return torch.stack(terms).logsumexp(0)


def average(*, member: str, options: str, shares: str, kinds: str) -> Averaged:
    """The factory of ``Averaged``. ``member`` is a factory as MODULE:NAME; the rest is JSON: its
    options, the share of each member, and the kinds of the outputs."""
    weights = json.loads(shares)
    factory, given = names.load_object(member), json.loads(options)
    return Averaged([factory(**given) for _ in weights], weights, json.loads(kinds))
