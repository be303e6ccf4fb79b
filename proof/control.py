"""Control: what the teacher was worth, read off the same student trained without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attar.proof.gates import Gates, alike, floor, overall, sound
from attar.proof.outcome import Outcome

NEEDED = {"passed": False, "failed": True, "undecided": None}


def distillation(ledger: Mapping[str, Any], gates: Gates) -> dict[str, Any] | None:
    """Whether the control keeps what is promised of the engine against the teacher; None without a control or such promises.

    ``needed`` (None: undecided), ``gain`` of the student's score over the control's with its ``bounds``, ``gates``: the promises
    as rows of the control, and ``says``: a sentence.
    """
    hops = {hop["hop"]: hop for hop in ledger["hops"]}
    if "control" not in hops:
        return None
    rows = list(alike(ledger, hops, "control", "teacher", gates, decides=False))
    if gates.score is not None:
        rows.append(floor("score", "control", gates.score, hops, ledger["samples"], decides=False))
    if not rows:
        return None
    rows += [row for row in sound(ledger, hops, "control", decides=False) if row.verdict == "failed"]
    needed, gain = NEEDED[overall(row.verdict for row in rows)], ledger["gain"]
    return {
        "needed": needed,
        "gain": gain["score"],
        "bounds": gain["bounds"],
        "gates": [row.facts() for row in rows],
        "says": f"{judged(needed, rows)}; {gained(gain, ledger['score_name'])}",
    }


def judged(needed: bool | None, rows: Sequence[Outcome]) -> str:
    if needed is False:
        kept = ", ".join(row.kept for row in rows)
        return f"distillation was not needed: the same student without a teacher keeps every promise: {kept}"
    if needed:
        broken = [row for row in rows if row.verdict == "failed"]
        return f"distillation was needed: the same student without a teacher has {told(broken)}"
    open_rows = [row for row in rows if row.verdict == "undecided"]
    return f"whether distillation was needed is undecided: the same student without a teacher has {told(open_rows)}"


def told(rows: Sequence[Outcome]) -> str:
    return ", ".join(f"{row.gate.replace('_', ' ')} {row.found} where {row.promise} is promised" for row in rows)


def gained(gain: Mapping[str, Any], score_name: str) -> str:
    """The gain in score with its bounds, and whether it is one."""
    low, high = gain["bounds"]
    shown = f"{gain['score']:+.4f} ({low:+.4f} to {high:+.4f})"
    if low > 0:
        return f"it gained {shown} in {score_name}"
    return f"it cost {shown} in {score_name}" if high < 0 else f"no gain in {score_name} is shown: {shown}"
