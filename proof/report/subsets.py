"""The subsets of the test samples that a task names, with the score of every hop on each."""

from __future__ import annotations

from collections.abc import Sequence

from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting
from attar.proof.report.target import Target


def describe_subsets(target: Target) -> list[str]:
    """Return one sentence for each subset; none if the task names none."""
    measured = [hop for hop in target.hops if hop.subset_scores]
    names = list(measured[0].subset_scores) if measured else []
    return [describe_subset(name, measured, target.score_name) for name in names]


def describe_subset(name: str, hops: Sequence[Hop], score_name: str) -> str:
    scores = {hop.name: hop.subset_scores[name] for hop in hops}
    samples = next(iter(scores.values())).sample_size
    listed = ", ".join(
        f"{hop} {formatting.format_bounded(score.value, score.bounds)}"
        for hop, score in scores.items()
    )
    return f"{score_name} on the subset {name} ({samples:,} samples): {listed}."
