"""What `make gpu` asks of a GPU through attar itself, one question a call: ``python -m
benchmarks._gpu_steps NAME``. Each prints what it measured, and exits with 1 where it is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import distributed
from torch._C._autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

from attar.engines.runtimes import cuda, split_calls
from attar.engines.runtimes.torch import build_network, open_network
from attar.models.epoch import Source
from attar.models.task import Array, Arrays, InMemory, load_task
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.core.stage import Device, FloatPrecision
from attar.stages.learning import loss_watch, training
from attar.stages.learning.compute import open_compute
from attar.stages.learning.loop import FreshViews
from attar.stages.learning.objective import LabelObjective
from attar.stages.learning.training import Training
from attar.stages.teach.stage import Teach

DRAWN = "benchmarks._gpu_task:DrawnPictures"
RESIDUAL = "attar.models.networks.residual:residual"
DIGITS = {"task": "attar.models.tasks.digits:Digits", "network": RESIDUAL}
LARGE = {"stem": 4, "width": 64, "blocks": 2, "channels": 3, "classes": 1000}
"""13 convolutions, of the sizes that the first three stages of a ResNet-18 have at 224 pixels."""
STEPS, WARM = 20, 5
WAIT = "called a synchronizing"
"""Torch's words for a wait. It also warns once that it does not know all of them."""
KILLED = 7
"""The step after which the process that trains is killed."""
PRECISIONS: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("fp32", "bf16", "fp16")


