"""Distillation: what one step of a student's training minimises, from the teacher's stored answers and the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import apply_layout
from attar.models.checks import agreement
from attar.models.task import CLASSIFYING, Output, Split, SplitName, Task, load_task
from attar.models.views import Seen
from attar.pipeline.core.errors import StageError, suggest_name
from attar.stages.artifacts import Answers, Model
from attar.stages.distill.choices import Beside, Loss, fitting
from attar.stages.distill.companion import Companion
from attar.stages.distill.feature_choices import FeatureLoss, OfFeatures
from attar.stages.distill.live import Live, layered
from attar.stages.learning.objective import Autocast, Labels, Tensors, target_of


class Distillation:
    """``L = lambda_kd * L_KD + (1 - lambda_kd) * L_other``; a part whose share is 0 is not computed.

    Samples of transfer have no labels: what needs labels is the mean over those of the batch that have some, and nothing
    where none has.
    """

    def __init__(
        self,
        lambda_kd: float,
        losses: Sequence[Loss | FeatureLoss],
        answers: Answers,
        distiller: Beside | None = None,
        teacher: Model | None = None,
    ) -> None:
        """``teacher`` is opened for losses of features only."""
        self.lambda_kd, self.teacher = lambda_kd, teacher
        self.losses = [loss for loss in losses if not isinstance(loss, OfFeatures)]
        self.features = [loss for loss in losses if isinstance(loss, OfFeatures)]
        self.other, self.facts, self.distiller = Labels(), answers.facts, distiller
        self.views = [answers.learned(view) for view in range(answers.facts["views"])]
        self.live: Live | None = None
        self.companion: Companion | None = None

    def prepare(self, task: Task) -> None:
        if self.lambda_kd < 1:
            self.other.prepare(task)
        self.check_answers(task)
        if self.features and self.teacher is not None:
            layered(task, self.teacher)
        for loss in self.losses:
            self.check(loss, task.outputs)
            self.check_labels(loss, task.outputs)
        if task.transfer and not self.features and all(loss.labels for loss in self.losses):
            raise StageError(
                f"{self.losses[0].kind} needs labels, and transfer of {type(task).__name__} has none to learn from; add "
                "{ kind = 'kd' }, or set its transfer = False"
            )
        for name, output in task.outputs.items():
            if not self.features and not any(reads(loss, name, output) for loss in self.losses):
                raise StageError(
                    f"no loss reads the output {name!r} ({output.kind}); add {{ kind = 'mse', output = '{name}' }} to losses, or "
                    f"another that is for {output.kind}: {fitting(output.kind)}"
                )

    def transfer(self, task: Task) -> Split | None:
        return task.split("transfer") if task.transfer and self.lambda_kd else None

    def beside(self, task: Task, module: nn.Module, autocast: Autocast = nullcontext) -> nn.Module:
        """The distiller, and the regressors of losses of features."""
        found = nn.ModuleDict()
        device = next(module.parameters()).device
        if self.features and self.lambda_kd:
            if self.teacher is None:
                raise StageError(f"{self.features[0].kind} is a loss of features, for which the teacher itself is needed")
            teacher = apply_layout(layered(task, self.teacher).load(), device).to(device)
            found["features"] = self.live = Live(task, module, teacher, self.features, autocast)
        if self.distiller and self.lambda_kd:
            self.companion = Companion(self.distiller, task, module)
            found["distiller"] = self.companion.network.to(device)
        return found

    @property
    def notes(self) -> dict[str, list[float]]:
        return self.companion.notes if self.companion else {}

    def logged(self) -> dict[str, float]:
        return self.companion.logged() if self.companion else {}

    def check_answers(self, task: Task) -> None:
        """A task whose splits changed under the same name and version would pair samples with the wrong answers."""
        both: tuple[SplitName, ...] = ("train", "transfer")
        samples = {name: len(task.split(name)) for name in (both if task.transfer else both[:1])}
        known = {name: self.facts["samples"][name] for name in both if name in self.facts["samples"]}
        if known != samples or self.facts["outputs"] != list(task.outputs):
            raise StageError(
                f"the answers are for {counted(known)} and {self.facts['outputs']}, "
                f"the task has {counted(samples)} and {list(task.outputs)}; label again"
            )
        agreement.check(task, load_task(self.facts["task"]))

    @staticmethod
    def check(loss: Loss, outputs: Mapping[str, Output]) -> None:
        if loss.output is None:
            return
        if loss.output not in outputs:
            raise StageError(f"{loss.kind}: the task has no output {loss.output!r}: {suggest_name(loss.output, outputs)}")
        kind = outputs[loss.output].kind
        if kind not in loss.applies:
            found = f"{loss.output!r} holds {kind}: use {fitting(kind)}"
            raise StageError(f"{loss.kind} is for {', '.join(sorted(loss.applies))}; {found}")

    @staticmethod
    def check_labels(loss: Loss, outputs: Mapping[str, Output]) -> None:
        for name, output in outputs.items():
            if loss.labels and not output.target and reads(loss, name, output):
                raise StageError(
                    f"{loss.kind} needs labels, and the output {name!r} has no target; name one in Output(target=...), or use kd"
                )

    def __call__(self, task: Task, outputs: Tensors, seen: Seen, view: int) -> Tensor:
        if self.lambda_kd == 0:
            return self.other(task, outputs, seen, view)
        learned = self.lambda_kd * self.from_teacher(task, outputs, seen, view)
        if self.lambda_kd == 1 or not seen.labelled:
            return learned
        return learned + (1 - self.lambda_kd) * self.other(task, outputs, seen, view)

    def from_teacher(self, task: Task, outputs: Tensors, seen: Seen, view: int) -> Tensor:
        """L_KD: the weighted sum of the losses over the outputs that each reads, and what the distiller adds."""
        total = torch.zeros(())
        for name, output in task.outputs.items():
            student = outputs[name]
            teacher = torch.from_numpy(self.views[view][name][seen.indices]).to(student.device)
            for loss in self.losses:
                if not reads(loss, name, output):
                    continue
                if not loss.labels:
                    total = total + loss.weight * loss(*answered(output, student, teacher), None)
                elif seen.labelled:
                    total = total + loss.weight * loss(*with_labels(output, student, teacher, seen))
            if self.companion and name == self.companion.output and seen.labelled:
                total = total + self.companion(*with_labels(output, student, teacher, seen))
        return total if self.live is None else total + self.live(seen.inputs)


def counted(samples: Mapping[SplitName, int]) -> str:
    return " and ".join(f"{count} samples of {split}" for split, count in samples.items())


def with_labels(output: Output, student: Tensor, teacher: Tensor, seen: Seen) -> tuple[Tensor, Tensor, Tensor | None]:
    """What both say to the samples that have labels, which come first, and these labels."""
    count = seen.labelled
    return (*answered(output, student[:count], teacher[:count]), target_of(output, seen, student.device))


def answered(output: Output, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the padding of ``Rows``, which the teacher did not answer: ``(R, classes)`` of logits, ``(R,)`` of values.

    As they are where there is none.
    """
    if all(isinstance(axis, int) for axis in output.axes[1:]):
        return student, teacher
    known = ~teacher.isnan()
    if student.shape == teacher.shape and known.all():
        return student, teacher
    if output.kind in CLASSIFYING:
        known = known[..., 0]
    return student[tuple(slice(size) for size in teacher.shape)][known], teacher[known]


def reads(loss: Loss, name: str, output: Output) -> bool:
    return loss.output == name or (loss.output is None and output.kind in loss.applies)
