"""Networks and losses on a CUDA device, or on the one that is named: the CPU's numbers, and how
fast. Needs torch alone.

`make gpu` runs it where nothing else is installed; the rest of attar is not imported.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
BATCH, CLASSES = 256, 10
TOLERANCE = 2e-4  # of the largest magnitude: another order of summing


def load_module(path: str) -> ModuleType:
    """Load a module by its file: the package around it would ask for more than torch."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


LOSSES = load_module("stages/learning/losses.py")
RESIDUAL = load_module("models/networks/residual.py")
TEXT = load_module("models/networks/text.py")


def list_losses() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    return {
        "kd": lambda s, t, _: LOSSES.kd(s, t, 4.0),
        "dkd": lambda s, t, y: LOSSES.dkd(s, t, y, 1.0, 8.0, 4.0),
        "dist": lambda s, t, _: LOSSES.dist(s, t, 2.0, 2.0, 4.0),
        "logit_pearson": lambda s, t, _: LOSSES.logit_pearson(s, t),
        "mse": lambda s, t, _: LOSSES.mse(s, t),
        "cosine": lambda s, t, _: LOSSES.cosine(s, t),
        "cross_entropy": lambda s, _, y: LOSSES.cross_entropy(s, y),
    }


def find_difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference over the largest magnitude, or 1."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return float((one - other).abs().max() / max(1.0, float(one.abs().max())))


def compute_loss(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor], device: str
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(BATCH, CLASSES, generator=draw).to(device) for _ in range(2))
    labels = torch.randint(CLASSES, (BATCH,), generator=draw).to(device)
    student.requires_grad_()
    value = loss(student, teacher, labels)
    (gradient,) = torch.autograd.grad(value, student)
    return value, gradient


def make_networks() -> dict[str, tuple[nn.Module, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    image = torch.randn(BATCH, 1, 28, 28, generator=draw)
    text = torch.randint(1, 8192, (BATCH, 24), generator=draw)
    return {
        "residual": (RESIDUAL.residual(width=16), image),
        "transformer": (TEXT.transformer(), text),
    }


def check_difference(name: str, difference: float) -> None:
    print(f"{name:<14} CPU and CUDA apart by {difference:.1e}")
    if not difference <= TOLERANCE:
        sys.exit(f"{name}: {difference:.1e} is more than {TOLERANCE:g}")


def measure_throughput(device: str, steps: int) -> float:
    """Return the images a second of distilling the residual student on answers that lie on the
    device."""
    network = RESIDUAL.residual(width=16).to(device, memory_format=torch.channels_last)
    image = torch.randn(BATCH, 1, 28, 28).to(device, memory_format=torch.channels_last)
    teacher = torch.randn(BATCH, CLASSES, device=device)
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(steps // 5):  # the first ones choose kernels
        take_step(network, optimizer, image, teacher)
    start = wait_for_device(device)
    for _ in range(steps):
        take_step(network, optimizer, image, teacher)
    return steps * BATCH / (wait_for_device(device) - start)


def take_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, teacher: Tensor
) -> None:
    loss = LOSSES.kd(network(image), teacher, 4.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def wait_for_device(device: str) -> float:
    """Return the time when the device has done all that it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main(device: str = "cuda", steps: int = 100) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name() if device == 'cuda' else device}"
    )
    for name, loss in list_losses().items():
        check_difference(
            name,
            max(
                find_difference(*pair)
                for pair in zip(compute_loss(loss, "cpu"), compute_loss(loss, device), strict=True)
            ),
        )
    for name, (network, inputs) in make_networks().items():
        network.eval()
        with torch.no_grad():
            expected = network(inputs)
            check_difference(name, find_difference(expected, network.to(device)(inputs.to(device))))
    speed = measure_throughput(device, steps)
    print(
        f"distilling a student of 78,000 parameters: {speed:,.0f} images/s of 28x28, fp32, batch "
        f"{BATCH}"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cuda")
