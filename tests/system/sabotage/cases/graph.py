"""Faults of the graph, from the export to the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attar.proof.verdicts.verdict_json import verdict_from_json
from tests.system.sabotage.case import Case, missed
from tests.system.sabotage.cases.learning import kept
from tests.system.sabotage.lab import Inject, Lab, Setting, run
from tests.system.sabotage.stages import (
    Dynamic,
    Frozen,
    Narrowed,
    OtherEngine,
    OtherProvider,
    SpoiltAfterExport,
    SpoiltEngine,
    SpoiltInExport,
    SpoiltModel,
    TrainingModeExport,
    Unoptimised,
)

FAULTS = "tests.system.sabotage.graph_faults"
ROUNDS = ("targets.cpu.repeats = 40", "targets.cpu.seconds = 0.1")
"""Of timing, where speed is what breaks."""
KEPT = 0.85
"""Of the speedup that the healthy engine has on this machine, what is promised. CPUs differ in what int8 gains: a number that
separates it from fp32 on one of them does not on the next."""


def promise_speedup(lab: Lab) -> str:
    verdict = verdict_from_json(lab.made("cpu.verdict", "gates.speedup = 1", *ROUNDS).facts)
    measured = next(gate.comparison.value for gate in verdict.gates if gate.comparison.metric == "speedup")
    assert measured is not None
    return f"gates.speedup = {KEPT * measured:.3g}"


SPEED = (promise_speedup, *ROUNDS)
"""Promised only where speed is what breaks: the recipe itself promises none, so that a busy machine changes no other outcome."""


def export(fault: str) -> Inject:
    """Before the export proves its graph."""
    return run(f'onnx.spoil = "{FAULTS}:{fault}"', onnx=SpoiltInExport)


def onnx(fault: str) -> Inject:
    """After it."""
    return run(f'onnx.spoil = "{FAULTS}:{fault}"', onnx=SpoiltAfterExport)


def model(fault: str, *settings: Setting) -> Inject:
    return run(f'targets.cpu.spoil = "{FAULTS}:{fault}"', *settings, model=SpoiltModel)


def engine(fault: str) -> Inject:
    return run(f'targets.cpu.spoil = "{FAULTS}:{fault}"', engine=SpoiltEngine)


def in_training_mode(layers: str) -> Inject:
    return run(f'onnx.layers = "{layers}"', onnx=TrainingModeExport)


def provider(name: str) -> Inject:
    return run(f'targets.cpu.provider = "{name}"')


def other(slot: str, *settings: str) -> Callable[[Lab], str]:
    """The graph that another healthy run made."""
    return lambda lab: f'targets.cpu.other = "{lab.made(slot, *settings).path}/model.onnx"'


def stale_engine(*settings: str) -> Inject:
    """The engine of a run with other settings."""
    return run(other("cpu.engine", *settings), engine=OtherEngine)


def float_engine(*settings: Setting, against: Callable[[Lab], Path] | None = None) -> Inject:
    """The exported graph in the place of the engine."""
    return run(other("onnx"), *settings, engine=OtherEngine, against=against)


def production(lab: Lab) -> Path:
    return Path(str(lab.made("cpu.bundle").path))


EXPORT = (
    Case("Batch axis baked in: the exporter freezes it", run(onnx=Frozen), 1, "onnx", "froze it at 2"),
    Case("Batch axis baked in: a reshape in the graph", export("batch_baked_in"), 1, "onnx", "at batch 1"),
    Case("Batch normalisation exported in training mode", in_training_mode("BatchNorm"), 1, "onnx", "differs by"),
    Case("Dropout exported in training mode", in_training_mode("Dropout"), 1, "cpu.engine", "in training mode"),
    Case("The graph of an older student", run(kept("onnx", "student.seed = 1")), 3, "onnx"),
    Case("The input transposed by the exporter", export("transposed"), 1, "onnx", "differs by"),
    Case("The input normalised twice by the exporter", export("normalised_twice"), 1, "onnx", "differs by"),
    Case("The input transposed after the export", onnx("transposed"), 3, "onnx"),
    Case("The input normalised twice after the export", onnx("normalised_twice"), 3, "onnx"),
    Case("The input not scaled", onnx("unscaled"), 3, "onnx"),
    Case("Two classes swapped", onnx("classes_swapped"), 3, "onnx"),
    Case("One weight tensor zeroed", onnx("weight_zeroed"), 3, "onnx"),
    Case("One filter of a convolution zeroed", onnx("filter_zeroed"), 3, "onnx"),
    Case("One bias lost", onnx("bias_lost"), 3, "onnx"),
    Case("The last bias lost", onnx("head_bias_lost"), 3, "onnx"),
    Case("Probabilities in place of logits", onnx("probabilities"), 3, "onnx"),
    Case("Logits three times as large", onnx("overconfident"), 3, "onnx"),
    Case("The output renamed", onnx("renamed"), 1, "cpu.evidence", "lacks ['logits']"),
)
HARMLESS = "it does no harm here: every promise is kept"
PRECISION = (
    Case("int8 ranges from pixels that are not normalised", run('calibration.task = "task.py:Unnormalised"'), 3, "model"),
    Case("int8 ranges from blank images", run('calibration.task = "task.py:Blank"'), 3, "model"),
    missed("int8 ranges from a single image", run("calibration.samples = 1"), HARMLESS),
    missed("int8 ranges from one class", run('calibration.task = "task.py:OneClass"'), HARMLESS),
    missed("int8 ranges of an older student", run(kept("calibration", "student.seed = 1")), HARMLESS),
    missed("The range of one activation halved", run("calibration.share = 0.5", calibration=Narrowed), HARMLESS),
    Case("The range of one activation a tenth", run("calibration.share = 0.1", calibration=Narrowed), 3, "model"),
    Case("int8 with ranges found anew for every input", run(*SPEED, model=Dynamic), 3, "engine", "speedup"),
    Case("NaN for one image", model("nan_for_one"), 1, "cpu.engine", "not finite"),
    Case("The same answer to everything", model("constant_answers"), 3, "model", "one answer to all"),
    Case("The input transposed", model("transposed"), 3, "model"),
    Case("Two classes swapped", model("classes_swapped"), 3, "model"),
    Case("One class of ten is never answered", model("never_nine"), 3, "model"),
    Case("One weight tensor zeroed", model("weight_zeroed"), 3, "model"),
    Case("One filter of a convolution zeroed", model("filter_zeroed"), 3, "model"),
    Case("One bias lost", model("bias_lost"), 3, "model"),
    missed("The last bias lost", model("head_bias_lost"), HARMLESS),
    Case("Probabilities in place of logits", model("probabilities"), 3, "model"),
    Case("Logits three times as large", model("overconfident"), 3, "model", "kdl"),
    Case("Logits cut off", model("saturated"), 3, "model"),
    Case("Dropout active", model("dropout_active"), 1, "cpu.engine", "differs by"),
    Case("A dropout node in training mode", model("dropout_node"), 1, "cpu.engine", "in training mode"),
    missed("A trigger that no test image holds", model("trigger"), "no finite test finds it"),
)
BATCHES = (
    Case("A reshape to batches of 32", model("batch_baked_in"), 1, "cpu.engine", "at batch 1"),
    Case("A single sample loses its batch axis", model("squeezed"), 3, "model", "expected [1, 10]"),
    Case("A batch is answered in reverse order", model("reversed_order"), 3, "model", "depends on the other samples"),
    Case("A quarter of the batch's mean is subtracted", model("neighbours"), 3, "model", "depends on the other samples"),
    Case("NaN for batches of more than 48", engine("nan_for_many"), 3, "engine", "at batch 64"),
    Case("The wrong order in batches of more than 48", engine("reversed_for_many"), 3, "engine", "at batch 64"),
)
FP32 = "its answers are right, and nothing looks whether an fp16 engine holds fp16; of int8, on some CPUs the answers would tell"
ENGINE = (
    Case(
        "The engine of an older student with the same graph",
        stale_engine("student.seed = 1", "student.epochs = 10"),
        3,
        "engine",
        "correlation against model",
    ),
    Case(
        "The engine of the same student, two epochs earlier",
        stale_engine("student.epochs = 18"),
        3,
        "engine",
        "correlation against model",
    ),
    Case("An engine that says int8 and is fp32", float_engine(*SPEED), 3, "engine", "speedup"),
    missed(
        "An engine that says fp16 and is fp32, where no speed is promised", float_engine('targets.cpu.precision = "fp16"'), FP32
    ),
    Case(
        "An engine that says int8 and is fp32, where no speed is promised, against the bundle in production",
        float_engine(*ROUNDS, against=production),
        3,
        "engine",
        "speedup against production",
    ),
    Case(
        "A provider that takes no node of the graph and would leave all of them to another",
        provider("AzureExecutionProvider"),
        1,
        "cpu.engine",
        "it runs on CPUExecutionProvider",
    ),
    Case("A provider that this machine does not have", provider("NnapiExecutionProvider"), 1, "cpu.engine", "has no provider"),
    Case(
        "An engine that was built for another provider than it says",
        run(engine=OtherProvider),
        1,
        "cpu.evidence",
        "was asked for",
    ),
    Case("Two classes swapped", engine("classes_swapped"), 3, "engine"),
    Case("One scale halved", engine("scale_halved"), 3, "engine"),
    Case("fp16 overflows to infinity for a few images", engine("fp16_overflow"), 3, "engine", "not finite"),
    Case("NaN for one image", engine("nan_for_one"), 3, "engine", "not finite"),
    Case("Noise of a hundredth", engine("noise"), 3, "engine", "a second answer"),
    Case("An engine that is not optimised", run(*SPEED, engine=Unoptimised), 3, "engine", "speedup"),
    Case("A model slower than its reference", model("slow", *SPEED), 3, "engine", "speedup"),
)
