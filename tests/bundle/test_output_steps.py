"""Steps on outputs in a bundle: their files travel along, sealed, and are read from nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import attar
from attar.bundle import checksums
from attar.bundle.opening import check_bundle
from attar.bundle.verified import read_manifest
from attar.models.preprocess import Step
from attar.models.tasks.numbers import Numbers
from attar.pipeline.core.errors import AttarError, InvalidBundleError
from tests.support.bundles.packaging import edit_manifest, package_bundle
from tests.support.bundles.spoken import make_spoken, spell
from tests.support.proof.proof_parts import Points

FILE = "postprocess/words.tokenizer.json"


class NamedPoints(Points):
    """Points whose logits have a step, which no check has seen: Package ships what a task declares."""

    postprocess: ClassVar[Mapping[str, Sequence[Step]]] = {"logits": Numbers.postprocess["words"]}


@pytest.fixture(scope="module")
def original(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_spoken(points_bundle, tmp_path_factory.mktemp("spoken") / "spoken")


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def test_an_opened_bundle_makes_text_of_tokens(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FILE in checksums.read_checksums(bundle).sums
    with attar.open("bundle") as model:
        monkeypatch.chdir("/")
        outputs = model(model.preprocess({"digits": np.array(["71", "123456"])}))
        answers = model.postprocess(outputs)
        assert answers["words"].tolist() == [spell("71"), spell("123456")]
        assert outputs["words"].dtype == np.int64
        with pytest.raises(AttarError, match="'words'"):
            model.postprocess({"word": outputs["words"]})


def test_package_ships_what_a_task_declares(tmp_path: Path) -> None:
    made = package_bundle(tmp_path / "chain", task=f"{__name__}:NamedPoints")
    (step,) = json.loads((made / "manifest.json").read_text())["postprocess"]["logits"]
    assert step == {"step": "detokenize", "end": 2, "file": "postprocess/logits.tokenizer.json"}
    assert step["file"] in checksums.read_checksums(made).sums
    assert (made / step["file"]).read_bytes() == Numbers.postprocess["words"][0].file.read_bytes()  # type: ignore[attr-defined]  # a FileStep
    assert "model.postprocess" in (made / "README.md").read_text()


def test_a_bundle_without_them_is_written_as_before(points_bundle: Path) -> None:
    assert "postprocess" not in json.loads((points_bundle / "manifest.json").read_text())
    assert read_manifest(points_bundle).postprocess == {}
    assert not (points_bundle / "postprocess").exists()
    assert "postprocess" not in (points_bundle / "README.md").read_text()


def change_step(**change: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["postprocess"]["words"][0].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_step(file="/etc/passwd"), r"/etc/passwd.*own postprocess/"),
        (change_step(file="postprocess/../manifest.json"), r"own postprocess/"),
        (change_step(file="preprocess/digits.tokenizer.json"), r"own postprocess/"),
        (change_step(step="run", code="evil"), r"postprocess\.words"),
        (change_step(end=-1), r"postprocess\.words"),
        (lambda manifest: manifest["postprocess"].update(word=[]), r"word, which is no output"),
    ],
)
def test_what_a_manifest_may_not_say(bundle: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit_manifest(bundle, change)
    with pytest.raises(InvalidBundleError, match=message):
        check_bundle(bundle)


def test_a_changed_vocabulary_is_seen(bundle: Path) -> None:
    file = bundle / FILE
    file.write_text(file.read_text().replace("sept", "acht"))
    with pytest.raises(InvalidBundleError, match=r"words\.tokenizer\.json was changed"):
        check_bundle(bundle)