def show_driver(device: Device = "cuda") -> None:
    """Print the driver as attar asks it and as torch does, and the flags that decide a number."""
    for found in cuda.list_devices():
        print(", ".join(f"{name} {value}" for name, value in found.items()))
    cuda.check_tf32_override()
    versions = {"CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]  # torch has no types
    print(f"torch {torch.__version__}, {versions}")
    print(f"kernels of this torch: {torch.cuda.get_arch_list()}")
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        print(f"memory free {free / 2**30:.1f} of {total / 2**30:.1f} GiB")
        print(f"bf16 multiplied: {torch.cuda.is_bf16_supported(including_emulation=False)}")


@contextmanager
def open_training(
    device: Device, precision: Literal["fp32", "bf16", "fp16"], size: int
) -> Iterator[Training]:
    """Open a training of a real size on drawn images, on its labels alone."""
    chosen = {"batch": size, "device": device, "precision": precision}
    settings = Teach(task=DRAWN, network=RESIDUAL, options=LARGE, **chosen)
    task, module = load_task(settings.task), build_network(settings.network, settings.options)
    with open_compute(settings, module, "student", size) as compute:
        module = module.to(compute.accelerator.device)
        parts = (LabelObjective(), FreshViews(0), "student", torch.nn.Module(), compute)
        yield Training(settings, task, module, *parts)


def run_steps(trained: Training, count: int) -> float:
    """Return the seconds that so many steps take, from a device that is idle to one that is."""
    batches = list(islice(trained.plan.plan_epoch(1, 0).iterate_view(0), count))
    started = synchronize_device(trained.accelerator.device)
    for step, batch in enumerate(batches):
        trained.set_rate(0.5)
        trained.train_step(batch, 0, 1, step)
        trained.steps_done += 1
    return synchronize_device(trained.accelerator.device) - started


def synchronize_device(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_steps(device: Device = "cuda", size: int = 128, count: int = STEPS) -> None:
    """Take real steps in each precision: print how fast, what the host waited for, and how busy the
    GPU is."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    for precision in PRECISIONS:
        if device == "cpu" and precision == "fp16":
            continue
        with open_training(device, precision, size) as trained:
            run_steps(trained, WARM)
            waits = count_waits(trained, count) if device == "cuda" else "not run here"
            with profile(activities=[activity]) as seen:
                seconds = run_steps(trained, count)
            busy = sum_device_seconds(seen.key_averages())
            loss = trained.check_loss(1)
        print(
            f"{precision}: {count * size / seconds:,.0f} images/s of 224 pixels, loss {loss:.3f}, "
            f"busy {busy / seconds:.0%}, waits in {count} steps: {waits}"
        )
        if device == "cuda":
            before = torch.cuda.memory_reserved()
            cuda.release_torch_memory()
            kept = [f"{size / 2**20:,.0f}" for size in (before, torch.cuda.memory_reserved())]
            print(f"memory reserved {kept[0]} MiB, then {kept[1]}")


def sum_device_seconds(events: Iterable[FunctionEventAvg]) -> float:
    """Return what the GPU itself took: those who started it, and marks, are told of it again."""
    own = [event for event in events if event.device_type == DeviceType.CUDA]
    return sum(event.self_device_time_total for event in own if not event.is_user_annotation) / 1e6


def count_waits(trained: Training, count: int) -> int:
    """Return how often torch says that the host waits for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            run_steps(trained, count)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    own = [each for each in said if WAIT in str(each.message)]
    for place in sorted({f"{each.filename}:{each.lineno}" for each in own}):
        print(f"  waited at {place}")
    return len(own)


def resume_killed_training(device: Device = "cuda") -> None:
    """Check that a training that is killed goes on from its last checkpoint, and ends as one that
    was not."""
    with tempfile.TemporaryDirectory() as folder:
        whole = teach_digits(Path(folder) / "whole", device)
        command = [sys.executable, "-m", "benchmarks._gpu_steps"]
        arguments = ["killed", str(Path(folder) / "broken"), device]
        code = subprocess.run([*command, *arguments], check=False).returncode
        if code != -signal.SIGKILL:
            sys.exit(f"the process that was to be killed ended with {code}")
        seen: list[int] = []
        with listen_to_progress(lambda what, done, total, note: seen.append(done)):
            again = teach_digits(Path(folder) / "broken", device)
    apart = abs(again - whole)
    print(f"killed after step {KILLED}, went on before step {seen[0]}; losses apart by {apart:.1e}")
    if apart > 0.05 or seen[0] < KILLED:
        sys.exit("the training did not go on from its checkpoint")


def teach_digits(folder: Path, device: Device) -> float:
    """Return the last loss."""
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    training.CHECKPOINT_SECONDS, loss_watch.READ_STEPS = -1.0, 1  # a checkpoint after every step
    stage = Teach(**DIGITS, options={"width": 4}, epochs=2, device=device, precision="fp32")
    return float(stage.run(out)["history"][-1]["loss"])


def train_until_killed(folder: str, device: Device) -> None:
    """Train until a step kills this process, which ``resume_killed_training`` started."""

    def kill_process(what: str, done: int, total: int, note: str) -> None:
        if done > KILLED:
            os.kill(os.getpid(), signal.SIGKILL)

    with listen_to_progress(kill_process):
        teach_digits(Path(folder), device)


def compare_answers(device: Device = "cuda") -> None:
    """Compare answers to one shard of images on the GPU and on the CPU, in float32, TF32 and
    halves."""
    task = load_task(DRAWN)
    inputs = task.example(np.random.default_rng(0), batch=32)
    expected = answer_inputs(inputs, "cpu", "fp32")
    kinds: list[FloatPrecision] = ["fp32", "bf16"] if device == "cpu" else ["fp32", "bf16", "fp16"]
    for precision in kinds:
        report_apart(precision, expected, answer_inputs(inputs, device, precision))
    held = [size for sizes in split_calls.HELD.values() for size in sizes.values()]
    print(f"images in one call, by the free memory: {held or 'not run here'}")
    tf32 = answer_inputs(inputs, device, "fp32", tf32=True)
    report_apart("fp32 with TF32, which attar switches off", expected, tf32)
    if find_apart(expected, answer_inputs(inputs, device, "fp32")) > FLOAT32:
        sys.exit("float32 on the GPU is not the float32 of the CPU")


FLOAT32 = 1e-3
"""Of the largest answer: another order of summing, and no rounding to 10 bits."""


def answer_inputs(
    inputs: Arrays, device: Device, precision: FloatPrecision, *, tf32: bool = False
) -> Array:
    torch.manual_seed(0)
    module = build_network(RESIDUAL, LARGE).eval()
    with open_network(module, DRAWN, None, device, precision) as predict:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        return predict(inputs)["logits"]


def find_apart(expected: Array, got: Array) -> float:
    one, other = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    return float(np.abs(one - other).max() / np.abs(one).max())


def report_apart(what: str, expected: Array, got: Array) -> None:
    print(f"{what}: apart by {find_apart(expected, got):.1e} of the largest")


def copy_numbers(device: Device = "cuda") -> None:
    """Copy numbers there and back through the driver's own library, while torch uses the same
    GPU."""
    beside = torch.ones(1 << 20, device=device)
    driver = cuda.CudaDriver(cuda.load_library())
    sent = np.random.default_rng(0).integers(0, 256, 1 << 26, np.uint8)
    with cuda.open_context(driver) as context:
        memory = cuda.GpuMemory(driver, context)
        for _ in range(3):  # the first one takes the memory
            started = time.perf_counter()
            memory.copy_to_gpu("x", sent)
            got = memory.copy_from_gpu("x", sent.shape, sent.dtype)
            memory.wait()
            seconds = time.perf_counter() - started
        same = bool(np.array_equal(got, sent))
        memory.close()
    print(f"64 MiB there and back in {1e3 * seconds:.1f} ms, the host's own copy included")
    if not same or float(beside.sum()) != 1 << 20:
        sys.exit("the numbers that came back are others")


def reduce_ones(device: Device = "cuda") -> None:
    """Sum ones by NCCL, with the one process that there is."""
    backend = "nccl" if device == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(str(Path(folder) / "store"), 1)  # type: ignore[attr-defined]  # torch does not list it
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        tensor = torch.ones(1 << 20, device=device)
        distributed.all_reduce(tensor)
        total = float(tensor.sum())
        distributed.destroy_process_group()
    print(f"{backend}: a sum of {total:,.0f} over one process")
    if total != 1 << 20:
        sys.exit(f"the sum of 1,048,576 ones is {total}")


def measure_host(device: Device = "cuda") -> None:
    """Print what one core spends on an image of 224 pixels, in CPU time, and what is then sent."""
    task = load_task(DRAWN)
    batch = task.split("train").take(np.arange(128))
    for leaves_steps, what in ((False, "floats"), (True, "bytes")):
        source = Source(task, InMemory(batch.inputs, batch.targets), leaves_steps=leaves_steps)
        source.read_chunk(0, 0)
        started = time.process_time()
        for view in range(4):
            chunk = source.read_chunk(view, 0)
        each = (time.process_time() - started) / 4 / len(chunk.indices)
        sent = chunk.inputs["image"][0].nbytes
        print(
            f"{what}: {1e3 * each:.2f} ms an image, so {1 / each:,.0f} images/s of each core that "
            f"prepares them; {sent / 1024:,.0f} KiB sent of each"
        )


STEPS_BY_NAME: dict[str, Callable[..., None]] = {
    "driver": show_driver,
    "host": measure_host,
    "steps": measure_steps,
    "resume": resume_killed_training,
    "killed": train_until_killed,
    "answers": compare_answers,
    "copies": copy_numbers,
    "nccl": reduce_ones,
}

if __name__ == "__main__":
    STEPS_BY_NAME[sys.argv[1]](*sys.argv[2:])
