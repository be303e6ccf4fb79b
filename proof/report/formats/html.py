"""The report for people: one HTML file that holds everything it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.proof.gate import SEVERITY, Comparison, Metric
from attar.proof.ledger.ledger import Hop
from attar.proof.report import formatting, gate_formatting
from attar.proof.report.candidates import describe_trials, format_reason
from attar.proof.report.distiller import describe_distiller
from attar.proof.report.forest import place_mark
from attar.proof.report.origin import find_origins
from attar.proof.report.production import NAMES, list_production_comparisons
from attar.proof.report.record import Record, describe_status, explain_status
from attar.proof.report.start import describe_start
from attar.proof.report.subsets import describe_subsets
from attar.proof.report.target import Target, group_targets
from attar.proof.verdicts.gate_text import format_remedy

if TYPE_CHECKING:
    from jinja2 import Environment

    from attar.proof.report.figures.style import Panel

TEMPLATES = Path(__file__).parent / "templates"
FILTERS: Mapping[str, Callable[..., str]] = {
    "clean": formatting.strip_controls,
    "count": formatting.format_count,
    "key": formatting.shorten_key,
    "micro": formatting.format_microseconds,
    "score": formatting.format_score,
    "seconds": formatting.format_seconds,
    "size": formatting.format_bytes,
    "small": formatting.format_small,
    "span": formatting.format_range,
    "outcome": describe_status,
    "reason": format_reason,
    "why": explain_status,
}
"""What the templates call the functions that format a value."""


@dataclass(frozen=True)
class Tile:
    """One number that the engine is known by."""

    name: str
    value: str
    note: str
    verdict: str = ""
    """Of the promise about it, where there is one."""


@dataclass(frozen=True)
class Chapter:
    """All that the page shows of one target."""

    target: Target
    tiles: Sequence[Tile]
    front: Sequence[Panel]
    production: Sequence[Comparison]
    subsets: Sequence[str]
    ledger: Sequence[Panel]
    answers: Sequence[Panel]
    unread: str | None
    """Why the per-sample outputs could not be drawn."""
    speed: Sequence[Panel]


def render_html(records: Sequence[Record], recipe_name: str) -> str:
    """Render a self-contained page: no script, no request, the same text for the same records.

    Needs the ``train`` extra (jinja2, matplotlib). Reads ``hops.safetensors`` of every evidence.
    """
    environment = make_environment()
    environment.globals.update(say=gate_formatting, describe_trials=describe_trials)
    environment.globals.update(place_mark=place_mark, format_remedy=format_remedy)
    environment.globals.update(production_names=NAMES)
    return environment.get_template("report.html").render(build_page(records, recipe_name))


def make_environment(*folders: Path) -> Environment:
    """Return what renders the templates of ``folders`` and of the report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def build_page(records: Sequence[Record], recipe_name: str) -> dict[str, Any]:
    """What the template shows."""
    from attar.proof.report.figures import training

    found = group_targets(records)
    score_name = next((target.score_name for target in found if target.ledger), "score")
    return {
        "recipe": formatting.strip_controls(recipe_name),
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "chapters": [build_chapter(target) for target in found],
        "failures": [record for record in records if describe_status(record) == "failed"],
        "training": training.draw_panels(records, score_name),
        "origins": find_origins(found, records),
        "records": records,
        "started": describe_start(records),
        "distiller": describe_distiller(records),
        "longest": max((record.seconds for record in records), default=0.0),
        "total": sum(record.seconds for record in records if record.status == "made"),
        **find_provenance(records),
    }


def find_provenance(records: Sequence[Record]) -> dict[str, Any]:
    """Return the newest date and version, and the machine that measured.

    Without a measurement it is the machine that made the newest artifact.
    """
    made = sorted(
        (record.made for record in records if record.made), key=lambda one: str(one.get("date", ""))
    )
    newest: Mapping[str, Any] = made[-1] if made else {}
    ledgers = [target.ledger for target in group_targets(records) if target.ledger]
    measuring = [ledger.machine for ledger in ledgers if ledger.machine]
    machine = measuring[0] if measuring else newest.get("machine") or {}
    return {
        "date": format_date(str(newest.get("date", ""))),
        "version": newest.get("attar"),
        "machine": {
            name: format_fact(value) for name, value in machine.items() if name != "flags" and value
        },
    }


def format_date(date: str) -> str:
    """``2025-03-01T12:34:56+00:00`` -> ``2025-03-01 12:34 UTC``."""
    zone = " UTC" if date.endswith(("+00:00", "Z")) else ""
    return date[:16].replace("T", " ") + zone


