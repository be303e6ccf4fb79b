"""What a cluster must have, and what is said of one that has not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from attar.pipeline.core.errors import MissingDependencyError, RecipeError
from attar.pipeline.recipe.search_space import ClusterResources
from attar.search.cluster.orders import Node
from attar.search.cluster.ray_cluster import check_address, find_timers, find_trainers, import_ray, join_cluster

SMALL = Node("a", "small", {"CPU": 2.0, "memory": 1e9, "node:10.0.0.1": 1.0})
LARGE = Node("b", "large", {"CPU": 16.0, "GPU": 1.0, "xeon": 1.0})


def test_nodes_that_are_large_enough_get_trainings() -> None:
    assert find_trainers([SMALL, LARGE], ClusterResources(num_cpus=2)) == [SMALL, LARGE]
    assert find_trainers([SMALL, LARGE], ClusterResources(num_gpus=1)) == [LARGE]


def test_a_training_that_fits_on_no_node_names_their_sizes() -> None:
    with pytest.raises(RecipeError, match=r"large \(16 CPUs, 1 GPUs\)"):
        find_trainers([SMALL, LARGE], ClusterResources(num_cpus=17))


def test_timings_are_taken_where_the_target_s_resource_is() -> None:
    assert find_timers([SMALL, LARGE], ClusterResources(target="xeon")) == [LARGE]


def test_a_resource_that_no_node_has_names_those_that_there_are() -> None:
    with pytest.raises(RecipeError, match=r"has xeon$"):
        find_timers([SMALL, LARGE], ClusterResources(target="xenon"))


def test_nodes_of_one_target_are_alike() -> None:
    other = Node("c", "other", {"CPU": 8.0, "xeon": 1.0})
    with pytest.raises(RecipeError, match="nodes differ"):
        find_timers([LARGE, other], ClusterResources(target="xeon"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("Version mismatch: The cluster was started with:\n    Ray: 9.9\n    Python: 3.11.7", "another version .* Ray: 9.9"),
        ("Could not find any running Ray instance.", "no cluster .* running Ray instance"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named(words: str, named: str, tmp_path: Path) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError(words)

    ray = ModuleType("ray")
    ray.init = init  # type: ignore[attr-defined]  # a stand-in for the library
    with pytest.raises(RecipeError, match=named), join_cluster(ray, "auto", ClusterResources(target="x"), tmp_path):
        pass


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("6379", "HOST:PORT"),
        ("ray://10.0.0.1:10001", "Ray Client is not supported.* give 10.0.0.1:6379, or `auto`"),
        ("ray://head", "give head:6379"),
        ("http://head:8265", r"URL \(http\) is not supported"),
        ("127.0.0.1:1", "no cluster"),
        ("127.0.0.1:99999", "no cluster"),
    ],
)
def test_an_address_that_leads_to_no_cluster_is_named_at_once(address: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        check_address(address)


def test_ray_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"attar\[cluster\]"):
        import_ray()
