"""A team, in threads: rank 0 acts, the others join it in stages that are made together, and what breaks in one ends all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.names import load_object, place_of
from attar.pipeline.core.stage import Facts, Stage
from attar.pipeline.team import Team, TeamError, join_team
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import Hint
from attar.stages.distill.loss_settings import Dkd, Kd
from attar.stages.distill.stage import Distill
from attar.stages.slots import SLOTS
from tests.support.processes.team_board import Board
from tests.support.projects.toy import Double, Number
from tests.support.tasks.smoke import DIGITS, RESIDUAL, artifact

HERE = Path("runs")
JOINED: list[tuple[int, float]] = []
"""Which rank ran a stage, and what it read."""


class Jointly(Stage[Number]):
    """Every process reads the input; the one of rank ``fails`` breaks."""

    distributed: ClassVar[bool] = True
    fails: int = -1

    def run(self, out: Path, *, source: Number) -> Facts:
        rank = team.get_team().rank
        JOINED.append((rank, source.value()))
        if rank == self.fails:
            raise StageError("told to")
        if team.get_team().leads:
            (out / "value.json").write_text("1.0")
        return {"rank": rank}


class LoneStage(Stage[Number]):
    """Made by one process, which may train on the way: it must not wait for the others then."""

    def run(self, out: Path) -> Facts:
        return {"world": team.get_team().world}


@pytest.fixture
def source(tmp_path: Path) -> Number:
    JOINED.clear()
    root = tmp_path / "source"
    root.mkdir()
    (root / "value.json").write_text("3.0")
    return artifact(Number, root, {"value": 3.0})


def gathered(world: int, act: Callable[[Team], None]) -> list[TeamError | None]:
    """``act`` on rank 0 of a team whose other members follow; what each rank raised."""
    board = Board()
    raised: list[TeamError | None] = [None] * world

    def member(rank: int) -> None:
        try:
            with join_team(board, rank, world) as made:
                act(made) if made.leads else made.follow_leader()
        except TeamError as error:  # any other ends the thread, and pytest fails the test for it
            raised[rank] = error

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_alone_a_team_is_nothing() -> None:
    alone = team.get_team()
    assert (alone.rank, alone.world, alone.leads) == (0, 1, True)
    assert alone.broadcast("text") == "text"
    alone.barrier()


def test_all_run_what_is_made_together_and_rank_0_alone_writes(tmp_path: Path, source: Number) -> None:
    facts: list[Facts] = []
    raised = gathered(2, lambda made: facts.append(made.run(Jointly(), tmp_path, {"source": source}, tmp_path)))
    assert raised == [None, None]
    assert facts == [{"rank": 0}]
    assert sorted(JOINED) == [(0, 3.0), (1, 3.0)]


def test_what_is_not_made_together_is_made_by_rank_0(tmp_path: Path, source: Number) -> None:
    facts: list[Facts] = []
    raised = gathered(2, lambda made: facts.append(made.run(Double(), tmp_path, {"source": source}, tmp_path)))
    assert raised == [None, None]
    assert json.loads((tmp_path / "value.json").read_text()) == 6.0


def test_what_is_made_by_one_process_is_in_no_team(tmp_path: Path) -> None:
    facts: list[Facts] = []
    assert gathered(2, lambda made: facts.append(made.run(LoneStage(), tmp_path, {}, tmp_path))) == [None, None]
    assert facts == [{"world": 1}]


def test_one_that_breaks_says_so_and_is_what_the_others_tell_of(tmp_path: Path, source: Number) -> None:
    """Rank 0 breaks too, because rank 1 is gone; what it says is what rank 1 said."""

    def act(made: Team) -> None:
        assert made.wire
        made.broadcast(team.encode_stage_call(Jointly(fails=1), tmp_path, {"source": source}, tmp_path))
        made.wire.get("failure 1")
        raise TeamError(made.find_cause(RuntimeError("Connection closed by peer")))

    raised = gathered(2, act)
    assert [str(each) for each in raised] == ["process 1: told to"] * 2


def test_rank_0_that_breaks_ends_the_run(tmp_path: Path, source: Number) -> None:
    board = Board()
    with join_team(board, 0, 2) as made, pytest.raises(TeamError, match="process 0: told to"):
        made.run(Jointly(fails=0), tmp_path, {"source": source}, tmp_path)


def test_a_stage_arrives_as_it_was_sent() -> None:
    """Settings with unions, tuples, paths and None; every stage can be named."""
    losses = (Kd(standardize=True), Dkd(beta=2), Hint(student="a", teacher="b"))
    sent = Distill(
        task=DIGITS,
        network=RESIDUAL,
        options={"width": 4},
        losses=losses,
        distiller=DistillerSettings(hidden=3),
        tensorboard=HERE,
    )
    call = json.loads(team.encode_stage_call(sent, Path("out"), {}, Path("home")))
    assert load_object(call["stage"]).model_validate_json(json.dumps(call["settings"])) == sent
    assert all(load_object(place_of(slot.stage)) is slot.stage for slot in SLOTS)


def test_when_there_is_a_team(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not team.is_started_in_team()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert team.is_started_in_team()
    with join_team(Board(), 0, 2):
        assert not team.is_started_in_team()  # nor is a child of this process, which inherits the variables
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not team.is_started_in_team()


def test_all_processes_get_what_each_said() -> None:
    board, found = Board(), {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: Team(rank, 3, board).gather(f"from {rank}")}))
        for rank in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {rank: ["from 0", "from 1", "from 2"] for rank in range(3)}
    assert Team().gather("alone") == ["alone"]
