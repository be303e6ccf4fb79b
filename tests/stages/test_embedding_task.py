"""A task of embeddings, without a label: what it may declare, what it is refused, how it is distilled, and every slot in turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.bundle.opening import open_bundle
from attar.models import views
from attar.models.batches import join_batches
from attar.models.checks import declarations as task_declared
from attar.models.checks import task as task_check
from attar.models.task import Output, Task
from attar.models.tasks.retrieval import compute_share_found, measure_retrieval
from attar.pipeline.core.errors import StageError
from attar.proof.checks.sizes import examine_sizes
from attar.proof.comparison.hop_comparer import find_labels
from attar.proof.comparison.hop_outputs import HopAnswers, score_outputs
from attar.stages.artifacts import Answers, OnnxModel, Ranges, Weights
from attar.stages.calibrate import Calibrate
from attar.stages.distill.distiller_settings import DistillerSettings
from attar.stages.distill.feature_loss_settings import AnyLoss
from attar.stages.distill.loss_settings import Cosine, Kd, Relations
from attar.stages.distill.stage import Control, Distill
from attar.stages.export.stage import Export
from attar.stages.label.stage import Label
from attar.stages.measure.bench import Bench
from attar.stages.optimize.stage import Optimize
from attar.stages.optimize.tuning import select_losses
from tests.support.projects import tiny
from tests.support.stages.training import make_out
from tests.support.tasks import embedding_task
from tests.support.tasks.embedding_task import EmbeddedTexts, UnlabelledTexts, save_teacher
from tests.support.tasks.smoke import NOBODY, artifact, weights

HERE = "tests.support.tasks.embedding_task"
RECIPE = """
task = "embedding_task.py:EmbeddedTexts"
seed = 1

[teacher]
network = "embedding_task.py:teacher"
weights = "teacher.safetensors"

[answers]
views = 2

[student]
network = "embedding_task.py:student"
epochs = 12
batch = 64
learning_rate = 0.05
lambda_kd = 1.0
losses = [{ kind = "cosine" }, { kind = "relations" }]

[onnx]
exporter = "torchscript"

[calibration]
samples = 256

[targets.cpu]
precision = "int8"
threads = 1

