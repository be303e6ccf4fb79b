"""The distiller beside the student, as its training noted it."""

from __future__ import annotations

from collections.abc import Sequence

from attar.proof.report.record import Record


def describe_distiller(records: Sequence[Record]) -> str | None:
    """Return the student's KDL against the distiller, and the distiller's score; None without one.

    Both are means over the training samples of the epoch whose weights were kept.
    """
    student = next((record for record in records if "distiller_kdl" in record.facts), None)
    if student is None:
        return None
    return (
        f"The {student.slot}'s KL divergence from its distiller was "
        f"{student.facts['distiller_kdl']:.4f}, and the distiller's accuracy "
        f"{student.facts['distiller_score']:.4f}, on the training samples of the epoch that was "
        "kept."
    )
