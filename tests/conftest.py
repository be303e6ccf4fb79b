"""What is made once and read by many tests, and what holds for every test: a home of its own, and no network."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.calibrate import Calibrate
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from benchmarks.tuning import stretch_graph
from tests.support.bundles.engine_pairs import OTHERWISE, package_pair
from tests.support.bundles.packaging import package_bundle
from tests.support.processes.isolation import empty_home, loopback_only
from tests.support.processes.shared import make_once, session_folder
from tests.support.projects import tiny
from tests.support.tasks import sequences, smoke

LONG_FILES = ("test_sabotage.py", "test_cli.py")
"""They begin first, so that no process is left with one of them when the others have finished."""

# A property that does not hold fails within a few examples nearly always; `make test-all` draws as many as hypothesis does.
# No example has a deadline: a machine that is busy is no fault.
settings.register_profile("few", max_examples=25, deadline=None)
settings.register_profile("all", deadline=None)
settings.load_profile("few")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from all tests but those that are asked for with ``-m gpu``: what a CPU computes twice has the same bytes."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    asked = config.option.markexpr == "gpu"
    if asked and torch.cuda.is_available():
        return
    reason = "no NVIDIA GPU that torch can use" if asked else "needs a GPU: pytest -m gpu"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason))


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Leave out of every later garbage collection what is there when a file begins: `Measure` collects often."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with empty_home(session_folder(tmp_path_factory) / "home"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _bytecode() -> Iterator[None]:
    """Let children read bytecode and write none: a test edits a user's file more than once in the second that dates it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield


@pytest.fixture(autouse=True)
def _network(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("network"):
        yield
    else:
        with loopback_only():
            yield


@pytest.fixture(scope="session")
def digits_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    def make(root: Path) -> dict[str, Any]:
        return dict(smoke.digits_weights(root).facts)

    return smoke.artifact(Weights, *make_once(tmp_path_factory, "digits-weights", make))


@pytest.fixture(scope="session")
def digits_onnx(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> OnnxModel:
    def make(root: Path) -> dict[str, Any]:
        return dict(Export().run(root, weights=digits_weights))

    return smoke.artifact(OnnxModel, *make_once(tmp_path_factory, "digits-onnx", make))


@pytest.fixture(scope="session")
def reversal_graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``start``, ``step`` and ``model``: a small translator of random weights."""

    def make(root: Path) -> dict[str, Any]:
        weights = sequences.store_translator(root / "weights")
        return dict(Export(exporter="torchscript").run(root, weights=weights))

    return make_once(tmp_path_factory, "reversal-graphs", make)[0]


@pytest.fixture(scope="session")
def digits_ranges(tmp_path_factory: pytest.TempPathFactory, digits_onnx: OnnxModel) -> Ranges:
    def make(root: Path) -> dict[str, Any]:
        return dict(Calibrate(task=smoke.DIGITS, samples=256).run(root, onnx=digits_onnx))

    return smoke.artifact(Ranges, *make_once(tmp_path_factory, "digits-ranges", make))


@pytest.fixture(scope="session")
def own_answers(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> Answers:
    """The float network is its own teacher, so what int8 loses is all that there is to learn."""

    def make(root: Path) -> dict[str, Any]:
        return dict(Label(task=smoke.DIGITS, views=2).run(root, teacher=digits_weights))

    return smoke.artifact(Answers, *make_once(tmp_path_factory, "own-answers", make))


@pytest.fixture(scope="session")
def hard(tmp_path_factory: pytest.TempPathFactory, digits_weights: Weights) -> tuple[OnnxModel, Ranges]:
    """The same function in float, its channels stretched."""

    def export(root: Path) -> dict[str, Any]:
        facts = dict(Export(exporter="torchscript").run(root, weights=digits_weights))
        stretch_graph(smoke.artifact(OnnxModel, root, facts).file(), 100)
        return facts

    model = smoke.artifact(OnnxModel, *make_once(tmp_path_factory, "hard-onnx", export))

    def calibrate(root: Path) -> dict[str, Any]:
        return dict(Calibrate(task=smoke.DIGITS, samples=256).run(root, onnx=model))

    return model, smoke.artifact(Ranges, *make_once(tmp_path_factory, "hard-ranges", calibrate))


@pytest.fixture(scope="session")
def points_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a task of points, whose preprocessing halves raw coordinates. Copy it before you spoil it."""

    def make(root: Path) -> dict[str, Any]:
        return {"bundle": str(package_bundle(root / "chain"))}

    return Path(make_once(tmp_path_factory, "points", make)[1]["bundle"])


@pytest.fixture(scope="session")
def pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of points with an engine for single samples and one for batches, which answer alike."""
    return make_pair(tmp_path_factory, "pair", 1.0)


@pytest.fixture(scope="session")
def differing_pair_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a bundle whose engines do not answer alike."""
    return make_pair(tmp_path_factory, "differing-pair", OTHERWISE)


def make_pair(tmp_path_factory: pytest.TempPathFactory, name: str, times: float) -> Path:
    pytest.importorskip("openvino")
    return Path(make_once(tmp_path_factory, name, lambda root: {"bundle": str(package_pair(root, times))})[1]["bundle"])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project, whose every slot is made. Read only: take a copy."""

    def make(root: Path) -> dict[str, Any]:
        tiny.write(root / "project")
        assert set(tiny.statuses(tiny.call_run(root / "project")).values()) == {"made"}
        return {}

    return make_once(tmp_path_factory, "finished", make)[0] / "project"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for data: nothing is found but what is put there."""
    monkeypatch.setenv("ATTAR_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path
