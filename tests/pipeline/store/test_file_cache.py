"""Kept files are found by what decides them while they are what was written, and go when no artifact has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.stage import Facts, Stage
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.run import Run
from attar.pipeline.store.file_cache import FileCache, open_file_cache
from attar.pipeline.store.store import Store
from tests.support.projects.store_parts import KEY, RECORD, fail_if_waiting
from tests.support.projects.toy import Number

SHARED = "5" * 64


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content, encoding="utf-8")

    return write


def test_a_file_is_found_by_its_name(tmp_path: Path) -> None:
    here = FileCache(tmp_path)
    path = here.add("ab-1", text("x"))
    assert here.find("ab-1") == path
    assert path.read_text() == "x"
    assert here.find("ab-2") is None
    assert here.has_prefix("ab")
    assert not here.has_prefix("b")


@pytest.mark.parametrize("harm", ["y", "xx", ""])
def test_a_damaged_file_is_not_found_and_is_gone(tmp_path: Path, harm: str) -> None:
    here = FileCache(tmp_path)
    path = here.add("a", text("x"))
    path.write_text(harm)
    assert here.find("a") is None
    assert not path.exists()


def test_a_file_that_breaks_off_has_no_name(tmp_path: Path) -> None:
    def break_off(path: Path) -> None:
        path.write_text("half", encoding="utf-8")
        raise ZeroDivisionError

    here = FileCache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        here.add("a", break_off)
    assert here.find("a") is None


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    here, partial = FileCache(tmp_path), tmp_path / "a.17.partial"
    partial.write_text("half")
    assert here.find("a") is None
    assert not here.has_prefix("a")
    assert partial.exists()


def test_a_plan_leads_to_its_file_while_that_is_intact(tmp_path: Path) -> None:
    here = FileCache(tmp_path)
    path = here.add("a", text("x"))
    here.remember("12", path)
    for each in (here, FileCache(tmp_path)):
        assert each.recall("12") == path
        assert each.recall("1") is None
    assert here.find("a") == path
    path.write_text("y")
    assert FileCache(tmp_path).recall("12") is None


class Growing(Stage[Number]):
    incremental: ClassVar[tuple[str, ...]] = ("count", "data")

    count: int = 1
    scale: int = 1

    def run(self, out: Path) -> Facts:
        return {}


def test_what_only_adds_does_not_change_where_files_are_kept() -> None:
    def shared(stage: Growing, data: str = "one") -> str | None:
        return keys.compute_shared_key(stage, {"settings": keys.describe_settings(stage), "data": data, "code": {}})

    assert shared(Growing()) == shared(Growing(count=2)) == shared(Growing(), "two")
    assert shared(Growing()) != shared(Growing(scale=2))


def make(store: Store, key: str, names: list[str]) -> None:
    with store.making(key, fail_if_waiting, SHARED) as payload:
        here = open_file_cache(payload)
        for name in names:
            path = here.find(name) or here.add(name, text(name))
            here.remember(name, path)
            os.link(path, payload / name)
        store.commit(Number, payload, key, {}, RECORD)


def test_artifacts_share_what_they_keep(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a" * 64, ["one"])
    make(store, "b" * 64, ["one", "two"])
    assert len(list((tmp_path / "kept" / SHARED).iterdir())) == 2 * 2  # with the note of each
    one, other = (store.folder(key * 64) / "one" for key in "ab")
    assert one.samefile(other)
    assert store.find(Number, "a" * 64) is not None


def test_gc_drops_what_no_artifact_in_use_has(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path / "kept" / SHARED
    make(store, "a" * 64, ["one"])
    make(store, "b" * 64, ["one", "two"])
    (folder / "three.17.partial").write_text("half")
    store.write_note("recipes/x.json", {"answers": "a" * 64})
    assert [what for what, _ in store.collect(dry_run=True)] == ["x " + "b" * 12, "2 kept in 555555555555"]
    assert len(list(folder.iterdir())) == 3 + 2  # and the notes of two
    list(store.collect(dry_run=False))
    assert sorted(path.name.partition(".")[0] for path in folder.iterdir()) == ["one", "plan-one"]
    assert store.find(Number, "a" * 64) is not None
    store.write_note("recipes/x.json", {})
    list(store.collect(dry_run=False))
    assert not folder.exists()


def test_what_is_shared_is_locked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    from filelock import FileLock, Timeout

    with store.making(KEY, fail_if_waiting, SHARED), pytest.raises(Timeout):
        FileLock(tmp_path / "locks" / f"{SHARED}.lock").acquire(timeout=0)
    FileLock(tmp_path / "locks" / f"{SHARED}.lock").acquire(timeout=0)


class Keeping(Growing):
    def run(self, out: Path) -> Facts:
        open_file_cache(out).add("a", text("made by other code"))
        return {}


def test_what_changed_code_may_have_made_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Run(Pipeline({"x": SlotBinding(Keeping(), {})}), Store(tmp_path), Fingerprint(tmp_path), "recipe").walk
    monkeypatch.setattr(keys.Keys, "edited", lambda *_: ["nets.py"])
    [record] = walk()
    assert str(record.error).startswith("x: nets.py ")
    assert list((tmp_path / "kept").iterdir()) == []
    monkeypatch.undo()
    assert [record.status for record in walk()] == ["made"]
    assert len(list((tmp_path / "kept").glob("*/a.*"))) == 1
