"""What must hold before anything is trained: `python -m pytest`. Add what your own data have to
fulfil."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from attar.engines.runtimes.torch import build_network, check_network
from attar.models.checks.task import check_task
from attar.models.task import Task, load_task

RECIPE = tomllib.loads((Path(__file__).parent / "recipe.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(RECIPE["task"])


def test_the_task_is_what_attar_needs(task: Task) -> None:
    """Shapes, dtypes, labels, views, splits that repeat, and no test sample in another split: what
    `attar run` checks first."""
    check_task(task)


@pytest.mark.parametrize("slot", ["teacher", "student"])
def test_the_networks_fit_the_task(task: Task, slot: str) -> None:
    check_network(build_network(RECIPE[slot]["network"], RECIPE[slot].get("options", {})), task)


def test_the_score_of_answers_that_are_known(task: Task) -> None:
    """REPLACE with an example that you worked out by hand: here the first answer is right and the
    second wrong."""
    logits = np.array([[3.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(
        task.score({"logits": logits}, {"fault": np.array([0, 1])}), [[1.0], [0.0]]
    )
