"""A store that an earlier version wrote is read or made again; one that a newer version wrote is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attar.cli.main import main
from attar.pipeline.core.errors import StoreError
from attar.pipeline.store.format import FORMAT_FILE, STORE_VERSION, read_store_version
from attar.pipeline.store.store import Store
from tests.support.bundles.compat_parts import unpack
from tests.support.projects import tiny
from tests.support.projects.store_parts import KEY

SLOTS = {slot.replace("cpu.", "") for slot in tiny.SLOTS}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project of an earlier version, with its store."""
    return unpack("project", tmp_path)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_its_artifacts_are_listed(project: Path) -> None:
    done = call("ls", "--store", project / "store", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["artifacts"]
    assert {row["slot"].replace("cpu.", "") for row in rows} == SLOTS
    assert all(row["bytes"] > 0 for row in rows)


def test_every_artifact_is_shown_and_whole(project: Path) -> None:
    for folder in (project / "store" / "artifacts").iterdir():
        done = call("show", folder.name, "--store", project / "store", "--verify")
        assert done.exit_code == 0, done.output
        shown = json.loads(done.stdout)
        assert shown["key"] == folder.name
        assert shown["facts"] == json.loads((folder / "facts.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_run_reuses_it_or_makes_it_again(project: Path) -> None:
    """Whatever is reused has the facts that were recorded; the rest is made, and then all of it is reused."""
    recorded = {folder.name: (folder / "facts.json").read_bytes() for folder in (project / "store" / "artifacts").iterdir()}
    made = tiny.call_run(project)
    assert set(tiny.statuses(made).values()) <= {"made", "reused"}
    assert made["targets"]["cpu"]["verdict"] == "passed"
    for entry in made["slots"]:
        if entry["status"] == "reused" and entry["key"] in recorded:
            assert entry["facts"] == json.loads(recorded[entry["key"]]), entry["slot"]
    assert read_store_version(project / "store") == STORE_VERSION
    assert tiny.made_again(tiny.call_run(project)) == []
    for key, facts in recorded.items():
        folder = project / "store" / "artifacts" / key
        assert not folder.exists() or (folder / "facts.json").read_bytes() == facts


def test_what_is_unused_is_collected(project: Path) -> None:
    for note in (project / "store" / "recipes").iterdir():
        note.unlink()
    assert call("gc", "--store", project / "store").exit_code == 0
    assert not list((project / "store" / "artifacts").iterdir())


def test_a_store_without_a_version_has_the_first(project: Path) -> None:
    assert not (project / "store" / FORMAT_FILE).exists()
    assert read_store_version(project / "store") == 1


def test_reading_writes_no_version(project: Path) -> None:
    call("ls", "--store", project / "store")
    assert not (project / "store" / FORMAT_FILE).exists()


def test_a_new_store_says_its_version(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with store.in_use():
        assert json.loads((tmp_path / "store" / FORMAT_FILE).read_text(encoding="utf-8")) == {"store": STORE_VERSION}
    assert Store(tmp_path / "store").record(KEY) is None


@pytest.mark.parametrize("command", [["ls"], ["show", "abc"], ["gc"], ["plan", "recipe.toml"], ["run", "recipe.toml"]])
def test_a_newer_store_is_refused_and_left_alone(project: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.chdir(project)
    newer = {"store": STORE_VERSION + 1, "more": "of a later time"}
    (project / "store" / FORMAT_FILE).write_text(json.dumps(newer), encoding="utf-8")
    before = sorted((path, path.lstat().st_mtime_ns) for path in (project / "store").rglob("*"))
    done = call(*command, "--store", "store")
    assert done.exit_code == StoreError.exit_code, done.output
    assert f"version {STORE_VERSION + 1}" in done.stderr
    assert "upgrade attar" in done.stderr
    assert "--store" in done.stderr
    assert sorted((path, path.lstat().st_mtime_ns) for path in (project / "store").rglob("*")) == before


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"store": "1"}', '{"store": 0}', '{"store": true}', "{}", "\xff"])
def test_a_version_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FORMAT_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(StoreError, match=FORMAT_FILE):
        Store(tmp_path)


def test_a_damaged_artifact_is_not_taken_for_whole(project: Path) -> None:
    graph = next((project / "store" / "artifacts").glob("*/model.onnx"))
    graph.chmod(0o644)
    graph.write_bytes(b"")
    assert call("show", graph.parent.name, "--store", project / "store", "--verify").exit_code == StoreError.exit_code
