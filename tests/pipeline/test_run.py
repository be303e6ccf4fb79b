"""The engine, on a pipeline of numbers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import numpy as np
import pytest

from attar.pipeline.core.errors import RecipeError, StoreError, UnfitSettingsError, UnsupportedModelError
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.stage import Facts, Stage
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.run import Record, Run
from attar.pipeline.store.store import Store
from tests.support.projects.toy import Check, Constant, Double, Number, Speak, Sum, Tasked, Unfit


def pipeline(value: float = 3.0, *, seed: int = 0, limit: float = 100.0, **check: Any) -> Pipeline:
    return Pipeline(
        {
            "source": SlotBinding(Constant(value=value), {}),
            "double": SlotBinding(Double(seed=seed), {"source": "source"}),
            "check": SlotBinding(Check(limit=limit, **check), {"double": "double"}),
        }
    )


def run(root: Path, made: Pipeline) -> list[Record]:
    return list(Run(made, Store(root), Fingerprint(root), "recipe").walk())


def statuses(records: list[Record]) -> list[str]:
    return [record.status for record in records]


def test_a_second_run_reuses_everything_and_says_when_it_was_made(tmp_path: Path) -> None:
    first, second = run(tmp_path, pipeline()), run(tmp_path, pipeline())
    assert statuses(first) == ["made"] * 3
    assert statuses(second) == ["reused"] * 3
    assert [r.key for r in first] == [r.key for r in second]
    assert [r.made for r in first] == [r.made for r in second]
    assert [r.seconds for r in first] == [r.seconds for r in second]


def test_a_setting_makes_again_what_follows_it_and_says_why(tmp_path: Path) -> None:
    run(tmp_path, pipeline(seed=0))
    again = run(tmp_path, pipeline(seed=1))
    assert statuses(again) == ["reused", "made", "made"]
    assert again[1].reason == "settings.seed: 0 -> 1"


def test_settings_that_can_never_be_met_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    slots = dict(pipeline().slots)
    unfit = Pipeline(slots | {"check": SlotBinding(Unfit(), {"double": "double"})})
    with pytest.raises(UnfitSettingsError, match=r"^check: no such limit$"):
        run(tmp_path, unfit)
    assert not list(Store(tmp_path).entries())


def test_a_candidate_is_not_looked_at_before_its_turn(tmp_path: Path) -> None:
    slots = dict(pipeline().slots)
    made = run(tmp_path, Pipeline(slots | {"cpu.c1.check": SlotBinding(Unfit(), {"double": "double"})}))
    assert statuses(made) == ["made"] * 4


def test_an_input_made_again_with_the_same_content_makes_nothing_after_it(tmp_path: Path) -> None:
    run(tmp_path, pipeline(limit=50.0))
    quiet = Pipeline(
        {
            "source": SlotBinding(Constant(value=3.0), {}),
            "double": SlotBinding(Double(rounding=True), {"source": "source"}),
            "check": SlotBinding(Check(limit=50.0), {"double": "double"}),
        }
    )
    first = run(tmp_path, quiet)  # 6.0 became 6: other bytes
    assert statuses(first) == ["reused", "made", "made"]
    list(Store(tmp_path).collect(dry_run=False))
    changed = Pipeline(dict(quiet.slots) | {"source": SlotBinding(Constant(value=2.9), {})})
    assert statuses(run(tmp_path, changed)) == ["made", "made", "reused"]  # 5.8 rounds to the same 6


def test_plan_says_what_would_happen_and_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    plans = list(Run(pipeline(), store, Fingerprint(tmp_path), "recipe").plan())
    assert [(p.action, p.reason) for p in plans] == [
        ("run", "never made"),
        ("wait", "depends on source"),
        ("wait", "depends on double"),
    ]
    assert not store.root.exists()


class Overfull(Stage[Number]):
    """Numpy fills the disk, and says nothing of it."""

    numbers: int

    def run(self, out: Path) -> Facts:
        np.save(out / "numbers.npy", np.zeros(self.numbers))
        raise ValueError("invalid protobuf")


def test_what_breaks_on_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        (full,) = run(tmp_path, Pipeline({"source": SlotBinding(Overfull(numbers=100_000), {})}))
        assert (full.error, type(full.cause)) == (
            f"source: cannot write {tmp_path}: No space left on device; free some space or choose another with --store",
            StoreError,
        )
        (broken,) = run(tmp_path, Pipeline({"source": SlotBinding(Overfull(numbers=10), {})}))
        assert str(broken.error).startswith("source broke: ValueError: invalid protobuf")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


class Refused(Stage[Number]):
    """A candidate that is refused when somebody waits for it."""

    tried: ClassVar[list[Path]] = []
    begun: ClassVar[Event] = Event()
    awaited: ClassVar[Event] = Event()

    def run(self, out: Path) -> Facts:
        self.tried.append(out)
        self.begun.set()
        assert self.awaited.wait(20)
        raise UnsupportedModelError("no such operator")


def test_who_waits_for_a_candidate_that_is_refused_takes_the_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.pipeline.maker.report_progress", lambda *told: Refused.awaited.set())
    made = Pipeline({"cpu.c1.model": SlotBinding(Refused(), {})})
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run, tmp_path, made)
        assert Refused.begun.wait(20)
        second = pool.submit(run, tmp_path, made)
        ((one,), (two,)) = first.result(), second.result()
    assert (one.status, two.status, one.key == two.key, len(Refused.tried)) == ("made", "reused", True, 1)
    assert one.facts == two.facts == {"refused": "no such operator"}


def test_a_run_that_makes_something_asks_the_task_for_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hidden folder is one that no name tells of."""
    task = "from pathlib import Path\nclass T:\n    def data(self): return sorted(Path(__file__).parent.glob('.*/*.png'))\n"
    (tmp_path / "hidden_task.py").write_text(task)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = {"seen": SlotBinding(Tasked(task="hidden_task:T"), {}), "end": SlotBinding(Constant(value=1), {})}
    for name in (".one", ".two"):
        (tmp_path / name).mkdir()
        assert statuses(run(tmp_path, Pipeline(made)))[1] == ("made" if name == ".one" else "reused")
        (tmp_path / name / "1.png").write_text("1")
    assert statuses(run(tmp_path, Pipeline(made))) == ["reused", "reused"]
    again = run(tmp_path, Pipeline(made | {"end": SlotBinding(Constant(value=2), {})}))
    assert [(record.slot, record.status, record.reason.split(":")[0]) for record in again] == [
        ("seen", "made", "data"),
        ("end", "made", "settings.value"),
    ]


