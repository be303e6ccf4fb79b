"""What of the variants is built and timed untrained."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.core.errors import StageError, StoreError
from attar.pipeline.run import Record, Run
from attar.pipeline.store.store import Store
from attar.search import speeds
from attar.search.recipe_search import RecipeSearch
from attar.search.speeds import VariantSpeeds, bind_untrained, check_timed
from attar.search.variant import Variant
from tests.support.projects import tiny

SEARCH = '\n[search]\n"student.options.width" = [8, 16]\n'


def test_an_untrained_network_is_not_compared_with_the_teacher_whatever_floor_is_set(tmp_path: Path) -> None:
    tiny.write(tmp_path, recipe=tiny.RECIPE.replace("threads = 1\n", "threads = 1\nfloor = 0.5\n") + SEARCH)
    with tiny.project_folder(tmp_path):
        search = RecipeSearch.create("recipe.toml", Store(tmp_path / "store"))
        trained = search.open_trial(search.variants[0]).recipe.pipeline.slots["cpu.c1.model"].stage
        untrained = bind_untrained(search, search.variants[0])["search.v1.c1.model"].stage
    assert trained.reading() == {"onnx", "calibration", "student", "answers"}
    assert untrained.reading() == {"onnx", "calibration"}


def test_a_search_of_which_nothing_can_be_built_breaks_with_the_first_reason() -> None:
    refused = [VariantSpeeds(Variant(i, {"student.options.width": i}), {}, 1, f"no kernel {i}") for i in (1, 2)]
    with pytest.raises(StageError, match=r"none of 2 variants .* width 1: no kernel 1"):
        check_timed(refused)


def test_a_timing_ends_with_the_first_slot_that_broke_and_a_store_that_fails_refuses_no_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write(tmp_path, recipe=tiny.RECIPE + SEARCH)
    with tiny.project_folder(tmp_path):
        search = RecipeSearch.create("recipe.toml", Store(tmp_path / "store"))
        base = search.open([])
        slots = {name: base.recipe.pipeline.slots[name] for name in speeds.SHARED}
        gone, lost = StageError("disk gone"), StoreError("no answer")
        broken = Record("reference", "Export", "failed", "broke", error="disk gone", cause=gone)
        skipped = Record("search.speeds", "TimeEngines", "skipped", "without reference")
        monkeypatch.setattr(Run, "walk", lambda *_: iter([broken, skipped]))
        with pytest.raises(StageError, match="disk gone"):
            speeds.time_engines(base, search.measure, slots, [], lambda _: None)
        unpublished = Record("search.v1.student", "Untrained", "failed", "broke", error="no answer", cause=lost)
        monkeypatch.setattr(Run, "walk", lambda *_: iter([unpublished]))
        with pytest.raises(StoreError, match="no answer"):
            speeds.time_variants(search, lambda _: None)
