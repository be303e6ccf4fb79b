"""Numbers as people read them. A value that is not there is a dash, never a zero."""

from __future__ import annotations

import math
import re

DASH = "–"
ILLEGAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Terminal escapes, and characters that XML 1.0 cannot hold."""


def clean(text: str) -> str:
    """Text from outside (an error, a class name) without what no page may hold."""
    return ILLEGAL.sub("", text)


def score(value: float | None, places: int = 4) -> str:
    return DASH if value is None else f"{value:.{places}f}"


def drop(value: float | None) -> str:
    """What was lost against something; below zero it is a gain. ``-0.0012 -> "−0.0012"``."""
    return DASH if value is None else f"{round(value, 4) + 0.0:.4f}".replace("-", "−")


def small(value: float | None) -> str:
    """A measured or promised number of any size: four decimals, or an exponent where they would hide it."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    shown = f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
    return shown.replace("-", "−") if value < 0 else shown


def of_gate(gate: str, value: float | None) -> str:
    """What a gate measured: a factor, a count of samples, or a number."""
    if value is None:
        return DASH
    return times(value) if gate == "speedup" else count(value) if gate == "sound" else small(value)


def signed(value: float | None) -> str:
    return DASH if value is None else small(value) if value <= 0 else f"+{small(value)}"


def micro(microseconds: float | None) -> str:
    if microseconds is None:
        return DASH
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{significant(microseconds / size)} {unit}"
    return f"{significant(microseconds)} µs"


def size(count: float | None) -> str:
    """Bytes, in powers of 1000."""
    if count is None:
        return DASH
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{significant(count / step)} {unit}"
    return f"{count:.0f} B"


def count(number: float | None) -> str:
    return DASH if number is None else f"{number:,.0f}".replace(",", "\u2009")


def times(ratio: float | None) -> str:
    return DASH if ratio is None else f"{significant(ratio)}×"


def seconds(value: float | None) -> str:
    if value is None:
        return DASH
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def significant(value: float) -> str:
    """Three digits: 7.42, 18.3, 178, 1240."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def key(text: str | None) -> str:
    """The first 12 digits of a key: enough to find it, short enough to read."""
    return DASH if text is None else text[:12]
