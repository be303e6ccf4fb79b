"""Faults of the data, the teacher, its answers and the student."""

from __future__ import annotations

from collections.abc import Callable

from tests.system.sabotage.case import Case, missed
from tests.system.sabotage.lab import Inject, Lab, run
from tests.system.sabotage.stages import FeaturesLate, LateLabels, RowsLate, SpoiltStudent, ViewsExchanged


def kept(slot: str, setting: str) -> Callable[[Lab], str]:
    """Pins a slot to what another healthy run made there."""
    return lambda lab: f'{slot}.keep = "{lab.made(slot, setting).key}"'


def student(function: str) -> Inject:
    return run(f'student.spoil = "tests.system.sabotage.stages:{function}"', TRACED, student=SpoiltStudent)


def network(function: str) -> Inject:
    return run(f'student.network = "nets.py:{function}"')


TRACED = 'onnx.exporter = "torchscript"'
"""Seconds faster than dynamo. Of a fault that is found before the export, or whatever exports."""
HASTY = ("student.epochs = 1", TRACED)
"""Of a fault before the student, which is found whatever the student has learned."""
LEAKED = "in the train split too"
NEARLY = "nearly training samples"
OTHERS = "not this teacher's"
DATA = (
    Case("Labels shuffled in training", run('task = "task.py:Shuffled"', *HASTY), 3, "teacher", "teacher score"),
    Case("Labels of the test split one row late", run(evidence=LateLabels), 3, "teacher"),
    Case("A test split that leaks into training", run('task = "task.py:Leaking"'), 1, "teacher", LEAKED),
    Case("A test split that leaks into the student's training", run('student.task = "task.py:Leaking"'), 1, "student", LEAKED),
    Case(
        "A test split that leaks into training, a pixel changed",
        run('task = "task.py:LeakingPixel"', *HASTY),
        3,
        "teacher",
        NEARLY,
    ),
    Case(
        "A test split that leaks into training, with a little noise",
        run('task = "task.py:LeakingNoise"', *HASTY),
        3,
        "teacher",
        NEARLY,
    ),
    missed(
        "A test split that leaks into training, each image moved by a pixel",
        run('task = "task.py:LeakingMoved"', TRACED),
        "an image that was moved is as far from itself as from another one",
    ),
    Case("A split that comes in another order every time", run('task = "task.py:Unordered"'), 1, "teacher", "other samples"),
    Case("Augmentations that no seed decides", run('task = "task.py:Unseeded"'), 1, "teacher", "equal generators"),
)
ANSWERS = (
    Case("Answers of another teacher", run(kept("answers", "teacher.seed = 1"), *HASTY), 1, "cpu.evidence", OTHERS),
    Case(
        "Answers of the same teacher, two epochs earlier",
        run(kept("answers", "teacher.epochs = 6"), *HASTY),
        1,
        "cpu.evidence",
        OTHERS,
    ),
    Case("Answers to the views in the wrong order", run(*HASTY, answers=ViewsExchanged), 1, "cpu.evidence", "view 0"),
    Case("Answers to the test split one row late", run(*HASTY, answers=RowsLate), 1, "cpu.evidence", "of test"),
    Case(
        "Features one row late beside their answers",
        run('answers.features = ["head.1"]', *HASTY, answers=FeaturesLate),
        1,
        "cpu.evidence",
        "'head.1.features' of train",
    ),
    Case("A reference that was exported from another teacher", run(kept("reference", "teacher.seed = 1")), 3, "reference"),
)
STUDENT = (
    Case("A student that answers with the majority class", student("majority"), 3, "student", "one answer to all"),
    Case("A student that answers almost always with one class", student("nearly_majority"), 3, "student", "score drop"),
    Case("A student that was trained for one epoch", run(*HASTY), 3, "student", "score drop"),
    Case("One weight of the student is NaN", student("not_a_number"), 1, "onnx", "not finite"),
    Case(
        "Batch normalisation that never leaves training mode", network("batch_statistics"), 3, "student", "depends on the other"
    ),
    Case("Dropout that never leaves training mode", network("forgetful"), 1, "onnx", "differs by"),
    missed(
        "A division by zero for a blank image",
        network("stretched"),
        "no test image is blank, and nothing else is asked",
    ),
)
