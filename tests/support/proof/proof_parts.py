"""A task of points in a plane and linear models of it, in numpy and in real ONNX files: what the tests of proof share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from attar.engines import cpu
from attar.engines.runtimes import onnxruntime, providers
from attar.models import preprocess
from attar.models.preprocess import Scale, Step
from attar.models.task import Arrays, InMemory, Output, Predictor, Split, SplitName, Task, Tensor, load_task
from attar.pipeline.core.stage import Facts
from attar.proof.artifacts import Evidence, Verdict
from attar.proof.gate import EXACT_METRICS
from attar.proof.ledger.ledger import COMPARED_METRICS
from attar.stages.artifacts import Answers, Engine, OnnxModel, Production, Weights
from attar.stages.label.shards import Shard
from attar.stages.measure.stage import Measure
from tests.support.tasks.smoke import write_shard

NAME = "tests.support.proof.proof_parts:Points"
SAMPLES = 400
Matrix = npt.NDArray[np.float32]
BOUNDED = [name for name in COMPARED_METRICS if name not in EXACT_METRICS]
TEACHER: Matrix = np.array([[2, 0, -1], [0, 2, -1]], np.float32)  # (coordinates, classes)
STUDENT: Matrix = np.array([[2, 0.5, -1], [0, 2, -1.5]], np.float32)


class Points(Task):
    """Class 0 lies right, 1 up, 2 left and down; raw coordinates are doubled and preprocessing halves them."""

    inputs = {"x": Tensor("float32", ("batch", 2))}
    outputs = {"logits": Output(("batch", 3), target="label")}
    ranges = {"batch": (1, 8)}
    classes = ("right", "up", "other")
    preprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"x": [Scale(by=0.5)]}

    def data(self) -> list[Path | str]:
        return ["points 1"]

    def split(self, name: SplitName) -> Split:
        x = np.random.default_rng(int(name == "train")).standard_normal((SAMPLES, 2)).astype(np.float32) * 2
        return InMemory({"x": x}, {"label": (x @ TEACHER).argmax(1)})

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        right: npt.NDArray[np.float64] = (outputs["logits"].argmax(1) == targets["label"])[:, None].astype(np.float64)
        return right


class EmptyPoints(Points):
    def split(self, name: SplitName) -> Split:
        return InMemory({"x": np.zeros((0, 2), np.float32)}, {"label": np.zeros(0, np.int64)})


class MatrixWeights(Weights):
    """Weights that open without torch."""

    @contextmanager
    def _opened(self) -> Iterator[Predictor]:
        matrix = np.load(self.root / "matrix.npy")
        yield Predictor({"model": lambda inputs: {"logits": np.asarray(inputs["x"] @ matrix)}})

    def open(self, threads: int | None = None, device: str = "cpu", precision: str = "fp32", layers: Any = ()) -> Any:
        return self._opened()


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def linear(root: Path, matrix: Matrix) -> MatrixWeights:
    root.mkdir(parents=True)
    np.save(root / "matrix.npy", matrix)
    (root / "weights.safetensors").write_bytes(matrix.tobytes())
    return MatrixWeights(digest(root.name), digest(str(matrix)), root, {"parameters": matrix.size, "task": NAME})


def write_graph(path: Path, matrix: Matrix) -> None:
    """``logits = x @ matrix``, the batch axis dynamic."""
    shapes = {"x": ["batch", matrix.shape[0]], "logits": ["batch", matrix.shape[1]]}
    x, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    node = helper.make_node("MatMul", ["x", "matrix"], ["logits"])
    graph = helper.make_graph([node], "linear", [x], [logits], [numpy_helper.from_array(matrix, "matrix")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def onnx_facts(matrix: Matrix) -> dict[str, Any]:
    return {"task": NAME, "graphs": ["model"], "precision": "fp32", "parameters": matrix.size}


def onnx_model(root: Path, matrix: Matrix) -> OnnxModel:
    root.mkdir(parents=True)
    write_graph(root / "model.onnx", matrix)
    return OnnxModel(digest(root.name), digest(str(matrix)), root, onnx_facts(matrix))


def engine(root: Path, matrix: Matrix) -> Engine:
    root.mkdir(parents=True)
    write_graph(root / "model.onnx", matrix)
    runtime: dict[str, Any] = {
        "runtime": "onnxruntime",
        "runtime_version": onnxruntime.OnnxRuntime().get_version(),
        "provider": providers.CPU,
    }
    runtime |= {"threads": 1, "files": {"model": "model.onnx"}, "why": None, "asked": {"profile": {}, "options": {}}}
    facts = {**onnx_facts(matrix), **runtime, "machine": cpu.describe_machine()}
    return Engine(digest(root.name), digest(str(matrix)), root, facts)


def answers(root: Path, matrix: Matrix, task: Task) -> Answers:
    root.mkdir(parents=True)
    inputs = preprocess.apply(task.preprocess, task.split("test").take(np.arange(SAMPLES)).inputs)
    write_shard(root, Shard("test", None, 0), {"logits": np.asarray(inputs["x"], np.float32) @ matrix})
    return Answers(digest(root.name), digest(str(matrix)), root, {"outputs": ["logits"], "views": 0, "seed": 0})


@dataclass
class Chain:
    """Everything that ``Measure`` reads. Each hop may be given another matrix, which is how a test breaks it."""

    root: Path
    broken: Mapping[str, Matrix] = field(default_factory=dict)
    control: bool = False
    task: str = NAME

    def inputs(self) -> dict[str, Any]:
        hops = {
            "teacher": TEACHER,
            "reference": TEACHER,
            "student": STUDENT,
            "onnx": STUDENT,
            "model": STUDENT,
            "engine": STUDENT,
        }
        make = {
            "teacher": linear,
            "student": linear,
            "reference": onnx_model,
            "onnx": onnx_model,
            "model": onnx_model,
            "engine": engine,
        }
        made: dict[str, Any] = {hop: make[hop](self.root / hop, self.broken.get(hop, hops[hop])) for hop in hops}
        made["answers"] = answers(self.root / "answers", TEACHER, load_task(self.task))
        off = Weights(digest("control"), "", self.root, {"off": True})
        made["control"] = linear(self.root / "control", self.broken.get("control", STUDENT)) if self.control else off
        for hop in hops:
            made[hop] = replace(made[hop], facts={**made[hop].facts, "task": self.task})
        made["production"] = Production(digest("production"), "", self.root, {"off": True})
        return made

    def evidence(self, inputs: Mapping[str, Any]) -> Evidence:
        out = self.root / "evidence"
        out.mkdir()
        facts = Measure(task=self.task, batch=4, repeats=20, seconds=0.01).run(out, **inputs)
        return Evidence(digest("evidence"), digest("evidence"), out, facts)


def verdict(facts: Facts) -> Verdict:
    return Verdict(digest("verdict"), digest("verdict"), Path(), facts)


def metrics(within: float = 0.0, **changed: float | None) -> dict[str, Any]:
    """The comparison of two hops that agree in everything, but for what is changed; every bound is so far off its number."""
    perfect = {"score_drop": 0.0, "correlation": 1.0, "correlation_per_sample": 1.0, "correlation_probabilities": 1.0}
    found: dict[str, Any] = {
        **perfect,
        "cosine": None,
        "kdl": 0.0,
        "agreement": 1.0,
        "identical": None,
        "largest_difference": 0.0,
        **changed,
    }
    bounds = {name: None if found[name] is None else [found[name] - within, found[name] + within] for name in BOUNDED}
    return {**found, "worst_class": None, "bounds": bounds}


def hop(name: str, before: str | None, **changed: float | None) -> dict[str, Any]:
    """One line of a ledger, measured and perfect, but for what is changed against the teacher."""
    this: dict[str, Any] = {"hop": name, "status": "measured", "why": None, "score": 0.9, "score_bounds": [0.9, 0.9]}
    this |= {"nonfinite": 0, "constant": False, "sizes": {"tried": 3, "faults": []}}
    return {**this, "teacher": metrics(0.0, **changed), "previous": {"hop": before, **metrics()} if before else None}


WHY_OPAQUE = "rules.py:translate only translates"


def a_ledger() -> dict[str, Any]:
    """A ledger in which every promise is kept, and nothing is uncertain."""
    before = {"teacher": None, "reference": "teacher", "student": None, "onnx": "student", "model": "onnx", "engine": "model"}
    hops = [hop(*each) for each in before.items()]
    return {"samples": 100, "score_name": "accuracy", "hops": hops, "gain": None, "speedup": speedup(reference=5, teacher=9)}


def an_opaque_ledger() -> dict[str, Any]:
    """A ledger of a teacher without probabilities and without a reference."""
    hops = [each for each in a_ledger()["hops"] if each["hop"] != "reference"]
    unknown = dict.fromkeys(("correlation", "kdl"))
    for each in hops:
        each["teacher"] = {**each["teacher"], **unknown}
    return {**a_ledger(), "hops": hops, "speedup": speedup(), "opaque": WHY_OPAQUE}


def speedup(within: float = 0.0, **ratios: float) -> dict[str, Any]:
    return {**ratios, "bounds": {hop: [ratio - within, ratio + within] for hop, ratio in ratios.items()}, "rounds": 200}


def line(ledger: Facts, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in ledger["hops"] if each["hop"] == name)
    return found
