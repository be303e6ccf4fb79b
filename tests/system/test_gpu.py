from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg

from attar.engines.runtimes import cuda
from attar.pipeline.core.stage import Device
from attar.pipeline.keys import machine
from benchmarks import _gpu_log, _gpu_steps, _gpu_task, _on_cuda, gpu
from benchmarks.gpu import GpuCommand, Result
from tests.support.engines.cuda_host import HostDriver


def test_without_a_gpu_every_step_says_so_and_nothing_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if machine.list_gpus():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    assert gpu.main() == 0
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {each["outcome"] for each in steps} == {"not run here"}
    assert (tmp_path / "gpu.md").read_text().count("| not run here | 0.0 s | no NVIDIA GPU") == len(steps)
    assert capsys.readouterr().out.count("no NVIDIA GPU") == len(gpu.STEPS) == len(steps)


ABSENT = "import sys; raise SystemExit(3 if '--require-all' in sys.argv else 0)"


@pytest.mark.parametrize(
    ("step", "outcome", "said"),
    [
        (GpuCommand("fine", (), ("-c", "")), "done", ""),
        (GpuCommand("broken", (), ("-c", "raise SystemExit(2)")), "failed", "exit code 2"),
        (GpuCommand("no promise of attar's", (), ("-c", "raise SystemExit(3)")), "failed", "exit code 3"),
        (GpuCommand("a promise", (), ("-c", "raise SystemExit(3)", "attar")), "gates not passed", "see its report"),
        (GpuCommand("absent", (), ("-c", ABSENT, "attar", "--require-all")), "not run here", "the target's engine"),
        (GpuCommand("endless", (), ("-c", "while True: pass"), limit=1), "stopped", "after 1 s"),
        (GpuCommand("no tests", (), ("-c", "raise SystemExit(5)", "pytest")), "not run here", "no test"),
        (GpuCommand("cannot", ("no_such_module",), ("-c", "")), "not run here", "no_such_module"),
        (GpuCommand("other", (), ("-c", ""), distribution="onnxruntime-gpu"), "not run here", "onnxruntime-gpu"),
        (
            GpuCommand("no data", (), ("-m", "attar", "run", "cifar100"), data="no.such:Task"),
            "not run here",
            "attar fetch cifar100",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, GpuCommand) else None,
)
def test_a_step_is_done_failed_or_not_run_here(
    step: GpuCommand, outcome: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "STEPS", (step,))
    (result,) = gpu.run_steps(None)
    assert result.outcome == outcome
    assert said in result.said


def test_what_a_step_prints_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", (GpuCommand("told", (), ("-c", "print('one'); raise SystemExit('two')")),))
    (result,) = gpu.run_steps(None)
    assert result.printed == ("one", "two")
    assert gpu.render_page("NVIDIA L4", "2026-11-28", [result]).endswith("## told\n\n```\none\ntwo\n```\n")


def test_a_long_step_is_heard_of_while_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import time; print('one'); time.sleep(1); print('two')"
    monkeypatch.setattr(_gpu_log, "NEWS_SECONDS", 0.2)
    monkeypatch.setattr(gpu, "STEPS", (GpuCommand("long", (), ("-c", code)),))
    (result,) = gpu.run_steps(None)
    assert result.printed == ("one", "two")
    lines = capsys.readouterr().out.splitlines()
    silent = [place for place, line in enumerate(lines) if line.startswith("   ... ")]
    assert [line for line in lines if not line.startswith("   ... ")] == ["== long", "one", "two"]
    assert any(lines.index("one") < place < lines.index("two") for place in silent)


def test_what_a_stopped_step_started_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of a pipe tell: its reader sees the end once the last writer is gone."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    started = f"import time; file = open({str(fifo)!r}, 'w'); time.sleep(60)"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {started!r}])"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(gpu, "STEPS", (GpuCommand("parent", (), ("-c", command), limit=1),))
    (result,) = gpu.run_steps(None)
    assert result.outcome == "stopped"
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_gpus_own_time_is_counted_once() -> None:
    events = []
    for kind, is_mark in ((DeviceType.CUDA, False), (DeviceType.CUDA, True), (DeviceType.CPU, False)):
        event = FunctionEventAvg()
        event.device_type, event.is_user_annotation, event.self_device_time_total = kind, is_mark, 500_000
        events.append(event)
    assert _gpu_steps.sum_device_seconds(events) == 0.5


def test_no_step_begins_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", (GpuCommand("late", (), ("-c", "")),))
    (result,) = gpu.run_steps(None, minutes=0)
    assert (result.outcome, result.said) == ("not run here", "0 minutes are over")


def test_a_failed_step_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "run_steps", lambda *_: iter([Result("x", "done", ""), Result("y", "failed", "exit code 2")]))
    assert gpu.main() == 1


def test_the_script_for_the_device_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _on_cuda.main("cpu", steps=1)
    said = capsys.readouterr().out
    assert said.count("apart by 0.0e+00") == len(_on_cuda.list_losses()) + len(_on_cuda.make_networks())
    assert "images/s" in said


@pytest.fixture
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_task, "SAMPLES", 16)
    monkeypatch.setattr(_gpu_steps, "LARGE", {"stem": 8, "width": 2, "channels": 3, "classes": 1000})


@pytest.mark.usefixtures("_narrow")
@pytest.mark.parametrize("step", [_gpu_steps.compare_answers, _gpu_steps.reduce_ones])
def test_a_question_to_the_device_is_answered_by_the_cpu(
    step: Callable[[Device], None], capsys: pytest.CaptureFixture[str]
) -> None:
    step("cpu")
    said = capsys.readouterr().out
    assert "fp32: apart by 0.0e+00" in said or "gloo: a sum of 1,048,576" in said


@pytest.mark.usefixtures("_narrow")
def test_steps_of_a_real_size_are_measured(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_steps, "WARM", 1)
    _gpu_steps.measure_steps("cpu", size=2, count=2)
    assert capsys.readouterr().out.count("waits in 2 steps: not run here") == 2  # fp16 needs a GPU


def test_what_the_host_spends_on_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    _gpu_steps.measure_host("cpu")
    said = capsys.readouterr().out
    assert "588 KiB sent of each\nbytes:" in said
    assert said.endswith("147 KiB sent of each\n")


def test_numbers_go_through_a_driver_and_back(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "load_library", HostDriver)
    _gpu_steps.copy_numbers("cpu")
    assert "64 MiB there and back" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    _gpu_steps.resume_killed_training("cpu")
    assert "losses apart by 0.0e+00" in capsys.readouterr().out
