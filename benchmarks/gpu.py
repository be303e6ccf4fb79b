"""`make gpu`: the most that this machine can do on its NVIDIA GPU, one step after the other, and a
summary of all.

Needs no more than Python: what a step needs is looked for before it starts, and a step without it
is `not run here`, with the reason. Exit code 1 where a step that could be run failed. The summary
goes to ``gpu.json`` too.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent
STORE = ".attar-cuda"
CORE = ("pydantic", "click", "rich", "filelock", "safetensors", "onnxruntime")
TRAIN = (*CORE, "torch", "accelerate", "onnx", "onnxscript", "jinja2", "matplotlib")
UNDECIDED = 3  # attar's exit code for a promise that was not kept: a result, not a breakdown


@dataclass(frozen=True)
class Step:
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


def attar(*arguments: str) -> tuple[str, ...]:
    return ("-m", "attar", *arguments, "--device", "cuda", "--store", STORE)


STEPS = (
    Step("networks and losses on CUDA", ("torch",), ("-m", "benchmarks._on_cuda")),
    Step("distil digits on CUDA", (*TRAIN, "sklearn"), attar("run", "engines", "--target", "cpu")),
    Step(
        "ONNX Runtime, CUDA provider",
        (*TRAIN, "sklearn"),
        attar("run", "engines", "--target", "cuda", "--require-all"),
        distribution="onnxruntime-gpu",
    ),
    Step(
        "TensorRT-RTX",
        (*TRAIN, "sklearn", "tensorrt_rtx"),
        attar("run", "engines", "--target", "rtx", "--require-all"),
    ),
    Step(
        "TensorRT",
        (*TRAIN, "sklearn", "tensorrt"),
        attar("run", "engines", "--target", "trt", "--require-all"),
    ),
    Step(
        "demo on CUDA", TRAIN, attar("run", "demo"), data="attar.models.tasks.fashion:FashionMnist"
    ),
    Step(
        "tests",
        (*TRAIN, "pytest", "xdist"),
        ("-m", "pytest", "-q", "-n", "auto", "-m", "not network"),
        limit=3600,
    ),
    Step(
        "CIFAR-100 on CUDA, hours",
        TRAIN,
        attar("run", "cifar100"),
        data="attar.models.tasks.cifar:Cifar100",
        limit=24 * 3600,
    ),
)


def gpu() -> str | None:
    """Name and driver of the first device; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = found.stdout.strip().splitlines()
    return lines[0] if found.returncode == 0 and lines else None


def torch_s_device() -> str | None:
    """Why torch cannot use the device; None where it can."""
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


def missing(step: Step) -> str | None:
    """Why a step cannot be run here; None where it can."""
    absent = [module for module in step.needs if importlib.util.find_spec(module) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if step.distribution and not installed(step.distribution):
        return f"not installed: {step.distribution}, in the place of what brings the same module"
    if step.data and not has_data(step.data):
        return f"its data are not on this machine; `attar fetch {step.command[3]}` gets them"
    return None


def installed(distribution: str) -> bool:
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


def results(unusable: str | None) -> Iterator[Result]:
    for step in STEPS:
        why = unusable or missing(step)
        yield Result(step.name, "not run here", why) if why else run(step)


def run(step: Step) -> Result:
    print(f"== {step.name}", flush=True)
    start = time.perf_counter()
    command = [sys.executable, *step.command]
    try:
        code = subprocess.run(command, cwd=ROOT, check=False, timeout=step.limit).returncode
    except subprocess.TimeoutExpired:
        return Result(step.name, "stopped", f"after its limit of {step.limit} s", step.limit)
    seconds = round(time.perf_counter() - start, 1)
    if code == 0:
        return Result(step.name, "done", "", seconds)
    if code == UNDECIDED and "--require-all" in command:
        again = [word for word in command if word != "--require-all"]  # nothing is made again
        if subprocess.run(again, cwd=ROOT, check=False).returncode == 0:
            return Result(step.name, "not run here", "the target's engine: see its report", seconds)
    if code == UNDECIDED and "attar" in step.command:
        return Result(step.name, "gates not passed", "see its report", seconds)
    return Result(step.name, "failed", f"exit code {code}", seconds)


def summary(device: str, found: Sequence[Result]) -> str:
    wide = max(len(each.step) for each in found)
    lines = [
        f"{each.step:<{wide}}  {each.outcome:<16}  {each.seconds:>7.1f} s  {each.said}"
        for each in found
    ]
    return "\n".join([f"GPU: {device}; Python {platform.python_version()}", *lines])


def main() -> int:
    device = gpu()
    unusable = "no NVIDIA GPU on this machine" if device is None else torch_s_device()
    made = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "gpu": device}
    found: list[Result] = []
    for each in results(unusable):  # what is done stays, whatever ends the machine's time
        found.append(each)
        steps = [asdict(one) for one in found]
        (ROOT / "gpu.json").write_text(json.dumps({**made, "steps": steps}, indent=1) + "\n")
    print(summary(device or "none", found))
    return 1 if any(each.outcome == "failed" for each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
