"""Jobs: what a node of the cluster does for a search. Each opens the search, and returns plain
values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, TypeVar

from attar.pipeline.core.errors import AttarError, StageError, StoreError
from attar.pipeline.core.names import place_of
from attar.pipeline.keys.deciders import list_code_names
from attar.pipeline.run import Record
from attar.pipeline.shared.remote_files import RemoteFiles
from attar.pipeline.team import Team, TeamError
from attar.recipes.workspace import Workspace
from attar.search.cluster.logs import keep_log, write_line
from attar.search.cluster.orders import (
    Delivery,
    FoundRecipe,
    NodeCode,
    Order,
    deliver_error,
    strip_record,
)
from attar.search.recipe_search import RecipeSearch
from attar.search.runner import walk_winner
from attar.search.speeds import Show, Timing, make_shared, time_variants
from attar.search.store_failures import find_store_failure
from attar.search.trial import (
    STUDENT,
    StudentTraining,
    TrialOutcome,
    TrialPlan,
    measure_engines,
    train_student,
)

T = TypeVar("T")


def run_job(order: Order, job: str, work: Callable[[RecipeSearch, Show], T]) -> Delivery[T]:
    """Do a job. What user code prints goes to the log."""
    records: list[Record] = []

    def show(record: Record) -> None:
        records.append(strip_record(record))
        write_line(f"{record.status:<7} {record.slot}  {record.error or record.reason}")

    try:
        with keep_log(RemoteFiles(order.url), order.get_log_path(job)), redirect_stdout(sys.stderr):
            return Delivery(records, work(order.open(), show))
    except TeamError as error:
        kind = StageError if find_store_failure(error) is None else StoreError
        return deliver_error(records, kind(str(error)))
    except AttarError as error:
        return deliver_error(records, error)


def follow_leader(order: Order, job: str, member: Team) -> Delivery[None]:
    """Join the first process of a team in the trainings of its job."""
    files, path = RemoteFiles(order.url), order.get_log_path(job, member.rank)
    try:
        with keep_log(files, path), redirect_stdout(sys.stderr):
            member.follow_leader()
    except TeamError as error:
        return deliver_error((), StageError(str(error)))
    return Delivery(())


def check_node(order: Order) -> Delivery[NodeCode]:
    """Return the code and the libraries of this node, if it has the same attar, sees the same store
    and can open the recipe."""
    try:
        code = describe_code(order.open().open([]))
        if RemoteFiles(order.url).read(order.probe_path) is None:
            raise StoreError(
                f"this node sees another store at {order.url}, without what the command has just "
                "written there; choose a place that all nodes share"
            )
    except AttarError as error:
        return deliver_error((), error)
    return Delivery((), code)


def describe_code(workspace: Workspace) -> NodeCode:
    """Return what this machine has of the code and the libraries of each slot."""
    pipeline, code = workspace.recipe.pipeline, workspace.run.code
    found: dict[str, dict[str, Any]] = {}
    for slot, bound in pipeline.slots.items():
        own = code.of(
            [place_of(type(bound.stage)), *list_code_names(bound.stage)],
            artifacts={place_of(kind) for kind in bound.wanted().values()},
        )
        found[slot] = {"code": own.digest, "libraries": dict(own.packages)}
    trained = pipeline.up_to({STUDENT})
    behind = {slot: each for slot, each in found.items() if slot not in trained}
    return NodeCode({slot: found[slot] for slot in trained}, behind)


def do_shared(order: Order, job: str) -> Delivery[None]:
    """Make what all variants have in common."""
    return run_job(order, job, make_shared)


def do_timing(order: Order, job: str) -> Delivery[Timing]:
    return run_job(order, job, time_variants)


def do_training(order: Order, job: str, plan: TrialPlan) -> Delivery[StudentTraining]:
    return run_job(order, job, lambda search, show: train_student(search, plan, show))


def do_measuring(
    order: Order, job: str, plan: TrialPlan, training: StudentTraining
) -> Delivery[TrialOutcome]:
    def work(search: RecipeSearch, show: Show) -> TrialOutcome:
        return measure_engines(search, plan.variant, training, show)

    return run_job(order, job, work)


def do_winner(order: Order, job: str, found: FoundRecipe) -> Delivery[list[Record]]:
    def work(search: RecipeSearch, show: Show) -> list[Record]:
        walked = walk_winner(search, found.write(), show, found.name)
        return [strip_record(record) for record in walked]

    return run_job(order, job, work)
