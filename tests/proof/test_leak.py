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

from attar.models.task import Array, Arrays, InMemory, Output, Split, SplitName, Task, Tensor
from attar.models.tasks.digits import Digits
from attar.proof.gate_evaluation import evaluate_gates
from attar.proof.leak import GROUPS, Nearest, compare_with_usual, find_near_duplicates
from attar.proof.ledger_json import ledger_from_json
from attar.proof.limits import GateLimits
from attar.proof.sketches import count_pairs
from attar.proof.verdict import judge_target
from attar.stages.artifacts import Evidence
from attar.stages.judge import Judge
from tests.support.proof_parts import a_ledger
from tests.support.smoke import artifact
from tests.system.sabotage.project.task import Camera, LeakingMoved, LeakingNoise, LeakingPixel

LEAKED = 80  # of 832 test images, the first
MISSED = 2


@pytest.mark.parametrize("task", [LeakingPixel, LeakingNoise])
def test_what_differs_by_a_trifle_is_found_and_named(task: type[Camera]) -> None:
    found = find_near_duplicates(task())
    assert LEAKED - MISSED <= found["found"] <= LEAKED
    assert (found["looked_at"], found["share"]) == (832, found["found"] / 832)
    copies = len(Camera().split("train"))  # the leaked images stand behind the others, in their order
    assert len(found["examples"]) == 5
    for each in found["examples"]:
        assert (each["split"], each["sample"]) == ("train", copies + each["test"])
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("task", [Digits, Camera, LeakingMoved])
def test_what_is_only_alike_is_not(task: type[Task]) -> None:
    assert find_near_duplicates(task())["share"] < 0.002


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
    assert found["why"] is None
    assert found["share"] < 0.005
    assert (found["limits"]["distance"] == 0.25) == (columns > 6)


@dataclass(frozen=True)
class Sentences(Task):
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
    found = find_near_duplicates(Sentences(changed=1, leaked_to=split))
    assert found["found"] == 30
    assert {each["split"] for each in found["examples"]} == {split}
    assert all(each["test"] == each["sample"] for each in found["examples"])


def test_texts_that_only_share_words_are_not() -> None:
    assert find_near_duplicates(Sentences(changed=0, leaked_to="validation"))["found"] == 0


def test_pairs_of_tokens_are_counted_with_their_order_and_without_padding() -> None:
    counts = count_pairs(np.array([[1, 2, 3, 0, 0], [3, 2, 1, 0, 0], [1, 2, 3, 0, 0]]), 0)
    assert counts.sum(1).tolist() == [3, 3, 3]  # the start and 1, 1 and 2, 2 and 3
    assert (counts[0] == counts[2]).all()
    assert not (counts[0] == counts[1]).all()
    assert count_pairs(np.array([[7, 7, 7, 7]]), None).max() == 3


class Sized(Digits):
    inputs = {"image": Tensor("float32", ("batch", 1, "height", 8))}


class Few(Digits):
    def split(self, name: SplitName) -> Split:
        return of_first(super().split(name), 100)


def of_first(split: Split, count: int) -> InMemory:
    batch = split.take(np.arange(count))
    return InMemory(batch.inputs, batch.targets)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Sized, "samples of the input 'image' have sizes of their own and are no tokens"),
        (Few, "100 training samples are too few to tell what is near, 160 would do"),
    ],
)
def test_where_it_cannot_be_told_it_says_why_and_no_gate_decides(tmp_path: Path, task: type[Task], why: str) -> None:
    found = find_near_duplicates(task())
    assert (found["looked_at"], found["share"], found["why"]) == (0, None, why)
    ledger = {**a_ledger(), "leak": found}
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
    return {"looked_at": 100, "found": found, "share": found / 100, "examples": [example] * min(found, 1), "why": None}


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

    assert find_near_duplicates(Brighter())["found"] == 0
