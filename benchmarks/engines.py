"""attar's pick against what else makes a fast engine of the same student on this CPU: one run,
interleaved, one thread.

``python -m benchmarks.engines`` makes the student of ``demo`` where the store does not have it,
installs every peer into an environment of its own, and builds each engine from the same ONNX file
with the same calibration samples. ``--recipe`` takes another student, such as those of a usual size
in ``benchmarks/recipes``. Every engine is held open by a process of its own; in each round all are
timed one after the other, in an order that changes. attar's picks are made before, on validation,
one for each batch size, as ``optimize_for = [1, 32]`` makes them: the fastest of its candidates at
that size whose CORR with the teacher is at most 0.002 below the float student's. What cannot be had
on a machine stays in the table with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from attar.models import views
from attar.models.task import SplitName, Task, load_task
from attar.pipeline.keys import machine
from attar.pipeline.store.store import Store
from attar.proof.comparison.timing import read_load_average
from attar.proof.estimates import statistics
from attar.recipes.workspace import open_workspace
from attar.stages.artifacts import Answers
from attar.stages.slots import SLOTS
from benchmarks.engines_figure import draw_figure
from benchmarks.engines_report import LOST, judge_goals, render_table
from benchmarks.peers.contenders import BATCHES, CANDIDATES, FLOAT, PEERS, Given
from benchmarks.peers.environments import (
    NNCF,
    OLIVE,
    OURS,
    STOCK,
    Environment,
    UnavailableError,
    read_versions,
)
from benchmarks.peers.field import ContenderRow, Field, open_contenders

NEEDED = ("student", "onnx", "answers")
"""The slots that engines are built from."""


def prepare_files(chosen: argparse.Namespace) -> tuple[Given, Task, Answers]:
    """Return the student and its teacher's answers from the store, after everything that the
    contenders read is written as files."""
    opened = open_workspace(chosen.recipe, SLOTS, Store(chosen.store), chosen.set)
    records = list(opened.run.walk(opened.recipe.pipeline.up_to(set(NEEDED))))
    slots = {record.slot: record for record in records if record.path is not None}
    for slot in NEEDED:
        if slot not in slots:
            reasons = [f"{each.slot}: {each.error}" for each in records if each.error]
            sys.exit(f"{chosen.recipe} has no {slot}; {'; '.join(reasons)}")
    given = Given(chosen.work.resolve(), chosen.samples, chosen.environments)
    given.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {
        slot: {"root": str(Path(str(record.path)).resolve()), "facts": record.facts}
        for slot, record in slots.items()
    }
    given.slots.write_text(json.dumps({slot: found[slot] for slot in NEEDED}))
    given.weights.write_text(json.dumps(found["student"]))
    shutil.copyfile(Path(found["onnx"]["root"]) / "model.onnx", given.student)
    task = load_task(found["onnx"]["facts"]["task"])
    write_inputs(task, given)
    return given, task, Answers("", "", Path(found["answers"]["root"]), found["answers"]["facts"])


def write_inputs(task: Task, given: Given) -> None:
    parts = {
        "calibration": list(
            views.iterate_spread(task, task.split("train"), given.samples, given.samples)
        )
    }
    splits: tuple[SplitName, ...] = ("validation", "test")
    for split in splits:
        parts[split] = list(views.iterate_clean(task, task.split(split)))
    joined = {
        name: {n: np.concatenate([p.inputs[n] for p in part]) for n in task.inputs}
        for name, part in parts.items()
    }
    for batch in BATCHES:
        joined[str(batch)] = {name: array[:batch] for name, array in joined["test"].items()}
    for name, arrays in joined.items():
        np.savez(given.find_inputs(name), **arrays)  # type: ignore[arg-type]  # numpy's stub takes the arrays for its flag


def pick_candidates(field: Field, rounds: int) -> dict[int, ContenderRow]:
    """Return attar's picks by batch size, chosen of its candidates on validation alone."""
    names = [each.name for each in CANDIDATES]
    field.answer_split([*names, FLOAT], "validation")
    names = [name for name in names if field.rows[name].answers]
    floor = field.compute_correlation(field.rows[FLOAT], "validation").value - LOST
    able = [
        name
        for name in names
        if field.compute_correlation(field.rows[name], "validation").value >= floor
    ]
    if not able:
        sys.exit("none of attar's candidates can be had here, or all lose too much")
    for batch in BATCHES:
        field.time_engines(able, batch, rounds)
    rows = [field.rows[name] for name in able]
    return {batch: min(rows, key=lambda row: row.compute_median(batch)) for batch in BATCHES}


