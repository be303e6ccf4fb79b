"""Every failure that attar can name. The command line prints the message and exits with the code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttarError(Exception):
    """Something the user can act on: the message says what, what was found, and what to do."""

    exit_code = 1


class RecipeError(AttarError):
    """The recipe or the command is wrong; nothing was run and the store is untouched."""

    exit_code = 2


class StageError(AttarError):
    """A stage broke; ``__cause__`` holds the original exception where there was one."""


class Refusal(StageError):
    """The graph cannot be had in the form that was asked for, or not by this runtime; another candidate may do."""


class Missing(AttarError):
    """A library is not installed; the message names the extra that brings it."""


class StoreError(AttarError):
    """The store cannot be read or written."""


class Rejected(AttarError):
    """The evidence says: do not ship."""

    exit_code = 3


class Unfit(AttarError):
    """A bundle is not fit to serve: tampered with, ungated, unfinished, for another machine, or not signed as it has to be."""

    exit_code = 4


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}known: {', '.join(names) or 'none'}"
