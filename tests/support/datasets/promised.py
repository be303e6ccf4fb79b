"""What a test needs from the machine: it is skipped where that is missing, unless it was promised to be there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str, hint: str) -> NoReturn:
    """Fail if ``ATTAR_PROMISED`` (names with spaces between) holds ``what``, else skip; ``hint`` says how to get it."""
    if what in os.environ.get("ATTAR_PROMISED", "").split():
        pytest.fail(f"ATTAR_PROMISED says that {what} is here, and it is not; {hint}")
    pytest.skip(f"no {what}; {hint}")
