"""Which nodes cost an int8 graph most of its correlation, each quantized alone."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from attar.engines.graphs.int8 import QuantizationSpec, Ranges, quantize_graph
from attar.models.task import Task
from attar.pipeline.core.progress import report_progress
from attar.stages.optimize.fidelity import correlate_outputs, read_known, run_graph

SAMPLES = 128  # of validation
EVALUATIONS = 64  # graphs that are written and run
WORST = 8  # nodes that are looked for


def measure_sensitivity(
    source: Path, ranges: Ranges, form: QuantizationSpec, task: Task
) -> dict[str, float]:
    """Return the loss of correlation of the costliest nodes, the largest first.

    It is 1 minus the correlation with the float graph when only that node is in int8.
    """
    exact, known = run_graph(source, task, SAMPLES), read_known(task, SAMPLES)
    names = [node.name for node in quantize_graph(source, ranges, form).inside]
    done = 0

    def cost(group: Sequence[str]) -> float:
        nonlocal done
        done += 1
        report_progress(
            "sensitivity", done, EVALUATIONS, f"{len(group)} of {len(names)} nodes in int8"
        )
        inside = set(group)
        others = dict.fromkeys((name for name in names if name not in inside), "not looked at")
        alone = quantize_graph(source, ranges, replace(form, exclude={**form.exclude, **others}))
        got = run_graph(alone.model.SerializeToString(), task, SAMPLES)
        return 1 - correlate_outputs(task, exact, got, known)

    return find_costliest(names, cost, EVALUATIONS, WORST)


def find_costliest(
    names: Sequence[str], cost: Callable[[Sequence[str]], float], evaluations: int, count: int
) -> dict[str, float]:
    """Return at most ``count`` of the costliest names, with the cost of each alone.

    ``cost`` is called for groups, at most ``evaluations`` times. The costliest group is halved
    until it is one name: some names of n are found with 2 log2(n) calls each, and none is wasted on
    what costs nothing. A group is taken to cost as much as the costliest name in it, or more.
    """
    groups = [(-cost(names), 0, list(names))] if names else []
    asked, found = 1, dict[str, float]()
    while groups and len(found) < count:
        least, start, group = heapq.heappop(groups)
        if len(group) == 1:
            found[group[0]] = round(-least, 6)
            continue
        if asked + 2 > evaluations:
            break
        asked += 2
        middle = len(group) // 2
        for first, part in ((start, group[:middle]), (start + middle, group[middle:])):
            heapq.heappush(groups, (-cost(part), first, part))
    return dict(sorted(found.items(), key=lambda each: -each[1]))
