from __future__ import annotations

import pytest

from attar.pipeline.machine import cores
from attar.stages.runtimes import cpu


@pytest.mark.parametrize(("count", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts(count: int, counts: list[int]) -> None:
    assert cpu.powers(count) == counts


def test_machine_facts() -> None:
    facts = cpu.machine()
    assert facts["cores"] == cores()
    assert facts["flags"] == sorted(facts["flags"])
    assert set(facts["flags"]) <= cpu.FLAGS
