"""Unpack: a bundle that is in production, and what it is compared with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from attar.bundle import checksums
from attar.bundle.sign import sign_bundle
from attar.bundle.verified import locate_manifest, read_manifest
from attar.engines.runtimes import providers
from attar.engines.runtimes.onnxruntime import OnnxRuntime
from attar.engines.runtimes.runtime import BuildSpec
from attar.models.postprocess import Detokenize
from attar.models.preprocess import Scale, Step
from attar.models.task import Output
from attar.models.tasks.numbers import TOKENIZER, Numbers
from attar.pipeline.core.errors import InvalidBundleError, StageError, UnsupportedModelError
from attar.pipeline.core.stage import Facts
from attar.pipeline.keys.deciders import describe_settings
from attar.proof.ledger.ledger_json import ledger_from_json
from attar.proof.verdicts.gate_evaluation import evaluate_gates
from attar.proof.verdicts.limits import GateLimits
from attar.stages.artifacts import Engine, Production
from attar.stages.unpack import Unpack, find_difference
from tests.support.bundles.signing_parts import pair
from tests.support.bundles.spoken import make_spoken
from tests.support.proof.proof_parts import NAME, STUDENT, Chain, Points, digest, line


@pytest.fixture(scope="module")
def bundle(points_bundle: Path) -> Path:
    return points_bundle


def unpacked(out: Path, bundle: Path | None, task: str = NAME) -> Production:
    out.mkdir()
    facts: Facts = Unpack(task=task, against=bundle).run(out)
    return Production(digest("production"), digest("production"), out, facts)


def edited(bundle: Path, copy: Path, **manifest: Any) -> Path:
    """A bundle that says something else of itself, consistently sealed."""
    shutil.copytree(bundle, copy)
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | manifest))
    checksums.write_checksums(copy)
    return copy


def test_nothing_to_compare_with_is_off_and_depends_on_nothing_else(tmp_path: Path) -> None:
    assert unpacked(tmp_path / "out", None).is_disabled
    assert Unpack(task=NAME).deciding() == {"against"}
    assert Unpack(task=NAME, against=tmp_path).deciding() == {"task", "against", "trusted", "lacks"}


def test_it_answers_as_the_bundle_does(bundle: Path, tmp_path: Path) -> None:
    production = unpacked(tmp_path / "out", bundle)
    x = np.ones((2, 2), np.float32)
    with production.open(threads=1) as predict:
        assert predict({"x": x})["logits"] == pytest.approx(x @ STUDENT)
    assert (production.facts["name"], production.is_disabled) == ("points", False)
    assert production.preprocess == {"x": [Scale(by=0.5)]}


def test_a_bundle_that_is_not_whole_is_not_compared_with(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "golden.safetensors").unlink()
    with pytest.raises(InvalidBundleError, match=r"golden\.safetensors"):
        unpacked(tmp_path / "out", copy)


def test_it_is_compared_with_where_a_trusted_key_signed_it(bundle: Path, tmp_path: Path) -> None:
    copy, mine, theirs = Path(shutil.copytree(bundle, tmp_path / "copy")), pair(tmp_path), pair(tmp_path, "theirs")
    sign_bundle(copy, mine.private)
    (tmp_path / "out").mkdir()
    assert Unpack(task=NAME, against=copy, trusted=mine.public).run(tmp_path / "out")["name"] == "points"
    with pytest.raises(InvalidBundleError, match="is signed by no key in"):
        Unpack(task=NAME, against=copy, trusted=theirs.public).run(tmp_path / "out")


class RenamedPoints(Points):
    classes = ("east", "north", "other")


class Raw(Points):
    outputs = {"logits": Output(("batch", 3), kind="values")}


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("RenamedPoints", "right, up, other, the"),
        ("Raw", r"logits.*, the task's .*values"),
    ],
)
def test_a_bundle_of_another_task_is_refused(bundle: Path, tmp_path: Path, task: str, told: str) -> None:
    with pytest.raises(StageError, match=f"compared .*{told}"):
        unpacked(tmp_path / "out", bundle, f"tests.stages.test_unpack:{task}")


def test_it_is_a_hop_beside_the_engine_with_its_own_preprocessing(bundle: Path, tmp_path: Path) -> None:
    """The bundle in production halves once more than the task: as its logits are linear, they are half as large."""
    other = edited(bundle, tmp_path / "other", preprocess={"x": [{"step": "scale", "by": 0.25}]})
    chain = Chain(tmp_path / "chain")
    inputs = chain.inputs() | {"production": unpacked(tmp_path / "out", other)}
    facts = chain.evidence(inputs).facts
    assert [hop["hop"] for hop in facts["hops"]][-2:] == ["production", "engine"]
    found = line(facts, "engine")["production"]
    assert (found["score_drop"], found["agreement"], found["correlation"]) == (0, 1, pytest.approx(1))
    assert found["largest_difference"] == pytest.approx(line(facts, "engine")["teacher"]["largest_difference"], rel=10)
    assert found["largest_difference"] > 0.1
    assert facts["speedup"]["bounds"].keys() == {"reference", "teacher", "production"}
    assert facts["lineage"]["production"]["key"] == digest("production")
    assert line(facts, "production")["format"] == "ONNX Runtime"  # and not its graph, which is slower than what serves


def test_its_engine_is_built_as_it_was(bundle: Path, tmp_path: Path) -> None:
    other = edited(bundle, tmp_path / "other", preprocess={"x": [{"step": "scale", "by": 0.25}]})
    production = unpacked(tmp_path / "out", other)
    built = []

    class WatchedRuntime(OnnxRuntime):
        def build(self, source: Path, target: Path, asked: BuildSpec) -> None:
            built.append((source, asked))
            super().build(source, target, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attar.engines.runtimes.onnxruntime.OnnxRuntime", WatchedRuntime)
        with production.build_engine() as engine, engine.open(threads=1) as predict:
            x = np.ones((2, 2), np.float32)
            assert predict({"x": x})["logits"] == pytest.approx(x @ STUDENT)
    assert isinstance(engine, Engine)
    assert built == [(production.file(), read_manifest_spec(other))]
    assert engine.load_task().preprocess == {"x": [Scale(by=0.25)]}
    assert not engine.root.exists()


def read_manifest_spec(bundle: Path) -> BuildSpec:
    needs = read_manifest(bundle).engine
    return BuildSpec(needs.precision, needs.threads, needs.provider, needs.profile, needs.options)


def test_without_its_engine_its_graph_answers_and_promises_no_speed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ONNX Runtime takes for its graph says nothing of how fast it is."""
    monkeypatch.setattr(Production, "find_absence", lambda self: "it needs a GPU")
    chain = Chain(tmp_path / "chain")
    facts = chain.evidence(chain.inputs() | {"production": unpacked(tmp_path / "out", bundle)}).facts
    assert line(facts, "engine")["production"]["agreement"] == 1
    assert (line(facts, "production")["format"], line(facts, "production")["latency"]) == ("ONNX", {})
    gates = evaluate_gates(ledger_from_json(facts), GateLimits())
    (speedup,) = [gate for gate in gates if gate.comparison.metric == "speedup"]
    assert (speedup.verdict, speedup.required) == ("not run here", True)
    assert speedup.note == "the engine in production was not timed: it needs a GPU"


