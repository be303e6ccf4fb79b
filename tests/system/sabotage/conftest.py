"""One lab for the whole session: the healthy run is made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.sabotage.lab import Lab, steady


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("sabotage") / "store")
    with steady():
        lab.healthy()
        yield lab
