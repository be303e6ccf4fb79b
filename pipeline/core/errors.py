"""Every failure that attar can name. The command line prints the message and exits with the
code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttarError(Exception):
    """A failure that the user can act on: the message says what, got, and what to do."""

    exit_code = 1


class RecipeError(AttarError):
    """The recipe or the command is wrong. Nothing was run, and the store is unchanged."""

    exit_code = 2


class UnfitSettingsError(RecipeError):
    """The task or the network of a recipe rules out a setting of a stage."""


class StageError(AttarError):
    """A stage failed. ``__cause__`` is the original exception, if there was one."""


class UnsupportedModelError(StageError):
    """A graph cannot be converted as requested, or its runtime cannot take it.

    Another candidate may be possible.
    """


class StoppedError(StageError):
    """A training was ended early by whoever listens to its epochs; see `progress.report_epoch`."""


class MissingDependencyError(AttarError):
    """A library is not installed. The message names the extra that installs it."""


class StoreError(AttarError):
    """The store cannot be read or written."""


class UnknownKeyError(StoreError):
    """No artifact that may be taken, or more than one, has the key that was named."""


class CorruptArtifactError(StoreError):
    """An artifact in the store differs from its record."""


class GateError(AttarError):
    """The evidence does not allow this bundle to be shipped."""

    exit_code = 3


class InvalidBundleError(AttarError):
    """A bundle is not fit to serve.

    It was changed, did not pass its gates, is unfinished, was made for another machine, or lacks
    the required signature.
    """

    exit_code = 4


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return f"{guess}known: {', '.join(names) or 'none'}"
