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


def onnxruntime(file: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def openvino(file: Path, hints: Mapping[str, str]) -> Predict:
    """What it makes itself, or an ONNX file. Each batch size is compiled for itself: three quarters
    of the time."""
    import openvino

    core, opened = openvino.Core(), dict[int, tuple[list[str], Any]]()
    asked = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", **hints}

    def compiled(inputs: Arrays) -> tuple[list[str], Any]:
        model = core.read_model(file)
        model.reshape({name: array.shape for name, array in inputs.items()})
        made = core.compile_model(model, "CPU", asked)
        return [output.any_name for output in made.outputs], made.create_infer_request()

    def predict(inputs: Arrays) -> Mapping[str, Any]:
        batch = len(next(iter(inputs.values())))
        if batch not in opened:
            opened[batch] = compiled(inputs)
        names, request = opened[batch]
        return dict(zip(names, request.infer(inputs, share_inputs=True).values(), strict=True))

    return predict


def torch(file: Path, compiled: bool, freezing: bool = False) -> Predict:
    """``file``: the facts and the folder of attar's ``Weights``. Each batch size is compiled for
    itself, which is fastest.

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


def attar(file: Path) -> Predict:
    """``file``: the facts and the folder of an ``Engine``, opened as a bundle's is."""
    from attar.stages.artifacts import Engine

    given = json.loads(file.read_text(encoding="utf-8"))
    return OPEN.enter_context(Engine("", "", Path(given["root"]), given["facts"]).open(threads=1))


KINDS: Mapping[str, Callable[[Path], Predict]] = {
    "attar": attar,
    "onnxruntime": onnxruntime,
    "openvino": lambda file: openvino(file, {}),
    "openvino-f32": lambda file: openvino(file, FLOAT32),
    "torch": lambda file: torch(file, False),
    "torch-compile": lambda file: torch(file, True),
    "torch-frozen": lambda file: torch(file, True, freezing=True),
}


def answered(predict: Predict, inputs: Arrays, batch: int) -> Arrays:
    """The last batch is filled up from the start, so that no other size is ever asked for."""
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


def timed(predict: Predict, inputs: Arrays, seconds: float) -> dict[str, Any]:
    calls(predict, inputs, seconds / 2)
    taken = calls(predict, inputs, seconds / 2)
    return {"seconds": statistics.median(taken), "calls": len(taken)}


def calls(predict: Predict, inputs: Arrays, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        predict(inputs)
        taken.append(time.perf_counter() - start)
    return taken


def serve(predict: Predict, reply: Callable[[Mapping[str, Any]], None]) -> None:
    inputs: Arrays = {}
    reply({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        if "load" in asked:
            inputs = dict(np.load(asked["load"]))
            calls(predict, inputs, 0)  # what is compiled for this size is compiled now
            reply({})
        elif "time" in asked:
            reply(timed(predict, inputs, asked["time"]))
        else:
            np.savez(
                asked["to"], **answered(predict, dict(np.load(asked["answer"])), asked["batch"])
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
        serve(predict, lambda said: print(json.dumps(said), file=replies, flush=True))


if __name__ == "__main__":
    main()
