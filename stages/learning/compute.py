"""Compute: the device, the precision and the processes of one training, by accelerate.

Several processes average their gradients by torch's ``DistributedDataParallel``, while the backward
pass still computes those of earlier layers. It averages those of the module that is called through
it, so what it wraps is the loss: the distiller and the regressors of losses are in it, too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, broadcast
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attar.engines.host_memory import keep_freed_memory
from attar.engines.runtimes.torch import select_device, use_ieee_float32
from attar.models.pool import Share
from attar.models.views import ViewBatch
from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.stages.learning.processes import check_gpus
from attar.stages.learning.settings import TrainingSettings

ACCELERATE_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""accelerate's names of the precisions."""


class StepLoss(nn.Module):
    """The loss of a part of a step, as a module of all that is trained."""

    def __init__(
        self, networks: nn.Module, compute_loss: Callable[[ViewBatch, int], Tensor]
    ) -> None:
        super().__init__()
        self.networks, self.compute_loss = networks, compute_loss

    def forward(self, batch: ViewBatch, view: int) -> Tensor:
        return self.compute_loss(batch, view)


class Compute:
    """The device, precision and processes that one training uses.

    A step has ``batch`` samples. It is split into ``parts_per_step`` equal parts, one for each
    backward pass of each process.
    """

    def __init__(self, accelerator: Accelerator, precision: str, batch: int) -> None:
        self.accelerator, self.precision = accelerator, precision
        self.team = team.get_team()
        self.accumulate = accelerator.gradient_accumulation_steps
        self.parts_per_step = self.accumulate * self.team.world
        self.check_batch(batch)
        self.part = batch // self.parts_per_step

    def check_batch(self, batch: int) -> None:
        """Raises StageError unless a step splits into equal parts of two samples or more.

        The mean over equal parts is the mean over all; parts of sequences, which are equal on
        average, weigh by their tokens (``WholeStep``). Batch normalization needs two samples.
        """
        if batch % self.parts_per_step or batch // self.parts_per_step < 2:
            raise StageError(
                f"{batch} samples a step cannot be split into {self.parts_per_step} equal parts of "
                f"at least 2 ({self.team.world} processes, accumulate = {self.accumulate}); set "
                f"batch to a multiple of {self.parts_per_step}, at least {2 * self.parts_per_step} "
                "and at most the number of samples to learn from"
            )

    @property
    def share(self) -> Share:
        """The part of each batch that this process reads."""
        return Share(self.team.rank, self.team.world)

    def split_batch(self, batch: ViewBatch) -> Iterator[ViewBatch]:
        """Yield the parts of this process's share of a step, each of every ``accumulate``-th
        row."""
        if self.accumulate == 1:
            yield batch
            return
        for number in range(self.accumulate):
            yield batch.take(np.arange(number, len(batch.indices), self.accumulate))

    def distribute(
        self, networks: nn.Module, compute_loss: Callable[[ViewBatch, int], Tensor]
    ) -> nn.Module:
        """Return the loss as a module that averages its gradients over the processes.

        A step may leave out parameters, such as those of a loss that none of its samples has labels
        for; without gradients in all processes they keep none.
        """
        step_loss = StepLoss(networks, compute_loss)
        if self.team.world == 1:
            return step_loss
        return DistributedDataParallel(
            step_loss,
            broadcast_buffers=False,
            init_sync=False,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )

    def run_backward(self, step_loss: nn.Module, parts: Iterable[ViewBatch], view: int) -> Tensor:
        """Run the backward passes of one step, and return its mean loss over all processes.

        ``step_loss(part, view)`` is what ``distribute`` returned. Gradients are averaged in the
        last pass of a step.
        """
        losses = []
        for number, part in enumerate(parts, 1):
            with self.sharing(step_loss, is_last=number == self.accumulate):
                losses.append(step_loss(part, view))
                self.accelerator.backward(losses[-1])  # it divides the loss by the number of parts
        loss = torch.stack([part.detach() for part in losses]).mean()
        mean: Tensor = self.accelerator.reduce(loss, "mean")
        return mean

    @staticmethod
    def sharing(step_loss: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of a pass, which averages gradients if it is the last of its step."""
        if isinstance(step_loss, DistributedDataParallel) and not is_last:
            return step_loss.no_sync()
        return nullcontext()

    def broadcast_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the values of rank 0.

        A factory may draw its own weights, and each process has its own batch statistics.
        """
        if self.team.world > 1:
            with torch.no_grad():
                for tensor in tensors:
                    tensor.copy_(broadcast(tensor.detach().clone()))

    def scaler_state(self) -> dict[str, float]:
        """Return the state of the loss scaler; empty unless the precision is fp16."""
        return {} if self.accelerator.scaler is None else dict(self.accelerator.scaler.state_dict())

    def restore_scaler(self, state: Mapping[str, float]) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(dict(state))


@contextmanager
def open_compute(
    settings: TrainingSettings, module: nn.Module, what: str, batch: int
) -> Iterator[Compute]:
    """Open the compute for training ``module`` with steps of ``batch`` samples.

    Raises StageError for settings that this machine cannot carry out.
    """
    device = select_device(settings.device)
    precision = choose_precision(settings, module, device)
    if team.is_started_in_team():
        raise StageError(
            "torchrun started several processes, but not of attar; use torchrun ... -m attar run "
            "RECIPE"
        )
    if device.type == "cuda" and team.get_team().world > 1:
        check_gpus(team.get_team())
    logging = configure_trackers(settings.tensorboard)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=ACCELERATE_PRECISIONS[precision],
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=settings.accumulate),
        **logging,
    )
    try:
        if accelerator.device.type != device.type:
            raise StageError(
                f"accelerate chose {accelerator.device}, not {device}; unset the environment's "
                "ACCELERATE_ variables"
            )
        use_ieee_float32()  # after accelerate, whose environment may say otherwise
        if logging:
            accelerator.init_trackers(what)
        with keep_freed_memory():
            yield Compute(accelerator, precision, batch)
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        # The next training may have another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def choose_precision(settings: TrainingSettings, module: nn.Module, device: torch.device) -> str:
    """Return the precision to train in.

    Raises StageError for fp16 without a CUDA device, where it is slower than fp32 or missing.
    """
    if settings.precision == "fp16" and device.type != "cuda":
        raise StageError(
            f"precision = 'fp16' needs a CUDA device, this is the {device.type}; set precision to "
            "'bf16' or 'fp32'"
        )
    emulates = device.type == "cuda" and not is_bf16_faster(module, "cuda")
    if settings.precision == "bf16" and emulates:
        raise StageError("this CUDA device has no bf16; set precision to 'fp16' or 'fp32'")
    if settings.precision == "auto":
        return "bf16" if is_bf16_faster(module, device.type) else "fp32"
    return settings.precision


def is_bf16_faster(module: nn.Module, device: str = "cpu") -> bool:
    """Whether bf16 trains faster than fp32.

    The device must multiply it natively and, on a CPU, the network must consist of dense
    convolutions. Measured on an AVX512-BF16 CPU: residual networks train 1.1 to 2 times faster,
    depthwise separable ones 1.5 times slower.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return bool(convolutions) and all(layer.groups == 1 for layer in convolutions)


def configure_trackers(folder: Path | None) -> dict[str, str | Path]:
    """Return Accelerator's arguments for TensorBoard. Raises StageError if it is not installed."""
    if folder is None:
        return {}
    if importlib.util.find_spec("tensorboard") is None:
        raise StageError(
            f"tensorboard = {str(folder)!r} needs TensorBoard; `pip install 'attar[tensorboard]'`, "
            "or leave it out"
        )
    return {"log_with": "tensorboard", "project_dir": folder}
