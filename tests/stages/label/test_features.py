"""Stored features: the teacher's own of exactly the view, in half precision, beside the answers and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from attar.models import views
from attar.models.mixing import Mixing
from attar.models.task import InMemory, Split, SplitName, Tensor, load_task
from attar.pipeline.core.errors import StageError
from attar.pipeline.core.progress import listen_to_progress
from attar.pipeline.store.file_cache import open_file_cache
from attar.stages.artifacts import OnnxModel, Weights
from attar.stages.label.stage import Label
from tests.support.stages.labelling import label_with
from tests.support.stages.training import READER, InterruptError, interrupt_at, make_out
from tests.support.tasks import sequences
from tests.support.tasks.smoke import DIGITS, weights
from tests.support.tasks.token_task import TokenSentences

LAYERS = ("stages.1", "head.1")


@pytest.mark.parametrize("mix", [(), ("mixup", "cutmix")])
def test_features_belong_to_their_view(tmp_path: Path, digits_weights: Weights, mix: tuple[str, ...]) -> None:
    """Those of mixed samples are of the mixed input itself."""
    task = load_task(DIGITS)
    answers = label_with(digits_weights, make_out(tmp_path), features=LAYERS, views=1, view_seed=5, mix=mix)
    mixing = Mixing(("mixup", "cutmix"), 1.0) if mix else None
    seen = views.make_chunk(task, task.split("train"), 1, seed=5, view=0, mixing=mixing)
    rows = answers.open_learned_rows(0)
    with digits_weights.open(layers=LAYERS) as predict:
        expected = [predict(part.inputs) for part in views.split_chunk(seen)]
    for layer in LAYERS:
        stored, name = rows[f"{layer}.features"], f"{layer}.features"
        assert len(stored) == len(task.split("train"))
        np.testing.assert_array_equal(stored[seen.indices], np.concatenate([part[name] for part in expected]).astype(np.float16))
    assert answers.features == {"stages.1": 16, "head.1": 32}
    assert answers.facts["feature_bytes"] == 2 * (16 + 32) * 1197


def test_clean_splits_have_none(tmp_path: Path, digits_weights: Weights) -> None:
    with_features = label_with(digits_weights, make_out(tmp_path), features=LAYERS, views=1)
    assert with_features.read_split("test").keys() == {"logits"}
    bare = label_with(digits_weights, make_out(tmp_path, "bare"), views=1)
    for name in ("test.clean.00000.safetensors", "validation.clean.00000.safetensors"):
        assert (bare.root / name).read_bytes() == (with_features.root / name).read_bytes()
    grown = (with_features.root / "train.0.00000.safetensors").stat().st_size
    assert abs(grown - (bare.root / "train.0.00000.safetensors").stat().st_size - 2 * (16 + 32) * 1197) < 500  # and two headers


def test_features_alone_ask_for_the_views_again(tmp_path: Path, digits_weights: Weights) -> None:
    out = make_out(tmp_path)
    label_with(digits_weights, out, views=1)
    before = {path.name for path in open_file_cache(out).folder.iterdir()}
    for folder in (out, out.parent / "scratch"):
        shutil.rmtree(folder)
    out.mkdir()
    label_with(digits_weights, out, views=1, features=LAYERS)
    after = {path.name for path in open_file_cache(out).folder.iterdir()}
    assert len(after - before) == 2  # a shard, and the note of its plan
    assert before < after


def test_an_interruption_ends_in_the_same_bytes(tmp_path: Path, digits_weights: Weights) -> None:
    whole, broken = make_out(tmp_path, "whole"), make_out(tmp_path, "broken")
    label_with(digits_weights, whole, features=LAYERS)
    with pytest.raises(InterruptError), listen_to_progress(interrupt_at(1197 + views.PIECE_SAMPLES)):
        label_with(digits_weights, broken, features=LAYERS)
    label_with(digits_weights, broken, features=LAYERS)
    for path in whole.iterdir():
        assert (broken / path.name).read_bytes() == path.read_bytes()


class MaskedSentences(TokenSentences):
    """Its mask is declared, and decides: the token of the padding is content, too."""

    inputs = {**TokenSentences.inputs, "mask": Tensor("int64", ("batch", "sequence"), high=2)}

    def split(self, name: SplitName) -> Split:
        whole = super().split(name)
        batch = whole.take(np.arange(len(whole)))
        return InMemory({**batch.inputs, "mask": np.asarray(batch.inputs["mask"], np.int64)}, batch.targets)


def test_padding_counts_in_no_feature(tmp_path: Path) -> None:
    """The teacher is asked for texts of similar length together, so what is padding depends on the group."""
    name = f"{__name__}:MaskedSentences"
    task, teacher = load_task(name), weights(tmp_path / "teacher", READER, name)
    answers = label_with(teacher, make_out(tmp_path), features=("embedding",), views=1)
    seen = views.make_chunk(task, task.split("train"), 0, seed=0, view=0)
    table = teacher.load().get_parameter("embedding.weight").detach().numpy()
    mask = np.asarray(seen.inputs["mask"])[:, :, None]
    expected = (table[np.asarray(seen.inputs["tokens"])] * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(answers.open_rows("train", 0)["embedding.features"][seen.indices], expected, atol=2e-3)


def test_names_are_looked_at_before_anything_is_asked(tmp_path: Path, digits_weights: Weights) -> None:
    out = make_out(tmp_path)
    with pytest.raises(StageError, match=r"'stage\.1'; .*'stages\.1'"):
        label_with(digits_weights, out, features=("stage.1",))
    assert not list(open_file_cache(out).folder.iterdir())


def test_a_graph_has_no_layers(tmp_path: Path, digits_onnx: OnnxModel) -> None:
    with pytest.raises(StageError, match="only inputs and outputs are known"):
        Label(task=DIGITS, features=("head.1",)).run(make_out(tmp_path), teacher=digits_onnx)


def test_tokens_have_no_row_a_sample(tmp_path: Path) -> None:
    speaker = sequences.store_translator(tmp_path / "teacher")
    with pytest.raises(StageError, match="output of tokens"):
        Label(task=speaker.facts["task"], features=("head",)).run(make_out(tmp_path), teacher=speaker)


def test_a_layer_is_named_once() -> None:
    with pytest.raises(ValidationError, match="names a layer twice"):
        Label(task=DIGITS, features=("head.1", "head.1"))
