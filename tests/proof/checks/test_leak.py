"""Near-duplicates between test and training samples: found where a trifle was changed, not where samples are only alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from attar.models.task import Array, Arrays, Batch, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks.digits import Digits
from attar.proof.artifacts import Evidence
from attar.proof.checks.leak import compare_with_usual, find_near_duplicates
from attar.proof.checks.nearest import GROUPS, Nearest
from attar.proof.checks.sketches import count_pairs
from attar.proof.ledger.ledger_json import ledger_from_json, to_json
from attar.proof.verdicts.gate_evaluation import evaluate_gates
from attar.proof.verdicts.limits import GateLimits
from attar.proof.verdicts.verdict import judge_target
from attar.stages.judge import Judge
from tests.support.proof.proof_parts import a_ledger
from tests.support.tasks.smoke import artifact
from tests.system.sabotage.project.task import Camera, LeakingMoved, LeakingNoise, LeakingPixel

LEAKED = 80  # of 832 test images, the first
MISSED = 2


def find_share(task: Task) -> float:
    share = find_near_duplicates(task).share
    assert share is not None
    return share


@pytest.mark.parametrize("task", [LeakingPixel, LeakingNoise])
def test_what_differs_by_a_trifle_is_found_and_named(task: type[Camera]) -> None:
    found = find_near_duplicates(task())
    assert LEAKED - MISSED <= found.count <= LEAKED
    assert (found.looked_at, found.share) == (832, found.count / 832)
    copies = len(Camera().split("train"))  # the leaked images stand behind the others, in their order
    assert len(found.examples) == 5
    for each in found.examples:
        assert (each.split, each.sample) == ("train", copies + each.test)
    json.dumps(to_json(found), allow_nan=False)


@pytest.mark.parametrize("task", [Digits, Camera, LeakingMoved])
def test_what_is_only_alike_is_not(task: type[Task]) -> None:
    assert find_share(task()) < 0.002


def of_numbers(columns: int) -> type[Task]:
    class Cloud(Task):
        """Points of a normal distribution, of which nothing but chance is near another."""

        inputs = {"x": Tensor("float32", ("batch", columns))}
        outputs = {"y": Output(("batch", 1), kind="values")}

        def data(self) -> list[Any]:
            return ["cloud 1"]

        def split(self, name: SplitName) -> Split:
            count = 4_000 if name == "train" else 2_000
            x = np.random.default_rng(len(name)).standard_normal((count, columns)).astype(np.float32)
            return InMemory({"x": x}, {})

        def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
            return np.zeros((len(outputs["y"]), 1))

    return Cloud


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 8, 200])
def test_chance_is_not_taken_for_a_leak_however_few_the_dimensions(columns: int) -> None:
    """Two points in a plane are near each other often: with one limit for all, half of them would be near-duplicates."""
    found = find_near_duplicates(of_numbers(columns)())
    assert found.why_unchecked is None
    assert found.share is not None
    assert found.share < 0.005
    assert found.limits is not None
    assert (found.limits["distance"] == 0.25) == (columns > 6)


@dataclass(frozen=True)
class LeakedSentences(Task):
    """Tokens with lengths of their own, and what is learned from besides; ``changed`` tokens of the leaked ones are others."""

    changed: int
    leaked_to: SplitName = "train"

    inputs = {"text": Tensor("int64", ("batch", "sequence"), high=500, pad=0)}
    outputs = {"vector": Output(("batch", 4), kind="embedding")}
    ranges = {"batch": (1, 8), "sequence": (1, 40)}
    transfer = True

    def data(self) -> list[Any]:
        return ["sentences 1"]

    def split(self, name: SplitName) -> Split:
        tokens = self.tokens(name, 300 if name == "test" else 1_500)
        if name == self.leaked_to:
            tokens[:30] = self.tokens("test", 300)[:30]
            for place in range(self.changed):
                tokens[:30, 3 * place] = 499 - place
        return InMemory({"text": tokens}, {})

    def tokens(self, name: str, count: int) -> npt.NDArray[np.int64]:
        generator = np.random.default_rng(len(name))
        ranks = generator.zipf(1.3, (count, 40))
        lengths = generator.integers(20, 41, (count, 1))
        return np.where(np.arange(40) < lengths, np.minimum(ranks, 490), 0).astype(np.int64)

    def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
        return np.zeros((len(outputs["vector"]), 1))


@pytest.mark.parametrize("split", ["train", "transfer"])
def test_texts_with_a_word_changed_are_found_wherever_they_are_learned_from(split: SplitName) -> None:
    found = find_near_duplicates(LeakedSentences(changed=1, leaked_to=split))
    assert found.count == 30
    assert {each.split for each in found.examples} == {split}
    assert all(each.test == each.sample for each in found.examples)


def test_texts_that_only_share_words_are_not() -> None:
    assert find_near_duplicates(LeakedSentences(changed=0, leaked_to="validation")).count == 0


def test_pairs_of_tokens_are_counted_with_their_order_and_without_padding() -> None:
    counts = count_pairs(np.array([[1, 2, 3, 0, 0], [3, 2, 1, 0, 0], [1, 2, 3, 0, 0]]), 0)
    assert counts.sum(1).tolist() == [3, 3, 3]  # the start and 1, 1 and 2, 2 and 3
    assert (counts[0] == counts[2]).all()
    assert not (counts[0] == counts[1]).all()
    assert count_pairs(np.array([[7, 7, 7, 7]]), None).max() == 3


class Sized(Digits):
    inputs = {"image": Tensor("float32", ("batch", 1, "height", 8))}


class FewDigits(Digits):
    def split(self, name: SplitName) -> Split:
        return of_first(super().split(name), 100)


def of_first(split: Split, count: int) -> InMemory:
    batch = split.take(np.arange(count))
    return InMemory(batch.inputs, batch.targets)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Sized, "samples of the input 'image' have sizes of their own and are no tokens"),
        (FewDigits, "100 training samples are too few to tell what is near, 160 would do"),
    ],
)
def test_where_it_cannot_be_told_it_says_why_and_no_gate_decides(tmp_path: Path, task: type[Task], why: str) -> None:
    found = find_near_duplicates(task())
    assert (found.looked_at, found.share, found.why_unchecked) == (0, None, why)
    ledger = {**a_ledger(), "leak": to_json(found)}
    ledger["hops"][-1]["why"] = None
    judged = Judge().run(tmp_path, evidence=artifact(Evidence, tmp_path, ledger))
    assert judged["verdict"] == "passed"
    assert judged["summary"].endswith(f"Near-duplicates between test and training samples were not looked for: {why}")
    assert not [each for each in judged["gates"] if each["gate"] == "leak"]


def test_the_nearest_of_each_group_is_kept() -> None:
    """Against all distances at once, in chunks whose size is no multiple of the groups in the last one."""
    generator = np.random.default_rng(0)
    mine, theirs = generator.standard_normal((7, 3)), generator.standard_normal((500, 3))
    nearest = Nearest(mine.astype(np.float32))
    for first in range(0, 500, 112):
        nearest.add(first, theirs[first : first + 112].astype(np.float32))
    for group in range(GROUPS):
        members = np.arange(group, 500, GROUPS)
        apart = np.linalg.norm(mine[:, None] - theirs[members], axis=-1)
        assert nearest.numbers[:, group].tolist() == members[apart.argmin(1)].tolist()


def test_nothing_stands_out_where_all_are_equal() -> None:
    distances = np.ones((3, GROUPS))
    distances[0, 0] = 0.1
    distances[1] = 0
    shares, limit = compare_with_usual(distances)
    assert shares.tolist() == [0.1, np.inf, 1.0]
    assert limit == 0.25


def leaking(found: int) -> Mapping[str, Any]:
    example = {"test": 3, "split": "train", "sample": 17, "distance": 0.1, "entries": 0.02}
    return {
        "looked_at": 100,
        "found": found,
        "share": found / 100,
        "examples": [example] * min(found, 1),
        "limits": None,
        "why": None,
    }


def test_the_gate_decides_and_names_a_pair() -> None:
    told = {
        found: judge_target(evaluate_gates(ledger_from_json({**a_ledger(), "leak": leaking(found)}), GateLimits()))
        for found in (0, 1, 2)
    }
    assert [told[found].verdict for found in (0, 1, 2)] == ["passed", "passed", "failed"]
    assert told[2].first_broken_hop == "teacher"
    assert told[2].summary == (
        "teacher: share of test samples that are nearly training samples 0.02 (2 of 100: test 3 is nearly train 17, ...), "
        "promised at most 0.01 (first broken hop: teacher)"
    )
    more = judge_target(evaluate_gates(ledger_from_json({**a_ledger(), "leak": leaking(2)}), GateLimits(leak=0.02)))
    assert more.verdict == "passed"


def test_evidence_from_before_there_was_such_a_gate_is_judged_without_it() -> None:
    assert judge_target(evaluate_gates(ledger_from_json(a_ledger()), GateLimits())).verdict == "passed"


def test_images_are_compared_as_networks_read_them() -> None:
    """Twice as bright before ``preprocess`` is another image; a format that decodes to the same is not."""

    class Brighter(Camera):
        def split(self, name: SplitName) -> Split:
            split = super().split(name)
            if name != "train":
                return split
            images: Array = super().split("test").take(np.arange(200)).inputs["image"] // 2
            return InMemory({"image": images}, {"label": np.zeros(200, np.int64)})

    assert find_near_duplicates(Brighter()).count == 0


def of_rows(train: Array, test: Array, **declared: Any) -> Task:
    """A task of these rows; ``declared``: of their tensor."""

    class LeakedRows(Task):
        inputs = {"x": Tensor(str(train.dtype), ("batch", *train.shape[1:]), **declared)}
        outputs = {"y": Output(("batch", 1), kind="values")}

        def data(self) -> list[Any]:
            return ["rows 1"]

        def split(self, name: SplitName) -> Split:
            return Ascending({"x": train if name == "train" else test}, {})

        def score(self, outputs: Arrays, targets: Arrays) -> npt.NDArray[np.float64]:
            return np.zeros((len(outputs["y"]), 1))

    return LeakedRows()


class Ascending(InMemory):
    """Reads as HDF5 does."""

    def take(self, indices: npt.NDArray[np.int64]) -> Batch:
        assert (np.diff(indices) > 0).all()
        return super().take(indices)


def draw(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("members", [4, 8, 12, 20])
@pytest.mark.parametrize(("noise", "share"), [(0.2, 0.0), (0.002, 1.0)])
def test_tight_classes_hide_no_leak_and_are_none(members: int, noise: float, share: float) -> None:
    """Test samples are other members of a class, or members with a little noise."""
    centres = np.repeat(draw(200, 128), members, 0)
    train = centres + 0.2 * draw(*centres.shape, seed=1)
    known = centres[:400] if noise == 0.2 else train[:400]
    test = known + noise * draw(400, 128, seed=2)
    order = np.random.default_rng(3).permutation(len(train))
    assert find_share(of_rows(train[order], test)) == share


def test_copies_that_were_split_at_random_are_found() -> None:
    digits = np.asarray(Digits().split("train").take(np.arange(300)).inputs["image"], np.float32).reshape(300, -1)
    copies = np.repeat(digits, 6, 0)
    copies = (copies + 0.06 * draw(*copies.shape))[np.random.default_rng(1).permutation(len(copies))]
    assert find_share(of_rows(copies[300:], copies[:300])) > 0.95


def test_most_samples_may_have_many_copies() -> None:
    test = draw(500, 64)
    train = np.concatenate([np.repeat(test[:300], 8, 0), test[300:]])
    train = np.concatenate([train + 0.01 * draw(*train.shape, seed=1), draw(1_000, 64, seed=2)])
    order = np.random.default_rng(3).permutation(len(train))
    assert find_share(of_rows(train[order], test)) > 0.95


@pytest.mark.parametrize(("values", "columns"), [(2, 64), (5, 8), (3, 12)])
def test_rows_of_integers_are_not_tokens(values: int, columns: int) -> None:
    rows = np.unique(np.random.default_rng(0).integers(0, values, (6_000, columns)), axis=0)
    rows = np.random.default_rng(1).permutation(rows)
    assert find_share(of_rows(rows[500:], rows[:500])) < 0.005


def test_integers_and_floats_are_compared_alike() -> None:
    train = np.asarray(Digits().split("train").take(np.arange(1_000)).inputs["image"], np.int64).reshape(1_000, -1)
    test = (train[:200] + np.random.default_rng(0).integers(-1, 2, (200, 64))).clip(0)
    pairs = [(train.astype(dtype), test.astype(dtype)) for dtype in ("uint8", "float32")]
    integers, floats = (find_near_duplicates(of_rows(*pair)) for pair in pairs)
    assert integers.count == floats.count > 60


def test_equal_sketches_are_no_proof() -> None:
    """Blocks between two marks have the same pairs of neighbours in any order."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(2, 50, (400, 8, 4))
    blocks[:, :, 0] = 1
    train, test = blocks.reshape(400, -1), blocks[:100, ::-1].reshape(100, -1)
    assert find_near_duplicates(of_rows(train, test, pad=0)).count == 0
    assert find_near_duplicates(of_rows(train, train[:100], pad=0)).count == 100


def test_what_is_no_number_hides_no_leak() -> None:
    train = draw(1_000, 20)
    test = train[:100] + 0.01 * draw(100, 20, seed=1)
    test[7, 3] = np.nan
    train[500, 5] = np.inf
    found = find_near_duplicates(of_rows(train, test))
    assert found.count >= 99
    json.dumps(to_json(found), allow_nan=False)


@pytest.mark.parametrize(("scale", "offset"), [([1e4], 0.0), ([1.0], 2e4)])
def test_neither_units_nor_an_offset_hide_a_leak(scale: list[float], offset: float) -> None:
    train = draw(2_000, 20)
    test = train[:100] + 0.01 * draw(100, 20, seed=1)
    units = np.array([*scale, *[1.0] * 19], np.float32)
    assert find_near_duplicates(of_rows(train * units + np.float32(offset), test * units + np.float32(offset))).count == 100
