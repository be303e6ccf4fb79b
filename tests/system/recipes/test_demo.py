"""The main job, whole: ``attar run demo`` on Fashion-MNIST keeps what the README promises of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from attar.models.tasks import fashion
from attar.recipes.workspace import find_recipe
from tests.support.datasets import promised
from tests.support.projects import tiny


def test_its_gates_are_no_looser_than_promised() -> None:
    gates = tomllib.loads(find_recipe("demo").read_text())["gates"]
    assert gates["score_drop"] <= 0.025
    assert gates["correlation"] >= 0.95
    assert gates["agreement"] >= 0.91
    assert gates["speedup"] >= 3.0
    assert gates["teacher_score"] >= 0.91


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_passes_on_all_the_data(tmp_path: Path) -> None:
    if fashion.HOME.find_complete() is None:
        promised.missing("fashion-mnist", "`attar fetch demo` gets it")
    made = tiny.run(tmp_path, recipe="demo")
    assert made["targets"]["cpu"]["verdict"] == "passed"
    slots = {slot["slot"]: slot["facts"] for slot in made["slots"]}
    evidence = slots["cpu.evidence"]
    assert evidence["samples"] == 10_000
    assert evidence["oacc"] >= 0.91
    assert slots["teacher"]["parameters"] >= 10 * slots["student"]["parameters"]
    assert evidence["speedup"]["reference"] >= 3.0
    assert tiny.made_again(tiny.run(tmp_path, recipe="demo")) == []
