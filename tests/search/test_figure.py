"""The figure of a search: every variant has its mark, and no two titles run into each other."""

from __future__ import annotations

import re
from dataclasses import replace

from attar.search.figure import draw_panel
from attar.search.result import SearchResult, Status, VariantResult


def make_variant(name: str, status: Status, p50: float, score: float | None = None) -> VariantResult:
    return VariantResult(name, f"title {name}", {}, status, "", p50=p50, score=score)


VARIANTS = (
    make_variant("v1", "broke", 20.0, 0.70),
    make_variant("v2", "kept", 30.0, 0.90),
    make_variant("v3", "kept", 30.1, 0.9001),
    make_variant("v4", "stopped", 60.0),
    make_variant("v5", "cannot win", 80.0),
)
RESULT = SearchResult("demo", "speedup", VARIANTS, "v2", "accuracy", {"score_drop": 0.02, "speedup": 2.0}, 0.91, 200.0, 9)


def list_texts(result: SearchResult) -> list[str]:
    panel = draw_panel(result)
    assert panel is not None
    return re.findall(r"<text[^>]*>([^<]*)</text>", panel.svg)


def test_the_winner_and_what_is_promised_are_named_and_a_title_without_room_is_left_out() -> None:
    texts = list_texts(RESULT)
    assert {"title v1", "title v2", "promised accuracy", "promised speed"} <= set(texts)
    assert "title v3" not in texts
    assert "title v3" in list_texts(replace(RESULT, winner="v3"))


def test_titles_are_written_towards_the_middle() -> None:
    wide = tuple(replace(each, title="learning_rate 0.003, width 12, blocks 1, precision int8") for each in VARIANTS[:2])
    panel = draw_panel(replace(RESULT, variants=wide, promises={}))
    assert panel is not None
    anchors = re.findall(r"text-anchor: (start|end)[^>]*>learning_rate", panel.svg)
    assert sorted(anchors) == ["end", "start"]


def test_a_variant_without_a_score_has_a_stroke_at_the_bottom() -> None:
    strokes = [draw_panel(replace(RESULT, variants=VARIANTS[:count])) for count in (3, 5)]
    counts = [panel.svg.count("<use ") for panel in strokes if panel is not None]
    assert counts[1] - counts[0] == 2


def test_without_two_scores_there_is_nothing_to_compare() -> None:
    assert draw_panel(replace(RESULT, variants=(VARIANTS[0], *VARIANTS[3:]))) is None