def test_a_failure_to_build_its_engine_says_whose_it_is(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run builds an engine of its own, too, which may have the same runtime and file name."""

    def crash(*asked: Any) -> None:
        raise UnsupportedModelError("building model.onnx crashed")

    monkeypatch.setattr(OnnxRuntime, "build", crash)
    said = "the bundle in production, 'points', cannot be built here: building model.onnx crashed; leave out --against"
    with pytest.raises(StageError, match=said), unpacked(tmp_path / "out", bundle).build_engine():
        pass


@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt-rtx"])
def test_an_engine_that_needs_another_machine_is_absent(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr("attar.engines.runtimes.cuda.explain_missing_gpu", lambda: "there is no GPU")
    production = unpacked(tmp_path / "out", bundle)
    other = replace(production, facts={**production.facts, "runtime": runtime, "provider": None})
    assert (other.find_absence() is None) == (runtime == "onnxruntime")


def test_hardware_that_comes_later_counts(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is the same where CUDA_VISIBLE_DEVICES hides its GPU: the gate had stayed not run here for good."""
    needs = read_manifest(bundle).engine.model_dump(mode="json") | {"provider": providers.CUDA}
    production = Unpack(task=NAME, against=edited(bundle, tmp_path / "other", engine=needs))
    said = []
    for number, why in enumerate(["no NVIDIA GPU here", None]):
        monkeypatch.setattr("attar.engines.runtimes.cuda.explain_missing_gpu", lambda why=why: why)
        (tmp_path / str(number)).mkdir()
        said.append((describe_settings(production)["lacks"], production.run(tmp_path / str(number))["lacks"]))
    assert said == [("no NVIDIA GPU here", "no NVIDIA GPU here"), (None, None)]
    assert Unpack(task=NAME, against=tmp_path).lacks is None  # no bundle, which the run tells


@pytest.mark.parametrize(("most", "told"), [(8, None), (4, "batch goes from 1 to 4, but Points promises 1 to 8")])
def test_an_engine_for_fewer_sizes_than_are_promised_is_absent(bundle: Path, tmp_path: Path, most: int, told: str | None) -> None:
    """It would refuse a batch in the middle of the measurement."""
    production = unpacked(tmp_path / "out", bundle)
    asked = {"profile": {"batch": [1, 1, most]}, "options": {}}
    found = replace(production, facts={**production.facts, "asked": asked}).find_absence()
    assert found == told if told is None else told in str(found)


class SpelledNumbers(Numbers):
    """Numbers whose words have another vocabulary, in which the same token may be another word."""

    vocabulary: ClassVar[Path]

    @property
    def postprocess(self) -> Mapping[str, Sequence[Step]]:  # type: ignore[override]  # the file is written late
        return {"words": [Detokenize(file=self.vocabulary)]}


def test_a_bundle_of_another_vocabulary_is_refused(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = make_spoken(bundle, tmp_path / "spoken")
    manifest = read_manifest(spoken)
    text = TOKENIZER.read_text("utf-8")
    (tmp_path / "other.json").write_text(text.replace('"deux"', '"two"'), "utf-8")
    for file, is_other in ((TOKENIZER, False), (tmp_path / "other.json", True)):
        monkeypatch.setattr(SpelledNumbers, "vocabulary", file, raising=False)
        found = find_difference(locate_manifest(manifest, spoken), SpelledNumbers())
        assert (found is not None and "words" in found) == is_other
