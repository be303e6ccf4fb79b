"""What is imported is the code that is in the key."""

from __future__ import annotations

import sys
import time
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.import_path import (
    ModuleVersion,
    drop_outdated_modules,
    make_child_environment,
    put_first_on_path,
    read_start_time,
)
from attar.pipeline.keys.deciders import compute_json_digest
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.run import Run
from attar.pipeline.store.store import Store
from tests.support.projects.toy import Tasked

TASK = "from live_outside import name\nclass T:\n    def data(self): return [name()]\n"


def test_code_outside_of_the_recipe_s_folder_is_imported_anew_when_it_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, where one process runs a recipe again and again."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    outside.mkdir()
    monkeypatch.setattr(sys, "path", [str(outside), *sys.path])
    (home / "live_task.py").write_text(TASK)
    for text in ("one", "three", "eleven"):  # Python's own cache knows a source by its size and second
        (outside / "live_outside.py").write_text(f"def name(): return {text!r}\n")
        put_first_on_path(home)
        tasked = Pipeline({"seen": SlotBinding(Tasked(task="live_task:T"), {})})
        (record,) = Run(tasked, Store(tmp_path / "store"), Fingerprint(home), "recipe").walk()
        assert record.status == "made"
        data = Store(tmp_path / "store").history(str(record.key))["deciders"]["data"]
        assert data == compute_json_digest([["", sha256(text.encode()).hexdigest()]])


def test_a_child_looks_for_attar_first_where_its_parent_found_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert (Path(make_child_environment()["PYTHONPATH"]) / "attar" / "__init__.py").is_file()
    monkeypatch.setenv("PYTHONPATH", "/one:/two")
    home, *others = make_child_environment()["PYTHONPATH"].split(":")
    assert (Path(home) / "attar" / "__init__.py").is_file()
    assert others == ["/one", "/two"]


def version(changed: int, *imports: str) -> ModuleVersion:
    return ModuleVersion("file.py", (1,), changed, frozenset(imports))


def test_a_module_goes_with_those_that_have_names_of_it_and_stays_while_its_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"live", "live.one", "live_two", "live_three"}
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    vars(sys.modules["live"])["one"] = sys.modules["live.one"]
    first = {"live.one": version(1), "live_two": version(1, "live.one"), "live_three": version(1)}
    drop_outdated_modules(first)  # files older than this process were imported as they are
    assert names <= sys.modules.keys()
    drop_outdated_modules({"live.one": version(2)})
    assert names & sys.modules.keys() == {"live", "live_three"}
    assert not hasattr(sys.modules["live"], "one")
    monkeypatch.setitem(sys.modules, "live_four", ModuleType("live_four"))
    drop_outdated_modules({"live_four": version(time.time_ns())})  # nobody knows what was imported
    assert "live_four" not in sys.modules


def test_this_process_began_before_now_and_after_its_machine() -> None:
    assert 0 < time.time_ns() - read_start_time() < time.clock_gettime_ns(time.CLOCK_BOOTTIME)
