"""Stored: answers that are not this teacher's, or not of this view, are found before anything is proven with them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attar.models import views
from attar.models.sample_order import digest_order
from attar.models.task import Arrays, InMemory, Split, SplitName
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.label.shards import Shard, ShardBuilder, save_shard
from attar.stages.measure import stored
from tests.support.proof.proof_parts import TEACHER, MatrixWeights, Points, digest, linear
from tests.support.stages.labelling import label_with
from tests.support.stages.training import make_out
from tests.support.tasks import sequences
from tests.support.tasks.smoke import write_shard

VIEWS, SEED = 2, 5


class ShakenPoints(Points):
    """Points with a view: each is moved a little."""

    def split(self, name: SplitName) -> Split:
        x = np.random.default_rng(len(name)).standard_normal((50, 2)).astype(np.float32)
        return InMemory({"x": x}, {"label": (x @ TEACHER).argmax(1)})

    def augment(self, inputs: Arrays, generator: np.random.Generator) -> Arrays:
        moved: npt.NDArray[np.float32] = generator.normal(0, 0.2, inputs["x"].shape).astype(np.float32)
        return {"x": np.asarray(inputs["x"], np.float32) + moved}


@pytest.fixture
def teacher(tmp_path: Path) -> MatrixWeights:
    return linear(tmp_path / "teacher", TEACHER)


def answers(root: Path, order: tuple[int, int] = (0, 1), wrong: str = "") -> Answers:
    """View ``v`` under the name of ``order[v]``, for the split ``wrong`` those of another teacher."""
    root.mkdir()
    task = ShakenPoints()
    for shard in (Shard("test", None, 0), *(Shard("train", view, 0) for view in range(VIEWS))):
        seen = views.make_chunk(task, task.split(shard.split), 0, seed=SEED, view=shard.view)
        logits = np.asarray(seen.inputs["x"], np.float32) @ (TEACHER * np.float32(1.2 if shard.split == wrong else 1))
        write_shard(root, shard if shard.view is None else replace(shard, view=order[shard.view]), {"logits": logits})
    orders = {"train": digest_order(len(task.split("train")))}
    samples = {name: len(task.split(name)) for name in ("train", "test")}
    facts = {"outputs": ["logits"], "views": VIEWS, "seed": SEED, "orders": orders, "samples": samples}
    return Answers(digest("a"), digest("a"), root, facts)


def test_the_teacher_s_own_answers_pass_rounded_as_they_are(teacher: MatrixWeights, tmp_path: Path) -> None:
    stored.check_answers(ShakenPoints(), teacher, answers(tmp_path / "answers"))


@pytest.mark.parametrize(("split", "told"), [("test", "of test is off"), ("train", "of train, view 0 is off")])
def test_answers_of_another_teacher(teacher: MatrixWeights, tmp_path: Path, split: str, told: str) -> None:
    with pytest.raises(StageError, match=f"'logits' {told} .*label"):
        stored.check_answers(ShakenPoints(), teacher, answers(tmp_path / "answers", wrong=split))


def test_answers_in_another_order_of_views(teacher: MatrixWeights, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="view 0 is off by"):
        stored.check_answers(ShakenPoints(), teacher, answers(tmp_path / "answers", order=(1, 0)))


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_of_wide_logits_what_was_kept_is_compared(teacher: MatrixWeights, tmp_path: Path, factor: float) -> None:
    root, task = tmp_path / "answers", ShakenPoints()
    made = answers(root)
    for shard in (Shard("train", view, 0) for view in range(VIEWS)):
        seen = views.make_chunk(task, task.split("train"), 0, seed=SEED, view=shard.view)
        packed = ShardBuilder("logits", task.outputs["logits"], shard.dtype, top=1)
        packed.add(np.asarray(seen.inputs["x"], np.float32) @ TEACHER * np.float32(factor))
        save_shard(root / shard.name, [packed])
    with pytest.raises(StageError, match="view 0 is off by") if factor > 1 else nullcontext():
        stored.check_answers(task, teacher, made)


# ---- sequences


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return sequences.store_translator(tmp_path_factory.mktemp("speaker"))


@pytest.mark.parametrize("settings", [{}, {"beam": 3}, {"beam": 3, "hypothesis": "closest"}, {"along": "labels"}], ids=str)
def test_stored_sequences_are_the_teacher_s(speaker: Weights, settings: dict[str, Any], tmp_path: Path) -> None:
    task = sequences.LabelledReversal()
    made = label_with(speaker, make_out(tmp_path), task=sequences.LABELLED_REVERSAL, views=1, top=4, **settings)
    stored.check_answers(task, speaker, made)


@pytest.mark.parametrize("beam", [1, 2])
def test_labels_in_the_place_of_the_teacher_s_sequences(speaker: Weights, beam: int, tmp_path: Path) -> None:
    made = label_with(speaker, make_out(tmp_path), task=sequences.LABELLED_REVERSAL, views=1, along="labels")
    claimed = replace(made, facts={**made.facts, "along": "teacher", "beam": beam})
    with pytest.raises(StageError, match="of train, view 0 are not this teacher's own"):
        stored.check_answers(sequences.LabelledReversal(), speaker, claimed)
