"""What a GPU rounds, by simulation on the CPU: each tolerance lets it pass, and tells float32 from TensorFloat-32."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from attar.engines.graphs.half_precision import convert_to_fp16, round_half_results
from attar.engines.runtimes import onnxruntime, providers
from attar.engines.runtimes.runtime import ROUNDING
from attar.engines.runtimes.torch import make_predictor
from attar.models.task import load_task
from attar.proof.checks.sizes import compute_difference
from attar.stages.artifacts import OnnxModel, Weights
from attar.stages.export.stage import Export
from tests.support.tasks.smoke import DIGITS


def take_images() -> dict[str, np.ndarray]:
    return load_task(DIGITS).example(np.random.default_rng(0), batch=32)


def test_half_precision_as_a_gpu_rounds_it(digits_onnx: OnnxModel) -> None:
    """The CPU computes whole chains of nodes in float and rounds once; a GPU rounds what each node writes."""
    model = onnx.load(digits_onnx.file())
    convert_to_fp16(model, [node.name for node in model.graph.node])
    given = take_images()
    with (
        onnxruntime.open_session({"model": model.SerializeToString()}, 1) as cpu,
        onnxruntime.open_session({"model": round_half_results(model).SerializeToString()}, 1, optimize=False) as gpu,
    ):
        apart = compute_difference(cpu(given)["logits"], gpu(given)["logits"])
    assert 0 < apart < providers.TOLERANCES["fp16"]


def round_to_tf32(tensor: Tensor) -> Tensor:
    """Round float32 to the nearest number of 10 bits of mantissa, half to even (NVIDIA's A100 whitepaper, 2020)."""
    bits = tensor.detach().contiguous().view(torch.int32)
    rounded = bits + 0xFFF + ((bits >> 13) & 1)
    return (rounded & ~0x1FFF).view(torch.float32)


def multiply_in_tf32(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data = round_to_tf32(layer.weight)
            layer.register_forward_pre_hook(lambda _, inputs: tuple(map(round_to_tf32, inputs)))
    return module


def test_rounding_to_ten_bits() -> None:
    given = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-12])
    assert round_to_tf32(given).tolist() == [1.0, 1 + 2**-10, 1.0, 1 + 2**-9, -1.0]


def test_what_is_promised_of_float32_tells_it_from_tensorfloat32(digits_weights: Weights) -> None:
    task, given = load_task(DIGITS), take_images()
    exact = make_predictor(digits_weights.load(), task)(given)["logits"]
    rounded = make_predictor(multiply_in_tf32(digits_weights.load()), task)(given)["logits"]
    apart = compute_difference(exact, rounded)
    assert Export().tolerance < apart < ROUNDING
