"""How a team of processes ends, by how each of them ended."""

from __future__ import annotations

import re

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from attar.pipeline.core.errors import RecipeError, StageError
from attar.pipeline.recipe.search_space import ClusterResources
from attar.search.cluster.orders import Delivery, Node
from attar.search.cluster.ray_cluster import find_trainers
from attar.search.cluster.ray_team import MemberDiedError, Seat, describe_death, find_port, judge_ends

DONE: Delivery[None] = Delivery(())
FAILED: Delivery[None] = Delivery((), error="process 0: Connection closed by peer")
ENDED: Delivery[None] = Delivery(())
DEAD = WorkerCrashedError()
RAISED = RayTaskError("run_member", "ValueError: lost", ValueError("lost"))


def test_the_first_process_s_result_counts_whatever_its_end_did_to_the_others() -> None:
    """A training that is stopped early leaves the others in the middle of an exchange."""
    assert judge_ends({0: DONE}) is DONE
    assert judge_ends({0: DONE, 1: ENDED}) is DONE
    assert judge_ends({0: DONE, 1: RAISED}) is DONE
    assert judge_ends({0: DONE, 1: DEAD}) is DONE
    assert judge_ends({0: FAILED, 1: ENDED}) is FAILED
    assert judge_ends({0: FAILED, 1: RAISED}) is FAILED


def test_a_process_that_died_is_told_and_not_what_that_did_to_the_others() -> None:
    for ends in ({0: FAILED, 1: DEAD}, {0: RAISED, 1: DEAD}, {0: DEAD, 1: RAISED}, {1: DEAD}):
        with pytest.raises(MemberDiedError, match="WorkerCrashedError"):
            judge_ends(ends)
    for ends in ({0: RAISED, 1: ENDED}, {1: RAISED}):
        with pytest.raises(RayTaskError, match="lost"):
            judge_ends(ends)
    with pytest.raises(StageError, match="process 0 goes on"):
        judge_ends({1: ENDED})


def test_what_another_process_says_of_its_end_is_told_if_the_first_has_not_ended() -> None:
    broken: Delivery[None] = Delivery((), error="process 1: sample 7 is broken")
    assert judge_ends({1: broken}) is broken
    assert judge_ends({0: FAILED, 1: broken}) is FAILED, "it has asked the others for the cause"


def test_a_seat_is_what_torchrun_tells() -> None:
    seat = Seat(rank=1, world=2, port=find_port())
    told = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    assert set(seat.variables) == told
    assert seat.variables["RANK"] == "1"
    assert seat.variables["WORLD_SIZE"] == seat.variables["LOCAL_WORLD_SIZE"] == "2"
    assert int(seat.variables["MASTER_PORT"]) > 1023


def test_one_node_has_room_for_the_whole_team() -> None:
    node = Node("a", "small", {"CPU": 4.0, "GPU": 1.0})
    assert find_trainers([node], ClusterResources(num_cpus=2, processes=2)) == [node]
    for asked in (ClusterResources(num_cpus=2, processes=3), ClusterResources(num_gpus=1, processes=2)):
        takes = f"{asked.num_cpus * asked.processes} CPUs and {asked.num_gpus * asked.processes} GPUs"
        with pytest.raises(RecipeError, match=re.escape(f"{takes} on one node (processes = {asked.processes})")):
            find_trainers([node], asked)


def test_the_words_of_a_death_are_one_line() -> None:
    assert describe_death(RuntimeError("the node died\n\nsee the logs")) == "RuntimeError: the node died"
    traced = "job failed\nTraceback (most recent call last):\n  File ...\nValueError: no"
    assert describe_death(RuntimeError(traced)) == "RuntimeError: ValueError: no"
