"""The comparison of engines: workers answer, what cannot be had is a reason, and goals are judged by bounds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from attar.models.tasks.topics import Texts
from benchmarks import verdicts
from benchmarks._large_students import JOINED, drop_repeats, join_texts, resnet18
from benchmarks.peers import contenders, environments, measured, process
from benchmarks.peers.contenders import Contender, Given
from benchmarks.peers.environments import OURS, Environment, UnavailableError
from benchmarks.peers.process import Worker
from benchmarks.peers.worker import answer_samples


@pytest.fixture
def doubling(tmp_path: Path) -> Path:
    """y = 2 x of two values."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    model = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def worker(file: Path, tmp_path: Path) -> Worker:
    return Worker(OURS, tmp_path, "onnxruntime", file, max(os.sched_getaffinity(0)), tmp_path / "log")


def test_a_worker_answers_and_is_timed(doubling: Path, tmp_path: Path) -> None:
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.savez(tmp_path / "x.npz", x=x)
    with worker(doubling, tmp_path) as asked:
        asked.ask(answer=tmp_path / "x.npz", batch=2, to=tmp_path / "y.npz")
        asked.ask(load=tmp_path / "x.npz")
        timed = asked.ask(time=0.01)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], 2 * x)
    assert 0 < timed["seconds"] < 0.01
    assert timed["calls"] >= 1


def test_a_worker_that_cannot_open_says_why(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(UnavailableError, match=r"INVALID_PROTOBUF|Protobuf parsing failed"):
        worker(tmp_path / "model.onnx", tmp_path)


def test_a_worker_that_dies_says_so(doubling: Path, tmp_path: Path) -> None:
    with worker(doubling, tmp_path) as asked, pytest.raises(UnavailableError, match=r"nowhere\.npz"):
        asked.ask(load=tmp_path / "nowhere.npz")


def test_no_other_batch_size_is_ever_asked_for() -> None:
    sizes = []

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"]}

    made = answer_samples(predict, {"x": np.arange(5)}, 2)
    assert sizes == [2, 2, 2]
    assert made["y"].tolist() == [0, 1, 2, 3, 4]


def test_what_a_build_says_last_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "calibration.npz").write_bytes(b"")
    with pytest.raises(UnavailableError, match=r"No such file|student\.onnx"):
        process.run_build(OURS, tmp_path, "build_onnxruntime", [str(tmp_path / "student.onnx")] * 3, tmp_path / "log")


@pytest.mark.slow  # makes an environment
def test_an_environment_that_cannot_be_installed_is_a_reason_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    environment = Environment("none", ("no-such-package-of-attar",))
    with pytest.raises(UnavailableError, match="no-such-package-of-attar"):
        environments.prepare_python(environment, tmp_path)
    assert not (tmp_path / "none" / "requirements.json").exists()


def test_the_memory_of_a_build_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has far more than the 100 MB that the script asks for; what it ran in does not count."""
    monkeypatch.setattr(process, "HERE", tmp_path)
    (tmp_path / "measured.py").write_text(Path(measured.__file__).read_text(encoding="utf-8"))
    (tmp_path / "hungry.py").write_text("import sys; held = bytearray(int(sys.argv[1]) * 10**6)")
    small, large = (process.run_build(OURS, tmp_path, "hungry", [size], tmp_path / "build.log").memory for size in ("1", "101"))
    assert 90e6 < large - small < 110e6
    assert small < 50e6


def test_a_key_that_attar_has_not_is_a_reason(tmp_path: Path) -> None:
    given = Given(tmp_path, 8, tmp_path)
    given.slots.write_text("{}")
    with pytest.raises(UnavailableError, match="attar has no magic"):
        Contender("attar, magic", OURS, "attar", target={"magic": True}).build_engine(given)


def test_peers_find_only_what_is_installed_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "PYTHONPATH" not in process.choose_variables(environments.OLIVE)
    assert process.choose_variables(OURS)["PYTHONPATH"] == str(process.ROOT)
    assert environments.prepare_python(OURS, Path("nowhere")) == Path(sys.executable)


def test_every_name_is_one_contender() -> None:
    names = [each.name for each in (*contenders.CANDIDATES, *contenders.PEERS)]
    assert len(set(names)) == len(names)
    assert {contenders.FLOAT, contenders.OLIVE_INT8} <= set(names)


@pytest.mark.parametrize(("bounds", "said"), [((2.0, 2.2), "kept"), ((1.8, 1.9), "missed"), ((1.9, 2.1), "undecided")])
def test_goals_are_judged_by_bounds(bounds: tuple[float, float], said: str) -> None:
    assert verdicts.judge_least(*bounds, 2.0) == said


@pytest.mark.parametrize(("bounds", "said"), [((2.1, 2.2), "missed"), ((1.8, 2.0), "kept"), ((1.9, 2.1), "undecided")])
def test_of_what_may_be_no_more_the_upper_bound_counts(bounds: tuple[float, float], said: str) -> None:
    assert verdicts.judge_most(*bounds, 2.0) == said


def test_the_resnet_has_the_parameters_of_its_paper() -> None:
    """11.69 million with 1,000 classes, as torchvision counts them."""
    network = resnet18(1000)
    assert sum(each.numel() for each in network.parameters()) == 11_689_512
    assert network.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_texts_of_one_section_are_joined_and_a_rest_is_left_out() -> None:
    sections = np.array([0, 1] * JOINED + [0] * JOINED + [0, 1])
    texts = Texts(tuple(f"{section}-{row}" for row, section in enumerate(sections)), sections)
    joined = join_texts(texts, slice(None))
    assert joined.sections.tolist() == [0, 0, 1]
    assert joined.texts[0] == " ".join(f"0-{row}" for row in range(0, 2 * JOINED, 2))
    assert all(len(text.split()) == JOINED for text in joined.texts)
    assert len(join_texts(texts, slice(0, None, 2))) == 2


def test_a_picture_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    for name, content in {"a": b"one", "b": b"two", "c": b"one"}.items():
        (tmp_path / name).write_bytes(content)
    assert drop_repeats(tmp_path, ["a", "b", "c"]) == ["a", "b"]
