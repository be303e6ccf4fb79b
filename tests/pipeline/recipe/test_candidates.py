"""A target with candidates: how it is written, which slots it becomes, and what a refused one does to the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from pydantic import model_validator

from attar.pipeline.core.errors import RecipeError, UnsupportedModelError
from attar.pipeline.core.graph import is_candidate
from attar.pipeline.core.stage import Artifact, Facts, InputSpec, Stage, UnusedSettingError
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.recipe import candidates
from attar.pipeline.recipe import recipe as recipes
from attar.pipeline.recipe.recipe import Recipe
from attar.pipeline.recipe.schema import build_schema
from attar.pipeline.recipe.slot import Slot
from attar.pipeline.run import Record, Run
from attar.pipeline.store.store import Store
from attar.stages.build import Build
from attar.stages.optimize.stage import Optimize
from tests.support.projects import tiny
from tests.support.projects.toy import Constant, Number, Word


class Form(Stage[Number]):
    """``times`` the source; what is divided by zero is refused, 13 breaks."""

    made: ClassVar[list[float]] = []
    times: float = 1.0
    over: float = 1.0

    def run(self, out: Path, *, source: Number) -> Facts:
        self.made.append(self.times)
        if self.over == 0:
            raise UnsupportedModelError(f"{self.times} cannot be divided by 0")
        if self.over == 13:
            raise RuntimeError("thirteen")
        (out / "value.json").write_text(json.dumps(source.value() * self.times / self.over))
        return {}


class Addition(Stage[Number]):
    """Adds something; to nothing it adds nothing."""

    add: float = 0.0
    times: float = 1.0

    @model_validator(mode="after")
    def _check_add(self) -> Self:
        if self.add and self.times == 0:
            raise UnusedSettingError("add means nothing to nothing", "add")
        return self

    def run(self, out: Path, *, form: Number) -> Facts:
        (out / "value.json").write_text(json.dumps(form.value() + self.add))
        return {}


class Tell(Stage[Word]):
    candidates: tuple[dict[str, Any], ...] = ()
    """Forms to choose from."""

    def run(self, out: Path, *, source: Number, **engines: Number) -> Facts:
        return {name: engine.refused or engine.value() for name, engine in engines.items()}


class Take(Stage[Number]):
    def run(self, out: Path, *, told: Word, **engines: Number) -> Facts:
        winner = max(engines, key=lambda name: float(told.facts[name]) if engines[name].refused is None else -1.0)
        (out / "value.json").write_text((engines[winner].root / "value.json").read_text())
        return engines[winner].facts


class After(Stage[Number]):
    def run(self, out: Path, *, engine: Number) -> Facts:
        return {"value": engine.value()}


SLOTS = (
    Slot("source", Constant),
    Slot("form", Form, scope="candidate"),
    Slot("engine", Addition, scope="candidate"),
    Slot(
        "told", Tell, wires={"engines": "engine"}, scope="choice",
        offers=lambda: [{"times": 2.0}, {"times": 3.0}],
    ),
    Slot("engine", Take, wires={"engines": "engine"}, scope="choice"),
    Slot("after", After, scope="target"),
)  # fmt: skip  # one line a group reads better than one a field
TWO = """
[source]
value = 5
[targets.cpu]
add = 1
candidates = [{ times = 2 }, { times = 3, add = 7 }]
[targets.plain]
times = 4
"""


def load(folder: Path, text: str, *overrides: str, slots: Sequence[Slot] = SLOTS) -> Recipe:
    (folder / "recipe.toml").write_text(text)
    return recipes.load_recipe(folder / "recipe.toml", slots, overrides)


def run_of(folder: Path, text: str) -> Run:
    made = load(folder, text)
    return Run(made.pipeline, Store(folder / "store"), Fingerprint(folder), made.name)


def walk(folder: Path, text: str) -> dict[str, Record]:
    return {record.slot: record for record in run_of(folder, text).walk()}


def test_candidates_become_slots_before_those_that_choose_and_other_targets_have_neither(tmp_path: Path) -> None:
    slots = load(tmp_path, TWO).pipeline.slots
    assert list(slots) == [
        "source", "cpu.c1.form", "cpu.c1.engine", "cpu.c2.form", "cpu.c2.engine", "cpu.told", "cpu.engine", "cpu.after",
        "plain.form", "plain.engine", "plain.after",
    ]  # fmt: skip  # a target on a line
    assert slots["cpu.c2.engine"].inputs == {"form": "cpu.c2.form"}
    assert slots["cpu.told"].inputs == {"source": "source", "c1": "cpu.c1.engine", "c2": "cpu.c2.engine"}
    assert slots["cpu.engine"].inputs == {"told": "cpu.told", "c1": "cpu.c1.engine", "c2": "cpu.c2.engine"}
    assert slots["cpu.after"].inputs == {"engine": "cpu.engine"}
    assert slots["plain.after"].inputs == {"engine": "plain.engine"}
    assert {name for name in slots if is_candidate(name)} == {f"cpu.{c}.{s}" for c in ("c1", "c2") for s in ("form", "engine")}


def test_a_target_s_settings_are_the_defaults_of_each_and_its_own_win(tmp_path: Path) -> None:
    slots = load(tmp_path, TWO).pipeline.slots
    assert slots["cpu.c1.form"].stage == Form(times=2)
    assert [slots[f"cpu.{name}.engine"].stage for name in ("c1", "c2")] == [Addition(add=1, times=2), Addition(add=7, times=3)]
    assert slots["cpu.told"].stage == Tell(candidates=({"add": 1, "times": 2}, {"add": 7, "times": 3}))


def test_a_default_that_means_nothing_to_a_candidate_is_left_out_of_it(tmp_path: Path) -> None:
    slots = load(tmp_path, "[targets.cpu]\nadd = 5\ncandidates = [{ times = 2 }, { times = 0 }]").pipeline.slots
    assert [slots[f"cpu.{name}.engine"].stage for name in ("c1", "c2")] == [Addition(add=5, times=2), Addition(times=0)]
    with pytest.raises(RecipeError, match=r"add = 5 .*candidates"):
        load(tmp_path, "[targets.cpu]\nadd = 5\ncandidates = [{ times = 0 }]")


def test_a_shipped_stage_names_the_settings_that_it_has_no_use_for() -> None:
    floor, options = {"task": "t:T", "floor": 0.9}, {"task": "t:T", "profile": {"batch": (1, 2, 3)}, "compute": ("8.6",)}
    ladder = {"floor", "tuning_epochs", "tuning_learning_rate"}
    assert candidates.find_unused(Optimize, {**floor, "precision": "int8-dynamic"}) == ladder
    assert candidates.find_unused(Optimize, {**floor, "precision": "int8"}) == set()
    assert candidates.find_unused(Build, options) == {"profile", "compute"}
    assert candidates.find_unused(Build, {**options, "runtime": "tensorrt-rtx"}) == set()
    assert candidates.find_unused(Build, {**options, "runtime": "none"}) == set()  # it is refused later, by its name


def test_all_is_what_the_table_offers(tmp_path: Path) -> None:
    slots = load(tmp_path, "[targets.cpu]\ncandidates = 'all'").pipeline.slots
    assert [slots[f"cpu.{name}.form"].stage for name in ("c1", "c2")] == [Form(times=2), Form(times=3)]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("candidates = []", "lists none"),
        ("candidates = 'al'", "'all'; got 'al'"),
        ("candidates = [1]", r"got \[1\]"),
        ("candidates = { times = 1 }", r"got \{'times': 1\}"),
        (
            "candidates = [{ times = 2 }, { tims = 3 }]",
            r"candidate 2: unknown name 'tims'; did you mean 'times'\? known: add, over",
        ),
        ("candidates = [{ task = 'x' }]", r"candidate 1: .*'task'"),
        ("candidates = [{ times = 'x' }]", r"times \(candidate 1\) must be .*got 'x'"),
        ("candidates = [{ times = 2 }, {}, { times = 2.0, over = 1 }]", "candidates 1 and 3"),
        (
            "times = 5\ncandidates = [{ times = 2 }, { times = 3 }]",
            r"times = 5 .*remove",
        ),
        ("times = 5\ncandidates = 'all'", r"times = 5 .*'all'"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, f"[targets.cpu]\n{target}")


def test_what_is_gathered_must_be_of_its_kind_and_there(tmp_path: Path) -> None:
    class Words(Stage[Word]):
        candidates: tuple[dict[str, Any], ...] = ()

        def run(self, out: Path, **engines: Word) -> Facts:
            return {}

    wrong = (*SLOTS[:3], Slot("told", Words, wires={"engines": "engine"}, scope="choice"))
    with pytest.raises(RecipeError, match=r"cpu\.told .*Word; .*Number"):
        load(tmp_path, "[targets.cpu]\ncandidates = [{}]", slots=wrong)
    gone = (*SLOTS[:3], Slot("told", Words, wires={"engines": "motor"}, scope="choice"))
    with pytest.raises(RecipeError, match=r"cpu\.told .*'cpu\.c1\.motor'"):
        load(tmp_path, "[targets.cpu]\ncandidates = [{}]", slots=gone)


def test_a_stage_says_what_it_gathers() -> None:
    assert Tell.inputs() == {"source": InputSpec(Number), "engines": InputSpec(Number, "repeated")}


def test_the_chosen_one_goes_on_and_a_changed_candidate_changes_the_key(tmp_path: Path) -> None:
    first = walk(tmp_path, TWO)
    assert first["cpu.after"].facts == {"value": 22.0}  # 5 * 3 + 7
    second = walk(tmp_path, TWO.replace("{ times = 2 }", "{ times = 1 }"))
    assert second["cpu.c2.engine"].status == "reused"
    assert second["cpu.told"].status == "made"
    assert "c1 changed" in second["cpu.told"].reason
    assert (second["cpu.engine"].status, second["cpu.after"].status) == ("made", "reused")  # the same one was chosen


def test_a_refused_candidate_stays_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    text = "[targets.cpu]\ncandidates = [{ over = 0, times = 9 }, { times = 3 }]"
    Form.made.clear()
    first = walk(tmp_path, text)
    why = first["cpu.c1.form"].facts["refused"]
    assert why.startswith("9.0 ")
    assert first["cpu.told"].facts == {"c1": why, "c2": 3.0}
    assert first["cpu.c1.form"].facts == first["cpu.c1.engine"].facts == {"refused": why}
    assert first["cpu.c1.form"].reason == first["cpu.c1.engine"].reason == f"refused: {why}"
    assert first["cpu.after"].facts == {"value": 3.0}
    again = walk(tmp_path, text)
    assert {record.status for record in again.values()} == {"reused"}
    assert Form.made == [9, 3]
    assert [plan.action for plan in run_of(tmp_path, text).plan()] == ["reuse"] * len(again)
    assert not list((tmp_path / "store" / "work").glob("*"))


def test_what_was_refused_as_a_candidate_is_an_error_where_it_is_the_only_form(tmp_path: Path) -> None:
    both = "[targets.cpu]\ncandidates = [{ over = 0 }, {}]\n[targets.plain]\nover = 0"
    records = walk(tmp_path, both)
    assert records["cpu.after"].status == "made"
    assert (records["plain.form"].status, records["plain.form"].exit_code) == ("failed", 1)
    assert str(records["plain.form"].error).startswith("plain.form: 1.0 ")


def test_any_other_error_of_a_candidate_is_an_error(tmp_path: Path) -> None:
    records = walk(tmp_path, "[targets.cpu]\ncandidates = [{ over = 13 }, {}]")
    assert str(records["cpu.c1.form"].error).startswith("cpu.c1.form broke: ")
    assert records["cpu.told"].status == "skipped"


def test_candidates_that_come_to_the_same_model_share_it(tmp_path: Path) -> None:
    Form.made.clear()
    text = "[targets.cpu]\ncandidates = [{ times = 2 }, { times = 2, add = 5 }]\n[targets.plain]\ntimes = 2"
    records = walk(tmp_path, text)
    assert Form.made == [2]
    assert records["cpu.c1.form"].key == records["cpu.c2.form"].key == records["plain.form"].key


def test_a_plan_names_every_candidate(tmp_path: Path) -> None:
    plans = {plan.slot: plan for plan in run_of(tmp_path, TWO).plan()}
    assert plans["cpu.c1.form"].reason == "depends on source"
    assert plans["cpu.told"].reason == "depends on source, cpu.c1.engine, cpu.c2.engine"


def test_the_schema_takes_all_or_tables_of_what_candidates_may_set() -> None:
    target = build_schema(SLOTS)["properties"]["targets"]["additionalProperties"]["properties"]
    assert target["candidates"]["description"] == "Forms to choose from."
    every, tables = target["candidates"]["anyOf"]
    assert every == {"const": "all"}
    assert set(tables["items"]["properties"]) == {"times", "over", "add"}
    assert set(target) == {"times", "over", "add", "candidates"}


def test_an_artifact_is_refused_only_where_it_says_so() -> None:
    assert Artifact("k", "d", Path(), {}).refused is None
    assert Artifact("k", "d", Path(), {"refused": "why"}).refused == "why"


@pytest.mark.slow
def test_a_whole_run_ships_the_one_that_was_chosen(tmp_path: Path) -> None:
    forms = '[{ precision = "fp32" }, { precision = "int8" }, { precision = "int8-dynamic", exclude = ["/0/Gemm"] }]'
    tiny.write(tmp_path, recipe=tiny.RECIPE.replace('precision = "int8"', f"candidates = {forms}"))
    made = tiny.run(tmp_path)
    choice, refused = (tiny.entry(made, slot)["facts"] for slot in ("cpu.choice", "cpu.c3.engine"))
    assert refused["refused"].startswith("nothing can be quantized: no Gemm")
    assert [row["verdict"] for row in choice["candidates"]] == ["passed", "passed", "refused"]
    assert made["targets"]["cpu"]["winner"] == choice["winner"]
    chosen = tiny.entry(made, f"cpu.{choice['winner']}.model")
    lineage = tiny.entry(made, "cpu.evidence")["facts"]["lineage"]
    digests = {name: json.loads((Path(tiny.entry(made, slot)["path"]) / "record.json").read_text())["digest"]
               for name, slot in (("chosen", chosen["slot"]), ("taken", "cpu.model"))}  # fmt: skip  # two digests
    assert digests["chosen"] == digests["taken"] == lineage["model"]["digest"]
    assert made["targets"]["cpu"]["verdict"] == "passed"
    again = tiny.run(tmp_path, "--set", "gates.correlation=0.6")
    assert tiny.made_again(again) == ["cpu.choice", "cpu.verdict", "cpu.bundle"]
