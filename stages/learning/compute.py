"""Compute: the device, the precision and the processes of one training, by accelerate.

No module is wrapped for several processes. A wrapper averages the gradients of the module that is
called through it, but the distiller and the regressors are called on their own. Instead all
gradients are averaged at once, before they are clipped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, broadcast
from torch import Tensor, nn

from attar.engines.host_memory import keep_freed_memory
from attar.engines.runtimes.torch import select_device, use_ieee_float32
from attar.models.epoch import Share
from attar.models.views import ViewBatch
from attar.pipeline import team
from attar.pipeline.core.errors import StageError
from attar.stages.learning.processes import check_gpus
from attar.stages.learning.settings import TrainingSettings

ACCELERATE_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""accelerate's names of the precisions."""
FEW_SAMPLES = 16
"""With fewer samples, batch normalization trains worse (Wu and He 2018, arXiv:1803.08494, figure
1)."""


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

        The mean over equal parts is the mean over all. Batch normalization needs two samples.
        """
        if batch % self.parts_per_step or batch // self.parts_per_step < 2:
            raise StageError(
                f"{batch} samples a step cannot be split into {self.parts_per_step} equal parts of "
                f"at least 2 ({self.team.world} processes, accumulate = {self.accumulate}); set "
                f"batch to a multiple of {self.parts_per_step}, at least {2 * self.parts_per_step}"
            )

    def synchronize_norms(self, module: nn.Module) -> nn.Module:
        """Return the module, its batch statistics taken over all GPUs if one alone has few samples.

        Torch synchronizes them on GPUs only.
        """
        is_alone = self.team.world == 1 or self.accelerator.device.type != "cuda"
        if is_alone or self.part > FEW_SAMPLES:
            return module
        return cast(nn.Module, nn.SyncBatchNorm.convert_sync_batchnorm(module))  # type: ignore[no-untyped-call]  # torch's has no types

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

    def average_gradients(
        self, parameters: Iterable[nn.Parameter], losses: Sequence[Tensor]
    ) -> Tensor:
        """Average the gradients over the processes, and return the mean loss of the step."""
        loss = torch.stack([part.detach() for part in losses]).mean()
        if self.team.world == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1)])
        mean: Tensor = self.accelerator.reduce(flat, "mean")
        pieces = torch.split(mean[:-1], [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view(gradient.shape))
        return mean[-1]

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
