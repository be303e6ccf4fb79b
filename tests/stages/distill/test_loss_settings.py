"""What a recipe may write for a loss, what it is told when it may not, and that labels reach the losses that need them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from attar.models import views
from attar.models.task import Output, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.recipe.setting_errors import explain_errors
from attar.stages.artifacts import Answers
from attar.stages.distill import feature_losses, token_losses
from attar.stages.distill.feature_loss_settings import (
    Attention,
    AttentionRelations,
    FeatureLoss,
    HiddenStates,
    Hint,
    Rkd,
    Similarity,
)
from attar.stages.distill.loss_settings import (
    OUTPUT_LOSSES,
    BinaryKd,
    Cosine,
    Dist,
    Dkd,
    Kd,
    LabelPearson,
    LogitPearson,
    Loss,
    Mse,
    Relations,
)
from attar.stages.distill.objective import DistillationObjective, check_labels, check_output
from attar.stages.distill.stage import Distill
from attar.stages.label.stage import Label
from attar.stages.learning import losses
from tests.support.stages.training import make_out, measure_loss
from tests.support.tasks.smoke import DIGITS, NOBODY, RESIDUAL, artifact, weights

LOSS: TypeAdapter[Loss] = TypeAdapter(Loss)
FEATURE_LOSS: TypeAdapter[FeatureLoss] = TypeAdapter(FeatureLoss)
LAYERS = {"student": "body.2", "teacher": "body.4"}


def refused(losses: Any) -> str:
    """What the command line says of ``losses = ...`` in ``[student]``."""
    settings = {"task": "a:b", "network": "c:d", "losses": losses}
    with pytest.raises(ValidationError) as caught:
        Distill(**settings)
    return explain_errors("student", Distill, settings, caught.value)


# ---- picked by kind


@pytest.mark.parametrize(
    ("written", "picked"),
    [
        ({"kind": "kd", "temperature": 2}, Kd(temperature=2.0)),
        ({"kind": "kd", "standardize": True, "weight": 9}, Kd(standardize=True, weight=9.0)),
        ({"kind": "dkd", "beta": 2.0}, Dkd(alpha=1.0, beta=2.0, temperature=4.0)),
        ({"kind": "dist", "gamma": 0}, Dist(beta=1.0, gamma=0.0, temperature=1.0)),
        ({"kind": "logit_pearson", "output": "logits"}, LogitPearson(output="logits")),
        ({"kind": "binary_kd", "temperature": 2}, BinaryKd(temperature=2.0)),
        ({"kind": "label_pearson"}, LabelPearson()),
        ({"kind": "mse", "output": "value"}, Mse(output="value")),
        ({"kind": "cosine", "weight": 2}, Cosine(weight=2.0)),
        ({"kind": "relations", "angle": 2}, Relations(similarity=1.0, distance=0.0, angle=2.0)),
    ],
)
def test_a_recipe_picks_a_loss_of_outputs(written: dict[str, object], picked: Loss) -> None:
    assert LOSS.validate_python(written) == picked


@pytest.mark.parametrize(
    ("written", "picked"),
    [
        ({"kind": "rkd", "distance": 25, "angle": 50}, Rkd(**LAYERS, distance=25.0, angle=50.0)),
        ({"kind": "similarity", "weight": 3000}, Similarity(**LAYERS, weight=3000.0)),
        ({"kind": "attention"}, Attention(**LAYERS)),
        ({"kind": "hint"}, Hint(**LAYERS)),
        ({"kind": "hidden_states", "input": "text"}, HiddenStates(**LAYERS, input="text")),
        ({"kind": "attention_relations", "heads": 4}, AttentionRelations(**LAYERS, heads=4, values=1.0)),
        (
            {"kind": "attention_relations", "heads": 2, "keys": 0},
            AttentionRelations(**LAYERS | {"teacher": ("q", "k", "v")}, heads=2, keys=0.0),
        ),
    ],
)
def test_a_recipe_picks_a_loss_of_features(written: dict[str, object], picked: FeatureLoss) -> None:
    layers = {"student": LAYERS["student"], "teacher": picked.teacher}
    assert FEATURE_LOSS.validate_json(json.dumps(written | layers)) == picked  # tables and lists, as TOML has them


def test_both_fit_in_one_list() -> None:
    adapter: TypeAdapter[list[Loss | FeatureLoss]] = TypeAdapter(list[Loss | FeatureLoss])
    assert adapter.validate_python([{"kind": "kd"}, {"kind": "hint"} | LAYERS]) == [Kd(), Hint(**LAYERS)]


# ---- what a recipe may not write


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"kind": "kdd"}, r"0: unknown kind 'kdd'; did you mean 'kd'\? known: .*binary_kd"),
        ({"temperature": 2}, "losses.0 is missing its kind"),
        ({"kind": "kd", "temperature": 0}, "kd.temperature must be more than 0.*got 0"),
        ({"kind": "kd", "weight": 0}, "kd.weight must be more than 0.*got 0"),
        ({"kind": "kd", "weight": float("inf")}, "kd.weight must be a finite number; got inf"),
        ({"kind": "kd", "standardize": "often"}, "kd.standardize must be true or false"),
        ({"kind": "mse", "temperature": 1}, "0.mse.temperature: unknown field; known: kind, output, warmup, weight"),
        ({"kind": "dkd", "alpha": -1}, "dkd.alpha must be .*got -1"),
        (
            {"kind": "dkd", "alpha": 0, "beta": 0},
            "0.dkd: .*alpha and beta",
        ),
        ({"kind": "dist", "beta": 0, "gamma": 0}, "0.dist: .*beta and gamma"),
        (
            {"kind": "relations", "similarity": 0},
            "relations: .*angle are all 0",
        ),
        ({"kind": "dist", "temperature": -2}, "dist.temperature must be .*got -2"),
    ],
)
def test_what_a_recipe_may_not_write(written: dict[str, object], says: str) -> None:
    assert re.search(says, refused([written]))


def test_no_losses_at_all() -> None:
    assert "student.losses must be a list of at least 1; got" in refused([])


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            {"kind": "hints"} | LAYERS,
            r"'rkd', .*'hint', .*'attention_relations'",
        ),
        ({"kind": "hint", "student": "body"}, "teacher\n  Field required"),
        ({"kind": "attention", "student": "", "teacher": "body"}, r"student\n .*at least 1"),
        ({"kind": "rkd", "distance": 0, "angle": 0} | LAYERS, "distance and angle"),
        ({"kind": "rkd", "angle": -1} | LAYERS, r"angle\n .*equal to 0"),
        ({"kind": "hidden_states", "teacher": ["a", "b", "c"], "student": "a"}, r"teacher\n .*valid string"),
        ({"kind": "attention_relations"} | LAYERS, "heads\n  Field required"),
        ({"kind": "attention_relations", "heads": 1, "student": ["a", "b"], "teacher": "a"}, r"student.*\n .*required"),
        (
            {"kind": "attention_relations", "heads": 1, "queries": 0, "keys": 0, "values": 0} | LAYERS,
            "queries and keys and values and attention are all 0",
        ),
    ],
)
def test_what_a_recipe_may_not_write_of_features(written: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        FEATURE_LOSS.validate_python(written)


OUTPUTS = {
    "classes": Output(("batch", 3), target="class"),
    "unlabelled": Output(("batch", 3)),
    "value": Output(("batch", 1), kind="values", target="value"),
    "vector": Output(("batch", 8), kind="embedding"),
}


@pytest.mark.parametrize("kind", ["kd", "dkd", "dist", "logit_pearson"])
def test_the_wrong_kind_of_output(kind: str) -> None:
    able = f"{kind} is for logits, probabilities;"
    with pytest.raises(StageError, match=f"{able} 'value' .*mse$"):
        check_output(LOSS.validate_python({"kind": kind, "output": "value"}), OUTPUTS)
    with pytest.raises(StageError, match=f"{able} 'vector' .*relations$"):
        check_output(LOSS.validate_python({"kind": kind, "output": "vector"}), OUTPUTS)
    check_output(Mse(output="value"), OUTPUTS)


@pytest.mark.parametrize("kind", ["cosine", "relations"])
def test_what_compares_directions_is_for_embeddings(kind: str) -> None:
    with pytest.raises(StageError, match=f"{kind} .*'value' .*mse$"):
        check_output(LOSS.validate_python({"kind": kind, "output": "value"}), OUTPUTS)
    with pytest.raises(StageError, match=f"{kind} .*'classes' .*mse$"):
        check_output(LOSS.validate_python({"kind": kind, "output": "classes"}), OUTPUTS)
    check_output(LOSS.validate_python({"kind": kind, "output": "vector"}), OUTPUTS)


def test_every_loss_of_outputs_is_named_where_another_does_not_fit() -> None:
    named = {loss.model_fields["kind"].default for loss in OUTPUT_LOSSES}
    assert named == set(LOSS.json_schema()["discriminator"]["mapping"])


def test_labels_that_are_not_there() -> None:
    for loss in (Dkd(), Dkd(output="unlabelled")):
        with pytest.raises(StageError, match=r"dkd .*'unlabelled' .*Output"):
            check_labels(loss, OUTPUTS)
    for fine in (Dkd(output="classes"), Kd(), Mse()):
        check_labels(fine, OUTPUTS)
    with pytest.raises(StageError, match=r"dkd .*this output .*Output"):
        Dkd()(torch.ones(2, 3), torch.ones(2, 3), None)


# ---- what the settings compute


def test_settings_reach_the_functions() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, generator=generator)
    labels = torch.randint(4, (6,), generator=generator)
    hot = losses.standardize_logits(student), losses.standardize_logits(teacher)
    directions = losses.scale_to_unit_norm(student, 1), losses.scale_to_unit_norm(teacher, 1)
    expected: dict[Loss, torch.Tensor] = {
        Kd(temperature=3.0): losses.kd(student, teacher, 3.0),
        Kd(temperature=2.0, standardize=True): losses.kd(*hot, 2.0),
        Dkd(alpha=2.0, beta=3.0, temperature=5.0): losses.dkd(student, teacher, labels, 2.0, 3.0, 5.0),
        Dist(beta=2.0, gamma=3.0, temperature=5.0): losses.dist(student, teacher, 2.0, 3.0, 5.0),
        LogitPearson(): losses.logit_pearson(student, teacher),
        BinaryKd(temperature=3.0): losses.binary_kd(student, teacher, 3.0),
        LabelPearson(): losses.label_pearson(student, teacher),
        Mse(): losses.mse(student, teacher),
        Cosine(): losses.cosine(student, teacher),
        Relations(): feature_losses.similarity(*directions),
        Relations(similarity=2.0, distance=3.0, angle=4.0): 2 * feature_losses.similarity(*directions)
        + 3 * feature_losses.rkd_distance(*directions)
        + 4 * feature_losses.rkd_angle(*directions),
    }
    for loss, value in expected.items():
        assert loss(student, teacher, labels).item() == value.item()
        assert loss.needs_labels or loss(student, teacher, None).item() == value.item()


def test_settings_reach_the_functions_of_features() -> None:
    student, teacher = torch.randn(2, 6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    distance, angle = feature_losses.rkd_distance(student, teacher), feature_losses.rkd_angle(student, teacher)
    expected: dict[FeatureLoss, torch.Tensor] = {
        Rkd(**LAYERS): distance + 2 * angle,
        Rkd(**LAYERS, angle=0.0): distance,
        Rkd(**LAYERS, distance=0.0, angle=3.0): 3 * angle,
        Similarity(**LAYERS): feature_losses.similarity(student, teacher),
        Attention(**LAYERS): feature_losses.attention(student, teacher),
        Hint(**LAYERS): feature_losses.hint(student, teacher),
    }
    for loss, value in expected.items():
        assert loss(student, teacher).item() == value.item()
    assert [loss.needs_regressor for loss in expected] == 5 * [False] + [True]


def test_settings_reach_the_functions_of_tokens() -> None:
    student, teacher = torch.randn(2, 6, 4, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(4) < torch.tensor([1, 2, 3, 4, 4, 2])[:, None]
    shares = {"queries": 2.0, "keys": 3.0, "values": 4.0, "attention": 5.0}
    relations = token_losses.attention_relations(student, teacher, 2, [2.0, 3.0, 4.0, 5.0], mask)
    assert AttentionRelations(**LAYERS, heads=2, **shares)(student, teacher, mask).item() == relations.item()
    states = token_losses.hidden_states(student, teacher, mask)
    assert HiddenStates(**LAYERS)(student, teacher, mask).item() == states.item()
    assert HiddenStates(**LAYERS)(student, teacher).item() == pytest.approx(losses.mse(student, teacher).item(), rel=1e-6)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = tmp_path_factory.mktemp("answers")
    teacher, out = weights(folder / "teacher", RESIDUAL, DIGITS, width=4), make_out(folder)
    return artifact(Answers, out, Label(task=DIGITS, views=1).run(out, teacher=teacher))


def test_labels_reach_the_losses_that_need_them(answers: Answers) -> None:
    task = load_task(DIGITS)
    seen = views.make_chunk(task, task.split("train"), 0, seed=0, view=0)
    student = torch.randn(len(seen.indices), 10, generator=torch.Generator().manual_seed(0))
    teacher = torch.from_numpy(answers.open_rows("train", 0)["logits"][seen.indices].astype(np.float32))
    labels = torch.from_numpy(np.asarray(seen.targets["label"], np.int64))
    expected = 0.5 * losses.dkd(student, teacher, labels, 1.0, 8.0, 4.0) + 3 * losses.logit_pearson(student, teacher)
    objective = DistillationObjective(1.0, (Dkd(weight=0.5), LogitPearson(weight=3.0)), answers)
    objective.check_task(task)
    assert measure_loss(objective, task, {"logits": student}, seen, 0).item() == pytest.approx(expected.item(), rel=1e-6)


def test_samples_without_labels_are_distilled_by_what_needs_none(answers: Answers) -> None:
    task = load_task(DIGITS)
    seen = replace(views.make_chunk(task, task.split("train"), 0, seed=0, view=0), targets={})
    student = torch.zeros(len(seen.indices), 10)
    assert measure_loss(DistillationObjective(1.0, (Kd(), Dist()), answers), task, {"logits": student}, seen, 0).item() > 0


def test_a_loss_without_its_labels_is_refused_before_training(answers: Answers) -> None:
    unlabelled = type("Unlabelled", (type(load_task(DIGITS)),), {"outputs": {"logits": Output(("batch", 10))}})()
    DistillationObjective(1.0, (Kd(),), answers).check_task(unlabelled)
    with pytest.raises(StageError, match=r"dkd .*'logits'"):
        DistillationObjective(1.0, (Kd(), Dkd()), answers).check_task(unlabelled)


@pytest.mark.parametrize("kind", ["kd", "dkd", "dist", "logit_pearson"])
def test_a_student_is_distilled_by_each(tmp_path: Path, answers: Answers, kind: str) -> None:
    settings: dict[str, Any] = {"network": RESIDUAL, "options": {"width": 4}, "epochs": 4, "learning_rate": 0.01}
    stage = Distill(task=DIGITS, losses=({"kind": kind},), lambda_kd=1, **settings)
    history = stage.run(make_out(tmp_path), teacher=NOBODY, answers=answers)["history"]
    assert history[-1]["loss"] < history[0]["loss"]
