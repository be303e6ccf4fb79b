"""Worker: one model, held open on one thread of one core, in the environment of its maker. Asked
over pipes, asleep in between.

``python worker.py KIND FILE CPU``. Requests are lines of JSON on standard input, replies lines of
JSON on standard output:

- ``{"answer": FILE.npz, "batch": n, "to": FILE.npz}``: all samples of the file, ``n`` at a time.
- ``{"load": FILE.npz}``: the inputs of the calls that are timed from now on.
- ``{"time": seconds}``: the median of the calls that fit in, after as many that are not counted.

attar's own engines and PyTorch modules need attar; the others are opened without it, as their
documentation tells.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
Predict = Callable[[Arrays], Mapping[str, Any]]
OPEN = ExitStack()
"""What stays open as long as the process lives."""
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


def open_onnxruntime(file: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def open_openvino(file: Path, hints: Mapping[str, str]) -> Predict:
    """Open what OpenVINO makes itself, or an ONNX file. Each batch size is compiled for itself:
    three quarters of the time."""
    import openvino

    core, opened = openvino.Core(), dict[int, tuple[list[str], Any]]()
    asked = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", **hints}

    def compile_shape(inputs: Arrays) -> tuple[list[str], Any]:
        model = core.read_model(file)
        model.reshape({name: array.shape for name, array in inputs.items()})
        made = core.compile_model(model, "CPU", asked)
        return [output.any_name for output in made.outputs], made.create_infer_request()

    def predict(inputs: Arrays) -> Mapping[str, Any]:
        batch = len(next(iter(inputs.values())))
        if batch not in opened:
            opened[batch] = compile_shape(inputs)
        names, request = opened[batch]
        return dict(zip(names, request.infer(inputs, share_inputs=True).values(), strict=True))

    return predict


def open_torch(file: Path, compiled: bool, freezing: bool = False) -> Predict:
    """Open a module; ``file``: the facts and the folder of attar's ``Weights``. Each batch size is
    compiled for itself, which is fastest.

    ``freezing`` makes constants of the weights, so that batch normalisation is folded into
    convolutions; PyTorch leaves it off.
    """
    os.environ["TMPDIR"] = str(
        file.parent
    )  # there it keeps what it compiled; what is kept from before must not count
    import torch
    import torch._inductor.config

    from attar.engines.runtimes.torch import apply_layout, make_predictor
    from attar.models.task import load_task
    from attar.stages.artifacts import Weights

    torch.set_num_threads(1)
    torch._inductor.config.freezing = freezing
    given = json.loads(file.read_text(encoding="utf-8"))
    module = apply_layout(
        Weights("", "", Path(given["root"]), given["facts"]).load(), torch.device("cpu")
    )
    if compiled:
        module.compile(dynamic=False)
    return make_predictor(module, load_task(given["facts"]["task"]))


def open_attar(file: Path) -> Predict:
    """Open an engine as a bundle's is; ``file``: the facts and the folder of an ``Engine``."""
    from attar.stages.artifacts import Engine

    given = json.loads(file.read_text(encoding="utf-8"))
    return OPEN.enter_context(Engine("", "", Path(given["root"]), given["facts"]).open(threads=1))


KINDS: Mapping[str, Callable[[Path], Predict]] = {
    "attar": open_attar,
    "onnxruntime": open_onnxruntime,
    "openvino": lambda file: open_openvino(file, {}),
    "openvino-f32": lambda file: open_openvino(file, FLOAT32),
    "torch": lambda file: open_torch(file, False),
    "torch-compile": lambda file: open_torch(file, True),
    "torch-frozen": lambda file: open_torch(file, True, freezing=True),
}


def answer_samples(predict: Predict, inputs: Arrays, batch: int) -> Arrays:
    """Answer all samples. The last batch is filled up from the start, so that no other size is ever
    asked for."""
    count = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch) % count
        parts.append(
            {
                name: np.array(made)
                for name, made in predict({n: a[rows] for n, a in inputs.items()}).items()
            }
        )
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def time_calls(predict: Predict, inputs: Arrays, seconds: float) -> dict[str, Any]:
    repeat_calls(predict, inputs, seconds / 2)
    taken = repeat_calls(predict, inputs, seconds / 2)
    return {"seconds": statistics.median(taken), "calls": len(taken)}


def repeat_calls(predict: Predict, inputs: Arrays, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        predict(inputs)
        taken.append(time.perf_counter() - start)
    return taken


def serve_requests(predict: Predict, reply: Callable[[Mapping[str, Any]], None]) -> None:
    inputs: Arrays = {}
    reply({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        if "load" in asked:
            inputs = dict(np.load(asked["load"]))
            repeat_calls(predict, inputs, 0)  # what is compiled for this size is compiled now
            reply({})
        elif "time" in asked:
            reply(time_calls(predict, inputs, asked["time"]))
        else:
            np.savez(
                asked["to"],
                **answer_samples(predict, dict(np.load(asked["answer"])), asked["batch"]),
            )
            reply({})


def main() -> None:
    kind, file, cpu = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})  # before any library counts its threads
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no reply
    predict = KINDS[kind](Path(file))
    gc.disable()
    with suppress(BrokenPipeError):
        serve_requests(predict, lambda said: print(json.dumps(said), file=replies, flush=True))


if __name__ == "__main__":
    main()
