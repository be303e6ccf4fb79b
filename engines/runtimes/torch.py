"""PyTorch: networks are built, filled with weights, checked against their task, and opened as
predictors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from attar.engines import cpu
from attar.engines.runtimes import cuda, torch_sequences
from attar.engines.runtimes.torch_kernels import choose_attention
from attar.engines.runtimes.torch_memory import explain_failure, split_calls
from attar.models.generation import FOLLOW, MODEL, find_decoding
from attar.models.probabilities import are_probabilities
from attar.models.task import (
    CLASSIFYING,
    Array,
    Arrays,
    Output,
    Predict,
    Predictor,
    Task,
    load_task,
)
from attar.pipeline.core import names
from attar.pipeline.core.errors import StageError, suggest_name
from attar.pipeline.core.stage import Device, FloatPrecision

HALVES: Mapping[FloatPrecision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(requested: Device) -> torch.device:
    """``auto`` is the CUDA device where there is one. Raises StageError when one is asked for and
    there is none."""
    if requested == "cuda" and not torch.cuda.is_available():
        raise StageError(
            f"device is 'cuda', but PyTorch {torch.__version__} sees no CUDA device; "
            "use --device cpu or auto, or install a CUDA build of PyTorch and its driver"
        )
    return torch.device("cpu" if requested == "cpu" or not torch.cuda.is_available() else "cuda")


def use_ieee_float32() -> None:
    """Compute float32 as IEEE 754 does, not in TensorFloat-32.

    Torch lets cuDNN round the factors of float32 convolutions to 10 bits unless it is told not to.
    Raises StageError where ``NVIDIA_TF32_OVERRIDE`` forces that.
    """
    cuda.check_tf32_override()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def build_network(network: str, options: Mapping[str, Any]) -> nn.Module:
    """``network(**options)``. Raises StageError for options that it does not take, and for what is
    no module."""
    factory = names.load_object(network)
    check_options(network, factory, options)
    try:
        module = factory(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StageError(f"{network} cannot be made with {dict(options)}: {error}") from error
    if not isinstance(module, nn.Module):
        raise StageError(
            f"{network} returned {type(module).__name__}; a network is a function that returns a "
            "torch.nn.Module"
        )
    return module


def check_options(network: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    if not callable(factory):
        raise StageError(
            f"{network} is {factory!r}; a network is a function that returns a torch.nn.Module"
        )
    parameters = inspect.signature(factory).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    taken = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in options:
        if name not in taken:
            raise StageError(f"{network} has no option {name!r}: {suggest_name(name, taken)}")


def load_network(file: Path, network: str, options: Mapping[str, Any]) -> nn.Module:
    """The network with the tensors of a safetensors file, in evaluation mode. Raises StageError
    where they do not fit."""
    module = build_network(network, options)
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise StageError(
            f"{file} cannot be read as safetensors: {error}; save a state_dict with "
            "safetensors.torch"
        ) from error
    problems = list_misfits(module.state_dict(), tensors)
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise StageError(
            f"{file.name} does not fit {network} with {dict(options)}: "
            f"{'; '.join(problems[:5])}{more}. "
            "Set network and options to what the weights were trained with"
        )
    module.load_state_dict(tensors)
    return module.eval()


def list_misfits(
    expected: Mapping[str, torch.Tensor], got: Mapping[str, torch.Tensor]
) -> list[str]:
    """What keeps these tensors from filling that network, one line each."""
    missing = [f"missing {name}" for name in expected if name not in got]
    unexpected = [f"unexpected {name}" for name in got if name not in expected]
    shapes = [
        f"{name} is {tuple(got[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in got and got[name].shape != tensor.shape
    ]
    return shapes + unexpected + missing


Given = Mapping[str, Array] | Mapping[str, torch.Tensor]
"""Named arrays, or tensors that are where the network is."""


def call_network(module: nn.Module, task: Task, inputs: Given) -> dict[str, torch.Tensor]:
    """Named arrays in, named tensors out. Images ``(B, C, H, W)`` lie as ``layout`` says."""
    made = module(*list_network_inputs(module, task, inputs))
    outputs = made if isinstance(made, tuple) else (made,)
    if strange := [type(each).__name__ for each in outputs if not isinstance(each, torch.Tensor)]:
        raise StageError(
            f"the network returns {strange[0]}, and its task names the outputs "
            f"{list(task.outputs)}: return one tensor, or a tuple of tensors in that order"
        )
    if len(outputs) != len(task.outputs):
        raise StageError(
            f"the network returns {len(outputs)} outputs, its task names {len(task.outputs)}: "
            f"{list(task.outputs)}"
        )
    return dict(zip(task.outputs, outputs, strict=True))


def list_network_inputs(module: nn.Module, task: Task, inputs: Given) -> list[torch.Tensor]:
    """Return what the network is called with, where its parameters are."""
    place = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    layout = choose_layout(module, place)
    read = [*task.inputs, PREFIX] if find_decoding(task) else list(task.inputs)
    return [arrange(send_array(inputs[name], place), layout) for name in read]


PREFIX = "prefix"
"""The input of a network that generates, besides the task's: the tokens before those to predict."""


