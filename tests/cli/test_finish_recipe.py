"""A recipe whose accelerator is elsewhere, from the run to the finished bundle, by the commands that a user types."""

from __future__ import annotations

import json
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from click.testing import CliRunner, Result

from attar.bundle.opening import open_bundle
from attar.cli.main import main
from attar.engines import cpu
from attar.engines.runtimes.runtime import RUNTIMES
from tests.support.bundles.late import HERE, MISSING
from tests.support.projects import tiny

pytestmark = pytest.mark.timeout(300)  # a whole run

OTHER = tiny.RECIPE.replace("seed = 1", "seed = 2")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Iterator[Path]:
    """A recipe's folder with all but its engine, on a machine that can build that and not run it."""
    folder = tmp_path_factory.mktemp("late") / "project"
    shutil.copytree(finished, folder, symlinks=True)
    (folder / "other.toml").write_text(OTHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "onnxruntime", "tests.support.bundles.late:Late")
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(folder)
        yield folder


def attar(*arguments: str, code: int = 0) -> Result:
    made = CliRunner().invoke(main, arguments)
    assert made.exit_code == code, made.output
    return made


@pytest.fixture(scope="module")
def made(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(attar("run", "recipe.toml", "--json", "-o", "out", "--store", "store").stdout)
    return found


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine with the accelerator, which differs in nothing else: a container that is given the GPU of its host."""
    monkeypatch.setenv(HERE, "1")


def test_the_run_ends_well_and_says_what_was_not_run(project: Path, made: dict[str, Any]) -> None:
    assert made["targets"]["cpu"]["verdict"] == "not run here"
    assert tiny.entry(made, "cpu.verdict")["facts"]["summary"].startswith(f"the engine was not run here: {MISSING};")
    engine = tiny.entry(made, "cpu.evidence")["facts"]["hops"][-1]
    assert engine == {"hop": "engine", "format": "Late", "precision": "int8", "status": "not run here", "why": MISSING}
    said = {each.get("message") for each in ET.parse(project / "out" / "junit.xml").iter("skipped")}  # noqa: S314  # our own file
    assert f"not run here: {MISSING}" in said
    assert f"not run here: {MISSING}" in (project / "out" / "report.md").read_text()
    assert "not run here" in (project / "out" / "report.html").read_text()


def test_whoever_requires_all_targets_is_told(made: dict[str, Any]) -> None:
    said = attar("run", "recipe.toml", "-o", "out", "--store", "store", "--require-all", code=3).stdout
    assert "`attar finish out/cpu -o DIR`" in said
    attar("validate", "recipe.toml", "--store", "store", "--require-all", code=3)


@pytest.mark.parametrize("command", ["check", "bench"])
def test_it_is_not_fit_to_serve(made: dict[str, Any], command: str) -> None:
    assert "is unfinished" in attar(command, "out/cpu", code=4).output


def test_a_machine_that_cannot_finish_it_says_so(project: Path, made: dict[str, Any]) -> None:
    for more in ([], ["--recipe", "recipe.toml", "--store", "store"]):
        said = attar("finish", "out/cpu", "-o", "new", *more, code=4).output
        assert f": {MISSING}" in said
    assert not (project / "new").exists()


@pytest.mark.usefixtures("made", "here")
def test_the_other_machine_finishes_it_and_it_answers(project: Path) -> None:
    assert "bundle recipe-cpu" in attar("finish", "out/cpu", "-o", "done").stdout
    assert json.loads(attar("check", "done", "--json").stdout)["verdict"] == "not run here"
    with open_bundle(project / "done") as model:
        raw = {"point": np.array([[0.0, 0.0], [0.99, 0.99]], np.float32)}
        assert [model.labels[i] for i in model(model.preprocess(raw))["logits"].argmax(1)] == ["inside", "outside"]
    assert "was finished on" in attar("finish", "done", "-o", "again", code=2).output


@pytest.mark.usefixtures("made", "here")
def test_with_its_recipe_the_engine_is_proven_there(project: Path) -> None:
    facts = json.loads(attar("finish", "out/cpu", "-o", "proven", "--recipe", "recipe.toml", "--store", "store", "--json").stdout)
    assert (facts["verdict"], facts["finished"]) == ("passed", None)
    assert json.loads(attar("check", "proven", "--json").stdout)["verdict"] == "passed"


@pytest.mark.usefixtures("made", "here")
def test_a_machine_whose_cpu_asks_for_other_bits_says_which(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other, flags = (7, 8, {"avx512_vnni"}) if cpu.has_saturating_int8() else (8, 7, {"avx2"})
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    said = attar("finish", "out/cpu", "-o", "wrong", "--recipe", "recipe.toml", "--store", "store", code=4).output
    assert f"out/cpu holds: int8 weights of {other} bits, not {ours}," in said
    assert f"`reduce_range = {'true' if ours == 7 else 'false'}`" in said
    assert not (project / "wrong").exists()


@pytest.mark.usefixtures("made", "here")
def test_another_recipe_makes_another_bundle(project: Path) -> None:
    given = ("finish", "out/cpu", "-o", "wrong", "--store", "store", "--recipe")
    assert "'recipe-cpu'; known: other-cpu" in attar(*given, "other.toml", code=2).output
    (project / "recipe.toml").write_text(OTHER)
    try:
        assert "out/cpu" in attar(*given, "recipe.toml", code=4).output
    finally:
        (project / "recipe.toml").write_text(tiny.RECIPE)
    assert not (project / "wrong").exists()
