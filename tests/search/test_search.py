"""``attar search`` from the command to the winner's bundle, and every mistake before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attar.cli.main import main
from attar.pipeline.store.store import Store
from attar.search.recipe_search import RecipeSearch
from tests.support.projects import tiny

SEARCH = """
[search]
"student.options.width" = [2, 8, 16]
"targets.cpu.precision" = ["fp32", "int8"]
trials = 3
"""
RECIPE = tiny.RECIPE.replace("epochs = 20", "epochs = 9").replace("threads = 1\n", "threads = 1\nrepeats = 20\n") + SEARCH


def search(folder: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = tiny.call(folder, "search", "recipe.toml", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    tiny.write(folder, recipe=RECIPE)
    return folder


@pytest.fixture(scope="module")
def found(project: Path) -> dict[str, Any]:
    return search(project)


def list_variants(found: dict[str, Any], *statuses: str) -> list[dict[str, Any]]:
    return [each for each in found["search"]["variants"] if each["status"] in statuses]


def test_the_winner_is_the_fastest_variant_that_keeps_the_promises(found: dict[str, Any]) -> None:
    kept = list_variants(found, "kept")
    assert kept
    best = max(kept, key=lambda each: each["speedup"])
    assert found["search"]["winner"] == best["name"]
    assert found["targets"]["cpu"]["verdict"] == "passed"


def test_every_variant_is_timed_and_none_is_trained_that_cannot_win(found: dict[str, Any]) -> None:
    variants = found["search"]["variants"]
    assert len(variants) == 6
    assert all(each["speedup"] > 0 and each["size_bytes"] > 0 for each in variants)
    winner = next(each for each in variants if each["name"] == found["search"]["winner"])
    for each in list_variants(found, "cannot win"):
        assert each["epochs"] == 0
        assert each["speedup"] <= winner["speedup"]


def test_the_found_recipe_has_the_winner_s_settings_and_reuses_what_the_search_made(project: Path, found: dict[str, Any]) -> None:
    made = tiny.call_run(project, recipe="recipe-found.toml")
    assert tiny.made_again(made) == []
    statuses = {entry["slot"]: entry["status"] for entry in found["slots"]}
    assert statuses["student"] == statuses["teacher"] == statuses["cpu.engine"] == "reused"
    text = (project / "recipe-found.toml").read_text()
    assert "[search]" not in text
    assert "seconds faster than dynamo" in text, "comments stay"


def test_a_second_search_trains_and_times_nothing_and_finds_the_same(project: Path, found: dict[str, Any]) -> None:
    again = search(project)
    assert again["search"] == found["search"]
    assert tiny.made_again(again) == []


def test_trials_are_remembered_beside_what_the_recipe_used_last(project: Path, found: dict[str, Any]) -> None:
    with tiny.project_folder(project):
        opened = RecipeSearch.create("recipe.toml", Store(project / "store"))
        notes = [opened.open([]), *map(opened.open_trial, opened.variants)]
        assert len({each.run.last.note for each in notes}) == 1 + 6
    assert " student " not in tiny.call(project, "gc", "--dry-run").stdout


def test_the_page_shows_every_variant(found: dict[str, Any]) -> None:
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert all(each["title"] in page for each in found["search"]["variants"])
    assert "<script" not in page


def test_too_slow_variants_are_never_trained_and_nothing_found_is_exit_code_3(project: Path, found: dict[str, Any]) -> None:
    none = search(project, "--set", "gates.speedup=1000.0", code=3)
    assert none["search"]["winner"] is None
    assert {each["status"] for each in none["search"]["variants"]} == {"too slow"}


def test_what_was_found_is_told_and_delivered_where_the_page_cannot_be_written(project: Path, found: dict[str, Any]) -> None:
    arguments = ("search", "recipe.toml", "-o", str(project / "task.py" / "out"))
    done = tiny.call(project, *arguments, "--set", "gates.speedup=1000.0")
    assert (done.returncode, "out: Not a directory" in done.stderr) == (3, True)
    assert "no variant keeps all promises" in done.stdout
    latest = project / "store" / "latest"
    shutil.rmtree(latest)
    winner = tiny.call(project, *arguments)
    assert (winner.returncode, "out: Not a directory" in winner.stderr) == (1, True)
    assert winner.stdout.startswith("winner  ")
    assert [path.name for path in latest.glob("*/cpu")] == ["cpu"]


@pytest.mark.slow
def test_the_smallest_that_keeps_the_promises(project: Path, found: dict[str, Any]) -> None:
    small = search(project, "--set", 'search.objective="size"')
    kept = list_variants(small, "kept")
    assert small["search"]["winner"] == min(kept, key=lambda each: each["size_bytes"])["name"]


@pytest.mark.slow
def test_a_variant_that_cannot_be_built_is_refused_with_the_reason(project: Path, found: dict[str, Any]) -> None:
    tiny.write(project, recipe=RECIPE.replace("[2, 8, 16]", "[-3, 16]"))
    odd = search(project)
    refused = list_variants(odd, "refused")
    assert {each["settings"]["student.options.width"] for each in refused} == {-3}
    assert all("student" in each["reason"] for each in refused)


@pytest.mark.slow
def test_what_a_network_rules_out_is_not_built_and_counted(project: Path) -> None:
    losses = '[{ kind = "kd" }], [{ kind = "simkd", student = "0", teacher = "0" }]'
    space = f'\n[search]\n"student.lambda_kd" = [0.5, 1.0]\n"student.losses" = [{losses}]\n'
    tiny.write(project, recipe=RECIPE.replace(SEARCH, space))
    none = search(project, "--set", "gates.speedup=1000.0", code=3)
    (refused,) = list_variants(none, "refused")
    assert "nothing teaches" in refused["reason"]
    assert (refused["p50"], refused["size_bytes"]) == (None, None)
    assert any("1 of 4 variants were never built" in note for note in none["search"]["notes"])


@pytest.mark.slow
def test_a_training_that_fails_ends_no_search_unless_all_do(tmp_path: Path) -> None:
    wild = RECIPE.replace(SEARCH, '\n[search]\n"student.learning_rate" = [0.05, 1e30]\n')
    tiny.write(tmp_path, recipe=wild)
    found = search(tmp_path)
    (failed,) = list_variants(found, "failed", "cannot win")
    assert failed["settings"]["student.learning_rate"] == 1e30
    tiny.write(tmp_path, recipe=wild.replace("0.05, 1e30", "1e30, 2e30"))
    done = tiny.call(tmp_path, "search", "recipe.toml")
    assert done.returncode == 1
    assert "loss" in done.stderr


def test_two_values_that_cannot_go_together_are_both_named(tmp_path: Path) -> None:
    space = '\n[search]\n"student.network" = ["nets.py:student", "nets.py:bare"]\n"student.options" = [{ width = 8 }, {}]\n'
    recipe = tiny.RECIPE.replace("options = { width = 16 }\n", "")
    tiny.write(tmp_path, recipe=recipe + space, nets=tiny.NETS + "\ndef bare():\n    return student(4)\n")
    done = tiny.call(tmp_path, "search", "recipe.toml")
    assert done.returncode == 2
    assert "search.student.network = 'nets.py:bare' and search.student.options = {'width': 8}" in done.stderr
    assert not (tmp_path / "store" / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--ray", "auto"), "file:///FOLDER"),
        (("--ray", "auto", "--store", "file:///{folder}/bucket"), "[search.resources] target"),
        (("--ray", "host", "--store", "file:///{folder}/bucket", "--set", 'search.resources.target="box"'), "HOST:PORT"),
    ],
)
def test_a_mistake_about_a_cluster_is_told_before_anything_is_made(
    tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    tiny.write(tmp_path, recipe=RECIPE)
    given = [each.format(folder=str(tmp_path)[1:]) for each in arguments]
    with tiny.project_folder(tmp_path):
        done = CliRunner().invoke(main, ["search", "recipe.toml", *given])
    assert done.exit_code == 2, done.output
    assert named in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (SEARCH, "", "[search]"),
        ("trials = 3", "dimensions = 3", "dimensions"),
        ("score_drop = 0.1\ncorrelation = 0.5\n", "", "promise"),
        ('"student.options.width"', '"student.opts.width"', "options"),
        ('"student.options.width"', '"stdent.options.width"', "student"),
        ('"targets.cpu.precision"', '"targets.gpu.precision"', "gpu"),
        ('["fp32", "int8"]', '["fp32", "int3"]', "int3"),
        ("[student]\n", '[student]\nkeep = "abcdef0123"\n', "student.keep"),
        ("[onnx]\n", '[onnx]\nkeep = "abcdef0123"\n', "onnx.keep"),
        ('"student.options.width" = [2, 8, 16]', '"student.keep" = ["abcdef0123"]', "student.keep"),
        ('"targets.cpu.precision" = ["fp32", "int8"]', '"targets.cpu.gates.score_drop" = [0.1, 0.9]', "score_drop = 0.9"),
        ('"targets.cpu.precision" = ["fp32", "int8"]', '"targets.cpu.optimize_for" = [1, 32]', "optimize_for = 32"),
        ('"targets.cpu.precision" = ["fp32", "int8"]', '"targets.cpu.optimize_for" = [[1, 32]]', "optimize_for = [1, 32]"),
        ('"targets.cpu.precision" = ["fp32", "int8"]', '"targets.cpu" = [{ batch = 16 }]', "batch"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in RECIPE
    tiny.write(tmp_path, recipe=RECIPE.replace(old, new))
    done = tiny.call(tmp_path, "search", "recipe.toml")
    assert done.returncode == 2
    assert named in done.stderr
    assert not (tmp_path / "store" / "artifacts").exists()
