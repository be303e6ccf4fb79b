"""Fitness: what a bundle's own content breaks is a fault of the bundle, whichever library noticed
it first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attar.pipeline.core.errors import InvalidBundleError, MissingDependencyError

AGAIN = "Copy it again, or package it again"


@contextmanager
def blame_bundle(what: str) -> Iterator[None]:
    """Raises InvalidBundleError, with ``what`` and the reason, for everything that fails inside;
    run only what the bundle decides in it."""
    try:
        yield
    except InvalidBundleError:
        raise
    except MissingDependencyError as error:
        raise InvalidBundleError(
            f"{what}: {error}"
        ) from error  # the bundle itself may well be sound
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InvalidBundleError(f"{what}: {said}. {AGAIN}") from error