[gates]
correlation = 0.8
cosine = 0.8
"""


def distill(name: str = "EmbeddedTexts", **settings: Any) -> Distill:
    given: dict[str, Any] = {"losses": (Cosine(), Relations()), "lambda_kd": 1, "epochs": 4, "learning_rate": 0.02, **settings}
    return Distill(task=f"{HERE}:{name}", network=f"{HERE}:student", batch=64, **given)


def stored(folder: Path, name: str) -> Answers:
    teacher, out = weights(folder / "teacher", f"{HERE}:teacher", f"{HERE}:{name}"), make_out(folder)
    return artifact(Answers, out, Label(task=f"{HERE}:{name}", views=2).run(out, teacher=teacher))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return stored(tmp_path_factory.mktemp("answers"), "EmbeddedTexts")


# ---- what it declares


@pytest.mark.parametrize("task", [EmbeddedTexts(), UnlabelledTexts()])
def test_neither_labels_nor_targets_are_needed(task: Task) -> None:
    task_check.check_task(task)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (Output(("batch", "batch"), kind="embedding"), r"axes \('batch', 'batch'\)"),
        (Output(("batch", 4, 8), kind="embedding"), r"\('batch', DIMENSIONS\)"),
        (
            Output(("batch", "batch"), kind="embedding"),
            "another width",
        ),
        (Output(("batch", 8), "embedding", "source"), "the target 'source'"),
    ],
)
def test_what_is_no_embedding(output: Output, told: str) -> None:
    task = type("Made", (EmbeddedTexts,), {"outputs": {"vector": output}})()
    with pytest.raises(StageError, match=rf"Made\.outputs\['vector'\] .*{told}"):
        task_declared.check_declarations(task)


def test_samples_without_targets_are_joined_and_taken() -> None:
    parts = [views.make_chunk(UnlabelledTexts(), UnlabelledTexts().split("train"), number) for number in (0, 1)]
    joined = join_batches(parts, {"words": 0})
    assert joined.targets == {}
    assert len(joined.indices) == joined.labelled == 1024
    assert joined.take(np.arange(5, 9)).indices.tolist() == [5, 6, 7, 8]


def test_without_targets_there_is_a_score_and_none_to_keep() -> None:
    task = UnlabelledTexts()
    bench = Bench(task, task.split("test"), 32)
    vectors = np.random.default_rng(0).standard_normal((600, 8))
    found = score_outputs(task, "teacher", HopAnswers({"vector": vectors}), bench.targets)
    assert bench.targets == {}
    assert task.aggregate(found.statistics) == pytest.approx(1, abs=0.05)  # all directions alike: spread
    assert find_labels(task, {}) is None


# ---- what it is refused


def test_there_is_nothing_to_learn_without_a_teacher(tmp_path: Path, answers: Answers) -> None:
    told = (
        r"no output of EmbeddedTexts has a target, so there are no labels to learn from; name one in Output\(target=...\), "
        r"or adopt a teacher \(weights or huggingface\), distil with lambda_kd = 1, and leave out the control"
    )
    control = Control(task=f"{HERE}:EmbeddedTexts", network=f"{HERE}:student", enabled=True)
    with pytest.raises(StageError, match=told):
        control.run(make_out(tmp_path))
    with pytest.raises(StageError, match=told):
        distill(lambda_kd=0.9).run(make_out(tmp_path, "student"), teacher=NOBODY, answers=answers)


def test_a_loss_of_logits_names_those_that_fit(tmp_path: Path, answers: Answers) -> None:
    told = (
        r"no loss reads the output 'vector' \(embedding\); add \{ kind = 'mse', output = 'vector' \} to losses, "
        "or another that is for embedding: mse, cosine or relations"
    )
    with pytest.raises(StageError, match=told):
        distill(losses=(Kd(),)).run(make_out(tmp_path), teacher=NOBODY, answers=answers)


def test_a_distiller_needs_logits(tmp_path: Path, answers: Answers) -> None:
    with pytest.raises(StageError, match="EmbeddedTexts has none"):
        distill(distiller=DistillerSettings()).run(make_out(tmp_path), teacher=NOBODY, answers=answers)


def test_a_student_of_another_size_is_told_the_teacher_s(tmp_path: Path, answers: Answers) -> None:
    narrow = Distill(
        task=f"{HERE}:EmbeddedTexts", network="torch.nn:Linear", options={"in_features": 24, "out_features": 4}, lambda_kd=1
    )
    with pytest.raises(StageError, match=r"'vector' .*\(2, 4\), .*\(2, 8\)"):
        narrow.model_copy(update={"losses": (Cosine(),)}).run(make_out(tmp_path), teacher=NOBODY, answers=answers)


# ---- how it is distilled


@pytest.mark.parametrize(
    "loss", [Cosine(), Relations(), Relations(similarity=0, distance=1, angle=1)], ids=["cosine", "similarity", "rkd"]
)
def test_a_student_learns_from_stored_answers_alone(tmp_path: Path, answers: Answers, loss: AnyLoss) -> None:
    facts = distill(losses=(loss,)).run(make_out(tmp_path), teacher=NOBODY, answers=answers)
    first, *_, last = facts["history"]
    assert last["loss"] < first["loss"]
    assert last["correlation"] > first["correlation"] + 0.1
    assert "kdl" not in facts


def test_a_student_learns_without_any_target(tmp_path: Path) -> None:
    facts = distill("UnlabelledTexts").run(
        make_out(tmp_path, "student"), teacher=NOBODY, answers=stored(tmp_path, "UnlabelledTexts")
    )
    assert facts["correlation"] > facts["history"][0]["correlation"] + 0.1


def test_validation_scores_all_samples_at_once_as_test_is(answers: Answers, tmp_path: Path) -> None:
    """600 samples are two chunks: among 512 and among 88 the nearest would be found more often."""
    facts = distill(epochs=1).run(make_out(tmp_path), teacher=NOBODY, answers=answers)
    vectors = answers.read_split("validation")["vector"]
    sources = np.asarray(EmbeddedTexts().split("validation").take(np.arange(600)).targets["source"])
    whole = compute_share_found(measure_retrieval(vectors, sources))
    chunks = np.concatenate([measure_retrieval(vectors[part], sources[part]) for part in (slice(512), slice(512, None))])
    assert facts["oacc"] == pytest.approx(whole, abs=1e-6)
    assert compute_share_found(chunks) > whole


@pytest.mark.parametrize(("precision", "last"), [("int8", "distillation"), ("fp16", "within-0.001")])
def test_a_floor_under_embeddings(tmp_path: Path, answers: Answers, precision: str, last: str) -> None:
    """Compared by the cosines between samples, as the student was; the floor is the student itself, so the ladder is climbed."""
    folders = {name: make_out(tmp_path, name) for name in ("student", "onnx", "calibration", "model")}
    student = artifact(Weights, folders["student"], distill().run(folders["student"], teacher=NOBODY, answers=answers))
    onnx = artifact(OnnxModel, folders["onnx"], Export(exporter="torchscript").run(folders["onnx"], weights=student))
    task, floor = f"{HERE}:EmbeddedTexts", student.facts["correlation"]
    calibration = artifact(Ranges, folders["calibration"], Calibrate(task=task).run(folders["calibration"], onnx=onnx))
    stage = Optimize.model_validate({"task": task, "precision": precision, "floor": floor, "tuning_epochs": 1, "device": "cpu"})
    facts = stage.run(folders["model"], student=student, onnx=onnx, calibration=calibration, answers=answers)
    assert facts["student"] == floor
    assert max(rung["correlation"] for rung in facts["rungs"]) == pytest.approx(floor, abs=0.02)
    assert facts["reached"] or facts["rungs"][-1]["rung"] == last


def test_int8_is_tuned_by_the_cosine() -> None:
    assert select_losses(EmbeddedTexts()) == [Cosine(output="vector")]


# ---- what it answers alone and in a batch


@pytest.mark.parametrize(("wobble", "faults"), [(0.01, 0), (0.05, 0), (1.0, 3)])
def test_rounding_that_a_batch_changes_is_no_fault_and_another_sample_is(wobble: float, faults: int) -> None:
    """Two samples have but one pair, whose cosine correlates with nothing: entries are compared, not pairs."""
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((24, 8))

    def predict(inputs: Any) -> dict[str, Any]:
        words = np.asarray(inputs["words"], np.float64)
        made = words @ matrix
        moved = np.roll(made, 1, axis=0) if len(made) > 1 else made
        return {"vector": ((1 - wobble) * made + wobble * moved).astype(np.float32)}

    def some(count: int, call: int) -> dict[str, Any]:
        return {"words": np.random.default_rng(call).standard_normal((count, 24)).astype(np.float32)}

    task = type("Pairs", (EmbeddedTexts,), {"ranges": {"batch": (1, 2)}})() if wobble == 0.01 else EmbeddedTexts()
    found = examine_sizes(task, predict, some)
    assert len([fault for fault in found.faults if "depends on the other samples" in fault]) == min(faults, 2)


# ---- every slot


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    (folder / "embedding_task.py").write_text((Path(embedding_task.__file__)).read_text(encoding="utf-8"))
    (folder / "recipe.toml").write_text(RECIPE)
    save_teacher(folder / "teacher.safetensors")
    return {"folder": folder, **tiny.call_run(folder)}


def test_a_bundle_is_made_by_promises_of_correlation_and_cosine(made: dict[str, Any]) -> None:
    assert made["targets"]["cpu"]["verdict"] == "passed"
    engine = next(hop for hop in tiny.entry(made, "cpu.evidence")["facts"]["hops"] if hop["hop"] == "engine")
    assert engine["teacher"]["correlation"] > 0.8
    assert engine["teacher"]["cosine"] > 0.8
    assert engine["teacher"]["kdl"] is None
    kept = {
        (gate["gate"], gate["against"]) for gate in tiny.entry(made, "cpu.verdict")["facts"]["gates"] if gate["hop"] == "engine"
    }
    assert {("correlation", "teacher"), ("cosine", "teacher"), ("correlation", "previous"), ("score_drop", "previous")} <= kept


def test_the_report_shows_cosines(made: dict[str, Any]) -> None:
    (page,) = made["folder"].glob("store/latest/*/report.html")
    text = page.read_text()
    assert "cosines with each other" in text
    assert "Mean cosine with the teacher" in text


def test_the_bundle_opens_and_says_what_its_output_is(made: dict[str, Any]) -> None:
    """As where it is served: the vector of a text, in a bundle that was checked, its kind in the manifest."""
    bundle = Path(tiny.entry(made, "cpu.bundle")["path"])
    assert json.loads((bundle / "manifest.json").read_text())["outputs"]["vector"]["kind"] == "embedding"
    texts = EmbeddedTexts().split("test").take(np.arange(4)).inputs
    with open_bundle(bundle) as model:
        assert model(model.preprocess(texts))["vector"].shape == (4, 8)