def measure_engines(chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure everything, print the table and what became of the goals, and return what a program
    would want to know."""
    given, task, answers = prepare_files(chosen)
    loads = [read_load_average()]
    with ExitStack() as stack:
        rows, workers = open_contenders([*CANDIDATES, *PEERS], given, chosen.core, stack)
        field = Field(task, answers, given, chosen.core, chosen.slice, rows, workers)
        picked = pick_candidates(field, chosen.rounds)
        field.answer_split(list(rows), "test")
        for batch in BATCHES:
            field.time_engines(list(rows), batch, chosen.rounds)
            loads.append(read_load_average())
    found = {name: list_versions(environment, given) for name, environment in ENVIRONMENTS.items()}
    said = judge_goals(field, picked)
    print(
        f"{datetime.now(UTC):%d %B %Y}, {machine.describe_machine()['cpu']}, "
        f"{machine.describe_machine()['system']}, core {chosen.core}, one"
    )
    print(
        f"thread; {chosen.rounds} rounds; load average "
        f"{', '.join(f'{load:.1f}' for load in loads)}\n"
    )
    print(render_table(field, picked), "", *(f"- {goal}" for goal in said), "", sep="\n")
    print(
        *(
            f"- {name}: {', '.join(f'{k} {v}' for k, v in each.items())}"
            for name, each in found.items()
        ),
        sep="\n",
    )
    if chosen.figure:
        shown = {
            row.name: (row.seconds, field.compute_correlation(row, "test").value)
            for row in rows.values()
            if row.seconds
        }
        draw_figure(chosen.figure, shown, {batch: row.name for batch, row in picked.items()})
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine.describe_machine(),
        "core": chosen.core,
        "load_average": loads,
        "rounds": chosen.rounds,
        "samples": given.samples,
        "versions": found,
        "picks": {str(batch): row.name for batch, row in picked.items()},
        "goals": said,
        "engines": {row.name: describe_engine(field, row) for row in rows.values()},
    }


ENVIRONMENTS = {"attar": OURS, "Olive": OLIVE, "ONNX Runtime": STOCK, "NNCF and OpenVINO": NNCF}


def list_versions(environment: Environment, given: Given) -> Mapping[str, str]:
    try:
        return read_versions(environment, given.cache)
    except UnavailableError as error:
        return {"not installed": str(error)}


def describe_engine(field: Field, row: ContenderRow) -> dict[str, Any]:
    if not row.seconds or row.built is None:
        return {"status": "not run here", "why": row.why}
    return {
        "seconds": {str(batch): taken.tolist() for batch, taken in row.seconds.items()},
        "accuracy": field.compute_score(row),
        "correlation": field.compute_correlation(row, "test").value,
        "bytes": row.built.size,
        "build": asdict(row.built.cost) if row.built.cost else None,
    }


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="demo")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path(".attar"),
        help="where the recipe's student is, or will be",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SLOT.FIELD=VALUE",
        help="as `attar run` takes it",
    )
    parser.add_argument(
        "--work", type=Path, default=Path(".benchmarks/engines"), help="where engines are built"
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=Path(".benchmarks/peers"),
        help="where the peers are installed",
    )
    parser.add_argument("--samples", type=int, default=512, help="of calibration")
    parser.add_argument(
        "--rounds", type=int, default=200, help=f"at least {statistics.count_fewest_values()}"
    )
    parser.add_argument(
        "--slice",
        type=float,
        default=0.02,
        help="seconds of one engine in one round, half of them to warm up",
    )
    parser.add_argument(
        "--core",
        type=int,
        default=max(os.sched_getaffinity(0)),
        help="the CPU that all engines run on",
    )
    parser.add_argument("--figure", type=Path, help="where to draw latency against CORR, as SVG")
    parser.add_argument("--json", type=Path, help="where to write all that was measured")
    chosen = parser.parse_args()
    if chosen.rounds < statistics.count_fewest_values():
        parser.error(
            f"--rounds {chosen.rounds} are too few to bound a median; give "
            f"{statistics.count_fewest_values()} or more"
        )
    return chosen


def main() -> None:
    chosen = read_arguments()
    found = measure_engines(chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
