"""Sentences on a snapshot of generated packages: a sound task without classes, a student that fits it, its score by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attar.engines.runtimes.torch import check_network, make_predictor
from attar.models.checks import task as task_check
from attar.models.networks import text
from attar.models.tasks import snapshot
from attar.models.tasks.debian import Package
from attar.models.tasks.sentences import Sentences
from attar.models.tasks.topics import Topics


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten packages a section, whose descriptions are their section's name and a number."""
    packages = [
        Package(f"{section}{number}", f"{section}{number}", section, f"{section} number {number}", f"all of {section} {number}")
        for section in Topics.classes
        for number in range(10)
    ]
    snapshot.write_snapshot(tmp_path, snapshot.select_texts(packages, Topics.classes), Topics.classes)
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path))


def test_the_task_is_sound_and_names_no_classes() -> None:
    task_check.check_task(Sentences())
    assert Sentences().classes == ()
    assert Sentences().transfer


def test_a_reader_of_text_is_an_encoder_whose_head_projects_to_the_teacher_s_dimensions() -> None:
    task = Sentences()
    student = text.transformer(width=16, classes=384)
    check_network(student, task)
    inputs = task.example(np.random.default_rng(0), batch=3, sequence=5)
    assert make_predictor(student, task)(inputs)["vector"].shape == (3, 384)


def test_its_score_is_whether_the_nearest_other_text_is_of_the_same_section() -> None:
    sections = np.array([3, 3, 5, 5, 7])
    plane = np.array([[1, 0], [1, 0.1], [0, 1], [1, 0.3], [0, 0.9]])  # the second 5 lies with the 3s, the lone 7 by the first 5
    vectors = np.pad(plane, [(0, 0), (0, 382)])
    statistics = Sentences().score({"vector": vectors}, {"section": sections})
    assert statistics.tolist() == [[1, 1], [1, 1], [0, 1], [0, 1], [0, 0]]
    assert Sentences().aggregate(statistics) == 0.5
