"""Answers of many shards: in the order of their numbers, and with as many open files as they are."""

from __future__ import annotations

import mmap
import resource
from collections.abc import Iterator
from errno import ENOMEM
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.pipeline.core import open_files
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers
from attar.stages.label.shards import Shard
from tests.support.tasks.smoke import artifact, write_shard


def write_answers(folder: Path, numbers: list[int]) -> Answers:
    """One sample a shard, whose answer is the shard's number."""
    for number in numbers:
        write_shard(folder, Shard("test", None, number), {"y": np.array([[number]], np.float32)})
    return artifact(Answers, folder, {"outputs": ["y"]})


def test_shards_are_read_by_number_where_the_names_have_a_digit_more(tmp_path: Path) -> None:
    numbers = [2, 10_000, 99_999, 100_000, 100_001]
    assert write_answers(tmp_path, numbers).read_split("test")["y"].ravel().tolist() == numbers


@pytest.fixture
def _few_files() -> Iterator[None]:
    """Let this process open fewer files than there are shards; its hard limit allows more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (80, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.usefixtures("_few_files")
def test_the_limit_of_open_files_is_raised(tmp_path: Path) -> None:
    assert len(write_answers(tmp_path, list(range(90))).open_rows("test")["y"]) == 90


@pytest.mark.usefixtures("_few_files")
def test_more_shards_than_may_be_open_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "raise_limit", lambda wanted: 80)  # as with a hard limit of 80
    answers = write_answers(tmp_path, list(range(90)))
    with pytest.raises(
        StageError, match=r"^90 files of answers \(test.clean in .* needs \d+ open files, and may have 80; .*ulimit -Hn"
    ):
        answers.open_rows("test")


def test_more_shards_than_the_kernel_maps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> mmap.mmap:
        raise OSError(ENOMEM, "Cannot allocate memory")

    answers = write_answers(tmp_path, [0])
    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(StageError, match=r"vm\.max_map_count"):
        answers.open_rows("test")
