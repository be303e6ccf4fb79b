"""Figures: ``python -m docs.figures`` draws those of the pages into ``docs/figures``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attar.proof.estimates.statistics import bound_paired_drop
from attar.stages.slots import SLOTS
from docs.drawing import draw_area, draw_arrow, draw_box, draw_dot, draw_line, draw_text, render_svg

FOLDER = Path(__file__).parent / "figures"

LIMIT = 0.02
CASES = (  # what is seen, samples lost, samples won, samples
    ("as many won as lost", 30, 30, 2_000),
    ("some lost, many samples", 260, 140, 10_000),
    ("as many won as lost, of few", 3, 3, 200),
    ("exactly at the limit", 30, 10, 1_000),
    ("more lost than promised", 60, 20, 1_000),
)
LEFT, RIGHT, TOP, ROW = 250.0, 630.0, 62.0, 40.0
LOWEST, HIGHEST = -0.03, 0.06


def judge_bounds(low: float, high: float) -> str:
    return "passed" if high <= LIMIT else "failed" if low > LIMIT else "undecided"


def place_drop(drop: float) -> float:
    return LEFT + (RIGHT - LEFT) * (drop - LOWEST) / (HIGHEST - LOWEST)


def draw_gates() -> str:
    """Draw score drops with their real bounds against one promise."""
    bottom, limit = TOP + ROW * len(CASES), place_drop(LIMIT)
    parts = [
        draw_area(LEFT, TOP - 16, limit - LEFT, bottom - TOP + 10, "passed"),
        draw_area(limit, TOP - 16, RIGHT - limit, bottom - TOP + 10, "failed"),
        draw_text((LEFT + limit) / 2, TOP - 26, "inside the promise", "passed", bold=True),
        draw_text((limit + RIGHT) / 2, TOP - 26, "outside", "failed", bold=True),
        draw_line([(limit, TOP - 40), (limit, bottom + 6)], "ink", dashed=True),
    ]
    parts += [
        part for row, case in enumerate(CASES) for part in draw_interval(TOP + 8 + ROW * row, *case)
    ]
    ticks = (-0.02, 0.0, 0.02, 0.04)
    parts += [
        draw_text(place_drop(tick), bottom + 20, f"{tick:g}".replace("-", "−"), "muted", size=12)
        for tick in ticks
    ]
    parts.append(
        draw_text(
            (LEFT + RIGHT) / 2,
            bottom + 42,
            "score drop against the teacher; promised: at most 0.02",
            "muted",
        )
    )
    return render_svg(760, bottom + 56, parts)


def draw_interval(y: float, seen: str, lost: int, won: int, samples: int) -> Iterator[str]:
    low, high = bound_paired_drop(lost, won, samples)
    tone = judge_bounds(low, high)
    yield draw_text(LEFT - 14, y - 2, seen, anchor="end")
    yield draw_text(
        LEFT - 14, y + 14, f"{lost} lost, {won} won of {samples:,}", "muted", "end", size=11.5
    )
    yield draw_line([(place_drop(low), y), (place_drop(high), y)], tone, 3)
    yield from (
        draw_line([(place_drop(bound), y - 6), (place_drop(bound), y + 6)], tone, 3)
        for bound in (low, high)
    )
    yield draw_dot(place_drop((lost - won) / samples), y, tone)
    yield draw_text(RIGHT + 14, y + 4.5, tone, tone, "start", bold=True)


def draw_distiller() -> str:
    """Draw who reads what while a student learns with a distiller, and what is left when it is
    exported."""
    parts = [*draw_exported(), *draw_dropped(), *draw_losses()]
    return render_svg(760, 580, parts)


def draw_exported() -> list[str]:
    """Draw what answers after the export: the student alone."""
    return [
        draw_area(14, 36, 732, 112, "student"),
        draw_text(26, 28, "exported: the student alone", "student", "start", bold=True),
        draw_box(30, 62, 100, 60, ["inputs", "one view"]),
        draw_box(200, 62, 150, 60, ["trunk", "of the student"], "student"),
        draw_box(440, 62, 130, 60, ["last layer", "of the student"], "student"),
        draw_box(640, 62, 90, 60, ["s", "its logits"], "student"),
        draw_arrow((130, 92), (200, 92)),
        draw_arrow((350, 92), (440, 92)),
        draw_text(395, 84, "f", "ink", bold=True),
        draw_arrow((570, 92), (640, 92)),
    ]


def draw_dropped() -> list[str]:
    """Draw the distiller, and what the student learns of its answers."""
    return [
        draw_area(14, 190, 732, 376, "muted", 0.08),
        draw_text(26, 182, "dropped at export", "muted", "start", bold=True),
        draw_box(30, 216, 150, 56, ["t", "the teacher's answer"], "teacher"),
        draw_box(220, 216, 140, 56, ["distiller", "ReLU layers: h"], "undecided"),
        draw_box(420, 206, 160, 76, ["d", "its logits;", "target: softmax(sg d)"], "undecided"),
        draw_box(
            420, 310, 160, 76, ["a", "two scores a sample:", "weights w_T and w_S"], "undecided"
        ),
        draw_box(
            614,
            216,
            122,
            150,
            ["L_C", "KL of the target", "and softmax(s),", "half by w_T,", "half by w_S"],
            "ink",
        ),
        draw_arrow((395, 92), (395, 160), (290, 160), (290, 216)),
        draw_arrow((180, 244), (220, 244)),
        draw_arrow((360, 244), (420, 244)),
        draw_arrow((390, 244), (390, 348), (420, 348)),
        draw_arrow((580, 244), (614, 244)),
        draw_arrow((580, 348), (614, 348)),
        draw_arrow((685, 122), (685, 216)),
    ]


def draw_losses() -> list[str]:
    """Draw what the distiller itself learns, and the sum of all losses."""
    return [
        draw_box(30, 408, 150, 80, ["y", "the labels"]),
        draw_box(220, 408, 140, 80, ["L_D", "CE(d, y)"], "ink"),
        draw_box(
            420,
            408,
            316,
            80,
            [
                "L_A",
                "CE of the needs and softmax(a):",
                "n_T = CE(t, y)",
                "n_S = KL(softmax(d) ‖ softmax(s))",
            ],
            "ink",
        ),
        draw_arrow((180, 448), (220, 448)),
        draw_arrow((500, 386), (500, 408)),
        draw_arrow((460, 282), (460, 296), (290, 296), (290, 408)),
        draw_arrow((105, 488), (105, 506), (578, 506), (578, 488)),
        draw_text(380, 532, "L_KD = losses(s, t) + weight · L_C + L_D + L_A"),
        draw_text(
            380, 552, "L = lambda_kd · L_KD + (1 − lambda_kd) · L_other,   L_other = CE(s, y)"
        ),
    ]


ROWS = {
    "teacher": (0, 0),
    "reference": (0, 1),
    "answers": (1, 0),
    "student": (2, 0),
    "control": (2, 1),
    "onnx": (3, 0),
}
ROWS |= {"calibration": (3, 1), "model": (4, 0), "engine": (5, 0), "production": (5, 1)}
BAR = {"evidence": (12, 214, 736), "verdict": (258, 292, 236), "bundle": (512, 292, 236)}
TONES = {"reuse": "passed", "run": "student", "wait": "undecided"}
WORDS = {
    "reuse": "reused",
    "run": "made: a setting changed",
    "wait": "made if what it reads changed",
}


def list_actions(changed: str) -> dict[str, str]:
    """Return what ``attar plan`` says of every slot of a target without candidates when a setting
    of one changed."""
    found: dict[str, str] = {}
    for slot in SLOTS:
        if slot.scope == "choice":
            continue
        sources = slot.sources("required").values()
        touched = any(found.get(source, "reuse") != "reuse" for source in sources)
        found[slot.name] = "run" if slot.name == changed else "wait" if touched else "reuse"
    return found


def draw_slots() -> str:
    """Draw the walk over the slots after ``--set student.epochs=2``."""
    found = list_actions("student")
    parts = [
        part for name, place in ROWS.items() for part in draw_slot(name, *place, TONES[found[name]])
    ]
    parts += [
        draw_box(x, y, width, 40, [name], TONES[found[name]]) for name, (x, y, width) in BAR.items()
    ]
    parts += [draw_arrow((column * 126 + 118, 62), (column * 126 + 138, 62)) for column in range(5)]
    parts += [
        draw_arrow((x * 126 + 48, 84), (x * 126 + 48, 118)) for x in (0, 3)
    ]  # reference, calibration
    parts += [draw_arrow((480, 140), (570, 140), (570, 84))]  # calibration to model
    parts += [draw_arrow((x * 126 + 108, 84), (x * 126 + 108, 214)) for x in range(6)]
    parts += [
        draw_arrow((x * 126 + 48, 162), (x * 126 + 48, 214)) for x in (0, 2, 5)
    ]  # reference, control, production
    parts += [
        draw_arrow((376, 254), (376, 292)),
        draw_arrow((630, 254), (630, 292)),
        draw_arrow((494, 312), (512, 312)),
    ]
    parts.append(
        draw_text(12, 22, "attar plan digits --set student.epochs=2", anchor="start", bold=True)
    )
    parts += [
        part for row, action in enumerate(TONES) for part in draw_legend(action, 288 + 20 * row)
    ]
    return render_svg(760, 348, parts)


def draw_slot(name: str, column: int, row: int, tone: str) -> Iterator[str]:
    yield draw_box(12 + 126 * column, 40 + 78 * row, 106 if row == 0 else 90, 44, [name], tone)


def draw_legend(action: str, y: float) -> Iterator[str]:
    yield draw_line([(12, y), (34, y)], TONES[action], 4)
    yield draw_text(42, y + 4.5, WORDS[action], "ink", "start", size=12)


def draw_candidates() -> str:
    """Draw the way from the candidates of a target to what all that follows sees of them."""
    middles = [62 + 72 * row for row in range(3)]
    parts = [
        draw_area(150, 20, 260, 228, "student"),
        draw_text(280, 264, "one row a candidate", "student"),
    ]
    parts += [draw_box(14, 112, 106, 44, ["onnx", "calibration"], "student")]
    for number, y in enumerate(middles, 1):
        parts += [
            draw_box(164, y - 22, 100, 44, [f"c{number}.model"], "student"),
            draw_box(296, y - 22, 100, 44, [f"c{number}.engine"], "student"),
        ]
        parts += [
            draw_arrow((120, 134), (142, 134), (142, y), (164, y)),
            draw_arrow((264, y), (296, y)),
        ]
        parts.append(draw_arrow((396, y), (424, y), (424, 134), (444, 134)))
    parts += [
        draw_box(444, 98, 120, 72, ["trials", "on validation,", "timed in turn"], "undecided"),
        draw_arrow((564, 134), (596, 134)),
    ]
    parts += [
        draw_box(
            596, 98, 150, 72, ["choice", "the fastest that", "keeps the promises"], "undecided"
        ),
        draw_arrow((671, 170), (671, 292)),
    ]
    parts += [
        draw_box(596, 292, 150, 44, ["model, engine", "of the one chosen"], "passed"),
        draw_arrow((596, 314), (564, 314)),
    ]
    parts += [
        draw_box(444, 292, 120, 44, ["evidence", "on test"]),
        draw_arrow((444, 314), (412, 314)),
    ]
    parts += [
        draw_box(292, 292, 120, 44, ["verdict"]),
        draw_arrow((292, 314), (260, 314)),
        draw_box(140, 292, 120, 44, ["bundle"]),
    ]
    return render_svg(760, 350, parts)


ROOMS = (  # from the top; rooms of one row import nothing of each other
    (("attar/", "public names, command line, shipped recipes"),),
    (("stages/", "one slot a folder or a file"), ("serving/", "HTTP, gRPC, batching, models")),
    (("bundle/", "the folder that ships"),),
    (("proof/", "bounds, gates, ledger, report"),),
    (("engines/", "graphs rewritten by passes, runtimes"),),
    (("models/", "the task contract, preprocessing, networks"),),
    (("pipeline/", "what a stage, a key, a store, a recipe, a run are"),),
)
ROOM_WIDTH, ROOM_HEIGHT, ROOM_GAP = 520.0, 46.0, 20.0


def draw_rooms() -> str:
    """Draw the rooms of the code, one above the other: each imports those below it and nothing
    else."""
    parts: list[str] = []
    for row, names in enumerate(ROOMS):
        width = (ROOM_WIDTH - ROOM_GAP * (len(names) - 1)) / len(names)
        y = 12 + row * (ROOM_HEIGHT + ROOM_GAP)
        for column, words in enumerate(names):
            x = 20 + column * (width + ROOM_GAP)
            parts.append(draw_box(x, y, width, ROOM_HEIGHT, words))
            if row < len(ROOMS) - 1:
                parts.append(
                    draw_arrow(
                        (x + width / 2, y + ROOM_HEIGHT),
                        (x + width / 2, y + ROOM_HEIGHT + ROOM_GAP),
                    )
                )
    return render_svg(ROOM_WIDTH + 40, 24 + len(ROOMS) * (ROOM_HEIGHT + ROOM_GAP) - ROOM_GAP, parts)


FIGURES = {
    "gates": draw_gates,
    "distiller": draw_distiller,
    "slots": draw_slots,
    "candidates": draw_candidates,
    "rooms": draw_rooms,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for _name, _draw in FIGURES.items():
        (FOLDER / f"{_name}.svg").write_text(_draw(), encoding="utf-8")
