"""Of an artifact that is fetched by file, a machine has the files that were read, and each is what its record says."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from attar.pipeline import team
from attar.pipeline.core.errors import CorruptArtifactError
from attar.pipeline.core.file_fetching import fetch_files, use_fetch
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.core.stage import Facts, Stage
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.run import Record, Run
from attar.pipeline.shared.store import SharedStore
from tests.support.processes.team_board import Board
from tests.support.projects.shared_store_parts import make, open_machine
from tests.support.projects.store_parts import KEY
from tests.support.projects.toy import Number


class Views(Number):
    fetched_by_file: ClassVar[bool] = True

    def read(self, view: int) -> float:
        fetch_files(self.root, f"{view}.*")
        return float((self.root / f"{view}.txt").read_text())


class Write(Stage[Views]):
    def run(self, out: Path) -> Facts:
        for view in range(3):
            (out / f"{view}.txt").write_text(str(view))
        return {}


class Read(Stage[Number]):
    view: int = 1

    def run(self, out: Path, *, views: Views) -> Facts:
        (out / "value.json").write_text(str(views.read(self.view)))
        return {}


def walk(folder: Path, name: str, view: int = 1) -> list[Record]:
    slots = {"views": SlotBinding(Write(), {}), "read": SlotBinding(Read(view=view), {"views": "views"})}
    return list(Run(Pipeline(slots), open_machine(folder, name), Fingerprint(folder), "recipe").walk())


def list_parts(folder: Path, name: str) -> list[str]:
    return sorted(path.name for path in (folder / name / "parts").glob("*/*"))


def find_views(store: SharedStore, key: str) -> Views:
    found = store.find(Views, key)
    assert found is not None
    return found


def test_a_stage_has_only_the_files_fetched_that_it_reads(tmp_path: Path) -> None:
    key = str(walk(tmp_path, "one")[0].key)
    assert not (tmp_path / "one" / "parts").exists()
    records = walk(tmp_path, "two", view=2)
    assert [record.status for record in records] == ["reused", "made"]
    assert list_parts(tmp_path, "two") == ["2.txt"]
    assert [record.status for record in walk(tmp_path, "two", view=0)] == ["reused", "made"]
    assert list_parts(tmp_path, "two") == ["0.txt", "2.txt"]
    assert records[0].path == tmp_path / "two" / "artifacts" / key
    two = open_machine(tmp_path, "two")
    two.fetch(key)
    assert sorted(path.name for path in two.folder(key).iterdir()) == ["0.txt", "1.txt", "2.txt", "facts.json", "record.json"]
    assert (two.folder(key) / "2.txt").stat().st_ino == (tmp_path / "two" / "parts" / key / "2.txt").stat().st_ino
    list(two.collect(dry_run=False))
    assert list_parts(tmp_path, "two") == []


@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_a_damaged_file_is_found_when_it_is_read_and_its_artifact_made_anew(tmp_path: Path, harm: str) -> None:
    key = str(walk(tmp_path, "one")[0].key)
    digest = open_machine(tmp_path, "one").history(key)["files"]["2.txt"][2]
    damaged = tmp_path / "bucket" / "objects" / digest
    damaged.write_text("9") if harm == "flip" else damaged.unlink()
    records = walk(tmp_path, "two", view=2)
    assert [record.status for record in records] == ["reused", "failed"]
    assert "2.txt of views" in str(records[1].error)
    assert list_parts(tmp_path, "two") == []
    assert [record.status for record in walk(tmp_path, "two", view=2)] == ["made", "made"]


def test_a_file_that_was_changed_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    key = str(walk(tmp_path, "one")[0].key)
    walk(tmp_path, "two", view=2)
    changed = tmp_path / "two" / "parts" / key / "2.txt"
    changed.chmod(0o644)
    changed.write_text("9")
    store = open_machine(tmp_path, "two")
    with use_fetch(store.fetch_files):
        assert find_views(store, key).read(2) == 2.0


def test_two_artifacts_of_one_content_have_each_its_files(tmp_path: Path) -> None:
    one, two = open_machine(tmp_path, "one"), open_machine(tmp_path, "two")
    keys = KEY, "b" * 64
    for key in keys:
        make(one, key, files=("0.txt",))
    with use_fetch(two.fetch_files):
        assert [find_views(two, key).read(0) for key in keys] == [1.0, 1.0]


def test_processes_of_a_team_find_all_files_there(tmp_path: Path) -> None:
    walk(tmp_path, "one")
    with team.use_team(team.Team(0, 1, wire=Board())):
        walk(tmp_path, "two", view=2)
    assert list_parts(tmp_path, "two") == ["0.txt", "1.txt", "2.txt", "facts.json"]


def test_other_artifacts_are_fetched_whole(tmp_path: Path) -> None:
    make(open_machine(tmp_path, "one"), files=("value.json", "more.json"))
    two = open_machine(tmp_path, "two")
    found = two.find(Number, KEY)
    assert found is not None
    with use_fetch(two.fetch_files):
        two.verify(found)
        fetch_files(found.root, "*")
    assert list_parts(tmp_path, "two") == []
    assert found.value() == 1.0


def test_what_is_gone_from_the_store_is_named(tmp_path: Path) -> None:
    key = str(walk(tmp_path, "one")[0].key)
    two = open_machine(tmp_path, "two")
    found = find_views(two, key)
    (tmp_path / "bucket" / "records" / f"{key}.json").unlink()
    other = open_machine(tmp_path, "two")
    with use_fetch(other.fetch_files), pytest.raises(CorruptArtifactError, match="is gone"):
        found.read(0)
