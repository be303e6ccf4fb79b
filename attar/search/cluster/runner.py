"""The runner of a cluster: a batch is trained at once, and then measured where the target is."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.pipeline.core.errors import RecipeError, StageError, StoreError
from attar.pipeline.keys.deciders import list_changes
from attar.pipeline.recipe.recipe import make_recipe_id
from attar.pipeline.run import Record
from attar.pipeline.shared.notes import MESSAGES
from attar.pipeline.shared.store import NO_KEYS, SharedStore
from attar.search.cluster import jobs
from attar.search.cluster.logs import read_log_end
from attar.search.cluster.orders import FoundRecipe, NodeCode, Order, check_delivery
from attar.search.cluster.ray_cluster import RayCluster, Reference, import_ray, join_cluster
from attar.search.cluster.shipping import ship_recipe
from attar.search.recipe_search import RecipeSearch
from attar.search.speeds import Show, Timing
from attar.search.trial import StudentTraining, TrialEnd, TrialOutcome, TrialPlan


@dataclass(frozen=True)
class ClusterRunner:
    """Sends jobs to a cluster, and shows what they made when each has ended."""

    cluster: RayCluster
    order: Order
    store: SharedStore

    def check_nodes(self) -> None:
        """Raises RecipeError, StoreError or StageError if a node cannot do its part."""
        self.store.remote.write(self.order.probe_path, b"")
        usable = {node.id: node for node in self.cluster.trainers + self.cluster.timers}
        asked = [
            (node, self.cluster.start_on(node, jobs.check_node, self.order))
            for node in usable.values()
        ]
        found: dict[str, NodeCode] = {}
        for node, reference in asked:
            try:
                code: Any = check_delivery(self.cluster.wait(reference))
            except (RecipeError, StoreError, StageError) as error:
                raise type(error)(f"node {node.host}: {error}") from error
            found[node.id] = code
        self.check_code(found)

    def check_code(self, found: Mapping[str, NodeCode]) -> None:
        """Raises RecipeError if what one node makes has another key on the node where timings are
        taken, which would make it again. ``found`` is by the node's id."""
        timers = self.cluster.timers
        target = found[timers[0].id]
        for node in [*self.cluster.trainers, *timers]:
            own = found[node.id]
            changes = [*list_changes(target.training, own.training)]
            if node in timers:
                changes += list_changes(target.measuring, own.measuring)
            if changes:
                raise RecipeError(
                    f"node {node.host} differs from node {timers[0].host}, so that neither would "
                    f"find what the other made: {changes[0]}; install the same attar and the same "
                    "versions of libraries on both"
                )

    def time_variants(self, search: RecipeSearch, show: Show) -> Timing:
        shared = self.cluster.start_training(jobs.do_shared, self.order, "shared")
        self.finish("shared", shared, show)
        timing = self.cluster.start_timing(jobs.do_timing, self.order, "timing")
        timed: Timing = self.finish("timing", timing, show)
        return timed

    def run_trials(
        self, search: RecipeSearch, plans: Sequence[TrialPlan], show: Show
    ) -> list[TrialEnd]:
        """Train all of them, and measure those that were not stopped when no training is left."""
        started = [
            self.cluster.start_training(jobs.do_training, self.order, plan.variant.name, plan)
            for plan in plans
        ]
        trained = [
            self.end(plan, plan.variant.name, reference, show)
            for plan, reference in zip(plans, started, strict=True)
        ]
        measured = [
            self.start_measuring(plan, training)
            for plan, training in zip(plans, trained, strict=True)
        ]
        return [
            self.end_measuring(plan, step, show) for plan, step in zip(plans, measured, strict=True)
        ]

    def start_measuring(
        self, plan: TrialPlan, training: StudentTraining | StageError
    ) -> Reference | TrialEnd:
        if isinstance(training, StageError):
            return training
        if training.stopped:
            return TrialOutcome(training.scores)
        job = name_measuring(plan)
        return self.cluster.start_timing(jobs.do_measuring, self.order, job, plan, training)

    def end_measuring(self, plan: TrialPlan, step: Reference | TrialEnd, show: Show) -> TrialEnd:
        if isinstance(step, TrialOutcome | StageError):
            return step
        end: TrialEnd = self.end(plan, name_measuring(plan), step, show)
        return end

    def end(self, plan: TrialPlan, job: str, reference: Reference, show: Show) -> Any:
        """Return what a job of a trial found, or its failure. Raises StoreError if the store
        failed."""
        try:
            return self.finish(job, reference, show)
        except StageError as error:
            named = str(error).startswith(plan.variant.title)
            return error if named else StageError(f"{plan.variant.title}: {error}")

    def finish(self, job: str, reference: Reference, show: Show) -> Any:
        """Wait for a job, show its records and return its value. Raises StageError if it failed,
        with the end of its log if it died."""
        try:
            delivery = self.cluster.wait(reference)
        except StageError as error:
            self.cluster.release_team(self.order.get_team_name(job))
            log = self.read_logs(job)
            told = f"; the end of its log:\n{log}" if log else "; it left no log"
            raise StageError(f"{error}{told}") from error
        for record in delivery.records:
            show(self.place(record))
        return check_delivery(delivery)

    def read_logs(self, job: str) -> str:
        """Return the ends of the logs of a job's processes; empty if they left none."""
        ranks = range(self.order.space.resources.processes)
        paths = {rank: self.order.get_log_path(job, rank) for rank in ranks}
        ends = {rank: read_log_end(self.store.remote, path) for rank, path in paths.items()}
        found = {rank: end for rank, end in ends.items() if end}
        if set(found) == {0}:
            return found[0]
        return "\n".join(f"process {rank}:\n{end}" for rank, end in found.items())

    def place(self, record: Record) -> Record:
        """Return a record of another machine with the place of its artifact here."""
        return record if record.key is None else replace(record, path=self.store.folder(record.key))

    def run_winner(self, search: RecipeSearch, file: Path, show: Show) -> list[Record]:
        """Run the winner where the target is. Its files are fetched by the report."""
        found = FoundRecipe(file.name, make_recipe_id(file), file.read_text(encoding="utf-8"))
        job = self.cluster.start_timing(jobs.do_winner, self.order, "winner", found)
        return [self.place(record) for record in self.finish("winner", job, show)]

    def clean_up(self) -> None:
        """Delete what this command and its jobs told each other in the store."""
        own = [
            f"{MESSAGES}/{each.name}"
            for each in self.store.remote.list(MESSAGES)
            if each.name.startswith(self.order.token)
        ]
        self.store.remote.delete(own)


