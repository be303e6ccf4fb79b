"""`make gpu`: the most that this machine can do on its NVIDIA GPU, one step after the other, and a
summary of all.

Needs no more than Python: what a step needs is looked for before it starts, and a step without it
is `not run here`, with the reason. Exit code 1 where a step that could be run failed. After each
step ``gpu.json`` has all results, and ``gpu.md`` is a page of them for a reader. ``MINUTES=10`` is
the time of all steps together.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from benchmarks._gpu_log import CommandLog, wait_for_end

ROOT = Path(__file__).parent.parent
STORE = ".attar-cuda"
CORE = ("pydantic", "click", "rich", "filelock", "safetensors", "onnxruntime")
TRAIN = (*CORE, "torch", "accelerate", "onnx", "onnxscript", "jinja2", "matplotlib")
INSTALL = "pip install -e '.[train,examples]' brings all but TensorRT (docs/gpu.md)"
LINES = 40  # of what a step printed that are kept
NO_TESTS = 5  # pytest's exit code where it selected none
UNDECIDED = 3  # attar's exit code for a promise that was not kept: a result, not a breakdown


@dataclass(frozen=True)
class GpuCommand:
    """One command. ``data``: the task whose data it reads, where those do not come with a
    package."""

    name: str
    needs: tuple[str, ...]
    command: tuple[str, ...]
    data: str = ""
    distribution: str = ""
    """The package that must be the installed one, where several bring the same module."""
    limit: int = 600
    """Seconds after which it is stopped."""


@dataclass(frozen=True)
class Result:
    step: str
    outcome: Literal["done", "failed", "gates not passed", "stopped", "not run here"]
    said: str
    seconds: float = 0.0
    printed: tuple[str, ...] = ()
    """The last lines that it printed."""


def build_attar_command(*arguments: str) -> tuple[str, ...]:
    return ("-m", "attar", *arguments, "--device", "cuda", "--store", STORE)


def build_question(name: str) -> tuple[str, ...]:
    return ("-m", "benchmarks._gpu_steps", name)


def build_target_step(target: str, *needs: str, distribution: str = "") -> GpuCommand:
    """Return the step of one target of the recipe ``engines``, which must not be left out."""
    command = build_attar_command("run", "engines", "--target", target, "--require-all")
    return GpuCommand(
        f"target {target}", (*TRAIN, "sklearn", *needs), command, distribution=distribution
    )


STEPS = (
    GpuCommand("driver and flags", TRAIN, build_question("driver"), limit=120),
    GpuCommand(
        "networks and losses, torch alone", ("torch",), ("-m", "benchmarks._on_cuda"), limit=120
    ),
    GpuCommand("20 steps in fp32, bf16, fp16", TRAIN, build_question("steps"), limit=300),
    GpuCommand("what the host prepares", TRAIN, build_question("host"), limit=120),
    GpuCommand("kill and resume", (*TRAIN, "sklearn"), build_question("resume"), limit=180),
    GpuCommand("answers on GPU and CPU", TRAIN, build_question("answers"), limit=180),
    GpuCommand("copies by the driver beside torch", TRAIN, build_question("copies"), limit=120),
    GpuCommand("NCCL with one process", TRAIN, build_question("nccl"), limit=120),
    GpuCommand(
        "distil digits",
        (*TRAIN, "sklearn"),
        build_attar_command("run", "engines", "--target", "cpu"),
    ),
    build_target_step("cuda", distribution="onnxruntime-gpu"),
    build_target_step("rtx", "tensorrt_rtx"),
    build_target_step("trt", "tensorrt"),
    GpuCommand(
        "demo",
        TRAIN,
        build_attar_command("run", "demo"),
        data="attar.models.tasks.fashion:FashionMnist",
    ),
    GpuCommand("tests that need a GPU", (*TRAIN, "pytest"), ("-m", "pytest", "-q", "-m", "gpu")),
    GpuCommand(
        "CIFAR-100, as long as there is time",
        TRAIN,
        build_attar_command("run", "cifar100"),
        data="attar.models.tasks.cifar:Cifar100",
        limit=24 * 3600,
    ),
)
"""In the order of what they tell of a GPU that is lent for ten minutes."""


def find_gpu() -> str | None:
    """Return name and driver of the first device; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = found.stdout.strip().splitlines()
    return lines[0] if found.returncode == 0 and lines else None


def find_torch_fault() -> str | None:
    """Return why torch cannot use the device; None where it can."""
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if found.returncode:
        return "torch cannot be imported"
    name, _, usable = found.stdout.strip().rpartition(" ")
    return (
        None
        if usable == "True"
        else f"torch {name} cannot use the device: install a CUDA build of it"
    )


