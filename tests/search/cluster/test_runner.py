"""The jobs of a search on a cluster, run by a stand-in for Ray that calls them in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import (
    AttarError,
    CorruptArtifactError,
    MissingDependencyError,
    RecipeError,
    StageError,
    StoreError,
    UnfitSettingsError,
)
from attar.pipeline.recipe.search_space import SearchSpace
from attar.pipeline.shared.record_trust import RecordTrust
from attar.pipeline.shared.store import SharedStore
from attar.pipeline.store.store import Store
from attar.pipeline.team import TeamError
from attar.search.cluster import jobs
from attar.search.cluster.head import ClusterLostError
from attar.search.cluster.orders import Delivery, Node, NodeCode, Order, check_delivery, deliver_error
from attar.search.cluster.runner import ClusterRunner, check_store
from attar.search.recipe_search import RecipeSearch
from attar.search.stopping import StoppingRule
from attar.search.trial import StudentTraining, TrialOutcome, TrialPlan
from attar.search.variant import Variant
from tests.support.bundles.signing_parts import pair
from tests.support.projects import tiny

SPACE = SearchSpace(dimensions={"student.options.width": (2, 8, 16)})
PLANS = [TrialPlan(Variant(number, {"student.options.width": number}), StoppingRule()) for number in (1, 2, 3)]
OUTCOME = TrialOutcome({1: 0.5}, teacher_score=0.9)


@dataclass
class StandIn:
    """In the place of a `RayCluster`: a job is what was asked for, and its end is prescribed."""

    ends: dict[tuple[Callable[..., Any], str], Any]
    started: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    trainers: Sequence[Node] = ()
    timers: Sequence[Node] = ()

    def start(self, work: Callable[..., Any], order: Order, job: str, *_: Any) -> Any:
        self.started.append(f"{work.__name__} {job}")
        return self.ends[work, job]

    start_training = start_timing = start

    def start_on(self, node: Node, work: Callable[..., Any], order: Order) -> Any:
        return self.ends[work, node.host]

    def release_team(self, name: str) -> None:
        self.released.append(name)

    def wait(self, end: Any) -> Any:
        if isinstance(end, Exception):
            raise end
        return end


def create_runner(folder: Path, cluster: StandIn) -> ClusterRunner:
    store = SharedStore(folder / "cache", (folder / "bucket").as_uri())
    order = Order("token", "recipe.toml", "recipe", store.remote.url, SPACE, "cpu", (), "auto")
    return ClusterRunner(cluster, order, store)  # type: ignore[arg-type]  # a stand-in


def test_trials_end_in_the_order_of_the_plans_and_what_was_stopped_is_not_measured(tmp_path: Path) -> None:
    whole, stopped = StudentTraining({1: 0.5}, stopped=False), StudentTraining({1: 0.2}, stopped=True)
    cluster = StandIn(
        {
            (jobs.do_training, "v1"): Delivery((), whole),
            (jobs.do_training, "v2"): Delivery((), stopped),
            (jobs.do_training, "v3"): StageError("WorkerCrashedError: gone"),
            (jobs.do_measuring, "v1-engines"): Delivery((), OUTCOME),
        }
    )
    runner = create_runner(tmp_path, cluster)
    runner.store.remote.write(runner.order.get_log_path("v3"), b"epoch 1\nout of memory\n")
    search = RecipeSearch("recipe.toml", runner.store, SPACE, "cpu")
    first, second, third = runner.run_trials(search, PLANS, lambda _: None)
    assert (first, second) == (OUTCOME, TrialOutcome({1: 0.2}))
    assert isinstance(third, StageError)
    assert str(third) == "width 3: WorkerCrashedError: gone; the end of its log:\nepoch 1\nout of memory"
    assert cluster.started == ["do_training v1", "do_training v2", "do_training v3", "do_measuring v1-engines"]
    assert cluster.released == ["token-v3"]
    runner.clean_up()
    assert runner.store.remote.list("cluster") == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnfitSettingsError("no such file"), RecipeError),
        (CorruptArtifactError("no such file"), StoreError),
        (MissingDependencyError("no such file"), StageError),
    ],
)
def test_what_kind_of_error_ended_a_job_stays_the_same_across_the_wire(error: AttarError, kind: type[AttarError]) -> None:
    with pytest.raises(kind, match="no such file") as caught:
        check_delivery(deliver_error((), error))
    assert type(caught.value) is kind


def test_a_store_that_fails_on_a_node_ends_the_search(tmp_path: Path) -> None:
    delivered: Delivery[StudentTraining] = deliver_error((), StoreError("no answer"))
    runner = create_runner(tmp_path, StandIn({(jobs.do_training, "v1"): delivered}))
    search = RecipeSearch("recipe.toml", runner.store, SPACE, "cpu")
    with pytest.raises(StoreError, match="no answer"):
        runner.run_trials(search, PLANS[:1], lambda _: None)


def test_a_team_that_lost_the_store_says_so(tmp_path: Path) -> None:
    def lose(*_: object) -> None:
        raise TeamError("process 0: no answer") from StoreError("no answer")

    delivered = jobs.run_job(create_runner(tmp_path, StandIn({})).order, "v1", lose)
    assert (delivered.error, delivered.kind) == ("process 0: no answer", StoreError)


def test_a_store_that_other_machines_do_not_see_is_refused(tmp_path: Path) -> None:
    search = RecipeSearch("recipe.toml", Store(tmp_path / "store"), SPACE, "cpu")
    with pytest.raises(RecipeError, match=r"file:///FOLDER"):
        check_store(search)


def test_keys_of_a_shared_store_are_refused_since_nodes_have_none(tmp_path: Path) -> None:
    key = pair(tmp_path)
    store = SharedStore(tmp_path / "cache", (tmp_path / "bucket").as_uri(), RecordTrust.read(key.public, None))
    with pytest.raises(RecipeError, match="neither sign"):
        check_store(RecipeSearch("recipe.toml", store, SPACE, "cpu"))


def test_a_node_of_another_version_of_attar_does_nothing(tmp_path: Path) -> None:
    order = create_runner(tmp_path, StandIn({})).order
    answer = jobs.check_node(replace(order, version="0.0.1"))
    assert answer.kind is RecipeError
    assert "0.0.1" in str(answer.error)


@pytest.mark.parametrize(
    ("error", "named"),
    [(StageError("it died"), "node first: "), (StoreError("no answer"), "node first: "), (ClusterLostError("gone"), "")],
)
def test_a_head_that_is_gone_is_no_failure_of_a_node(tmp_path: Path, error: AttarError, named: str) -> None:
    node = Node("first", "first", {"CPU": 2})
    runner = create_runner(tmp_path, StandIn({(jobs.check_node, "first"): error}, trainers=[node], timers=[node]))
    with pytest.raises(type(error)) as caught:
        runner.check_nodes()
    assert str(caught.value) == f"{named}{error}"


def with_version(code: NodeCode, slot: str, package: str) -> NodeCode:
    """Return the code of a node where a slot that reads this package finds another version of it."""
    part = "training" if slot in code.training else "measuring"
    slots = dict(getattr(code, part))
    assert package in slots[slot]["libraries"]
    slots[slot] = {**slots[slot], "libraries": {**slots[slot]["libraries"], package: "0.0.1"}}
    return replace(code, **{part: slots})


def test_nodes_whose_libraries_would_make_other_keys_are_refused_by_name(tmp_path: Path) -> None:
    first, second, trainer = (Node(host, host, {"CPU": 2}) for host in ("first", "second", "trainer"))
    cluster = StandIn({}, trainers=[trainer], timers=[first, second])
    runner = create_runner(tmp_path, cluster)
    tiny.write(tmp_path)
    runner.store.remote.write(runner.order.probe_path, b"")
    with tiny.project_folder(tmp_path):
        code = check_delivery(jobs.check_node(runner.order))
    assert code is not None
    other_torch, other_engine = with_version(code, "student", "torch"), with_version(code, "cpu.engine", "onnxruntime")

    def check(of_trainer: NodeCode, of_second: NodeCode) -> None:
        found = {"first": code, "second": of_second, "trainer": of_trainer}
        cluster.ends |= {(jobs.check_node, host): Delivery((), each) for host, each in found.items()}
        runner.check_nodes()

    check(of_trainer=other_engine, of_second=code)  # engines are built where timings are taken alone
    with pytest.raises(RecipeError, match=r"node trainer differs from node first.*student\.libraries\.torch: .* -> 0\.0\.1"):
        check(of_trainer=other_torch, of_second=code)
    with pytest.raises(RecipeError, match=r"node second differs from node first.*cpu\.engine\.libraries\.onnxruntime"):
        check(of_trainer=code, of_second=other_engine)
