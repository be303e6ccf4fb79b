"""Faults of several labels a sample and of a class at each pixel, on a recipe of their own."""

from __future__ import annotations

from attar.stages.measure.stage import Measure
from tests.system.sabotage.case import Case
from tests.system.sabotage.kind_stages import LateMarks, RolledMarks, ScoredMarks
from tests.system.sabotage.lab import Inject, run
from tests.system.sabotage.stages import SpoiltAfterExport, SpoiltModel

FAULTS = "tests.system.sabotage.label_faults"


def of_kinds(inject: Inject) -> Inject:
    return lambda lab: inject(lab.of_kinds)


def task(name: str) -> Inject:
    """The student is trained for one epoch: these faults are found before it."""
    return of_kinds(run(f'task = "marked.py:{name}"', "student.epochs = 1"))


def measured(stage: type[Measure]) -> Inject:
    return of_kinds(run(evidence=stage))


def network(name: str, *settings: str) -> Inject:
    return of_kinds(run(f'teacher.network = "markers.py:{name}"', *settings))


def graph(fault: str) -> Inject:
    return of_kinds(run(f'targets.cpu.spoil = "{FAULTS}:{fault}"', model=SpoiltModel))


LABELS = (
    Case("Labels of the test split one row late", measured(LateMarks), 3, "teacher", "teacher score"),
    Case("Columns of labels in another order in the test split", measured(RolledMarks), 3, "teacher", "teacher score"),
    Case("-1 and 1 where 0 and 1 are wanted", task("Signed"), 1, "teacher", "neither 0 nor 1"),
    Case("Numbers of the labels instead of a column for each", task("Numbered"), 1, "teacher", "neither 0 nor 1"),
    Case("A teacher whose labels end in a sigmoid", network("certain"), 1, "answers", "ends in a sigmoid"),
    Case(
        "A sigmoid behind the exported labels",
        of_kinds(run(f'onnx.spoil = "{FAULTS}:sigmoids"', onnx=SpoiltAfterExport)),
        3,
        "onnx",
    ),
    Case("Labels taken for classes, of which one applies", graph("softmax_of_labels"), 3, "model"),
    Case("A threshold moved from 0.5 to 0.88", graph("threshold_moved"), 3, "model"),
    Case("Labels answered under each other's names", graph("labels_rolled"), 3, "model"),
)
PIXELS = (
    Case("A label to ignore that is not declared", task("Undeclared"), 1, "teacher", "outside the 3 classes"),
    Case("A class taken for the label to ignore", task("Taken"), 1, "teacher", "one of its 3 classes"),
    Case("An image of which every pixel is ignored", task("IgnoredImage"), 1, "teacher", "every position is ignored"),
    Case("A score that reads ignored pixels as a class", measured(ScoredMarks), 3, "teacher", "teacher score"),
    Case("Augmentations that move pixels without their labels", task("Displaced"), 3, "teacher", "teacher score"),
    Case("Classes that stand where a convolution leaves them", network("channels_first"), 1, "teacher", "has shape"),
    Case("Rows and columns of the answer exchanged", graph("pixels_transposed"), 3, "model"),
    Case("Every answer one pixel to the right", graph("pixels_moved"), 3, "model"),
    Case("Logits normalised over the rows of pixels", graph("softmax_over_rows"), 3, "model"),
)
