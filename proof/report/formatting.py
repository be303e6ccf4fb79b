"""Numbers as people read them. A value that is not there is a dash, never a zero."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

DASH = "–"
ILLEGAL = re.compile(
    r"\x1b\[[0-9;?]*[A-Za-z]|[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
)
"""Terminal escapes, control characters, and what else XML 1.0 cannot hold."""
HYPHEN = re.compile(r"(?<![\w.)\]-])-(?=[\d.])|(?<=\de)-(?=\d)")
"""A hyphen that stands for a minus: before a number that it joins to nothing, or in an exponent."""


def strip_controls(text: str) -> str:
    """Text from outside (an error, a class name) without what no page may hold."""
    return ILLEGAL.sub("", text)


def typeset_minus(text: str) -> str:
    """Return the text with minus signs: ``"at least -1e-05" -> "at least −1e−05"``."""
    return HYPHEN.sub("−", text)


def format_score(value: float | None, places: int = 4) -> str:
    """Return a score, a correlation or a drop: ``-0.00124 -> "−0.0012"``."""
    return DASH if value is None else typeset_minus(f"{round(value, places) + 0.0:.{places}f}")


def format_range(bounds: Sequence[float] | None, say: Callable[[float], str] = format_score) -> str:
    """Return both bounds: ``[-0.0012, 0.0142] -> "−0.0012 to 0.0142"``.

    Return an empty string if both are written alike.
    """
    ends = [say(bound) for bound in bounds or ()]
    return f"{ends[0]} to {ends[1]}" if len(set(ends)) > 1 else ""


def format_bounded(
    value: float | None,
    bounds: Sequence[float] | None,
    say: Callable[[float | None], str] = format_score,
) -> str:
    """An estimate and its bounds: ``0.0111 (0.0081 to 0.0142)``."""
    between = format_range(bounds, say)
    return f"{say(value)} ({between})" if between else say(value)


def capitalize(text: str) -> str:
    """With a capital, and all else as it is: ``"BLEU on test"`` stays."""
    return text[:1].upper() + text[1:]


def format_sentence(text: str) -> str:
    """With a capital, a full stop, and a minus before negative numbers."""
    said = typeset_minus(strip_controls(text).strip())
    return said and capitalize(said) + ("" if said.endswith((".", "!", "?")) else ".")


def format_change(value: float, places: int = 3) -> str:
    """A gain or a loss. ``0.0124 -> "+0.012"``."""
    shown = format_score(value, places)
    return f"+{shown}" if value > 0 and shown != format_score(0.0, places) else shown


def format_limit(value: float) -> str:
    """As it was written in the recipe."""
    return typeset_minus(f"{value:g}")


def format_small(value: float | None) -> str:
    """Return a number of any size: four decimals, or an exponent if they would hide it."""
    if value is None:
        return DASH
    if value == 0:
        return "0"
    return typeset_minus(
        f"{value:.1e}"
        if abs(value) < 1e-3
        else f"{value:.2f}"
        if abs(value) >= 10
        else f"{value:.4f}"
    )


def format_microseconds(microseconds: float | None) -> str:
    if microseconds is None:
        return DASH
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{format_significant(microseconds / size)} {unit}"
    return f"{format_significant(microseconds)} µs"


def format_bytes(count: float | None) -> str:
    """Bytes, in powers of 1000."""
    if count is None:
        return DASH
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{format_significant(count / step)} {unit}"
    return f"{count:.0f} B"


def format_count(number: float | None) -> str:
    return DASH if number is None else f"{number:,.0f}".replace(",", "\u202f")


def format_ratio(ratio: float | None) -> str:
    return DASH if ratio is None else f"{format_significant(ratio)}×"


def format_seconds(value: float | None) -> str:
    if value is None:
        return DASH
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def format_significant(value: float) -> str:
    """Three digits: 7.42, 18.3, 178, 1240."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def shorten_key(text: str | None) -> str:
    """The first 12 digits of a key: enough to find it, short enough to read."""
    return DASH if text is None else text[:12]
