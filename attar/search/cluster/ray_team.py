"""Teams: one training by several processes of a node.

A placement group of Ray reserves the place of all of them at once, and each is told what
``torchrun`` would tell it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attar.pipeline.core.errors import StageError
from attar.pipeline.recipe.search_space import ClusterResources
from attar.search.cluster.jobs import follow_leader
from attar.search.cluster.orders import Delivery, Order

HOST = "127.0.0.1"
"""Where the processes of a team meet: they are on one node."""
FOLLOW = 30.0
"""Seconds in which all processes of a team end when one of them has."""
Work = Callable[..., Delivery[Any]]
Start = Callable[..., Any]
"""Starts a function in a process of its own, and returns Ray's reference to its value."""


class MemberDiedError(Exception):
    """A process of a team died. Ray begins the whole team again."""


@dataclass(frozen=True)
class Seat:
    """The place of a process in its team."""

    rank: int
    world: int
    port: int

    @property
    def variables(self) -> dict[str, str]:
        """What ``torchrun`` tells a process. Ray shows it its own GPUs alone."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": str(self.world),
            "LOCAL_WORLD_SIZE": str(self.world),
            "MASTER_ADDR": HOST,
            "MASTER_PORT": str(self.port),
        }


def run_team(
    resources: ClusterResources, work: Work, order: Order, job: str, *arguments: Any
) -> Delivery[Any]:
    """Do a job in a team of processes, and return what the first of them returns.

    All of the team ends with the first that ends. Raises MemberDiedError if a process died.
    """
    import ray

    world = resources.processes
    with reserve_places(resources, order.get_team_name(job)) as start:
        port = ray.get(start(find_port))
        members = [
            start(run_member, Seat(rank, world, port), work, order, job, *arguments)
            for rank in range(world)
        ]
        ended, _ = ray.wait(members)
        if not (members[0] in ended and is_success(get_end(members[0]))):
            ended, _ = ray.wait(members, num_returns=world, timeout=FOLLOW)
        ranks = [rank for rank, member in enumerate(members) if member in ended]
        return judge_ends({rank: get_end(members[rank]) for rank in ranks})


@contextmanager
def reserve_places(resources: ClusterResources, name: str) -> Iterator[Start]:
    """Yield what starts a process of the team, when one node has room for all of them.

    Places of this name are given up first: who held them has died. Processes that are left are
    ended with their places. (A task that ``ray.cancel`` ends by force while it returns brings down
    the process that started it: seen with Ray 2.)
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    needs = {"CPU": resources.num_cpus, "GPU": resources.num_gpus}
    bundle = {name: amount for name, amount in needs.items() if amount}
    release_places(name)
    group = placement_group([bundle] * resources.processes, strategy="STRICT_PACK", name=name)
    options = {
        "num_cpus": resources.num_cpus,
        "num_gpus": resources.num_gpus,
        "max_retries": 0,
        "max_calls": 1,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group),
    }
    try:
        ray.get(group.ready())
        yield lambda work, *arguments: ray.remote(**options)(work).remote(*arguments)
    finally:
        remove_placement_group(group)


def release_places(name: str) -> None:
    """Give up the places of a team, if Ray still keeps them."""
    from ray.util.placement_group import get_placement_group, remove_placement_group

    try:
        group = get_placement_group(name)
    except ValueError:  # there are none of this name
        return
    remove_placement_group(group)


def find_port() -> int:
    """Return a port of this node that is free."""
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def run_member(seat: Seat, work: Work, order: Order, job: str, *arguments: Any) -> Delivery[Any]:
    """Do a job as one process of a team: the first does it, and the others join its trainings."""
    from attar.stages.learning.processes import join_process_group

    os.environ |= seat.variables
    with join_process_group() as member:
        if member.leads:
            return work(order, job, *arguments)
        return follow_leader(order, job, member)


def get_end(member: Any) -> Delivery[Any] | Exception:
    """Return what a process that has ended returned or raised."""
    import ray

    try:
        end: Delivery[Any] = ray.get(member)
    except ray.exceptions.RayError as error:
        failure: Exception = error
        return failure
    return end


def describe_death(error: Exception) -> str:
    """Return the lines of Ray's error that say what happened: the first, or the last of a
    traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    told = lines[-1] if "Traceback" in str(error) else lines[0]
    return f"{type(error).__name__}: {told}"


def is_death(end: object) -> bool:
    """Whether a process died, rather than raised an error."""
    from ray.exceptions import RayError, RayTaskError

    return isinstance(end, RayError) and not isinstance(end, RayTaskError)


def is_success(end: object) -> bool:
    return isinstance(end, Delivery) and end.error is None


def judge_ends(ends: Mapping[int, Delivery[Any] | Exception]) -> Delivery[Any]:
    """Return the delivery of the first process, by how each process ended.

    A process that died is what the errors of the others come from. Raises MemberDiedError for it,
    and StageError for a first process that goes on without the others.
    """
    first = ends.get(0)
    if isinstance(first, Delivery) and is_success(first):
        return first
    errors = [end for end in ends.values() if isinstance(end, Exception)]
    deaths = [error for error in errors if is_death(error)]
    if deaths:
        raise MemberDiedError(describe_death(deaths[0]))
    if isinstance(first, Delivery):
        return first
    if errors:
        raise errors[0]
    for end in ends.values():
        if isinstance(end, Delivery) and end.error is not None:
            return end
    raise StageError(f"process 0 goes on {FOLLOW:g} s after the others of its team have ended")
