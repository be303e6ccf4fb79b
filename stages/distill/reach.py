"""Reach: which parameters of a student nothing teaches, where losses read its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import torch
from torch import Tensor, nn

from attar.engines.runtimes.torch import build_network, call_network
from attar.engines.runtimes.torch_layers import LayerHook, Projections, hook_layer, keep_padding
from attar.models.task import Task
from attar.pipeline.core.errors import StageError, UnfitSettingsError
from attar.stages.distill.feature_loss_settings import AttentionRelations, FeatureLossSettings
from attar.stages.distill.live_features import call_once


def check_random_network(
    task: Task, network: str, options: Mapping[str, object], losses: Sequence[FeatureLossSettings]
) -> None:
    """Check the reach in a network that inherits nothing. Raises UnfitSettingsError."""
    try:
        student = build_network(network, options)
        hooks = [hook_student(each, student) for each in losses]
        check_reach(task, student, hooks, frozenset())
    except StageError as error:
        raise UnfitSettingsError(str(error)) from error


def hook_student(loss: FeatureLossSettings, student: nn.Module) -> LayerHook | Projections:
    """Return a hook on what a loss reads of the student. Raises StageError."""
    if isinstance(loss, AttentionRelations):
        return Projections(student, loss.student, "student")
    return hook_layer(student, str(loss.student), "student")


def check_reach(
    task: Task,
    student: nn.Module,
    hooks: Sequence[LayerHook | Projections],
    inherited: Set[str],
    read: Set[str] = frozenset(),
) -> list[str]:
    """Return the parameters that outputs depend on and nothing teaches: they are neither in front
    of a hooked layer nor of an output that is ``read``, by a loss of answers or of labels.

    Raises StageError if one of them is not ``inherited``: it would stay as random as it begins.
    """
    training, inputs = student.training, task.example(np.random.default_rng(0), batch=2)
    student.eval()
    with keep_padding(student), torch.enable_grad():
        outputs = call_network(student, task, inputs)
        used = list_reached(student, list(outputs.values()))
        compared = [*(hook() for hook in hooks), *(outputs[name] for name in read)]
        taught = list_reached(student, compared)
    student.train(training)
    call_once(student, task, inputs)  # so that no hook keeps a graph, which cannot be copied
    untaught = [name for name in used if name not in taught]
    if lost := [name for name in untaught if name not in inherited]:
        raise StageError(
            f"nothing teaches {', '.join(lost[:3])}: no loss reads an output or a layer behind it, "
            "and no inherited tensor has this name and shape; give it the name and shape that "
            "it has in the teacher and set inherit = true, add a loss of answers, such as "
            "{ kind = 'kd' }, or, if its output has a target, set lambda_kd below 1"
        )
    return untaught


def list_reached(student: nn.Module, tensors: Sequence[Tensor]) -> list[str]:
    """Return the names of the parameters that these tensors depend on."""
    named = {name: each for name, each in student.named_parameters() if each.requires_grad}
    total = torch.stack([tensor.float().sum() for tensor in tensors]).sum()
    if not total.requires_grad:
        return []
    found: Sequence[Tensor | None] = torch.autograd.grad(
        total, list(named.values()), retain_graph=True, allow_unused=True
    )
    return [name for name, gradient in zip(named, found, strict=True) if gradient is not None]
