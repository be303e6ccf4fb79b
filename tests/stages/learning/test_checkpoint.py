"""Resuming in a team: what rank 0 goes on from, all go on from, however late they see it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from attar.pipeline.core.errors import StageError
from attar.pipeline.team import Team
from attar.stages.learning import checkpoint
from tests.support.processes.team_board import Board


class Progress:
    """A training of which the checkpoint holds the place alone."""

    def __init__(self) -> None:
        self.place = [0, 0]

    def load(self, file: Path) -> None:
        self.place = [int(word) for word in file.read_text(encoding="utf-8").split()]

    def read(self) -> list[int]:
        return self.place


def resume(board: Board, rank: int, file: Path) -> list[int]:
    found = Progress()
    checkpoint.resume_in_team(Team(rank, 2, board), file, found.load, found.read)
    return found.place


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "POLL_SECONDS", 0.01)


def test_a_file_that_rank_0_does_not_see_is_resumed_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "stale").write_text("2 7")
    board = Board()
    assert resume(board, 0, tmp_path / "absent") == [0, 0]
    assert resume(board, 1, tmp_path / "stale") == [0, 0]


@pytest.mark.parametrize("seen_first", [None, "1 3"])
def test_a_file_that_another_node_sees_late_is_waited_for(tmp_path: Path, seen_first: str | None) -> None:
    (tmp_path / "first").write_text("2 7")
    board, late = Board(), tmp_path / "late"
    if seen_first:
        late.write_text(seen_first)  # an earlier one
    assert resume(board, 0, tmp_path / "first") == [2, 7]
    threading.Timer(0.05, lambda: (tmp_path / "first").replace(late)).start()
    assert resume(board, 1, late) == [2, 7]


def test_a_file_that_another_node_never_sees_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "UNSEEN_SECONDS", 0.05)
    (tmp_path / "first").write_text("2 7")
    board = Board()
    resume(board, 0, tmp_path / "first")
    with pytest.raises(StageError, match=r"process 1 .*absent .*all nodes share"):
        resume(board, 1, tmp_path / "absent")
