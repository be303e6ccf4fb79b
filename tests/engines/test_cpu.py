from __future__ import annotations

import platform
from pathlib import Path

import pytest

from attar.engines import cpu
from attar.pipeline.keys.machine import count_cores


@pytest.mark.parametrize(("count", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_thread_counts(count: int, counts: list[int]) -> None:
    assert cpu.list_core_counts(count) == counts


def test_machine_facts() -> None:
    facts = cpu.describe_machine()
    assert facts["cores"] == count_cores()
    assert facts["flags"] == sorted(facts["flags"])
    assert set(facts["flags"]) <= cpu.FLAGS


@pytest.mark.parametrize("architecture", ["AMD64", "x86_64", "arm64"])
def test_without_linux_no_flags_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, architecture: str) -> None:
    """So a CPU of x86 is taken for one that saturates."""
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    flags = cpu.cpu_flags.__wrapped__()  # which a cache would hide
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    assert (flags, cpu.has_saturating_int8()) == (frozenset(), architecture != "arm64")