def send_array(array: Array | torch.Tensor, place: torch.device) -> torch.Tensor:
    """Return the array as a tensor of this device. A tensor is returned as it is.

    To a GPU it is copied from pinned memory, which torch keeps until the copy is done, so the host
    goes on at once. Torch has no numbers of the other byte order: those become this machine's.
    """
    if isinstance(array, torch.Tensor):
        return array
    made = torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    return made if place.type == "cpu" else made.pin_memory().to(place, non_blocking=True)


def arrange(tensor: torch.Tensor, images: torch.memory_format) -> torch.Tensor:
    """Return images ``(B, C, H, W)`` in this memory format, and anything else as it is."""
    return tensor.contiguous(memory_format=images) if tensor.ndim == 4 else tensor


def choose_layout(module: nn.Module, place: torch.device) -> torch.memory_format:
    """How images and the weights of their convolutions lie: channels-last, which is faster, but not
    where a 1x1 convolution is narrow on x86 without AVX-512.

    With a stride oneDNN writes the gradient of its channels-last weight beyond its memory there: it
    is wrong by half of itself, or the process crashes or hangs.
    https://github.com/uxlfoundation/oneDNN/issues/6035, open in torch 2.13.
    """
    plain = place.type == "cpu" and cpu.lacks_avx512() and any(map(is_narrow, module.parameters()))
    return torch.contiguous_format if plain else torch.channels_last


def is_narrow(weight: torch.Tensor) -> bool:
    """Whether it is that of a 1x1 convolution of fewer channels than a vector of AVX2 holds, with
    any stride."""
    return weight.ndim == 4 and weight.shape[1] < 8 and weight.shape[2:] == (1, 1)


def apply_layout(module: nn.Module, place: torch.device) -> nn.Module:
    """The module itself, for images that go to this device; it is not moved."""
    choose_attention(module, place)
    return module.to(memory_format=choose_layout(module, place))  # type: ignore[call-overload,no-any-return]  # torch's stub lacks it


def check_network(module: nn.Module, task: Task) -> None:
    """Call the network once. Raises StageError when its outputs are not what the task promises."""
    if decoding := find_decoding(task):
        torch_sequences.check_sequence_network(module, task, decoding)
        return
    inputs = task.example(np.random.default_rng(0), batch=2)
    module.eval()
    try:
        with torch.inference_mode():
            outputs = call_network(module, task, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if lacking := explain_failure(error):
            raise StageError(lacking) from error
        shapes = {name: array.shape for name, array in inputs.items()}
        raise StageError(
            f"the network cannot read inputs of {type(task).__name__}, {shapes}: {error}"
        ) from error
    sizes = {axis: low for axis, (low, _) in task.ranges.items()} | {"batch": 2}
    for name, output in task.outputs.items():
        shape = tuple(outputs[name].shape)
        expected = tuple(
            sizes.get(axis, axis) if isinstance(axis, str) else axis for axis in output.axes
        )
        if shape != expected:
            raise StageError(
                f"the network's output {name!r} has shape {shape}, its task promises {expected} "
                "for a batch of 2"
            )
        if output.kind in CLASSIFYING and are_probabilities(outputs[name].float().cpu().numpy()):
            raise StageError(
                f"the network's output {name!r} are probabilities, as a softmax gives them, and it "
                "must answer logits: take the "
                "softmax away; with kind='probabilities' in attar.Output one is put behind every "
                "graph that is made of it"
            )


def make_predictor(module: nn.Module, task: Task) -> Predict:
    """The module in evaluation mode, float32, as a function of named arrays. Of probabilities it
    gives the logits itself."""
    module.eval()

    def predict(inputs: Arrays) -> dict[str, Array]:
        with torch.inference_mode():
            return {
                name: convert_output(task.outputs[name], made)
                for name, made in call_network(module, task, inputs).items()
            }

    return split_calls(module, MODEL, predict)


def convert_output(output: Output, made: torch.Tensor) -> Array:
    """What an output of a network means to those who ask it."""
    wide = made.float()
    found: Array = (wide.softmax(-1) if output.kind == "probabilities" else wide).cpu().numpy()
    return found


def make_graphs(module: nn.Module, task: Task) -> dict[str, Predict]:
    """The graphs of a module in evaluation mode, by name: ``model``, and of one that generates also
    its parts."""
    if decoding := find_decoding(task):
        graphs = torch_sequences.open_graphs(module, task, decoding)
        split = {name: split_calls(module, name, graphs[name]) for name in (MODEL, FOLLOW)}
        return graphs | split
    return {MODEL: make_predictor(module, task)}


@contextmanager
def open_network(
    module: nn.Module,
    task_name: str,
    threads: int | None = None,
    device: Device = "cpu",
    precision: FloatPrecision = "fp32",
) -> Iterator[Predictor]:
    """The module as a predictor; inside, PyTorch runs on ``threads`` threads (None: as many as it
    was set to). With ``bf16`` and ``fp16`` it runs in autocast."""
    place = select_device(device)
    use_ieee_float32()
    graphs = make_graphs(apply_layout(module, place).to(place), load_task(task_name))
    if precision != "fp32":
        cast = torch.autocast(place.type, HALVES[precision])
        graphs = {name: cast(graph) for name, graph in graphs.items()}
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield Predictor(graphs)
    finally:
        torch.set_num_threads(before)
