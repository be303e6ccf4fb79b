"""The report for people: one HTML file that holds everything it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.proof.gate_text import format_remedy
from attar.proof.report import gate_formatting, words
from attar.proof.report.candidates import Candidate, candidates, tried
from attar.proof.report.forest import place_mark
from attar.proof.report.origin import origin
from attar.proof.report.production import Compared, production
from attar.proof.report.record import Record, outcome, why
from attar.proof.report.start import started
from attar.proof.report.target import Target, against, bounds, measured, number, targets

if TYPE_CHECKING:
    from attar.proof.report.figures.style import Panel

TEMPLATES = Path(__file__).parent / "templates"


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
    candidates: Sequence[Candidate]
    front: Sequence[Panel]
    production: Sequence[Compared]
    ledger: Sequence[Panel]
    answers: Sequence[Panel]
    unread: str | None
    """Why the per-sample outputs could not be drawn."""
    speed: Sequence[Panel]


def html(records: Sequence[Record], recipe_name: str) -> str:
    """A self-contained page: no script, no request, the same text for the same records.

    Needs the ``train`` extra (jinja2, matplotlib). Reads ``hops.safetensors`` of every target's evidence.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {name: getattr(words, name) for name in ("clean", "count", "key", "micro", "score")}
    )
    environment.filters.update(
        {
            name: getattr(words, name)
            for name in ("seconds", "sentence", "size", "small", "span", "times")
        }
    )
    environment.tests["measured"] = measured
    environment.filters.update(outcome=outcome, why=why)
    environment.globals.update(number=number, bounds=bounds, say=gate_formatting, tried=tried)
    environment.globals.update(place_mark=place_mark, format_remedy=format_remedy)
    return environment.get_template("report.html").render(page(records, recipe_name))


def page(records: Sequence[Record], recipe_name: str) -> dict[str, Any]:
    """What the template shows."""
    from attar.proof.report.figures import training

    found = targets(records)
    score_name = next((target.score_name for target in found if target.evidence), "score")
    return {
        "recipe": words.clean(recipe_name),
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "chapters": [chapter(target) for target in found],
        "failures": [record for record in records if outcome(record) == "failed"],
        "training": training.panels(records, score_name),
        "origin": origin(found, records),
        "records": records,
        "started": started(records),
        "longest": max((record.seconds for record in records), default=0.0),
        "total": sum(record.seconds for record in records if record.status == "made"),
        **provenance(records),
    }


def provenance(records: Sequence[Record]) -> dict[str, Any]:
    """When, where and with what: the newest date, and the machine that measured, or else the one that made the newest."""
    made = sorted(
        (record.made for record in records if record.made), key=lambda one: str(one.get("date", ""))
    )
    newest: Mapping[str, Any] = made[-1] if made else {}
    measuring = [
        target.evidence["machine"] for target in targets(records) if target.evidence.get("machine")
    ]
    machine = measuring[0] if measuring else newest.get("machine") or {}
    return {
        "date": moment(str(newest.get("date", ""))),
        "version": newest.get("attar"),
        "machine": {
            name: spoken(value) for name, value in machine.items() if name != "flags" and value
        },
    }


def moment(date: str) -> str:
    """``2025-03-01T12:34:56+00:00`` -> ``2025-03-01 12:34 UTC``."""
    zone = " UTC" if date.endswith(("+00:00", "Z")) else ""
    return date[:16].replace("T", " ") + zone


def spoken(value: Any) -> str:
    """One line for a fact about a machine, which may be a list of CPU flags."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {spoken(item)}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def chapter(target: Target) -> Chapter:
    from attar.proof.report.figures import front, ledger, speed

    drawn, unread = answers(target)
    return Chapter(
        target=target,
        tiles=tiles(target),
        candidates=candidates(target),
        front=front.panels(target),
        production=production(target),
        ledger=ledger.panels(target),
        answers=drawn,
        unread=unread,
        speed=speed.panels(target),
    )


def answers(target: Target) -> tuple[Sequence[Panel], str | None]:
    """The figures of the per-sample outputs. Where those are gone or damaged, the rest of the report still stands."""
    from safetensors import SafetensorError

    from attar.proof.report.figures import answers as figures

    try:
        return figures.panels(target), None
    except (OSError, SafetensorError) as error:
        return (
            (),
            f"The per-sample outputs of {target.name}.evidence cannot be read: {error}. Run the recipe again to measure anew.",
        )


def tiles(target: Target) -> list[Tile]:
    """The last measured hop in a few numbers."""
    last, teacher = target.last, target.hop("teacher")
    if not last:
        return []
    made = [
        score_tile(target),
        alike_tile(target, "CORR", "correlation"),
        alike_tile(target, "cosine", "cosine"),
        alike_tile(target, "agreement", "agreement"),
        speed_tile(target),
        ratio_tile("size", words.size, number(teacher, "bytes"), number(last, "bytes"), "smaller"),
        ratio_tile(
            "parameters",
            words.count,
            number(teacher, "parameters"),
            number(target.hop("student"), "parameters"),
            "fewer",
        ),
    ]
    return [tile for tile in made if tile.value != words.DASH]


def score_tile(target: Target) -> Tile:
    last = target.last
    drop = words.bracketed(
        against(last, "teacher", "score_drop"), bounds(last, "teacher", "score_drop")
    )
    note = f"teacher {words.score(number(target.hop('teacher'), 'score'))}, drop {drop}"
    verdict = target.find_verdict(last["hop"], "score_drop", "teacher") or target.find_verdict(
        last["hop"], "score", "absolute"
    )
    return Tile(target.score_name, words.score(number(last, "score")), note, verdict)


def alike_tile(target: Target, name: str, promised: str) -> Tile:
    limit, last = target.find_limit(promised), target.last
    note = "with the teacher" if limit is None else f"promised at least {words.limit(limit)}"
    between = words.span(bounds(last, "teacher", promised))
    said = f"{between}, {note}" if between else note
    return Tile(
        name,
        words.score(against(last, "teacher", promised)),
        said,
        target.find_verdict(last["hop"], promised, "teacher"),
    )


def speed_tile(target: Target) -> Tile:
    """The reference is the teacher in the same runtime, so it is the fair yardstick and comes first."""
    speed = target.evidence["speedup"]
    value, eager = number(speed, "reference"), number(speed, "teacher")
    between = words.span(speed["bounds"]["reference"], words.times) if value else ""
    note = " ".join(filter(None, [between, "over the reference"]))
    note += f", {words.times(eager)} over the teacher in PyTorch eager" if eager else ""
    return Tile(
        "speedup", words.times(value), note, target.find_verdict("engine", "speedup", "reference")
    )


def ratio_tile(name: str, said: Any, before: float | None, after: float | None, word: str) -> Tile:
    """``word`` is said of a smaller number; where it is not smaller, the teacher's is given instead."""
    if not before or not after:
        return Tile(name, said(after), "")
    note = (
        f"{words.times(before / after)} {word} than the teacher"
        if before >= after
        else f"teacher {said(before)}"
    )
    return Tile(name, said(after), note)
