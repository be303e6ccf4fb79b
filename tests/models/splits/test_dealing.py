"""Dealing: what has a key in common stays together, and each class is in each split where it can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.preprocess.text import read_tokenizer
from attar.models.splits.dealing import deal_samples, hash_text, join_keys, read_split_list, write_split_list
from attar.models.task import SplitName
from attar.models.tasks.snapshot import train_tokenizer
from attar.pipeline.core.errors import StageError

KEYS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), max_size=60)


@given(KEYS)
def test_each_row_is_dealt_once_and_equal_keys_together(rows: list[tuple[int, int]]) -> None:
    keys, labels = [b"%d" % key for key, _ in rows], [label for _, label in rows]
    dealt = deal_samples(keys, np.array(labels, np.int64))
    assert sorted(np.concatenate(list(dealt.values())).tolist()) == list(range(len(rows)))
    owners = {name: {keys[row] for row in own.tolist()} for name, own in dealt.items()}
    assert sum(map(len, owners.values())) == len(set(keys))


@given(st.lists(st.integers(1, 50), min_size=3, max_size=12))
def test_groups_of_any_size_leave_something_to_train_on_and_to_measure(sizes: list[int]) -> None:
    """And the largest is trained on."""
    keys = [b"%d" % group for group, size in enumerate(sizes) for _ in range(size)]
    dealt = deal_samples(keys, np.zeros(len(keys), np.int64))
    assert all(len(rows) for rows in dealt.values())
    assert len(dealt["train"]) >= max(sizes)


def test_classes_are_dealt_each_by_itself() -> None:
    """A hundred, ten, three and two of a class: 20 % and 10 %, or one each, or none."""
    labels = np.repeat(np.arange(4), [100, 10, 3, 2])
    dealt = deal_samples([b"%d" % row for row in range(len(labels))], labels)
    counts = {name: np.bincount(labels[rows], minlength=4).tolist() for name, rows in dealt.items()}
    assert counts == {"train": [70, 7, 1, 2], "test": [20, 2, 1, 0], "validation": [10, 1, 1, 0]}


def test_the_order_of_rows_decides_nothing() -> None:
    keys, labels = [b"%d" % row for row in range(50)], np.arange(50) % 2
    one, other = deal_samples(keys, labels), deal_samples(keys[::-1], labels[::-1])
    assert {name: {49 - row for row in rows.tolist()} for name, rows in other.items()} == {
        name: set(rows.tolist()) for name, rows in one.items()
    }


@pytest.mark.parametrize(
    ("contents", "groups", "together"),
    [
        ("abcd", "1122", "xxyy"),
        ("aacd", "1223", "xxxy"),
        ("abca", "1231", "xyzx"),
        ("abab", "1234", "xyxy"),
        ("abc", "121", "xyx"),
    ],
)
def test_copies_join_their_groups(contents: str, groups: str, together: str) -> None:
    keys = join_keys([each.encode() for each in contents], [each.encode() for each in groups])
    pairs = [(i, j) for i in range(len(keys)) for j in range(i)]
    assert [keys[i] == keys[j] for i, j in pairs] == [together[i] == together[j] for i, j in pairs]


def test_the_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    names = ["plain", 'quote " and, comma', "line\nbreak", b"no\xff utf".decode("utf-8", "surrogateescape")]
    write_split_list(tmp_path / "splits.csv", names, {"train": np.array([3, 0]), "test": np.array([1, 2])})
    assert read_split_list(tmp_path / "splits.csv", "train") == [names[3], names[0]]
    assert read_split_list(tmp_path / "splits.csv", "test") == names[1:3]
    assert read_split_list(tmp_path / "splits.csv", "validation") == []


def test_another_file_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("file,class\n", encoding="utf-8")
    with pytest.raises(StageError, match="sample,split"):
        read_split_list(tmp_path / "splits.csv", "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,tset", "line 4: 'tset' is no split: did you mean 'test'"),
        ("1,Test", "line 4: 'Test' is no split"),
        ("1,test ", "line 4: 'test ' is no split: did you mean 'test'"),
        ("1", "line 4: 1 values"),
        ("1,test,2", "line 4: 3 values"),
    ],
)
def test_a_line_without_a_split_loses_no_sample_in_silence(line: str, message: str, tmp_path: Path) -> None:
    """A blank line counts for nothing."""
    file = tmp_path / "splits.csv"
    file.write_text(f"sample,split\n0,train\n\n{line}\n2,test\n", encoding="utf-8")
    with pytest.raises(StageError, match=message):
        read_split_list(file, "train")
    file.write_text("sample,split\n0,train\n\n1,test\n\n", encoding="utf-8")
    assert read_split_list(file, "test") == ["1"]


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_sample_of_two_splits_is_refused_whichever_is_read(name: SplitName, tmp_path: Path) -> None:
    file = tmp_path / "splits.csv"
    file.write_text("sample,split\ncat/1.png,train\ncat/2.png,test\ncat/1.png,train\ncat/1.png,test\n", encoding="utf-8")
    with pytest.raises(StageError, match=r"splits\.csv, line 5: 'cat/1\.png' is in test, and before in train; leave it"):
        read_split_list(file, name)


def test_texts_that_are_read_alike_have_one_key(tmp_path: Path) -> None:
    """They would be known otherwise, when they are measured."""
    texts = ["Un café crème", "UN CAFE  creme\n", "un cafe\u0301 cre\u0300me"]
    assert len({hash_text(text) for text in texts}) == 1
    assert hash_text("un cafe") != hash_text("une cafe")
    train_tokenizer(tmp_path / "tokenizer.json", ["un café crème"], 300)
    tokenizer = read_tokenizer(tmp_path / "tokenizer.json", "tokenize")
    assert tokenizer.encode(texts[0]).ids == tokenizer.encode(texts[2]).ids
