"""Verdicts: what became of a goal, by the bounds of what was measured."""

from __future__ import annotations


def judge_least(low: float, high: float, least: float) -> str:
    """Judge a goal that something is at least so much."""
    return "kept" if low >= least else "missed" if high < least else "undecided"


def judge_most(low: float, high: float, most: float) -> str:
    """Judge a goal that something is at most so much."""
    return judge_least(-high, -low, -most)
