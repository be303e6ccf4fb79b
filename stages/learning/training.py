"""Training: one network, epoch by epoch, and all that a checkpoint must hold to go on with it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
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
from attar.models.views import Seen
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import advance
from attar.stages.learning import checkpoint
from attar.stages.learning.compute import Compute
from attar.stages.learning.objective import Objective
from attar.stages.learning.schedule import SCHEDULES
from attar.stages.learning.settings import TrainingSettings
from attar.stages.learning.validation import Validation

CHECKPOINT_SECONDS = 60.0
"""Within an epoch; there is one at the end of each, too."""


class Views(Protocol):
    @property
    def seed(self) -> int: ...

    def number(self, epoch: int) -> int:
        """The view that this epoch reads."""


@dataclass
class Training:
    """Every process of a team holds one; they do the same steps on other samples, and rank 0 measures and writes."""

    settings: TrainingSettings
    task: Task
    module: nn.Module
    objective: Objective
    views: Views
    what: str
    beside: nn.Module
    """What is trained beside the module and is not kept."""
    compute: Compute
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    done: int = 0
    """Steps of the epoch that is going on."""
    total: float = 0.0
    """Of their losses."""

    def __post_init__(self) -> None:
        apply_layout(self.module, self.compute.device)
        self.named = {**named_parameters(self.module, "module"), **named_parameters(self.beside, "beside")}
        self.trained = list(self.named.values())
        self.plain = torch.optim.AdamW(split_by_decay(self.trained, self.settings.weight_decay), fused=True)
        self.optimizer = self.compute.optimizer(self.plain)
        self.average = averaged(self.module, self.settings.ema)
        self.train, self.transfer = self.task.split("train"), self.objective.transfer(self.task)
        if self.transfer is not None and self.compute.parts_a_step > 1:
            raise StageError(
                f"{type(self.task).__name__} has a transfer split, whose samples have no labels: a step cut into "
                f"{self.compute.parts_a_step} parts would not weigh its labels evenly; use one process and accumulate = 1"
            )
        self.steps = max(1, (len(self.train) + len(self.transfer or ())) // self.settings.batch)

    def run(self, validation: Validation, file: Path) -> None:
        """To the end, from the checkpoint where there is one; the module then holds the weights to keep."""
        if file.exists():
            self.resume(file)
        self.compute.alike([*self.module.state_dict().values(), *self.beside.state_dict().values()])
        self.saved = time.monotonic()
        while len(self.history) < self.settings.epochs and not self.stale():
            self.epoch(len(self.history) + 1, file)
            self.record(self.measured(validation))
            self.save(file)
        self.module.load_state_dict(self.best)

    @property
    def kept(self) -> nn.Module:
        """What is measured and kept: the module, or the average of its weights."""
        return self.module if self.average is None else self.average.module

    def stale(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and len(self.history) - self.best_epoch >= patience

    def epoch(self, epoch: int, file: Path) -> None:
        """One pass over one view, or the rest of it."""
        self.module.train()
        passed, whole = (epoch - 1) * self.steps, self.steps * self.settings.epochs
        view = self.views.number(epoch - 1)
        for step, seen in self.batches(epoch, view):
            self.set_rate((passed + step) / whole)
            self.total += self.step(seen, view, epoch, step)
            self.done = step + 1
            advance(self.what, passed + step + 1, whole, self.note(epoch))
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                self.save(file)

    def batches(self, epoch: int, view: int) -> Iterator[tuple[int, Seen]]:
        """The steps of an epoch that are not done yet, each with the samples of all processes."""
        order = np.random.default_rng((self.settings.seed, epoch))
        batches = views.epoch(
            self.task, self.train, self.settings.batch, order, seed=self.views.seed, view=view, transfer=self.transfer
        )
        return islice(enumerate(batches), self.done, None)

    def set_rate(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * SCHEDULES[self.settings.schedule](progress)

    def step(self, seen: Seen, view: int, epoch: int, step: int) -> float:
        """Random numbers, of dropout say, are those of this step and process: a checkpoint need not hold a generator's state."""
        state = np.random.SeedSequence((self.settings.seed, epoch, step, self.compute.team.rank)).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))
        self.optimizer.zero_grad(set_to_none=True)
        losses = []
        for part in self.compute.parts(seen):
            losses.append(self.loss(part, view))
            self.compute.backward(losses[-1])
        value = self.compute.averaged(self.trained, losses)
        if not math.isfinite(value):
            raise StageError(
                f"the loss of the {self.what} is {value} at step {step + 1} of epoch {epoch}; "
                f"lower learning_rate = {self.settings.learning_rate}"
                + (", or set precision = 'fp32'" if self.compute.precision != "fp32" else "")
            )
        self.update()
        return value

    def loss(self, seen: Seen, view: int) -> Tensor:
        with self.compute.autocast():
            outputs = call_network(self.module, self.task, seen.inputs)
        return self.objective(self.task, {name: made.float() for name, made in outputs.items()}, seen, view)

    def update(self) -> None:
        if self.settings.gradient_clip:
            self.compute.clip(self.trained, self.settings.gradient_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def measured(self, validation: Validation) -> dict[str, float]:
        """The epoch's line of the history: rank 0 measures, and tells the others what to stop by."""
        self.compute.alike(list(self.module.buffers()))
        entry = {"epoch": len(self.history) + 1, "loss": round(self.total / self.steps, 6)}
        if self.compute.team.leads:
            entry |= validation(self.kept) | self.objective.logged()
        found: dict[str, float] = json.loads(self.compute.team.share(json.dumps(entry)))
        self.compute.log({name: value for name, value in found.items() if name != "epoch"}, len(self.history) + 1)
        return found

    def record(self, entry: dict[str, float]) -> None:
        """Without patience the last epoch is the best: its rate is the lowest, and nothing is chosen by chance."""
        better = not self.history or entry["score"] > self.history[self.best_epoch - 1]["score"]
        self.history.append(entry)
        self.done, self.total = 0, 0.0
        if better or not self.settings.patience:
            self.best_epoch = len(self.history)
            self.best = checkpoint.copied(self.kept.state_dict())

    def note(self, epoch: int) -> str:
        """``epoch 3/8 loss 0.310 accuracy 0.900 corr 0.970``: this epoch's mean loss so far, the others of the epoch before."""
        words = [f"epoch {epoch}/{self.settings.epochs}", f"loss {self.total / max(self.done, 1):.3f}"]
        names = {"score": self.task.score_name, "correlation": "corr"}
        last = self.history[-1] if self.history else {}
        return " ".join([*words, *(f"{word} {last[name]:.3f}" for name, word in names.items() if name in last)])

    def save(self, file: Path) -> None:
        self.saved = time.monotonic()
        if not self.compute.team.leads:
            return
        state = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "done": self.done,
            "total": self.total,
            "notes": self.objective.notes,
            "compute": self.compute.state(),
        }
        groups = {"module": self.module.state_dict(), "best": self.best, "beside": self.beside.state_dict()}
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        checkpoint.save(file, groups, self.plain, self.named, json.dumps(state))

    def resume(self, file: Path) -> None:
        tensors, text = checkpoint.load(file, self.plain, self.named)
        state = json.loads(text)
        self.history, self.best_epoch, self.best = state["history"], state["best_epoch"], tensors.get("best", {})
        self.done, self.total = state["done"], state["total"]
        self.objective.notes.update(state["notes"])
        self.compute.resume(state["compute"])
        self.module.load_state_dict(tensors["module"])
        self.beside.load_state_dict(tensors.get("beside", {}))
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])

    def facts(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.history[self.best_epoch - 1].items() if name not in ("epoch", "loss")}
        several = {"processes": self.compute.team.world} if self.compute.team.world > 1 else {}
        return {**kept, **several, "history": self.history, "best_epoch": self.best_epoch, "precision": self.compute.precision}


def named_parameters(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    return {f"{prefix}.{name}": parameter for name, parameter in module.named_parameters()}


def split_by_decay(parameters: Sequence[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups: what has two axes or more decays, biases and the vectors of norms do not."""
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def averaged(module: nn.Module, decay: float) -> AveragedModel | None:
    """An exponential moving average of the weights and of the batch statistics, from the first step on; None without decay."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)
