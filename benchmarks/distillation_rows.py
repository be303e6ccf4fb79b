"""The rows of ``benchmarks.distillation``: every way to distil, by name, and the tasks on which
they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SEEDS = (0, 1, 2, 3, 4)
FRESH = (5, 6, 7, 8, 9)
"""For what was chosen on validation, and for the control beside it."""
CONTROL = "no teacher"
KD = {"kind": "kd", "temperature": 2.0}
PEARSON = {"kind": "logit_pearson"}
DIST = {"kind": "dist", "beta": 2.0, "gamma": 2.0}
EVEN = 0.5
"""The ``lambda_kd`` at which labels and L_KD weigh 1 to 1, as in the papers of DKD and DIST: half
of what they minimise.

Half is the same training: AdamW divides the factor out but for its epsilon, its decay does not pass
through the loss, and no gradient is clipped.
"""


@dataclass(frozen=True)
class ControlRow:
    """A row without a teacher: settings of ``Control``."""

    settings: Mapping[str, Any]


Choice = Mapping[str, Any] | ControlRow
"""Settings of ``Distill``, or a row without a teacher."""


@dataclass(frozen=True)
class TeacherStudent:
    """One task, its teacher and its student."""

    task: str
    teacher: Mapping[str, Any]
    student: Mapping[str, Any]
    layers: str
    """The layer of both networks whose features are compared."""


FIELDS = {
    "fashion": TeacherStudent(
        "attar.models.tasks.fashion:FashionMnist",
        {"options": {"width": 48, "stem": 2}, "epochs": 12, "learning_rate": 0.003},
        {"options": {"width": 12, "stem": 2}, "epochs": 6, "learning_rate": 0.006},
        "stages",
    ),
    "noisy": TeacherStudent(
        "benchmarks._noisy:NoisyFashion",
        {"options": {"width": 48, "stem": 2}, "epochs": 12, "learning_rate": 0.003},
        {"options": {"width": 12, "stem": 2}, "epochs": 12, "learning_rate": 0.006},
        "stages",
    ),
    "digits": TeacherStudent(
        "attar.models.tasks.digits:Digits",
        {"options": {"width": 16}, "epochs": 12, "batch": 64, "learning_rate": 0.01},
        {"options": {"width": 4}, "epochs": 15, "batch": 64, "learning_rate": 0.02},
        "stages",
    ),
}


def list_rows(field: TeacherStudent) -> dict[str, Choice]:
    """Return all that have the teacher of the table or none, by name."""
    attention = {
        "kind": "attention",
        "student": field.layers,
        "teacher": field.layers,
        "weight": 10.0,
    }
    return {
        CONTROL: ControlRow({}),
        "no teacher, label smoothing": ControlRow({"label_smoothing": 0.1}),
        "no teacher, recorded views": ControlRow({"recorded": True, "views": 4}),
        "KD": {"losses": [KD]},
        "KD + logit_pearson": {"losses": [KD, PEARSON]},
        "KD + 4 logit_pearson": {"losses": [KD, PEARSON | {"weight": 4.0}]},
        "KD + 16 logit_pearson": {"losses": [KD, PEARSON | {"weight": 16.0}]},
        "KD at T = 4 + 4 logit_pearson": {
            "losses": [KD | {"temperature": 4.0}, PEARSON | {"weight": 4.0}]
        },
        "KD, standardized": {"losses": [KD | {"standardize": True}]},
        # As published for CIFAR; of DKD without the warm-up of its loss, the first 20 of 240 epochs
        # there.
        "DKD": {
            "lambda_kd": EVEN,
            "losses": [{"kind": "dkd", "alpha": 1.0, "beta": 8.0, "temperature": 4.0}],
        },
        "DIST": {"lambda_kd": EVEN, "losses": [DIST | {"temperature": 4.0}]},
        "DIST + 16 logit_pearson": {
            "lambda_kd": EVEN,
            "losses": [DIST | {"temperature": 4.0}, PEARSON | {"weight": 16.0}],
        },
        "DIST + 64 logit_pearson": {
            "lambda_kd": EVEN,
            "losses": [DIST | {"temperature": 4.0}, PEARSON | {"weight": 64.0}],
        },
        # At the share and the temperature of the rows of KD.
        "DKD at 0.9, T = 2": {"losses": [{"kind": "dkd", "temperature": 2.0}]},
        "DIST at 0.9, T = 1": {"losses": [DIST]},
        "DIST at 0.9, T = 1, + logit_pearson": {"losses": [DIST, PEARSON]},
        "KD + AT": {"losses": [KD, attention]},
        "KD, standardized + logit_pearson": {"losses": [KD | {"standardize": True}, PEARSON]},
        **list_distiller_rows(),
    }


def list_distiller_rows() -> dict[str, Choice]:
    plain = {"teacher_attention": False, "student_attention": False}
    return {
        "KD + distiller": {"losses": [KD], "distiller": plain},
        "KD + distiller, teacher attention": {
            "losses": [KD],
            "distiller": plain | {"teacher_attention": True},
        },
        "KD + distiller, student attention": {
            "losses": [KD],
            "distiller": plain | {"student_attention": True},
        },
        "KD + distiller, both": {"losses": [KD], "distiller": {}},
        "KD + distiller, first alone": {"losses": [KD], "distiller": plain | {"pretraining": 0.5}},
        "KD + logit_pearson + distiller, both": {"losses": [KD, PEARSON], "distiller": {}},
    }


SMOOTHED = "KD from a teacher with label smoothing"
"""A row with a teacher of its own."""
MATCHED = "function matching"
"""A row with answers of its own: to mixed views, a new one in each epoch, and without labels."""


def list_all_rows(field: TeacherStudent) -> dict[str, Choice]:
    return {
        **list_rows(field),
        SMOOTHED: {"losses": [KD]},
        MATCHED: {"losses": [KD], "lambda_kd": 1.0},
    }


@dataclass(frozen=True)
class Part:
    """The rows that are trained and printed, the control first, and their seeds."""

    rows: Mapping[str, Choice]
    seeds: Sequence[int]
    whole: bool
    """Whether it is all rows with all seeds, of which one is chosen and confirmed."""


def select_part(
    field: TeacherStudent, names: Sequence[str] | None, seeds: Sequence[int] | None
) -> Part:
    table = list_all_rows(field)
    chosen = {name: table[name] for name in table if names is None or name in (CONTROL, *names)}
    return Part(chosen, seeds or SEEDS, names is None and seeds is None)