def test_a_broken_stage_names_itself_keeps_its_cause_and_skips_what_depends_on_it(tmp_path: Path) -> None:
    slots = pipeline().slots
    made = Pipeline(
        dict(slots)
        | {
            "check": SlotBinding(Check(fail=True), {"double": "double"}),
            "last": SlotBinding(Double(), {"source": "check"}),
            "apart": SlotBinding(Constant(value=9), {}),
        }
    )
    records = run(tmp_path, made)
    assert statuses(records) == ["made", "made", "failed", "skipped", "made"]
    assert re.fullmatch("check .*ZeroDivisionError: .*in Check\\.run\\)", str(records[2].error))
    assert records[2].exit_code == 1
    assert isinstance(records[2].cause and records[2].cause.__cause__, ZeroDivisionError)
    assert records[3].reason == "without check"


def test_what_every_end_needs_stops_the_run_when_it_breaks(tmp_path: Path) -> None:
    slots = {"source": SlotBinding(Check(fail=True), {"double": "first"}), "apart": SlotBinding(Constant(value=9), {})}
    ends = {"end": SlotBinding(Double(), {"source": "source"}), "more": SlotBinding(Double(), {"source": "source"})}
    feeds = {"apart.end": SlotBinding(Check(), {"double": "apart"})}
    first = {"first": SlotBinding(Constant(), {})}
    assert statuses(run(tmp_path / "a", Pipeline(first | slots | feeds | ends)))[1:3] == ["failed", "made"]
    without = Pipeline(first | {"source": slots["source"]} | ends)
    assert statuses(run(tmp_path / "b", without)) == ["made", "failed", "skipped", "skipped"]


