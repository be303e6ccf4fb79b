from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.pipeline.keys import machine
from benchmarks import _on_cuda, gpu
from benchmarks.gpu import Result, Step


def test_without_a_gpu_every_step_says_so_and_nothing_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if machine.list_gpus():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.main() == 0
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {each["outcome"] for each in steps} == {"not run here"}
    assert capsys.readouterr().out.count("no NVIDIA GPU") == len(gpu.STEPS) == len(steps)


ABSENT = "import sys; raise SystemExit(3 if '--require-all' in sys.argv else 0)"


@pytest.mark.parametrize(
    ("step", "outcome", "said"),
    [
        (Step("fine", (), ("-c", "")), "done", ""),
        (Step("broken", (), ("-c", "raise SystemExit(2)")), "failed", "exit code 2"),
        (Step("no promise of attar's", (), ("-c", "raise SystemExit(3)")), "failed", "exit code 3"),
        (Step("a promise", (), ("-c", "raise SystemExit(3)", "attar")), "gates not passed", "see its report"),
        (Step("absent", (), ("-c", ABSENT, "attar", "--require-all")), "not run here", "the target's engine"),
        (Step("endless", (), ("-c", "while True: pass"), limit=1), "stopped", "limit of 1 s"),
        (Step("cannot", ("no_such_module",), ("-c", "")), "not run here", "no_such_module"),
        (Step("other", (), ("-c", ""), distribution="onnxruntime-gpu"), "not run here", "onnxruntime-gpu"),
        (Step("no data", (), ("-m", "attar", "run", "cifar100"), data="no.such:Task"), "not run here", "attar fetch cifar100"),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else None,
)
def test_a_step_is_done_failed_or_not_run_here(step: Step, outcome: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", (step,))
    (result,) = gpu.results(None)
    assert result.outcome == outcome
    assert said in result.said


def test_a_failed_step_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "results", lambda _: iter([Result("x", "done", ""), Result("y", "failed", "exit code 2")]))
    assert gpu.main() == 1


def test_the_script_for_the_device_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _on_cuda.main("cpu", steps=1)
    said = capsys.readouterr().out
    assert said.count("apart by 0.0e+00") == len(_on_cuda.losses()) + len(_on_cuda.networks())
    assert "images/s" in said
