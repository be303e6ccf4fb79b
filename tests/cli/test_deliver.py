"""What a run leaves for people: which folders it fills, replaces and leaves alone."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from attar.cli.deliver import deliver_results, end_command, find_unmade
from attar.cli.main import main
from attar.pipeline.core.errors import RecipeError, StoreError
from attar.pipeline.run import Record
from attar.pipeline.store.store import Store
from attar.proof.artifacts import Bundle, Verdict
from attar.proof.report.formats.files import FILES
from tests.support.projects import tiny


def bundle_record(path: Path | None, reason: str = "") -> Record:
    made = Record("cpu.bundle", "Package", "made", reason, path=path, inputs={"verdict": "cpu.verdict"}, makes=Bundle)
    return made if path else replace(made, status="skipped")


def verdict_record(verdict: str) -> Record:
    return Record("cpu.verdict", "Judge", "made", "", facts={"verdict": verdict}, makes=Verdict)


def write_bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def deliver(tmp_path: Path, record: Record, **more: set[str]) -> set[str]:
    """Return the names in the folder afterwards."""
    deliver_results([record], tmp_path / "out", "recipe", Store(tmp_path / "store"), **more)
    return {path.name for path in (tmp_path / "out").iterdir()}


def test_a_file_of_the_report_that_is_gone_is_put_back_and_a_signature_stays(tmp_path: Path) -> None:
    """A CI stage may have moved it elsewhere."""
    record = bundle_record(write_bundle(tmp_path / "made"))
    whole = deliver(tmp_path, record)
    assert whole == {*FILES, "cpu", ".attar.json"}
    (tmp_path / "out" / "junit.xml").unlink()
    (tmp_path / "out" / "cpu" / "SHA256SUMS.sig").write_bytes(b"signature")
    assert deliver(tmp_path, record) == whole
    assert (tmp_path / "out" / "cpu" / "SHA256SUMS.sig").exists()
    deliver(tmp_path, replace(record, key="another"))
    assert not (tmp_path / "out" / "cpu" / "SHA256SUMS.sig").exists()


def test_a_target_without_a_bundle_keeps_an_old_one_only_where_it_is_asked_for(tmp_path: Path) -> None:
    deliver(tmp_path, bundle_record(write_bundle(tmp_path / "made")))
    assert "cpu" in deliver(tmp_path, bundle_record(None, "never made"), keep={"cpu"})
    assert "cpu" not in deliver(tmp_path, bundle_record(None, "broke"))


def test_a_bundle_that_a_verdict_refuses_is_not_one_that_may_be_made_yet(tmp_path: Path) -> None:
    assert find_unmade([bundle_record(None)]) == find_unmade([verdict_record("passed"), bundle_record(None)]) == {"cpu"}
    for verdict in ("failed", "undecided"):
        assert find_unmade([verdict_record(verdict), bundle_record(None)]) == set()
    assert find_unmade([bundle_record(tmp_path)]) == set()


def stay_inside(records: list[Record], folder: Path, title: str) -> None:
    """Take the place of `write_report`: fails if another process is delivering, too."""
    (folder / "inside").mkdir()
    time.sleep(0.1)
    (folder / "inside").rmdir()


def deliver_often(tmp_path: Path, name: str) -> None:
    for number in range(3):
        deliver(tmp_path, bundle_record(tmp_path / "made", f"{name} {number}"))


def test_two_processes_deliver_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.cli.deliver.write_report", stay_inside)
    write_bundle(tmp_path / "made")
    fork = multiprocessing.get_context("fork")
    both = [fork.Process(target=deliver_often, args=(tmp_path, name)) for name in ("one", "two")]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cpu", ".attar.json"}


@pytest.mark.parametrize(("folder", "option"), [("out", "-o"), ("store/latest/recipe", "--store")])
def test_a_folder_that_cannot_be_written_names_the_option_that_chose_it(tmp_path: Path, folder: str, option: str) -> None:
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / folder).write_text("a file")
    with pytest.raises(StoreError, match=rf"cannot write .*{folder}: File exists; .* another with {option}$"):
        deliver_results([bundle_record(None)], tmp_path / folder, "recipe", Store(tmp_path / "store"))


def refuse(folder: Path, *arguments: str, code: int = 2) -> str:
    """Call a command that the place of its bundle stops before it makes anything; returns what it says."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tiny.write(folder)
    with tiny.project_folder(folder):
        done = CliRunner().invoke(main, [*arguments, "--store", "store"])
    assert done.exit_code == code, done.output
    assert {path: path.read_bytes() for path in before} == before
    assert not (folder / "store").exists()
    return done.stderr


def test_what_is_in_the_place_of_a_bundle_stops_a_run_before_it_begins(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out" / "cpu")
    for command in ("run", "report"):
        assert "is in the way" in refuse(tmp_path, command, "recipe.toml", "-o", "out")


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_place_that_cannot_be_written_stops_a_run_before_it_begins(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    said = refuse(tmp_path, command, "recipe.toml", "-o", "file/out", code=1)
    assert "cannot write file/out: Not a directory; choose another with -o" in said
    monkeypatch.setattr("os.access", lambda path, mode: False)
    said = refuse(tmp_path, command, "recipe.toml", "-o", "out/deep", code=1)
    assert "cannot write out/deep: Permission denied; choose another with -o" in said


@pytest.mark.parametrize("command", ["run", "report"])
def test_the_bundle_in_production_is_not_replaced(tmp_path: Path, command: str) -> None:
    write_bundle(tmp_path / "out" / "cpu")
    (tmp_path / "out" / ".attar.json").write_text(json.dumps({"bundles": ["cpu"]}))
    said = refuse(tmp_path, command, "recipe.toml", "-o", "out", "--against", "out/cpu")
    assert "copy it elsewhere first" in said


@pytest.mark.parametrize(("found", "code"), [(0, 1), (3, 3)])
def test_all_that_kept_results_from_being_delivered_is_told_once(found: int, code: int) -> None:
    errors = [StoreError("the page"), RecipeError("the bundle"), StoreError("the page")]
    with pytest.raises(StoreError, match=r"^the page\nthe bundle$") as told:
        end_command(found, errors)
    assert told.value.exit_code == code
    with pytest.raises(SystemExit) as ended:
        end_command(found, [])
    assert ended.value.code == found
