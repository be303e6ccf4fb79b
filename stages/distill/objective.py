"""The objective of a student: losses on the teacher's stored answers and on the labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

from torch import Tensor, nn

from attar.engines.runtimes.torch import apply_layout
from attar.models.features import name_features
from attar.models.task import Array, Output, Split, Task
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError, suggest_name
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Answers, Model
from attar.stages.distill.answers_check import check_answers
from attar.stages.distill.distiller_loss import DistillerLoss
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import AnyLoss, FeatureLossSettings
from attar.stages.distill.known_answers import read_answers, select_answered, select_labelled
from attar.stages.distill.live_features import LiveFeatureLoss, require_layers
from attar.stages.distill.loss_settings import (
    Loss,
    OutputLoss,
    format_suitable_losses,
    list_suitable_losses,
)
from attar.stages.distill.reach import check_reach
from attar.stages.distill.sequence_loss_settings import SEQUENCE_LOSSES
from attar.stages.distill.stored_features import StoredFeatureLoss, is_stored
from attar.stages.distill.warm_start import WarmStart
from attar.stages.learning.lesson import Lesson
from attar.stages.learning.objective import Autocast, LabelObjective, Parts, Tensors


class DistillationObjective:
    """``L = lambda_kd * L_KD + (1 - lambda_kd) * L_other``.

    A part whose share is 0 is not computed. Samples of transfer have no labels. A loss that needs
    labels is the mean over the samples of the batch that have some, and is left out if none has.
    """

    def __init__(
        self,
        lambda_kd: float,
        losses: Sequence[AnyLoss],
        answers: Answers,
        distiller: DistillerSettings | None = None,
        other: LabelObjective = LabelObjective(),  # noqa: B008  # it is frozen
        teacher: Model | None = None,
        origin: WarmStart | None = None,
    ) -> None:
        """``other`` is L_other. ``teacher`` is opened only for features that are not stored.
        ``origin`` has made the student's first weights, unless they are random."""
        self.lambda_kd, self.teacher, self.origin = lambda_kd, teacher, origin
        self.losses = [loss for loss in losses if isinstance(loss, OutputLoss)]
        self.sequence_losses = [loss for loss in losses if isinstance(loss, SEQUENCE_LOSSES)]
        features = [loss for loss in losses if isinstance(loss, FeatureLossSettings)]
        self.widths = answers.features
        self.stored_losses = [loss for loss in features if is_stored(loss, self.widths)]
        self.live_losses = [loss for loss in features if not is_stored(loss, self.widths)]
        self.feature_losses = (self.stored_losses, self.live_losses)
        self.other, self.facts, self.distiller = other, answers.facts, distiller
        self.progress = 0.0
        self.views = [answers.open_learned_rows(view) for view in range(answers.facts["views"])]
        self.live_features: LiveFeatureLoss | None = None
        self.stored_features: StoredFeatureLoss | None = None
        self.distiller_loss: DistillerLoss | None = None

    def check_task(self, task: Task) -> None:
        if self.lambda_kd < 1:
            self.other.check_task(task)
        check_answers(self.facts, task)
        if "mix" in self.facts:
            self.check_labels_of_mixed()
        if self.live_losses and self.teacher is not None:
            require_layers(task, self.teacher)
        if self.sequence_losses:
            raise StageError(
                f"{self.sequence_losses[0].kind} is for outputs of tokens, and "
                f"{type(task).__name__} has none; use kd"
            )
        for loss in self.losses:
            check_output(loss, task.outputs)
            check_labels(loss, task.outputs)
        if not any(self.feature_losses):
            self.check_all_learned(task)

    def check_labels_of_mixed(self) -> None:
        """Raises StageError for what compares with one label: a mixed sample has two."""
        readers: list[str] = [loss.kind for loss in self.losses if loss.needs_labels]
        if self.distiller is not None and self.lambda_kd:
            readers.append("the distiller")
        if readers:
            raise StageError(
                f"{readers[0]} compares each sample with one label, and mixed samples have two; "
                "leave it out, or mix out of [answers]"
            )

    def check_all_learned(self, task: Task) -> None:
        """Raises StageError if the losses ignore the transfer split or an output."""
        if task.transfer and all(loss.needs_labels for loss in self.losses):
            raise StageError(
                f"{self.losses[0].kind} needs labels, and transfer of {type(task).__name__} has "
                "none to learn from; add { kind = 'kd' }, or set its transfer = False"
            )
        for name, output in task.outputs.items():
            if not any(reads_output(loss, name, output) for loss in self.losses):
                raise StageError(
                    f"no loss reads the output {name!r} ({output.kind}); add "
                    f"{{ kind = '{list_suitable_losses(output.kind)[0]}', output = '{name}' }} to "
                    "losses, or another that is for "
                    f"{output.kind}: {format_suitable_losses(output.kind)}"
                )

    def find_transfer(self, task: Task) -> Split | None:
        return task.split("transfer") if task.transfer and self.lambda_kd else None

    def build_auxiliary(
        self, task: Task, module: nn.Module, autocast: Autocast = nullcontext
    ) -> nn.Module:
        """Return the distiller, and the regressors of losses of features."""
        modules = nn.ModuleDict()
        device = next(module.parameters()).device
        if self.live_losses and self.lambda_kd:
            teacher = apply_layout(self.load_teacher(task), device).to(device)
            losses = self.live_losses
            self.live_features = LiveFeatureLoss(task, module, teacher, losses, autocast)
            modules["features"] = self.live_features
        if self.stored_losses and self.lambda_kd:
            self.stored_features = StoredFeatureLoss(task, module, self.stored_losses, self.widths)
            modules["stored_features"] = self.stored_features
        if self.distiller and self.lambda_kd:
            self.distiller_loss = DistillerLoss(self.distiller, task, module, autocast)
            modules["distiller"] = self.distiller_loss.network.to(device)
            if self.distiller_loss.copy is not None:
                modules["copy"] = apply_layout(self.distiller_loss.copy, device)
        self.freeze_untaught(task, module)
        return modules

    def freeze_untaught(self, task: Task, module: nn.Module) -> None:
        """Let what is inherited and not taught, such as the teacher's head, stay as it is: a
        compiled network would have a gradient of zeros there, and its weights would decay.

        Raises StageError for what is neither inherited nor taught.
        """
        parts = (self.live_features, self.stored_features)
        hooks = [hook for part in parts if part is not None for hook in part.student_hooks]
        are_checked = self.origin is None and self.reads_layers_alone  # by ``Distill``
        if not hooks or are_checked:
            return
        inherited = frozenset() if self.origin is None else self.origin.fit
        for name in check_reach(task, module, hooks, inherited, self.list_read_outputs(task)):
            module.get_parameter(name).requires_grad_(False)

    @property
    def reads_layers_alone(self) -> bool:
        """Whether no answer and no label has a share in the loss."""
        return self.lambda_kd == 1 and not self.losses and self.distiller is None

    def list_read_outputs(self, task: Task) -> frozenset[str]:
        """Return the outputs that losses of answers, the distiller or labels read."""
        read = set() if self.distiller_loss is None else {self.distiller_loss.output}
        for name, output in task.outputs.items():
            has_loss = any(reads_output(loss, name, output) for loss in self.losses)
            if has_loss or (self.lambda_kd < 1 and output.target):
                read.add(name)
        return frozenset(read)

    def describe_features(self) -> Facts:
        """Return, if there are losses of features, the kinds of those that read stored ones, and of
        those that ran the teacher beside the student."""
        stored, live = ([loss.kind for loss in each] for each in self.feature_losses)
        return {"features": {"stored": stored, "live": live}} if stored + live else {}

    def load_teacher(self, task: Task) -> nn.Module:
        """Raises StageError if there is none whose layers can be read on the student's batch."""
        if self.teacher is None:
            raise StageError(
                f"{self.live_losses[0].kind} is a loss of features, which needs the teacher itself"
            )
        return require_layers(task, self.teacher).load()

    @property
    def notes(self) -> dict[str, list[float]]:
        return self.distiller_loss.notes if self.distiller_loss else {}

    def pop_means(self) -> dict[str, float]:
        return self.distiller_loss.pop_means() if self.distiller_loss else {}

    def set_progress(self, progress: float) -> float:
        """With a distiller that is trained before, both parts of the training have a schedule."""
        self.progress = progress
        if self.distiller_loss is not None:
            self.progress = self.distiller_loss.set_progress(progress)
        return self.progress

    @property
    def reads_network(self) -> bool:
        """While the distiller is trained alone, only its copy of the student's layers answers."""
        return self.distiller_loss is None or not self.distiller_loss.is_pretraining

    def read_lesson(self, task: Task, batch: ViewBatch, view: int) -> Lesson[Array]:
        parts: Parts = {}
        if self.lambda_kd < 1 and batch.labelled:
            parts |= self.other.read_labels(task, batch)
        if self.lambda_kd:
            for name, output in task.outputs.items():
                stored = self.views[view][name][batch.indices]
                parts |= read_answers(name, output, stored, batch)
        parts |= self.read_features(batch, view)
        return Lesson(batch.inputs, parts, batch.labelled, batch.label_weight)

    def read_features(self, batch: ViewBatch, view: int) -> Parts:
        """Return what losses of features read: masks of padding, and stored features."""
        parts: Parts = {}
        for loss in (self.live_features, self.stored_features):
            masks = {} if loss is None else loss.mask_padding(batch.inputs)
            for name, mask in masks.items():
                parts["padding", name] = mask
        if self.stored_features is not None:
            for layer in self.stored_features.layers:
                parts["features", layer] = self.views[view][name_features(layer)][batch.indices]
        return parts

    def __call__(self, task: Task, outputs: Tensors, lesson: Lesson[Tensor]) -> Tensor:
        if self.lambda_kd == 0:
            return self.other(task, outputs, lesson)
        if self.distiller_loss is not None:
            copied = self.distiller_loss.run_copy(lesson.inputs)
            if self.distiller_loss.is_pretraining:
                return self.pretrain(self.distiller_loss, copied, lesson)
        terms = list(self.iterate_terms(task, outputs, lesson))
        learned = self.lambda_kd * sum(terms[1:], terms[0])
        if self.lambda_kd == 1 or not lesson.labelled:
            return learned
        return learned + (1 - self.lambda_kd) * self.other(task, outputs, lesson)

    def pretrain(self, distiller: DistillerLoss, copied: Tensors, lesson: Lesson[Tensor]) -> Tensor:
        """Return the distiller's own loss, for what its copy of the student's layers answered."""
        if not lesson.labelled:
            return 0 * next(distiller.network.parameters()).sum()
        return lesson.label_weight * distiller(copied[distiller.output], lesson)

    def iterate_terms(
        self, task: Task, outputs: Tensors, lesson: Lesson[Tensor]
    ) -> Iterator[Tensor]:
        """Yield the terms of L_KD: weighted losses, and the distiller's part."""
        for name, output in task.outputs.items():
            student = outputs[name]
            for loss in (loss for loss in self.losses if reads_output(loss, name, output)):
                weight = loss.compute_weight(self.progress)
                if not loss.needs_labels:
                    yield weight * loss(*select_answered(name, student, lesson), None)
                elif lesson.labelled:
                    rows = select_labelled(name, student, lesson)
                    yield weight * lesson.label_weight * loss(*rows)
            if self.distiller_loss and name == self.distiller_loss.output and lesson.labelled:
                yield lesson.label_weight * self.distiller_loss(student, lesson)
        if self.live_features is not None:
            yield self.live_features(lesson, self.progress)
        if self.stored_features is not None:
            yield self.stored_features(lesson, self.progress)


def check_output(loss: Loss, outputs: Mapping[str, Output]) -> None:
    """Raises StageError if the loss names an output that does not exist or has another kind."""
    if loss.output is None:
        return
    if loss.output not in outputs:
        raise StageError(
            f"{loss.kind}: the task has no output {loss.output!r}: "
            f"{suggest_name(loss.output, outputs)}"
        )
    kind = outputs[loss.output].kind
    if kind not in loss.output_kinds:
        raise StageError(
            f"{loss.kind} is for {', '.join(sorted(loss.output_kinds))}; {loss.output!r} holds "
            f"{kind}: use {format_suitable_losses(kind)}"
        )


def check_labels(loss: Loss, outputs: Mapping[str, Output]) -> None:
    """Raises StageError if the loss needs labels that an output lacks."""
    for name, output in outputs.items():
        if loss.needs_labels and not output.target and reads_output(loss, name, output):
            raise StageError(
                f"{loss.kind} needs labels, and the output {name!r} has no target; name one in "
                "Output(target=...), or use kd"
            )


def reads_output(loss: Loss, name: str, output: Output) -> bool:
    """Whether the loss reads this output."""
    return loss.output == name or (loss.output is None and output.kind in loss.output_kinds)
