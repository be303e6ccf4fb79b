"""Plain text: what others wrote, such as records of a shared store, commands no terminal."""

from __future__ import annotations

import re

import click

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, those that begin an escape sequence among them, separators of lines, and what
turns the direction of writing (Unicode's Bidirectional Algorithm, 2.1 to 2.4)."""
LAYOUT = "\n\t"


def escape_controls(text: str, keep: str = LAYOUT) -> str:
    r"""Return the text with its control characters written out, as ``\x1b``."""
    return CONTROLS.sub(lambda found: write_out(found[0], keep), text)


def write_out(character: str, keep: str) -> str:
    return character if character in keep else character.encode("unicode_escape").decode("ascii")


def escape_field(text: str) -> str:
    """Return the text as a part of one line."""
    return escape_controls(text, keep="")


def print_text(text: str, *, err: bool = False) -> None:
    """Print to standard output, or to standard error."""
    click.echo(escape_controls(text), err=err)
