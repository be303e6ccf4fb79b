"""Training: the epochs of one network, and the state that a checkpoint needs to resume it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from attar.engines.runtimes.torch import apply_layout, call_network
from attar.models import views
from attar.models.task import Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import report_progress
from attar.stages.learning import checkpoint
from attar.stages.learning.compute import Compute
from attar.stages.learning.objective import Objective
from attar.stages.learning.schedule import SCHEDULES
from attar.stages.learning.settings import TrainingSettings
from attar.stages.learning.validation import Validation

WEIGHTED_LAYERS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.modules.conv._ConvNd)
CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints within an epoch. Each epoch ends with one, too."""


class ViewSchedule(Protocol):
    @property
    def seed(self) -> int: ...

    def choose_view(self, epoch: int) -> int:
        """Return the number of the view that this epoch reads."""


@dataclass
class Training:
    """The training of one network.

    Every process of a team has one. They do the same steps on different samples. Rank 0 evaluates
    the network and writes the checkpoints.
    """

    settings: TrainingSettings
    task: Task
    module: nn.Module
    objective: Objective
    views: ViewSchedule
    network_name: str
    auxiliary: nn.Module
    """Trained together with the module and then discarded."""
    compute: Compute
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    steps_done: int = 0
    """Finished steps of the current epoch."""
    loss_sum: float = 0.0
    """Sum of the losses of the finished steps."""

    def __post_init__(self) -> None:
        apply_layout(self.module, self.compute.device)
        self.parameters_by_name = {
            **prefix_parameters(self.module, "module"),
            **prefix_parameters(self.auxiliary, "auxiliary"),
        }
        self.parameters = list(self.parameters_by_name.values())
        plain = find_undecayed(self.module) | find_undecayed(self.auxiliary)
        groups = split_by_decay(self.parameters, plain, self.settings.weight_decay)
        self.base_optimizer = torch.optim.AdamW(groups, fused=True)
        self.optimizer = self.compute.prepare_optimizer(self.base_optimizer)
        self.average = create_average(self.module, self.settings.ema)
        self.train, self.transfer = self.task.split("train"), self.objective.find_transfer(self.task)
        if self.transfer is not None and self.compute.parts_per_step > 1:
            raise StageError(
                f"{type(self.task).__name__} has a transfer split, whose samples have no labels: a "
                f"step split into {self.compute.parts_per_step} parts would not weigh its labels "
                "evenly; use one process and accumulate = 1"
            )
        samples = len(self.train) + len(self.transfer or ())
        self.steps_per_epoch = max(1, samples // self.settings.batch)

    def run(self, validation: Validation, file: Path) -> None:
        """Train to the end, from the checkpoint if there is one.

        Afterwards the module has the weights to save.
        """
        if file.exists():
            self.load_checkpoint(file)
        for module in (self.module, self.auxiliary):
            self.compute.broadcast_tensors(list(module.state_dict().values()))
        self.saved = time.monotonic()
        while len(self.history) < self.settings.epochs and not self.has_stopped_improving():
            self.train_epoch(len(self.history) + 1, file)
            self.record_epoch(self.measure_epoch(validation))
            self.save_checkpoint(file)
        self.module.load_state_dict(self.best_weights)

    @property
    def evaluated_module(self) -> nn.Module:
        """The module that is evaluated and saved: the trained one, or the average of its weights."""
        return self.module if self.average is None else self.average.module

    def has_stopped_improving(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and len(self.history) - self.best_epoch >= patience

    def train_epoch(self, epoch: int, file: Path) -> None:
        """Train on one view, or on the steps of it that are left."""
        self.module.train()
        passed, whole = (epoch - 1) * self.steps_per_epoch, self.steps_per_epoch * self.settings.epochs
        view = self.views.choose_view(epoch - 1)
        for step, batch in self.iterate_batches(epoch, view):
            self.set_rate((passed + step) / whole)
            self.loss_sum += self.train_step(batch, view, epoch, step)
            self.steps_done = step + 1
            report_progress(self.network_name, passed + step + 1, whole, self.describe_progress(epoch))
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self.save_checkpoint(file)

    def iterate_batches(self, epoch: int, view: int) -> Iterator[tuple[int, ViewBatch]]:
        """Yield the unfinished steps of an epoch, with the samples of all processes."""
        order = np.random.default_rng((self.settings.seed, epoch))
        batches = views.iterate_epoch(
            self.task,
            self.train,
            self.settings.batch,
            order,
            seed=self.views.seed,
            view=view,
            transfer=self.transfer,
        )
        return islice(enumerate(batches), self.steps_done, None)

    def set_rate(self, progress: float) -> None:
        share = SCHEDULES[self.settings.schedule](progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share

    def train_step(self, batch: ViewBatch, view: int, epoch: int, step: int) -> float:
        """Update the weights once, and return the loss."""
        self.seed_step(epoch, step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in self.compute.split_batch(batch):
            losses.append(self.compute_loss(part, view))
            self.compute.backward(losses[-1])
        value = self.compute.average_gradients(self.parameters, losses)
        if not math.isfinite(value):
            hint = ", or set precision = 'fp32'" if self.compute.precision != "fp32" else ""
            raise StageError(
                f"the loss of the {self.network_name} is {value} at step {step + 1} of epoch {epoch}; "
                f"lower learning_rate = {self.settings.learning_rate}{hint}"
            )
        self.update_weights()
        return value

    def seed_step(self, epoch: int, step: int) -> None:
        """Seed the random numbers of this step and process, such as those of dropout.

        Hence a checkpoint needs no generator's state.
        """
        entropy = (self.settings.seed, epoch, step, self.compute.team.rank)
        state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def compute_loss(self, batch: ViewBatch, view: int) -> Tensor:
        with self.compute.autocast():
            outputs = call_network(self.module, self.task, batch.inputs)
        outputs = {name: output.float() for name, output in outputs.items()}
        return self.objective(self.task, outputs, batch, view)

    def update_weights(self) -> None:
        if self.settings.gradient_clip:
            self.compute.clip_gradients(self.parameters, self.settings.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def measure_epoch(self, validation: Validation) -> dict[str, float]:
        """Return the epoch's entry of the history. Rank 0 measures it and shares it."""
        self.compute.broadcast_tensors(list(self.module.buffers()))
        own = {"epoch": len(self.history) + 1, "loss": round(self.loss_sum / self.steps_per_epoch, 6)}
        if self.compute.team.leads:
            own |= validation(self.evaluated_module) | self.objective.pop_means()
        entry: dict[str, float] = json.loads(self.compute.team.share(json.dumps(own)))
        metrics = {name: value for name, value in entry.items() if name != "epoch"}
        self.compute.log_metrics(metrics, len(self.history) + 1)
        return entry

    def record_epoch(self, entry: dict[str, float]) -> None:
        """Add the epoch to the history, and keep its weights if it is the best.

        Without patience the last epoch is the best: its learning rate is the lowest, and no epoch
        is selected by chance.
        """
        better = not self.history or entry["score"] > self.history[self.best_epoch - 1]["score"]
        self.history.append(entry)
        self.steps_done, self.loss_sum = 0, 0.0
        if better or not self.settings.patience:
            self.best_epoch = len(self.history)
            self.best_weights = checkpoint.copy_tensors(self.evaluated_module.state_dict())

    def describe_progress(self, epoch: int) -> str:
        """Return, say, ``epoch 3/8 loss 0.310 accuracy 0.900 corr 0.970``.

        The loss is this epoch's mean so far, the others are of the epoch before.
        """
        loss = self.loss_sum / max(self.steps_done, 1)
        words = [f"epoch {epoch}/{self.settings.epochs} loss {loss:.3f}"]
        names = {"score": self.task.score_name, "correlation": "corr"}
        last = self.history[-1] if self.history else {}
        words += [f"{word} {last[name]:.3f}" for name, word in names.items() if name in last]
        return " ".join(words)

    def save_checkpoint(self, file: Path) -> None:
        """Write a checkpoint if this process leads."""
        self.saved = time.monotonic()
        if not self.compute.team.leads:
            return
        state = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "done": self.steps_done,
            "total": self.loss_sum,
            "notes": self.objective.notes,
            "compute": self.compute.scaler_state(),
        }
        groups = {
            "module": self.module.state_dict(),
            "best": self.best_weights,
            "auxiliary": self.auxiliary.state_dict(),
        }
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        checkpoint.save_checkpoint(file, groups, self.base_optimizer, self.parameters_by_name, json.dumps(state))

    def load_checkpoint(self, file: Path) -> None:
        """Restore the state of the training."""
        tensors, text = checkpoint.load_checkpoint(file, self.base_optimizer, self.parameters_by_name)
        state = json.loads(text)
        self.history, self.best_epoch = state["history"], state["best_epoch"]
        self.best_weights = tensors.get("best", {})
        self.steps_done, self.loss_sum = state["done"], state["total"]
        self.objective.notes.update(state["notes"])
        self.compute.restore_scaler(state["compute"])
        self.module.load_state_dict(tensors["module"])
        self.auxiliary.load_state_dict(tensors.get("auxiliary", {}))
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])

    def facts(self) -> dict[str, Any]:
        """Return the scores of the best epoch, and how the network was trained."""
        best = self.history[self.best_epoch - 1]
        scores = {name: value for name, value in best.items() if name not in ("epoch", "loss")}
        processes = {"processes": self.compute.team.world} if self.compute.team.world > 1 else {}
        return {
            **scores,
            **processes,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "precision": self.compute.precision,
        }


def prefix_parameters(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Return the parameters by name, each with the prefix."""
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def find_undecayed(module: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that do not decay: biases, those of norms, and scales.

    A norm may have parameters of several axes (``LayerNorm((4, 8))``), and so may a scale
    (``(1, 64, 1, 1)``). The weights of linear layers and convolutions decay whatever their shape.
    """
    undecayed: set[nn.Parameter] = set()
    for layer in module.modules():
        is_norm = "Norm" in type(layer).__name__
        for name, parameter in layer.named_parameters(recurse=False):
            axes = parameter.ndim if isinstance(layer, WEIGHTED_LAYERS) else parameter.squeeze().ndim
            if is_norm or name.endswith("bias") or axes < 2:
                undecayed.add(parameter)
    return undecayed


def split_by_decay(parameters: Sequence[nn.Parameter], undecayed: Set[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: what decays, and what does not."""
    return [
        {"params": [each for each in parameters if each not in undecayed], "weight_decay": decay},
        {"params": [each for each in parameters if each in undecayed], "weight_decay": 0.0},
    ]


def create_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """Return an exponential moving average of the weights and the batch statistics; None if decay is 0."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)
