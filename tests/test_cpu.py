from __future__ import annotations

import os

import pytest

from attar.stages.runtimes import cpu


@pytest.mark.parametrize(("cores", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts(cores: int, counts: list[int]) -> None:
    assert cpu.powers(cores) == counts


def test_machine_facts() -> None:
    facts = cpu.machine()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["flags"] == sorted(facts["flags"])
    assert set(facts["flags"]) <= cpu.FLAGS
