"""Ray: joins a cluster, and checks what it has before anything is trained.

This module and ``ray_team`` are those that speak to Ray.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from attar.pipeline.core.errors import MissingDependencyError, RecipeError, StageError
from attar.pipeline.recipe.search_space import ClusterResources
from attar.search.cluster.head import HeadWatch
from attar.search.cluster.orders import Node
from attar.search.cluster.ray_team import (
    MemberDiedError,
    describe_death,
    release_places,
    run_team,
)

ANSWER = 10.0
"""Seconds within which a cluster accepts a connection."""
TOUCH = 0.001
"""The amount of the target's resource that a timing takes: it has all CPUs of its node already."""
Reference = Any
"""Ray's reference to the value of a job; Ray's types are not followed."""


class RayCluster:
    """A cluster that this process has joined.

    Raises RecipeError if the cluster has no node for the trainings or for the timings.
    """

    def __init__(self, ray: ModuleType, resources: ClusterResources) -> None:
        self.ray, self.resources = ray, resources
        self.head = HeadWatch(ray.get_runtime_context().gcs_address)
        self.nodes = [
            Node(each["NodeID"], each["NodeManagerHostname"], each["Resources"])
            for each in self.head.guard(ray.nodes)
            if each["Alive"]
        ]
        self.trainers = find_trainers(self.nodes, resources)
        self.timers = find_timers(self.nodes, resources)

    def start_on(self, node: Node, work: Callable[..., Any], *arguments: Any) -> Reference:
        """Start a short job on one node, whatever else it does."""
        return self._start_at(node.id, work, *arguments)

    def start_training(self, work: Callable[..., Any], *arguments: Any) -> Reference:
        if self.resources.processes > 1:  # what waits for them is beside the command
            own = self.ray.get_runtime_context().get_node_id()
            return self._start_at(own, run_team, self.resources, work, *arguments)
        needs = {"num_cpus": self.resources.num_cpus, "num_gpus": self.resources.num_gpus}
        return self._start(needs, work, *arguments)

    def release_team(self, name: str) -> None:
        """Give up the places of a team whose job has died."""
        if self.resources.processes > 1:
            self.head.guard(release_places, name)

    def start_timing(self, work: Callable[..., Any], *arguments: Any) -> Reference:
        """Start a job that has a node of the target's kind to itself."""
        node = self.timers[0]
        needs = {
            "num_cpus": node.cpus,
            "num_gpus": node.gpus,
            "resources": {self.resources.target: TOUCH},
        }
        return self._start(needs, work, *arguments)

    def _start_at(self, node_id: str, work: Callable[..., Any], *arguments: Any) -> Reference:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node_id, soft=False)
        return self._start({"num_cpus": 0, "scheduling_strategy": place}, work, *arguments)

    def _start(
        self, needs: Mapping[str, Any], work: Callable[..., Any], *arguments: Any
    ) -> Reference:
        retries = {
            "max_retries": self.resources.max_retries,
            "retry_exceptions": [MemberDiedError],
        }
        remote = self.ray.remote(**needs, **retries)(work)
        return self.head.guard(remote.remote, *arguments)

    def wait(self, reference: Reference) -> Any:
        """Return the value of a job.

        Raises StageError with Ray's words if the job died, ClusterLostError if the head is gone.
        """
        try:
            return self.head.guard(self.ray.get, reference)
        except self.ray.exceptions.RayError as error:
            self.head.require()
            raise StageError(describe_death(error)) from error


def find_trainers(nodes: Sequence[Node], resources: ClusterResources) -> list[Node]:
    """Return the nodes that are large enough for a training. Raises RecipeError if none is."""
    processes = resources.processes
    cpus, gpus = processes * resources.num_cpus, processes * resources.num_gpus
    found = [node for node in nodes if node.cpus >= cpus and node.gpus >= gpus]
    if not found:
        sizes = ", ".join(f"{node.host} ({node.cpus} CPUs, {node.gpus} GPUs)" for node in nodes)
        raise RecipeError(
            f"search.resources asks for {cpus} CPUs and {gpus} GPUs on one node (processes = "
            f"{processes}), and the cluster has {sizes or 'no node'}; ask for less, or add a node"
        )
    return found


def find_timers(nodes: Sequence[Node], resources: ClusterResources) -> list[Node]:
    """Return the nodes of the target's kind, which must be alike. Raises RecipeError."""
    name = resources.target
    found = [node for node in nodes if node.resources.get(str(name), 0) > 0 and node.cpus > 0]
    if not found:
        own = {key for node in nodes for key in node.resources if is_custom(key)}
        raise RecipeError(
            f"search.resources.target = {name!r}: no node with CPUs has this resource; start one "
            f"with `ray start --resources '{{\"{name}\": 1}}'`. The cluster has "
            f"{', '.join(sorted(own)) or 'no custom resource'}"
        )
    if len({(node.cpus, node.gpus) for node in found}) > 1:
        sizes = ", ".join(f"{node.host} {node.cpus} CPUs, {node.gpus} GPUs" for node in found)
        raise RecipeError(
            f"search.resources.target = {name!r}: its nodes differ ({sizes}), so their timings "
            "cannot be compared; give each kind a resource of its own"
        )
    return found


def is_custom(resource: str) -> bool:
    """Whether a resource is not one that Ray gives to nodes by itself."""
    return resource not in ("CPU", "GPU", "memory", "object_store_memory") and ":" not in resource


def import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "a search on a cluster needs Ray, of the cluster's version: pip install "
            "'attar[cluster]'"
        ) from error
    library: ModuleType = ray
    return library


@contextmanager
def join_cluster(
    ray: ModuleType, address: str, resources: ClusterResources, folder: Path
) -> Iterator[RayCluster]:
    """Join the cluster and ship ``folder`` to the nodes that get a job.

    Raises RecipeError if there is none, or if it has another version of Ray or Python.
    """
    check_address(address)
    try:
        ray.init(
            address=address,
            runtime_env={"working_dir": str(folder)},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RecipeError(explain_refusal(address, error)) from error
    try:
        yield RayCluster(ray, resources)
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raises RecipeError for what is no address of a head, and if nothing answers there: Ray itself
    would ask for minutes."""
    if address == "auto":
        return
    if "://" in address:
        raise RecipeError(explain_scheme(address))
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise RecipeError(f"--ray {address!r}: write HOST:PORT, such as 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise RecipeError(explain_refusal(address, error)) from error


def explain_scheme(address: str) -> str:
    """Return why an address such as ``ray://HOST:10001`` is not supported, and what to give."""
    scheme, _, place = address.partition("://")
    kind = "an address of Ray Client" if scheme == "ray" else f"a URL ({scheme})"
    host = place.rpartition(":")[0] or place or "HOST"
    return (
        f"--ray {address}: {kind} is not supported, since the command is a node of the cluster "
        f"itself; join it from this machine with `ray start --address {host}:6379`, the address "
        f"that `ray start --head` printed, and give {host}:6379, or `auto`"
    )


def explain_refusal(address: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return (
            f"--ray {address}: the cluster has another version of Ray or Python than this command. "
            f"{text}. Install the cluster's versions here"
        )
    return (
        f"--ray {address}: there is no cluster ({text}); start one with `ray start --head`, "
        "join it from this machine with `ray start --address HOST:6379`, and give that address, or "
        "`auto`"
    )