def name_measuring(plan: TrialPlan) -> str:
    """Return the name of the job that measures a variant after the one that trained it."""
    return f"{plan.variant.name}-engines"


@contextmanager
def open_cluster(search: RecipeSearch, address: str) -> Iterator[ClusterRunner]:
    """Join the cluster at ``address`` and check every node that may get a job.

    Raises RecipeError, StageError, MissingDependencyError before anything is trained.
    """
    store, ray = check_store(search), import_ray()
    if search.space.resources.target is None:
        raise RecipeError(
            'a search on a cluster needs [search.resources] target = "NAME": the Ray resource of '
            "the nodes that are like the target, where timings are taken"
        )
    with tempfile.TemporaryDirectory(prefix="attar-") as shipped:
        order = write_order(search, store, Path(shipped))
        with join_cluster(ray, address, search.space.resources, Path(shipped)) as cluster:
            runner = ClusterRunner(cluster, order, store)
            try:
                runner.check_nodes()
                yield runner
            finally:
                with contextlib.suppress(StoreError):  # `attar gc` deletes what is left
                    runner.clean_up()


def check_store(search: RecipeSearch) -> SharedStore:
    """Raises RecipeError for a store that other machines do not see."""
    if not isinstance(search.store, SharedStore):
        raise RecipeError(
            f"the store {search.store.root} is a folder of this machine, and nodes of a cluster "
            "share a store: --store s3://BUCKET/PREFIX, or file:///FOLDER for a folder that all of "
            "them see"
        )
    if search.store.trust != NO_KEYS:
        raise RecipeError(
            "nodes of a cluster neither sign what they make nor ask who signed it; leave "
            "--store-trusted and --store-key out, or search on one machine"
        )
    return search.store


def write_order(search: RecipeSearch, store: SharedStore, folder: Path) -> Order:
    workspace = search.open([])
    return Order(
        token=uuid.uuid4().hex[:12],
        recipe=ship_recipe(search, folder),
        name=workspace.recipe.name,
        url=store.remote.url,
        space=search.space,
        target=search.target,
        overrides=search.overrides,
        device=search.device,
    )
