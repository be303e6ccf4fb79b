"""Training: the epochs of one network, and the state that a checkpoint needs to resume it."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import apply_layout, call_network
from attar.engines.runtimes.torch_kernels import choose_convolutions
from attar.models.task import Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.observation import observe
from attar.pipeline.core.progress import report_epoch, report_progress
from attar.pipeline.core.stage import Facts
from attar.stages.learning import checkpoint
from attar.stages.learning.batch_plan import (
    BatchPlan,
    ViewSchedule,
    open_source,
    watch_source,
)
from attar.stages.learning.compilation import compile_network, compiling
from attar.stages.learning.compute import Compute
from attar.stages.learning.device_steps import DeviceSteps
from attar.stages.learning.lesson import send_lesson
from attar.stages.learning.loss_watch import LossWatch
from attar.stages.learning.objective import Objective
from attar.stages.learning.optimizer import create_average, create_optimizer
from attar.stages.learning.schedule import compute_rate
from attar.stages.learning.settings import TrainingSettings
from attar.stages.learning.validation import Validation
from attar.stages.loading import BatchClock, form_ahead, open_loader

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints within an epoch. Each epoch ends with one, too."""


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
    workers: int = 0
    """Processes that prepare the samples beside this one."""

    def __post_init__(self) -> None:
        self.accelerator = self.compute.accelerator
        choose_convolutions(self.task)
        apply_layout(self.module, self.accelerator.device)
        self.networks = nn.ModuleDict({"module": self.module, "auxiliary": self.auxiliary})
        self.parameters = dict(self.networks.named_parameters())
        self.base_optimizer = create_optimizer(self.settings, self.networks)
        self.optimizer = self.accelerator.prepare_optimizer(self.base_optimizer)
        self.average = create_average(self.module, self.settings.ema)
        self.called = compile_network(self.module) if self.settings.compile else self.module
        """The module as a step calls it."""
        self.step_loss = self.compute.distribute(self.networks, self.compute_loss)
        transfer = self.objective.find_transfer(self.task)
        source = open_source(self.task, transfer, self.views, self.accelerator.device)
        self.device_steps = DeviceSteps(source.split_steps()[1], self.accelerator.device)
        self.plan = BatchPlan(source, self.views, self.settings, self.compute.share)
        self.steps_per_epoch = max(1, len(source) // self.settings.batch)
        self.steps = self.settings.epochs * self.steps_per_epoch
        self.clock = BatchClock()
        self.losses = LossWatch(self.accelerator.device, self.compute.team)

    def run(self, validation: Validation, file: Path) -> None:
        """Train to the end, from the checkpoint if there is one.

        Afterwards the module has the weights to save.
        """
        checkpoint.resume_in_team(self.compute.team, file, self.load_checkpoint, self.read_place)
        self.compute.broadcast_tensors(list(self.networks.state_dict().values()))
        self.saved = time.monotonic()
        for entry in self.history:
            report_epoch(self.network_name, entry)
        self.workers = self.plan.choose_workers()
        requests = self.plan.iterate_requests(len(self.history) + 1, self.steps_done)
        source, watches = self.plan.source, watch_source(self.plan.source)
        compilation = compiling(self.network_name) if self.settings.compile else nullcontext()
        loader = open_loader(source, requests, self.workers, self.plan.ahead)
        with compilation, loader as chunks:
            while len(self.history) < self.settings.epochs and not self.has_stopped_improving():
                self.train_epoch(len(self.history) + 1, chunks, file)
                for watch in watches:
                    watch.check()
                self.record_epoch(self.measure_epoch(validation))
                self.save_checkpoint(file)
                report_epoch(self.network_name, self.history[-1])
        observe("waiting", round(self.clock.share, 4))
        observe("workers", self.workers)
        self.module.load_state_dict(self.best_weights)

    def read_place(self) -> list[int]:
        """Return the numbers of finished epochs and of finished steps of the current one."""
        return [len(self.history), self.steps_done]

    @property
    def evaluated_module(self) -> nn.Module:
        """The trained module, or the average of its weights: it is evaluated and saved."""
        return self.module if self.average is None else self.average.module

    def has_stopped_improving(self) -> bool:
        patience = self.settings.patience
        return bool(patience) and len(self.history) - self.best_epoch >= patience

    def train_epoch(self, epoch: int, chunks: Iterator[ViewBatch], file: Path) -> None:
        """Train on one view, or on the steps of it that are left."""
        self.module.train()
        done, view = (epoch - 1) * self.steps_per_epoch, self.views.choose_view(epoch - 1)
        with closing(self.form_batches(epoch, chunks)) as batches:
            for step, batch in enumerate(self.clock.watch(batches), self.steps_done):
                self.set_rate(self.objective.set_progress((done + step) / self.steps))
                self.train_step(batch, view, epoch, step)
                self.steps_done = step + 1
                if self.losses.is_due() or self.steps_done == self.steps_per_epoch:
                    note = self.describe_progress(epoch)
                    report_progress(self.network_name, done + step + 1, self.steps, note)
                    if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                        self.save_checkpoint(file)

    def form_batches(self, epoch: int, chunks: Iterator[ViewBatch]) -> Generator[ViewBatch]:
        """Return the batches of an epoch that are left. What this process prepares itself is
        prepared when it is asked for: a task's code may draw from the step's random numbers."""
        batches = self.plan.plan_epoch(epoch, self.steps_done).iterate_batches(chunks)
        return form_ahead(batches) if self.workers else batches

    def set_rate(self, progress: float) -> None:
        share = compute_rate(self.settings.schedule, self.settings.warmup, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share

    def train_step(self, batch: ViewBatch, view: int, epoch: int, step: int) -> None:
        """Update the weights once, and add the loss to the sum."""
        self.seed_step(epoch, step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.compute.split_batch(batch)
        self.losses.add(self.compute.run_backward(self.step_loss, parts, view))
        self.update_weights()

    def check_loss(self, epoch: int) -> float:
        """Return the mean loss of the epoch so far. Raises StageError if one is no number."""
        total, ago = self.losses.read()
        if ago is not None:
            hint = ", or set precision = 'fp32'" if self.compute.precision != "fp32" else ""
            raise StageError(
                f"the loss of the {self.network_name} is {total} at step {self.steps_done - ago} "
                f"of epoch {epoch}; lower learning_rate = {self.settings.learning_rate}{hint}, or "
                "correct the inputs if they hold NaN or infinity"
            )
        return total / max(self.steps_done, 1)

    def seed_step(self, epoch: int, step: int) -> None:
        """Seed the random numbers of this step and process, such as those of dropout.

        Hence a checkpoint needs no generator's state.
        """
        entropy = (self.settings.seed, epoch, step, self.compute.team.rank)
        state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        seed = int(state[0])
        # torch.manual_seed writes down the stack for every accelerator that is absent
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def compute_loss(self, batch: ViewBatch, view: int) -> Tensor:
        read = self.objective.read_lesson(self.task, batch, view)
        lesson = self.device_steps.apply(send_lesson(read, self.accelerator.device))
        outputs: dict[str, Tensor] = {}
        if self.objective.reads_network:
            with self.accelerator.autocast():
                outputs = call_network(self.called, self.task, lesson.inputs)
        wide = {name: output.float() for name, output in outputs.items()}
        return self.objective(self.task, wide, lesson)

    def update_weights(self) -> None:
        if self.settings.gradient_clip:
            limit = self.settings.gradient_clip
            self.accelerator.clip_grad_norm_(self.parameters.values(), limit)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def measure_epoch(self, validation: Validation) -> dict[str, float]:
        """Return the epoch's entry of the history. Rank 0 measures it and shares it."""
        self.compute.broadcast_tensors(list(self.networks.buffers()))
        metrics = {"loss": round(float(self.losses.sum) / self.steps_per_epoch, 6)}
        means = self.objective.pop_means()  # in all processes: what is not read stays in memory
        epoch = len(self.history) + 1
        if self.compute.team.leads:
            metrics |= validation(self.evaluated_module, epoch) | means
        metrics = json.loads(self.compute.team.broadcast(json.dumps(metrics)))
        self.accelerator.log(metrics, step=epoch)
        return {"epoch": epoch, **metrics}

    def record_epoch(self, entry: dict[str, float]) -> None:
        """Add the epoch to the history, and keep its weights if it is the best.

        Without patience the last epoch is the best: its learning rate is the lowest, and no epoch
        is selected by chance.
        """
        better = not self.history or entry["score"] > self.history[self.best_epoch - 1]["score"]
        self.history.append(entry)
        self.steps_done = 0
        self.losses.restart()
        if better or not self.settings.patience:
            self.best_epoch = len(self.history)
            self.best_weights = checkpoint.copy_tensors(self.evaluated_module.state_dict())

    def describe_progress(self, epoch: int) -> str:
        """Return, say, ``epoch 3/8 loss 0.310 accuracy 0.900 corr 0.970 waiting 3 %``.

        The loss is this epoch's mean so far, waiting the share of the time that batches were waited
        for; the others are of the epoch before.
        """
        words = [f"epoch {epoch}/{self.settings.epochs} loss {self.check_loss(epoch):.3f}"]
        names = {"score": self.task.score_name, "correlation": "corr"}
        last = self.history[-1] if self.history else {}
        words += [f"{word} {last[name]:.3f}" for name, word in names.items() if name in last]
        return " ".join([*words, self.clock.describe()])

    def save_checkpoint(self, file: Path) -> None:
        """Write a checkpoint if this process leads."""
        self.saved = time.monotonic()
        if not self.compute.team.leads:
            return
        state = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "done": self.steps_done,
            "total": float(self.losses.sum),
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
        text = json.dumps(state)
        checkpoint.save_checkpoint(file, groups, self.base_optimizer, self.parameters, text)

    def load_checkpoint(self, file: Path) -> None:
        """Restore the state of the training."""
        tensors, text = checkpoint.load_checkpoint(file, self.base_optimizer, self.parameters)
        state = json.loads(text)
        self.history, self.best_epoch = state["history"], state["best_epoch"]
        self.best_weights = tensors.get("best", {})
        self.steps_done = state["done"]
        self.losses.restart(state["total"])
        self.objective.notes.update(state["notes"])
        self.compute.restore_scaler(state["compute"])
        self.module.load_state_dict(tensors["module"])
        self.auxiliary.load_state_dict(tensors.get("auxiliary", {}))
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])

    def build_facts(self) -> Facts:
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
