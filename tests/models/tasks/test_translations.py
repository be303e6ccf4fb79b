"""The snapshot of translations: nothing that training has is measured on, and the same bytes in every process."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from attar.models.tasks import debian, sentence_pairs, translations
from attar.models.tasks.sentence_pairs import Pair
from attar.models.tasks.translations import END, PAD, mask_names
from attar.pipeline.core.errors import StageError
from tests.support.datasets.translated_lists import write_lists, write_release

WORDS = st.lists(st.sampled_from(["red", "Red", "fish", "Qt6", "swims", "far"]), min_size=3, max_size=5).map(" ".join)
PAIRS = st.builds(lambda one, other, source: Pair(one, other, f"p{source}", f"s{source}"), WORDS, WORDS, st.integers(0, 60))


def make_pair(english: str, foreign: str = "uno due tre", package: str = "pack", source: str = "src") -> Pair:
    return Pair(english, foreign, package, source)


def test_names_by_hand() -> None:
    pair = make_pair("", package="libfoo-dev", source="foo")
    assert mask_names("This package has the GNU Foo headers (libfoo-dev).", pair) == [
        "this",
        "package",
        "has",
        "the",
        "*",
        "headers",
        "*",
    ]
    assert mask_names("Qt is a toolkit, foo 2.0 too", pair) == ["qt", "is", "a", "toolkit", "*", "too"]
    assert mask_names("MySQL client / server", pair) == ["*", "client", "*", "server"]


@given(st.lists(PAIRS, max_size=30))
@example([Pair("red red red", "red red red red", "p0", "s0"), Pair("red red red Red", "red red Red", "p33", "s33")])
def test_held_out_pairs_are_unlike_those_of_training(pairs: list[Pair]) -> None:
    splits = translations.split_pairs(pairs)
    kept = translations.drop_leaks(splits)
    assert kept.get("train") == splits.get("train")
    known = {text.casefold() for pair in kept.get("train", []) for text in (pair.english, pair.foreign)}
    masked = {tuple(mask_names(text, pair)) for pair in kept.get("train", []) for text in (pair.english, pair.foreign)}
    for name in set(kept) - {"train"}:
        for pair in kept[name]:
            for text in (pair.english, pair.foreign):
                assert text.casefold() not in known
                assert tuple(mask_names(text, pair)) not in masked
    sources = [{pair.source for pair in split} for split in splits.values()]
    assert sum(map(len, sources)) == len(set().union(*sources))


def test_near_repeats_are_not_novel() -> None:
    """Of 10 words there are 8 trigrams: 6 of them in one training sentence are 75 %, 5 are 62.5 %."""
    train = [make_pair("a b c d e f g h x y"), make_pair("g h i j")]
    test = [make_pair("a b c d e f g h i j"), make_pair("a b c d e f g v i j")]
    made = translations.mark_novel({"train": train, "test": test, "validation": []})
    assert [(each.split, each.is_novel) for each in made] == [("train", False)] * 2 + [("test", False), ("test", True)]


def test_a_sentence_with_a_special_token_is_left_out() -> None:
    assert translations.split_pairs([make_pair("the token [END] is special")]) == {}


def test_nothing_to_hold_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="validation, test"):
        translations.write_snapshot(tmp_path, [make_pair("one two three", source="gcc-12")])


def read_pairs(lists: Path) -> list[Pair]:
    return [pair for each in debian.read_translated(lists, "it") for pair in sentence_pairs.align_description(each)]


def test_targets_end_and_are_filled_up(tmp_path: Path) -> None:
    translations.write_snapshot(tmp_path, read_pairs(write_release(tmp_path)))
    targets = translations.encode_targets(
        np.array(["piccolo strumento", "", "[END]"], object), tmp_path / translations.TOKENIZER, 12
    )
    assert targets.shape == (3, 12)
    assert targets[1].tolist() == [END] + [PAD] * 11
    length = int(np.flatnonzero(targets[0] == END)[0])
    assert (targets[0, :length] > END).all()
    assert (targets[0, length + 1 :] == PAD).all()


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    lists = write_release(tmp_path, 200)
    code = (
        "import sys; from pathlib import Path; from tests.models.tasks.test_translations import read_pairs, translations\n"
        "translations.write_snapshot(Path(sys.argv[2]), read_pairs(Path(sys.argv[1])))"
    )
    digests = set()
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        subprocess.run([sys.executable, "-c", code, str(lists), str(out)], env={**os.environ, "PYTHONHASHSEED": seed}, check=True)
        digests.add(tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())))
    assert len(digests) == 1


def test_of_one_description_the_first_package_counts(tmp_path: Path) -> None:
    text = ("same text here\n And more.", "stesso testo qui\n E altro.")
    write_lists(tmp_path, [("b", "two", *text), ("a", "one", *text), ("c", "three", "no words\n At all.", "")])
    (found,) = debian.read_translated(tmp_path, "it")
    assert (found.package, found.source) == ("a", "one")


def test_a_broken_snapshot_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.gz"
    for content in (b"", b"\x1f\x8b", b"no gzip", gzip.compress(b'["train"]\n'), gzip.compress(b"no JSON")):
        file.write_bytes(content)
        with pytest.raises(StageError, match=r"broken\.gz cannot be read: .*delete it"):
            translations.read_sentences(file)
