"""What the benchmark of starting says of its budgets."""

from __future__ import annotations

import sys

import pytest

from benchmarks import startup
from benchmarks.startup import CommandCost, find_excess


@pytest.mark.parametrize(
    ("name", "found", "over"),
    [
        ("attar serve", CommandCost(1.0, 0.6, 160), []),
        ("attar serve", CommandCost(3.1, 0.59, 104), ["3.100 s of 1.0 s"]),
        ("attar serve", CommandCost(0.9, 0.6, 161), ["161 MB of 160 MB"]),
        ("import attar", CommandCost(0.4, 0.2, 900), ["0.400 s of 0.3 s"]),
    ],
)
def test_a_budget_is_of_the_clock_and_of_memory(name: str, found: CommandCost, over: list[str]) -> None:
    assert find_excess(name, found) == over


def test_what_is_over_its_budget_is_told_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"import attar": CommandCost(0.1, 0.1, 20), "attar serve": CommandCost(3.1, 0.59, 104)}
    monkeypatch.setattr(startup, "measure_commands", lambda recipe, folder: found)
    monkeypatch.setattr(sys, "argv", ["startup"])
    with pytest.raises(AssertionError, match=r"attar serve \(3\.100 s"):
        startup.main()
    _, first, second, last = capsys.readouterr().out.splitlines()
    assert first.endswith("within 0.3 s")
    assert second.endswith("104 MB, over budget: 3.100 s of 1.0 s")
    assert last.startswith("load average ")


def test_a_process_that_fails_is_no_measurement() -> None:
    assert startup.measure_command([sys.executable, "-c", "pass"], {}).wall > 0
    with pytest.raises(AssertionError, match="wrong"):
        startup.measure_command([sys.executable, "-c", "raise SystemExit('wrong')"], {})