def format_fact(value: Any) -> str:
    """One line for a fact about a machine, which may be a list of CPU flags."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_fact(item)}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def build_chapter(target: Target) -> Chapter:
    from attar.proof.report.figures import front, ledger, speed

    drawn, unread = draw_answers(target)
    return Chapter(
        target=target,
        tiles=list_tiles(target),
        front=front.draw_panels(target),
        production=list_production_comparisons(target),
        subsets=describe_subsets(target),
        ledger=ledger.draw_panels(target),
        answers=drawn,
        unread=unread,
        speed=speed.draw_panels(target),
    )


def draw_answers(target: Target) -> tuple[Sequence[Panel], str | None]:
    """Draw the per-sample outputs.

    If they cannot be read, return why; the rest of the report is shown without them.
    """
    from safetensors import SafetensorError

    from attar.proof.report.figures import answers as figures

    try:
        return figures.draw_panels(target), None
    except (OSError, SafetensorError) as error:
        return (), (
            f"The per-sample outputs of {target.name}.evidence cannot be read: {error}. Run the "
            "recipe again to measure anew."
        )


def list_tiles(target: Target) -> list[Tile]:
    """Return the last hop that was run, in a few numbers."""
    last, teacher, student = target.last, target.find_hop("teacher"), target.find_hop("student")
    if last is None or teacher is None or student is None:
        return []
    tiles = [
        build_score_tile(target, teacher, last),
        build_similarity_tile(target, last, "CORR", "correlation"),
        build_similarity_tile(target, last, "cosine", "cosine"),
        build_similarity_tile(target, last, "agreement", "agreement"),
        build_speed_tile(target),
        build_ratio_tile(
            "size", formatting.format_bytes, teacher.size_bytes, last.size_bytes, "smaller"
        ),
        build_ratio_tile(
            "parameters", formatting.format_count, teacher.parameters, student.parameters, "fewer"
        ),
    ]
    return [tile for tile in tiles if tile.value != formatting.DASH]


def build_score_tile(target: Target, teacher: Hop, last: Hop) -> Tile:
    value, bounds = (
        last.get_value("teacher", "score_drop"),
        last.get_bounds("teacher", "score_drop"),
    )
    drop = formatting.format_bounded(value, bounds)
    note = f"teacher {formatting.format_score(teacher.get_score())}, drop {drop}"
    verdicts = [
        target.find_verdict(last.name, "score_drop", "teacher"),
        target.find_verdict(last.name, "score", "absolute"),
    ]
    severest = min(filter(None, verdicts), key=SEVERITY.index, default="")
    return Tile(target.score_name, formatting.format_score(last.get_score()), note, severest)


def build_similarity_tile(target: Target, last: Hop, name: str, metric: Metric) -> Tile:
    limit = target.find_limit(metric)
    note = (
        "with the teacher"
        if limit is None
        else f"promised at least {formatting.format_limit(limit)}"
    )
    bounds = formatting.format_range(last.get_bounds("teacher", metric))
    return Tile(
        name,
        formatting.format_score(last.get_value("teacher", metric)),
        f"{bounds}, {note}" if bounds else note,
        target.find_verdict(last.name, metric, "teacher"),
    )


def build_speed_tile(target: Target) -> Tile:
    """Compare with the reference, the teacher in the same runtime, and then with the teacher."""
    speedups = target.ledger.speedups if target.ledger else {}
    reference, teacher = speedups.get("reference"), speedups.get("teacher")
    bounds = gate_formatting.format_bounds(reference) if reference else ""
    batch = target.speed_batch
    size = f"at batch {batch}" if batch != 1 else ""
    note = " ".join(filter(None, [bounds, "over the reference", size]))
    if teacher:
        note += f", {gate_formatting.format_value(teacher)} over {target.timed_teacher}"
    value = gate_formatting.format_value(reference) if reference else formatting.DASH
    verdict = target.find_verdict("engine", "speedup", "reference")
    return Tile("speedup", value, note, verdict)


def build_ratio_tile(
    name: str, said: Any, before: float | None, after: float | None, word: str
) -> Tile:
    """Describe how much less than the teacher it is; if it is not less, the teacher's number."""
    if not before or not after:
        return Tile(name, said(after), "")
    note = (
        f"{formatting.format_ratio(before / after)} {word} than the teacher"
        if before >= after
        else f"teacher {said(before)}"
    )
    return Tile(name, said(after), note)
