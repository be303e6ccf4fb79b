"""What a teacher that generates answers: its own tokens or the labels, and how likely they are to it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch

from attar.models import views
from attar.models.generation import (
    BeamSearch,
    Floats,
    Integers,
    follow,
    generate,
    generate_with_beam,
    measure_lengths,
    normalize_logits,
    require_decoding,
)
from attar.models.task import Array, Arrays, InMemory, Predict, Split, SplitName
from attar.models.tasks.numbers import Numbers, encode_words
from attar.models.top_answers import TOP
from attar.models.views import ViewBatch
from attar.pipeline.core.errors import StageError
from attar.stages.artifacts import Answers, Weights
from attar.stages.label.sequence_labels import SEQUENCE_TOP, SequenceLabels, rank_closest
from attar.stages.label.shards import Shard
from attar.stages.learning.validation import Validation
from tests.support.stages.labelling import label_with
from tests.support.stages.training import make_out
from tests.support.tasks import smoke
from tests.support.tasks.sequences import (
    LONGEST,
    OPTIONS,
    REVERSAL,
    SAMPLES,
    SIZE,
    TRANSLATOR,
    WORDS,
    LabelledReversal,
    Reversal,
    change_task,
    make_chain,
    make_decoding,
    make_history,
    make_table,
    make_translator,
    store_translator,
)

DECODING, TASK = make_decoding(), Reversal()
VIEW, CLEAN = Shard("train", 0, 0), Shard("validation", None, 0)
GRAPHS = make_history(make_table(2))


def make_batch(split: str = "train") -> ViewBatch:
    name: Any = split
    return views.make_chunk(TASK, TASK.split(name), 0)


def answer(
    labels: SequenceLabels, batch: ViewBatch, shard: Shard = VIEW, graphs: Mapping[str, Predict] = GRAPHS
) -> tuple[Integers, Floats]:
    found = labels.answer(TASK, graphs, batch, shard)
    return np.asarray(found["words"], np.int64), np.asarray(found["words" + TOP], np.float32)


def test_a_teacher_says_its_own_tokens_and_how_likely_each_is() -> None:
    batch = make_batch()
    path, logs = answer(SequenceLabels(), batch)
    assert path.tolist() == generate(GRAPHS, batch.inputs, DECODING).tolist()
    assert logs.shape == (SAMPLES["train"], measure_lengths(path, WORDS).max(), SIZE)
    steps = np.stack(list(follow(GRAPHS, batch.inputs, path, DECODING)), 1)
    np.testing.assert_allclose(logs, normalize_logits(steps)[:, : logs.shape[1]])


def test_along_the_labels() -> None:
    batch = make_batch()
    path, logs = answer(SequenceLabels("labels"), batch)
    assert path.tolist() == np.asarray(batch.targets["words"]).tolist()
    steps = np.stack(list(follow(GRAPHS, batch.inputs, path, DECODING)), 1)
    np.testing.assert_allclose(logs, normalize_logits(steps))


@pytest.mark.parametrize("labels", [SequenceLabels("labels"), SequenceLabels(beam=3)])
def test_what_is_not_learned_from_is_answered_greedily(labels: SequenceLabels) -> None:
    batch = make_batch("validation")
    path, _ = answer(labels, batch, CLEAN)
    assert path.tolist() == generate(GRAPHS, batch.inputs, DECODING).tolist()


def test_a_beam_keeps_its_best() -> None:
    batch = make_batch()
    path, _ = answer(SequenceLabels(beam=3), batch)
    beams, _ = generate_with_beam(GRAPHS, batch.inputs, DECODING, 3)
    assert path.tolist() == beams[:, 0].tolist()


@pytest.mark.parametrize("hypothesis", ["best", "closest"])
def test_a_beam_whose_hypotheses_lose_their_states(hypothesis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = BeamSearch.advance
    monkeypatch.setattr(BeamSearch, "advance", lambda search, logs: np.arange(len(advance(search, logs))))
    with pytest.raises(StageError, match="do not keep their states"):
        answer(SequenceLabels(beam=3, hypothesis=hypothesis), make_batch())


def test_a_beam_keeps_what_is_closest_to_the_label() -> None:
    batch = make_batch()
    path, _ = answer(SequenceLabels(beam=3, hypothesis="closest"), batch)
    beams, _ = generate_with_beam(GRAPHS, batch.inputs, DECODING, 3)
    equal = (beams == np.asarray(batch.targets["words"])[:, None]).mean(2)
    assert path.tolist() == [sample[shares.argmax()].tolist() for sample, shares in zip(beams, equal, strict=True)]
    assert path.tolist() != beams[:, 0].tolist()


def test_the_closest_by_hand() -> None:
    # Labels [3 2] and [4 2]; the third sample has none. Equal ones: the first is the likeliest.
    beams = np.array([[[4, 2], [3, 2]], [[3, 2], [5, 2]], [[4, 2], [3, 2]]])
    targets = {"words": np.array([[3, 2], [4, 2]])}
    batch = ViewBatch(np.arange(3), {"source": np.ones((3, 1), np.int64)}, targets)
    found = beams[np.arange(len(beams)), rank_closest(TASK, beams, batch, DECODING)]
    assert found.tolist() == [[3, 2], [3, 2], [4, 2]]


def test_the_closest_by_a_score_of_several_sums() -> None:
    """A score may be a ratio of sums, whose first column alone says nothing."""

    def score(self: Reversal, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        wrong = (outputs["words"] != targets["words"]).sum(1)
        return np.stack([wrong, np.ones(len(wrong))], 1).astype(np.float64)

    def aggregate(self: Reversal, statistics: npt.NDArray[np.float64]) -> float:
        wrong, count = statistics.sum(0)
        return float(-wrong / count)

    beams = np.array([[[4, 5, 2], [3, 5, 2], [4, 4, 2]]])
    batch = ViewBatch(np.arange(1), {}, {"words": np.array([[3, 5, 2]])})
    task = change_task(score=score, aggregate=aggregate)
    assert beams[0, rank_closest(task, beams, batch, DECODING)].tolist() == [[3, 5, 2]]


def test_samples_without_labels_have_no_path_along_them() -> None:
    for batch in (make_batch("transfer"), ViewBatch(np.arange(2), make_batch().inputs, {"words": np.zeros((1, 6))})):
        with pytest.raises(StageError, match="along = 'teacher'"):
            answer(SequenceLabels("labels"), batch)


def test_a_teacher_that_says_nothing_but_padding_is_answered_for() -> None:
    silent = make_chain([[9.0] + [0.0] * (SIZE - 1)] * SIZE)
    path, logs = answer(SequenceLabels(), make_batch(), graphs=silent)
    assert not path.any()
    assert np.exp(logs).sum(-1).ravel().tolist() == pytest.approx([1] * logs[..., 0].size, rel=1e-5)


# ---- as a stage


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return store_translator(tmp_path_factory.mktemp("teacher"))


def predict_all(teacher: Weights, inputs: Arrays) -> tuple[Integers, Floats]:
    """Return the teacher's tokens, and its log-probabilities along them."""
    with teacher.open() as predict:
        path = generate(predict.graphs, inputs, DECODING)
        return path, normalize_logits(np.stack(list(follow(predict.graphs, inputs, path, DECODING)), 1))


