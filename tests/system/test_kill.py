"""``kill -9`` at random moments: whatever was finished stays, nothing is half there, and the end is the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from attar.pipeline.core.stage import Artifact
from attar.pipeline.store.store import Store
from tests.support.projects import tiny

pytestmark = pytest.mark.timeout(300)  # runs are made again and again

DETERMINISTIC = ("teacher", "reference", "answers", "student", "onnx", "calibration", "cpu.model")


def content(folder: Path) -> dict[str, str]:
    """The content digest of every finished slot whose bytes do not depend on timings."""
    entries = Store(folder / "store").entries()
    return {entry.record["slot"]: entry.record["digest"] for entry in entries if entry.record["slot"] in DETERMINISTIC}


def dates(folder: Path) -> dict[str, int]:
    return {entry.key: (entry.root / "record.json").stat().st_mtime_ns for entry in Store(folder / "store").entries()}


def kill_once(folder: Path, after: float) -> bool:
    """Start a run and kill it after so many seconds. Returns whether it was still running."""
    process = subprocess.Popen(
        tiny.command(folder, "run", "recipe.toml"),
        cwd=folder,
        env=tiny.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def whole(folder: Path) -> None:
    """Every folder that looks like an artifact is one, to the last byte."""
    store = Store(folder / "store")
    for root in (folder / "store" / "artifacts").glob("*"):
        entry = store.match(root.name)
        store.verify(Artifact(entry.key, entry.record["digest"], entry.root, {}))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """What an undisturbed run makes, and how many seconds it takes."""
    folder = tmp_path_factory.mktemp("calm")
    tiny.write(folder)
    started = time.monotonic()
    assert tiny.run(folder)["targets"]["cpu"]["verdict"] == "passed"
    return content(folder), time.monotonic() - started


def kill_and_finish(folder: Path, calm: tuple[dict[str, str], float], kills: int, seed: int) -> None:
    """Kill a run ``kills`` times, then let it finish; it must end as the undisturbed one did."""
    expected, duration = calm
    tiny.write(folder)
    moments = random.Random(seed)
    killed = 0
    for _ in range(kills):
        before = dates(folder)
        killed += kill_once(folder, moments.uniform(0.3, max(2.0, duration / kills)))
        whole(folder)
        after = dates(folder)
        assert all(after[key] == made for key, made in before.items()), "something finished was made twice"
    assert killed >= 1
    assert tiny.run(folder)["targets"]["cpu"]["verdict"] == "passed"
    assert content(folder) == expected
    assert not list((folder / "store" / "work").glob("*"))


@pytest.mark.slow  # kills within a stage are among the tests of the stages
@pytest.mark.parametrize("seed", range(5))
def test_twenty_kills(tmp_path: Path, calm: tuple[dict[str, str], float], seed: int) -> None:
    kill_and_finish(tmp_path, calm, kills=4, seed=100 + seed)
