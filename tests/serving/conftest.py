"""Bundles that several modules serve."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from attar.bundle import checksums
from attar.models.preprocess import Normalize, Tokenize
from attar.proof.verdicts.limits import GateLimits
from tests.support.bundles.packaging import package_bundle, rename_graph_output
from tests.support.tasks.word_pairs import Phrases
from tests.support.tasks.words import saved


@pytest.fixture(scope="session")
def vectors_bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of points, whose output is an embedding."""
    made = Path(shutil.copytree(points_bundle, tmp_path_factory.mktemp("vectors") / "vectors"))
    for folder in ("engines/onnxruntime", "graphs", "reference"):
        rename_graph_output(made / folder / "model.onnx")
    golden = load_file(made / "golden.safetensors")
    save_file({name.replace("logits", "vector"): array for name, array in golden.items()}, made / "golden.safetensors")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["outputs"] = {"vector": manifest["outputs"]["logits"] | {"kind": "embedding"}}
    (made / "manifest.json").write_text(json.dumps(manifest))
    checksums.write_checksums(made)
    return made


@pytest.fixture(scope="session")
def texts_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose inputs are texts of two words."""
    root = tmp_path_factory.mktemp("texts")
    file = saved(root / "tokenizer.json", frame=False)
    Phrases.preprocess = {"x": [Tokenize(file=file, length=2), Normalize(mean=(6.0,), std=(1.0,))]}
    return package_bundle(
        root / "chain", GateLimits(score_drop=0.5, correlation=0.5, leak=1.0), "tests.support.tasks.word_pairs:Phrases"
    )