def check_rows(rows: Mapping[str, Any], inputs: Arrays, teacher: Weights, top: int, error: float) -> None:
    path, logs = predict_all(teacher, inputs)
    everything = np.arange(len(path))
    assert rows["words"][everything].tolist() == path.tolist()
    found = rows["words" + TOP].read_top(everything)
    lengths = measure_lengths(path, WORDS)
    assert found.is_known.sum(1).tolist() == lengths.tolist()
    for row, length in enumerate(lengths):
        largest = np.sort(logs[row, :length], -1)[:, -top:]
        np.testing.assert_allclose(np.sort(found.values[row, :length], -1), largest, rtol=error, atol=error)


def test_every_split_is_stored(tmp_path: Path, teacher: Weights) -> None:
    stored: Answers = label_with(teacher, make_out(tmp_path), views=1, top=3)
    assert (stored.facts["along"], stored.facts["beam"]) == ("teacher", 1)
    assert stored.facts["outputs"] == ["words"]
    assert stored.facts["samples"] == SAMPLES
    validation = TASK.split("validation").take(np.arange(SAMPLES["validation"]))
    check_rows(stored.open_rows("validation"), validation.inputs, teacher, 3, 1e-4)
    learned: dict[str, Array] = {}
    both = [TASK.split(name).take(np.arange(SAMPLES[name])).inputs for name in ("train", "transfer")]
    learned["source"] = np.concatenate([inputs["source"] for inputs in both])
    check_rows(stored.open_learned_rows(0), learned, teacher, 3, 2e-2)