def test_a_refused_stage_leaves_no_artifact_and_is_tried_again(tmp_path: Path) -> None:
    records = run(tmp_path, pipeline(limit=1.0))
    assert (records[2].status, records[2].exit_code) == ("failed", 3)
    assert records[2].error == "check: 6.0 is over 1.0"
    assert len(Store(tmp_path).entries()) == 2
    assert run(tmp_path, pipeline(limit=1.0))[2].status == "failed"


def test_wiring_is_checked_before_anything_runs() -> None:
    with pytest.raises(RecipeError, match=r"'sauce', .*'source'"):
        Pipeline({"source": SlotBinding(Constant(), {}), "double": SlotBinding(Double(), {"source": "sauce"})})


def test_a_file_changed_after_it_was_made_is_said_and_made_again(tmp_path: Path) -> None:
    first = run(tmp_path, pipeline())
    assert first[0].path is not None
    value = first[0].path / "value.json"
    value.chmod(0o644)
    value.write_text("4.0")
    again = run(tmp_path, pipeline())
    assert statuses(again) == ["made", "reused", "reused"]
    assert "was changed" in again[0].reason
    assert value.read_text() == "3.0"


def test_a_change_that_hides_behind_size_and_mtime_is_found_when_a_stage_reads_it(tmp_path: Path) -> None:
    import os

    first = run(tmp_path, pipeline())
    assert first[0].path is not None
    value = first[0].path / "value.json"
    stat = value.stat()
    value.chmod(0o644)
    value.write_text("4.0")
    os.utime(value, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = run(tmp_path, pipeline(seed=1))
    assert found[1].error is not None
    assert "source was damaged" in found[1].error
    assert statuses(run(tmp_path, pipeline(seed=1))) == ["made", "made", "made"]


def test_a_pinned_artifact_is_used_whatever_changed(tmp_path: Path) -> None:
    first = run(tmp_path, pipeline(3.0))
    key = first[0].key
    assert key is not None
    pinned = Pipeline(dict(pipeline(7.0).slots) | {"source": SlotBinding(Constant(value=7.0), {}, keep=key[:12])})
    again = run(tmp_path, pinned)
    assert statuses(again) == ["reused"] * 3
    assert "pinned" in again[0].reason


def test_a_key_that_cannot_be_kept_stops_a_run_and_a_plan_before_they_begin(tmp_path: Path) -> None:
    spoken = str(run(tmp_path, Pipeline({"word": SlotBinding(Speak(), {})}))[0].key)
    before = [entry.key for entry in Store(tmp_path).entries()]
    wrong = {"deadbeef00": "no artifact in .*", spoken[:12]: "is word, made by Speak; name a key of this slot"}
    for key, told in wrong.items():
        late = {"check": SlotBinding(Check(limit=100.0), {"double": "double"}, keep=key)}
        made = Pipeline(dict(pipeline().slots) | late)
        with pytest.raises(RecipeError, match=rf"^check\.keep = '{key}'.*{told}"):
            run(tmp_path, made)
        with pytest.raises(RecipeError, match=rf"^check\.keep = '{key}'.*{told}"):
            list(Run(made, Store(tmp_path), Fingerprint(tmp_path), "recipe").plan())
    assert [entry.key for entry in Store(tmp_path).entries()] == before


def summing(more: str | None, value: float = 3.0) -> Pipeline:
    pinned = {"more": more} if more else {}
    return Pipeline(
        {"source": SlotBinding(Constant(value=value), {}), "sum": SlotBinding(Sum(more=more), {"source": "source"}, None, pinned)}
    )


def value_of(record: Record) -> float:
    return Number(str(record.key), "", Path(str(record.path)), {}).value()


def test_an_optional_input_is_the_artifact_that_the_recipe_names(tmp_path: Path) -> None:
    first = run(tmp_path, summing(None, 5.0))
    key = str(first[0].key)
    plan = list(Run(summing(key[:8]), Store(tmp_path), Fingerprint(tmp_path), "recipe").plan())[1]
    assert (plan.action, plan.reason) == ("wait", f"depends on source; more is source {key[:12]}")
    with_more = run(tmp_path, summing(key[:8]))
    assert [value_of(first[1]), value_of(with_more[1])] == [5.0, 8.0]
    assert with_more[1].reason == f"more changed; source changed; more is source {key[:12]}"


def test_an_optional_input_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    key = str(run(tmp_path, summing(None, 5.0))[0].key)
    one, two, without = (run(tmp_path, summing(more))[1] for more in (key[:8], key, None))
    assert (one.status, two.status, without.status) == ("made", "reused", "made")
    assert one.key == two.key != without.key


def test_gc_keeps_an_optional_input_while_its_recipe_names_it(tmp_path: Path) -> None:
    key = str(run(tmp_path, summing(None, 5.0))[0].key)
    run(tmp_path, summing(key))
    assert key not in str(list(Store(tmp_path).collect(dry_run=False)))
    assert run(tmp_path, summing(key))[1].status == "reused"
    run(tmp_path, summing(None))
    assert f"source {key[:12]}" in str(list(Store(tmp_path).collect(dry_run=True)))


def test_an_optional_input_that_is_not_there_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sum\.more = 'abcdef12'"):
        run(tmp_path, summing("abcdef12"))
    assert not list(tmp_path.glob("artifacts/*"))
    for folder in ("abcdef12aa", "abcdef12bb"):
        shutil.copytree(run(tmp_path, summing(None))[0].path or tmp_path, tmp_path / "artifacts" / folder)
    with pytest.raises(RecipeError, match="2 artifacts in"):
        run(tmp_path, summing("abcdef12"))


def test_what_is_kept_needs_no_optional_input(tmp_path: Path) -> None:
    made = run(tmp_path, summing(None))[1]
    there = SlotBinding(Sum(more="abcdef12"), {"source": "source"}, str(made.key), {"more": "abcdef12"})
    assert run(tmp_path, Pipeline(dict(summing(None).slots) | {"sum": there}))[1].status == "reused"


def test_an_optional_input_of_another_kind_says_what_it_is(tmp_path: Path) -> None:
    spoken = str(run(tmp_path, Pipeline({"word": SlotBinding(Speak(), {})}))[0].key)
    with pytest.raises(RecipeError, match=r"sum\.more = .*Speak; .*Number"):
        run(tmp_path, summing(spoken))


def test_a_damaged_optional_input_is_said_and_stays(tmp_path: Path) -> None:
    first = run(tmp_path, summing(None, 5.0))[0]
    damage(Path(str(first.path)) / "value.json")
    found = run(tmp_path, summing(str(first.key)))[1]
    assert "sum.more is damaged" in str(found.error)
    assert Store(tmp_path).record(str(first.key)) is not None


def test_a_damaged_artifact_that_the_recipe_keeps_stays_too(tmp_path: Path) -> None:
    """It was discarded, and told to be made anew by a recipe that cannot make it."""
    first = run(tmp_path, pipeline(3.0))[0]
    damage(Path(str(first.path)) / "value.json")
    kept = SlotBinding(Constant(value=3.0), {}, keep=str(first.key))
    found = run(tmp_path, Pipeline(dict(pipeline(3.0, seed=1).slots) | {"source": kept}))
    assert "source is damaged" in str(found[1].error)
    assert "name another key" in str(found[1].error)
    assert Store(tmp_path).record(str(first.key)) is not None


def damage(file: Path) -> None:
    """Other bytes, the same size and times: only reading it shows."""
    stat = file.stat()
    file.chmod(0o644)
    file.write_text("4.0", encoding="utf-8")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_only_what_is_wanted_and_what_it_needs_is_walked() -> None:
    made = Pipeline(dict(pipeline().slots) | {"apart": SlotBinding(Constant(value=9), {})})
    assert made.up_to({"double"}) == ["source", "double"]
    assert made.up_to({"apart", "double"}) == ["source", "double", "apart"]


def test_recall_makes_nothing(tmp_path: Path) -> None:
    run(tmp_path, pipeline())
    records = list(Run(pipeline(seed=1), Store(tmp_path), Fingerprint(tmp_path), "recipe").recall())
    assert statuses(records) == ["reused", "skipped", "skipped"]
    assert records[0].facts == {"value": 3.0}
    assert isinstance(Store(tmp_path).find(Number, str(records[0].key)), Number)
