"""The ledger inside a bundle: the numbers that its card shows have to be those of its gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attar.bundle.fitness import AGAIN, blame_bundle
from attar.bundle.stored_verdict import StoredVerdict
from attar.pipeline.core.errors import InvalidBundleError
from attar.proof.gate import Comparison
from attar.proof.ledger.ledger import Ledger
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.gate_text import format_metric

ABOUT_ONE_HOP = ("score", "teacher_score")
"""The metrics that are the score itself, by the names of their gates."""


def check_ledger(bundle: Path, stored: StoredVerdict, facts: Mapping[str, Any]) -> None:
    """Raises InvalidBundleError if the ledger cannot be read, or if a gate measured what it does
    not say."""
    with blame_bundle(f"the ledger of {bundle} cannot be read"):
        ledger = ledger_from_json(facts)
        problems = list(find_differences(stored, ledger))
    if problems:
        raise InvalidBundleError(
            f"the ledger of {bundle} contradicts its verdict: {'; '.join(problems)}. {AGAIN}"
        )


def find_differences(stored: StoredVerdict, ledger: Ledger) -> Iterator[str]:
    """Yield where a number of a gate is another one in the ledger."""
    for gate in stored.read_gates():
        comparison = gate.comparison
        told = find_comparison(ledger, comparison)
        if told is not None and (told.value, told.bounds) != (comparison.value, comparison.bounds):
            yield (
                f"{format_metric(comparison.metric)} of the {comparison.hop} is {told.value} in "
                f"the ledger and {comparison.value} in the verdict"
            )


def find_comparison(ledger: Ledger, comparison: Comparison) -> Comparison | None:
    """Return what the ledger says of the same; None of counts, and of what was not run."""
    hop, baseline, metric = comparison.hop, comparison.baseline, comparison.metric
    if metric == "speedup":
        return ledger.speedups.get(baseline)
    if metric in ABOUT_ONE_HOP:
        return ledger.hops[hop].score
    return ledger.hops[hop].comparisons.get((baseline, metric))
