"""Unfit: settings that a task or a network rules out, whatever is trained."""

from __future__ import annotations

from collections.abc import Mapping

from attar.pipeline.core.errors import UnfitSettingsError
from attar.pipeline.core.graph import SlotBinding, is_candidate


def explain_unfit(slots: Mapping[str, SlotBinding]) -> str | None:
    """Return why a recipe with these slots can never be made; None if it may be.

    A target of several candidates needs one of them.
    """
    candidates: dict[str, str | None] = {}
    for slot, bound in slots.items():
        reason = explain_unfit_slot(slot, bound)
        if is_candidate(slot):
            name = slot.rpartition(".")[0]
            candidates[name] = candidates.get(name) or reason
        elif reason:
            return reason
    reasons = [reason for reason in candidates.values() if reason]
    return reasons[0] if reasons and len(reasons) == len(candidates) else None


def explain_unfit_slot(slot: str, bound: SlotBinding) -> str | None:
    try:
        bound.check_settings(slot)
    except UnfitSettingsError as error:
        return str(error)
    return None
