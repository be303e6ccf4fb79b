"""Verdicts: what became of a goal, by the bounds of what was measured."""

from __future__ import annotations


def verdict(low: float, high: float, least: float) -> str:
    """Of a goal that something is at least so much."""
    return "kept" if low >= least else "missed" if high < least else "undecided"


def at_most(low: float, high: float, most: float) -> str:
    return verdict(-high, -low, -most)