def test_by_default_the_largest_32_are_stored(tmp_path: Path, teacher: Weights) -> None:
    stored = label_with(teacher, make_out(tmp_path), views=1)
    found = stored.open_rows("test")["words" + TOP].read_top(np.arange(2))
    assert found.values.shape[-1] == min(SEQUENCE_TOP, SIZE)
    assert stored.open_rows("test")["words"][np.arange(2)].shape == (2, LONGEST)
    assert stored.read_split("test").keys() == {"words"}  # the others would be as wide as the vocabulary


class FirstTokenReversal(LabelledReversal):
    """The labels may begin with another token."""

    first: ClassVar[int | None] = None

    def data(self) -> list[str]:
        return [f"first {self.first}"]

    def split(self, name: SplitName) -> Split:
        whole = super().split(name)
        targets = {"words": whole.take(np.arange(len(whole))).targets["words"].copy()}
        targets["words"][:, 0] = self.first or targets["words"][:, 0]
        return InMemory(whole.take(np.arange(len(whole))).inputs, targets)


@pytest.mark.parametrize("settings", [{"along": "labels"}, {"beam": 3, "hypothesis": "closest"}])
def test_other_labels_are_other_answers(
    tmp_path: Path, teacher: Weights, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """The teacher is not asked again for equal inputs, unless the labels decide what is asked."""
    task = f"{__name__}:FirstTokenReversal"
    label_with(teacher, make_out(tmp_path), views=1, task=task, **settings)
    kept, again = tmp_path / "slot" / "kept", make_out(tmp_path, "again")
    shutil.copytree(kept, again.parent / "kept")
    monkeypatch.setattr(FirstTokenReversal, "first", 3)
    found = [
        label_with(teacher, out, views=1, task=task, **settings).open_learned_rows(0)["words"][:]
        for out in (make_out(tmp_path, "new"), again)
    ]
    assert found[0].tolist() == found[1].tolist()
    added = {path.name for path in (again.parent / "kept").iterdir() if path.stat().st_size} - {
        path.name for path in kept.iterdir()
    }
    assert len(added) == 1  # of train; validation and test are answered without labels


def test_labels_that_transfer_lacks_are_not_followed(tmp_path: Path, teacher: Weights) -> None:
    with pytest.raises(StageError, match="along"):
        label_with(teacher, make_out(tmp_path), views=1, along="labels")


def test_one_token_of_each_distribution_is_too_few() -> None:
    with pytest.raises(StageError, match="top = 1"):
        SequenceLabels(top=1)


def test_texts_are_compared_by_chrf() -> None:
    """The label is 21, ``vingt et un``: ``vingt un`` shares more of its letters than ``trente et un`` does."""
    task = Numbers()
    decoding = require_decoding(task)
    beams = np.zeros((1, 2, decoding.longest), np.int64)
    for beam, number in zip(beams[0], (31, 21), strict=True):
        beam[:] = encode_words([number])[0]
    vingt, _, un = beams[0, 1, :3].tolist()
    beams[0, 1] = 0
    beams[0, 1, :3] = [vingt, un, 2]
    batch = ViewBatch(np.arange(1), {}, {"words": encode_words([21])})
    assert rank_closest(task, beams, batch, decoding).tolist() == [1]


@pytest.mark.parametrize("settings", [{"hypothesis": "closest"}, {"along": "labels", "beam": 4}])
def test_settings_that_contradict_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="beam = "):
        SequenceLabels(**settings)


def test_a_beam_wider_than_the_vocabulary(tmp_path: Path, teacher: Weights) -> None:
    with pytest.raises(StageError, match=r"beam = 8 .* 7 tokens"):
        label_with(teacher, make_out(tmp_path), views=1, beam=SIZE + 1)


def test_what_a_silent_teacher_says_is_stored(tmp_path: Path) -> None:
    """Its first padding is, so that a student can be asked for the same."""
    network = make_translator()
    with torch.no_grad():
        network.decoder_norm.weight.zero_()
        network.decoder_norm.bias.copy_(100 * network.embedding.weight[WORDS.pad])
    (tmp_path / "silent").mkdir()
    silent = smoke.stored(tmp_path / "silent", network, TRANSLATOR, REVERSAL, OPTIONS)
    stored = label_with(silent, make_out(tmp_path), views=1)
    assert not stored.open_rows("validation")["words"][:].any()
    scores = Validation(TASK, stored)(network)
    assert scores["kdl"] == pytest.approx(0, abs=1e-4)