def find_missing(step: GpuCommand) -> str | None:
    """Return why a step cannot be run here; None where it can."""
    absent = [module for module in step.needs if importlib.util.find_spec(module) is None]
    if absent:
        return f"not installed: {', '.join(absent)}; {INSTALL}"
    if step.distribution and not is_installed(step.distribution):
        return f"not installed: {step.distribution}, in the place of what brings the same module"
    if step.data and not has_data(step.data):
        return f"its data are not on this machine; `attar fetch {step.command[3]}` gets them"
    return None


def is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def has_data(task: str) -> bool:
    code = (
        "import sys; from attar.pipeline.core.names import load_object; "
        "load_object(sys.argv[1])().data()"
    )
    return (
        subprocess.run(
            [sys.executable, "-c", code, task], cwd=ROOT, capture_output=True, check=False
        ).returncode
        == 0
    )


def run_steps(unusable: str | None, minutes: float = math.inf) -> Iterator[Result]:
    end = time.monotonic() + 60 * minutes
    for step in STEPS:
        left = end - time.monotonic()
        why = (
            unusable
            or find_missing(step)
            or (f"{minutes:g} minutes are over" if left <= 0 else None)
        )
        yield (
            Result(step.name, "not run here", why) if why else run_step(step, min(step.limit, left))
        )


def run_step(step: GpuCommand, limit: float) -> Result:
    print(f"== {step.name}", flush=True)
    start = time.perf_counter()
    code, printed = run_command(step.command, limit)
    seconds = round(time.perf_counter() - start, 1)
    found = partial(Result, step.name, seconds=seconds, printed=printed)
    if code is None:
        return found("stopped", f"after {limit:.0f} s")
    if code == 0:
        return found("done", "")
    if code == NO_TESTS and "pytest" in step.command:
        return found("not run here", "no test needs a GPU")
    if code == UNDECIDED and is_left_out(step, limit - seconds):
        return found("not run here", "the target's engine: see its report")
    if code == UNDECIDED and "attar" in step.command:
        return found("gates not passed", "see its report")
    return found("failed", f"exit code {code}")


def run_command(arguments: Sequence[str], limit: float) -> tuple[int | None, tuple[str, ...]]:
    """Return the exit code, None where the limit ended it, and the last lines that were printed.

    What it prints is shown meanwhile. What it started and left behind is ended: it would hold
    memory of the GPU.
    """
    command, environment = [sys.executable, *arguments], os.environ | {"PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as file:
        log = CommandLog(file.fileno())
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = wait_for_end(started, log, limit)
        finally:
            with suppress(ProcessLookupError):  # the usual end: none is left
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        log.show_news()
    return code, tuple(log.text.splitlines()[-LINES:])


def is_left_out(step: GpuCommand, limit: float) -> bool:
    """Return whether a step keeps its promises where what could not be run here may be left out."""
    if "--require-all" not in step.command:
        return False
    again = [word for word in step.command if word != "--require-all"]  # nothing is made again
    return run_command(again, limit)[0] == 0


def render_summary(device: str, found: Sequence[Result]) -> str:
    wide = max(len(each.step) for each in found)
    lines = [
        f"{each.step:<{wide}}  {each.outcome:<16}  {each.seconds:>7.1f} s  {each.said}"
        for each in found
    ]
    return "\n".join([f"GPU: {device}; Python {platform.python_version()}", *lines])


def render_page(device: str, date: str, found: Sequence[Result]) -> str:
    """Return the results as Markdown."""
    rows = [f"| {one.step} | {one.outcome} | {one.seconds} s | {one.said} |" for one in found]
    table = ["| step | outcome | time | |", "| --- | --- | --- | --- |", *rows]
    told = [
        f"## {one.step}\n\n```\n{chr(10).join(one.printed)}\n```" for one in found if one.printed
    ]
    return "\n\n".join([f"# {device}, {date}", "\n".join(table), *told]) + "\n"


def save_results(device: str | None, found: Sequence[Result]) -> None:
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    made = {"date": date, "gpu": device, "steps": [asdict(one) for one in found]}
    (ROOT / "gpu.json").write_text(json.dumps(made, indent=1) + "\n")
    (ROOT / "gpu.md").write_text(render_page(device or "no GPU", date, found))


def main(minutes: float = math.inf) -> int:
    device = find_gpu()
    unusable = "no NVIDIA GPU on this machine" if device is None else find_torch_fault()
    found: list[Result] = []
    for each in run_steps(
        unusable, minutes
    ):  # what is done stays, whatever ends the machine's time
        found.append(each)
        save_results(device, found)
    print(render_summary(device or "none", found))
    return 1 if any(each.outcome == "failed" for each in found) else 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
