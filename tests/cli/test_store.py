"""Commands that show a store: what they verify, and what they say of damage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from attar.cli.main import main
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.recipe.recipe import make_recipe_id
from attar.pipeline.run import Run
from attar.pipeline.store.store import Store
from tests.support.projects.toy import Constant, Double


def show(recipe: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["show", *arguments, "--verify", "--store", str(recipe.parent / "store")])


def test_verify_reads_the_files_of_an_artifact_and_of_all_that_a_recipe_used(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.touch()
    slots = {"source": SlotBinding(Constant(value=3.0), {}), "double": SlotBinding(Double(), {"source": "source"})}
    store = Store(tmp_path / "store")
    made = list(Run(Pipeline(slots), store, Fingerprint(tmp_path), make_recipe_id(recipe)).walk())
    key, path = str(made[1].key), Path(str(made[1].path))
    assert show(recipe, key[:12]).exit_code == 0
    assert show(recipe, str(recipe)).exit_code == 0
    (path / "value.json").unlink()
    for named, place in ((key[:12], ""), (str(recipe), "double: ")):
        done = show(recipe, named)
        assert (done.exit_code, f"{place}value.json is missing from" in done.stderr) == (1, True), done.output
    store.discard(key)
    done = show(recipe, str(recipe))
    assert (done.exit_code, "double: no artifact in" in done.stderr) == (1, True), done.output


def test_a_note_of_another_shape_is_no_note_and_a_run_replaces_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.touch()
    store, name = Store(tmp_path / "store"), make_recipe_id(recipe)
    store.write_note(f"recipes/{name}.json", [1])
    done = show(recipe, str(recipe))
    assert (done.exit_code, "used nothing in" in done.stderr) == (2, True), done.output
    (made,) = Run(Pipeline({"source": SlotBinding(Constant(value=3.0), {})}), store, Fingerprint(tmp_path), name).walk()
    assert store.read_note(f"recipes/{name}.json") == {"source": made.key}


def test_what_only_shows_a_store_loads_no_library_of_arrays() -> None:
    code = "import sys, attar.cli.store, attar.recipes.workspace; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_standard_output_that_is_full_is_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attar", "ls", "--store", str(tmp_path)]
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device; is the disk full, or the file gone? -v shows where\n"


def test_what_an_encoding_lacks_is_written_out(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "attar", "new", "größe−µ"]
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=latin, check=True)
    assert done.stdout.decode("latin-1").startswith("größe\\u2212µ: README.md, task.py")
