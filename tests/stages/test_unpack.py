"""Unpack: a bundle that is in production, and what it is compared with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from attar.bundle import checksums
from attar.bundle.sign import sign_bundle
from attar.bundle.verified import locate_manifest, read_manifest
from attar.models.postprocess import Detokenize
from attar.models.preprocess import Scale, Step
from attar.models.task import Output
from attar.models.tasks.numbers import TOKENIZER, Numbers
from attar.pipeline.core.errors import InvalidBundleError, StageError
from attar.pipeline.core.stage import Facts
from attar.stages.artifacts import Production
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
    assert Unpack(task=NAME, against=tmp_path).deciding() == {"task", "against", "trusted"}


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
