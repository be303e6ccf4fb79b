"""What is imported is the code that is in the key."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.import_path import drop_outdated_modules, put_first_on_path
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
    for version in ("one", "two", "six"):
        (outside / "live_outside.py").write_text(f"def name(): return {version!r}\n")
        put_first_on_path(home)
        tasked = Pipeline({"seen": SlotBinding(Tasked(task="live_task:T"), {})})
        (record,) = Run(tasked, Store(tmp_path / "store"), Fingerprint(home), "recipe").walk()
        assert record.status == "made"
        data = Store(tmp_path / "store").history(str(record.key))["deciders"]["data"]
        assert data == compute_json_digest([["", sha256(version.encode()).hexdigest()]])


def test_a_module_goes_with_what_others_have_of_it_and_stays_while_its_file_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        for name in ("live_one", "live_two"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))

    load()
    drop_outdated_modules({"live_one": 1, "live_two": 1})  # nobody knows when they were imported
    assert not {"live_one", "live_two"} & sys.modules.keys()
    load()
    drop_outdated_modules({"live_one": 1})
    assert {"live_one", "live_two"} <= sys.modules.keys()
    drop_outdated_modules({"live_two": 2})
    assert not {"live_one", "live_two"} & sys.modules.keys()
