"""Take: what was chosen goes on byte for byte."""

from __future__ import annotations

from pathlib import Path

from attar.proof.artifacts import Choice
from attar.stages.choose.take import TakeEngine, TakeModel
from tests.support.proof.proof_parts import STUDENT, TEACHER, digest, engine, onnx_model


def test_files_and_facts_are_those_of_the_winner(tmp_path: Path) -> None:
    choice = Choice(digest("choice"), digest("choice"), tmp_path, {"winner": "c2"})
    models = {"c1": onnx_model(tmp_path / "m1", STUDENT), "c2": onnx_model(tmp_path / "m2", TEACHER)}
    engines = {"c1": engine(tmp_path / "e1", STUDENT), "c2": engine(tmp_path / "e2", TEACHER)}
    (models["c2"].root / "record.json").write_text("what the store says of it, and not what was made")
    for name in ("model", "engine"):
        (tmp_path / name).mkdir()
    assert TakeModel().run(tmp_path / "model", choice=choice, **models) == models["c2"].facts
    assert TakeEngine().run(tmp_path / "engine", choice=choice, **engines) == engines["c2"].facts
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.onnx"]
    assert (tmp_path / "model" / "model.onnx").read_bytes() == models["c2"].file().read_bytes()
    assert (tmp_path / "engine" / "model.onnx").read_bytes() == engines["c2"].file().read_bytes()
