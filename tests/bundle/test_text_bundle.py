"""A bundle that reads text: its tokenizer travels with it, and it trusts no other file."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from attar.bundle import checksums
from attar.bundle.opening import check_bundle, open_bundle
from attar.models.preprocess import Normalize, Tokenize, describe_steps, text
from attar.models.task import load_task
from attar.pipeline.core.errors import InvalidBundleError
from attar.proof.verdicts.limits import GateLimits
from attar.stages.artifacts import OnnxModel, Production
from attar.stages.unpack import Unpack
from tests.support.bundles.packaging import package_bundle
from tests.support.proof.proof_parts import STUDENT, digest
from tests.support.tasks.word_pairs import NAME, WordPairs
from tests.support.tasks.words import saved

FILE = "preprocess/x.tokenizer.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, whose task's own tokenizer is gone."""
    root = tmp_path_factory.mktemp("pairs")
    file = saved(root / "mine.json", frame=False)
    WordPairs.preprocess = {"x": [Tokenize(file=file, length=2), Normalize(mean=(6.0,), std=(1.0,))]}
    made = package_bundle(root / "chain", GateLimits(score_drop=0.5, correlation=0.5, leak=1.0), NAME)
    file.unlink()
    return made


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "bundle"))


def edit(bundle: Path, **change: Any) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["preprocess"]["x"][0].update(change)
    path.write_text(json.dumps(manifest))
    checksums.write_checksums(bundle)


def test_the_tokenizer_is_in_it_and_sealed(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["preprocess"]["x"][0] == {"step": "tokenize", "file": FILE, "length": 2}
    assert FILE in checksums.read_checksums(bundle).sums


def test_it_takes_strings_from_wherever_it_is_opened(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_bundle("bundle")
    with open_bundle("bundle") as model:
        monkeypatch.chdir("/")
        inputs = model.preprocess({"x": np.array(["sun wind", "moon moon stone"])})
        assert inputs["x"].tolist() == [[-2, 2], [-1, -1]]
        assert np.allclose(model(inputs)["logits"], np.array([[-2, 2], [-1, -1]]) @ STUDENT)


def test_its_golden_requests_are_text(bundle: Path) -> None:
    stored = load_file(bundle / "golden.safetensors")
    assert stored.keys() == {"raw.x:text", "raw.x:shape", "teacher.logits", "engine.logits"}
    first = stored["raw.x:text"][0, : stored["raw.x:shape"][0, 0]].tobytes().decode()
    assert first == WordPairs().split("test").take(np.arange(1)).inputs["x"][0]


def changed(bundle: Path) -> None:
    path = bundle / FILE
    path.write_text(path.read_text().replace('"sun"', '"sin"'))


def removed(bundle: Path) -> None:
    (bundle / FILE).unlink()


def other_words(bundle: Path) -> None:
    changed(bundle)
    checksums.write_checksums(bundle)


def without(bundle: Path) -> None:
    removed(bundle)
    checksums.write_checksums(bundle)


def linked(bundle: Path) -> None:
    shutil.move(bundle / FILE, bundle.parent / "outside.json")
    (bundle / FILE).symlink_to(bundle.parent / "outside.json")
    checksums.write_checksums(bundle)


def elsewhere(file: str) -> Callable[[Path], None]:
    def spoil(bundle: Path) -> None:
        saved(bundle.parent / "outside.json", frame=False)
        edit(bundle, file=file.format(folder=bundle.parent))

    return spoil


def not_text(bundle: Path) -> None:
    path = bundle / "golden.safetensors"
    tensors = load_file(path)
    tensors["raw.x:text"] |= np.uint8(0x80)
    save_file(tensors, path)
    checksums.write_checksums(bundle)


def half(bundle: Path) -> None:
    path = bundle / "golden.safetensors"
    save_file({name: array for name, array in load_file(path).items() if name != "raw.x:shape"}, path)
    checksums.write_checksums(bundle)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (changed, r"tokenizer.json was changed"),
        (removed, r"tokenizer.json is missing"),
        (other_words, "golden answers"),
        (without, r"'tokenize'.*preprocess/x.tokenizer.json"),
        (linked, r"tokenizer.json .*plain"),
        (elsewhere("{folder}/outside.json"), r"/.*/outside.json"),
        (elsewhere("../outside.json"), r" \.\./outside.json"),
        (elsewhere("preprocess/../../outside.json"), r"preprocess/\.\./\.\./outside.json"),
        (elsewhere("preprocess/.."), r"reads preprocess/\.\.,"),
        (not_text, r"golden.safetensors .*decode"),
        (half, r"raw.x:text, teacher.logits, expected"),
    ],
)
def test_what_is_not_let_through(bundle: Path, spoil: Callable[[Path], None], told: str) -> None:
    spoil(bundle)
    with pytest.raises(InvalidBundleError, match=told):
        check_bundle(bundle)


def test_without_the_library_it_says_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text.open_tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InvalidBundleError, match=r"'attar\[serve-text\]'$"):
        check_bundle(bundle)


def test_in_production_it_keeps_its_own_tokenizer(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    production = Production(digest("production"), digest("production"), out, Unpack(task=NAME, against=bundle).run(out))
    assert str(tmp_path) not in json.dumps(production.facts)
    shutil.rmtree(bundle / "preprocess")
    step = production.preprocess["x"][0]
    assert step(np.array(["sun wind"])).tolist() == [[4, 8]]


def test_the_same_text_file_elsewhere_is_the_same_preprocessing(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    production = Production(digest("production"), digest("production"), out, Unpack(task=NAME, against=bundle).run(out))
    model = OnnxModel(digest("model"), digest("model"), bundle / "graphs", {})
    task = load_task(NAME)
    mine = WordPairs.preprocess["x"][0].file
    saved(mine, frame=False)
    assert production.is_same_model(model, task)
    assert describe_steps(production.preprocess) == describe_steps(task.preprocess)
    saved(mine, frame=True)
    assert not production.is_same_model(model, task)
    mine.unlink()
