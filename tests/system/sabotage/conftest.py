"""A lab for each file, all with one store: the healthy run is made once, by whichever process needs it first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes.shared import session_folder
from tests.system.sabotage.lab import Lab, steady


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Not of the session: what it remembers of a digest would answer for later tests, which make digests up."""
    lab = Lab(session_folder(tmp_path_factory) / "sabotage" / "store")
    with steady():
        lab.healthy()
        yield lab
