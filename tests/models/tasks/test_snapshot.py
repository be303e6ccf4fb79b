"""The snapshot: no text on both sides, siblings never apart, the same bytes in every process."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.tasks import debian, snapshot
from attar.models.tasks.debian import Package
from attar.models.tasks.snapshot import LONGEST, Text
from attar.models.tasks.topics import Topics
from attar.pipeline.core.errors import StageError
from tests.support.datasets.debian_lists import release

WORDS = st.sampled_from(["small", "Small", "game", "of", "chess", "library"])
PACKAGES = st.builds(
    lambda name, source, section, short, long: Package(f"p{name}", f"s{source}", section, " ".join(short), " ".join(long)),
    st.integers(0, 999),
    st.integers(0, 40),
    st.sampled_from(["games", "libs", "net"]),
    st.lists(WORDS, min_size=1, max_size=3),
    st.lists(WORDS, max_size=4),
)


def test_splits_by_hand() -> None:
    """By the first 64 bits of SHA-256, modulo 100: below 20 test, below 28 validation."""
    buckets = {name: int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 100 for name in ("bash", "linux", "gcc-12")}
    assert buckets == {"bash": 14, "linux": 28, "gcc-12": 35}
    assert [snapshot.choose_split(name) for name in buckets] == ["test", "train", "train"]


@given(st.lists(PACKAGES, max_size=40))
def test_each_text_occurs_once_and_siblings_stay_together(packages: list[Package]) -> None:
    found = snapshot.select_texts(packages, ["games", "net"])
    texts = [each.text.casefold() for each in found]
    assert len(set(texts)) == len(texts)
    assert "" not in texts
    sides = {each.short.casefold(): set[str]() for each in packages if each.section != "libs"}
    for each in packages:
        if each.section != "libs":
            sides[each.short.casefold()].add(snapshot.choose_split(each.source))
    for split, text, section in found:
        if split != "transfer":
            assert split == next(name for name in ("test", "validation", "train") if name in sides[text.casefold()])
            assert section in ("games", "net")
    learned = {each.long for each in packages if snapshot.choose_split(each.source) == "train"}
    assert {each.text for each in found if each.split == "transfer"} <= learned
    assert all(each.section is None for each in found if each.split == "transfer")


@given(st.text(st.sampled_from("ab "), max_size=2 * LONGEST))
def test_a_cut_text_is_short_and_whole_words(text: str) -> None:
    made = snapshot.cut_text(text)
    assert len(made) <= LONGEST
    assert text.startswith(made)
    if made != text and " " in text[1 : LONGEST + 1]:
        assert text[len(made)] == " "


def test_written_and_read_again(tmp_path: Path) -> None:
    found = snapshot.select_texts(debian.read_packages(release(tmp_path / "lists", 12)), Topics.classes)
    snapshot.write_snapshot(tmp_path, found, Topics.classes)
    assert snapshot.read_texts(tmp_path / snapshot.TEXTS) == found


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    """Whatever order its hash tables have."""
    lists = release(tmp_path / "lists", 12)
    code = (
        "import sys; from pathlib import Path; from attar.models.tasks import debian, snapshot, topics\n"
        "found = snapshot.select_texts(debian.read_packages(Path(sys.argv[1])), topics.Topics.classes)\n"
        "snapshot.write_snapshot(Path(sys.argv[2]), found, topics.Topics.classes)"
    )
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(lists), str(tmp_path / seed)], check=True, env=environment)
    for name in (snapshot.TEXTS, snapshot.TOKENIZER):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_vocabulary_is_of_the_texts_to_train_on_alone(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    found = [Text("train", f"{section} common", section) for section in Topics.classes]
    snapshot.write_snapshot(tmp_path, [*found, Text("test", "unheardof " * 20, "net")], Topics.classes)
    made = Tokenizer.from_file(str(tmp_path / snapshot.TOKENIZER))
    assert made.token_to_id("[PAD]") == 0
    assert made.get_vocab_size() <= snapshot.VOCABULARY
    assert len(made.encode("Common").ids) == 1  # lower case
    assert len(made.encode("unheardof").ids) > 4
    assert 0 not in made.encode("Straße in 日本").ids  # every byte is known: nothing is left out


def test_a_release_that_lacks_a_section_is_refused(tmp_path: Path) -> None:
    found = [Text("train", section, section) for section in Topics.classes if section != "ocaml"]
    with pytest.raises(StageError, match=r"ocaml; .*/etc/apt"):
        snapshot.write_snapshot(tmp_path, found, Topics.classes)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    for content in (b"", b"no gzip", gzip.compress(b"[1, 2]\n"), gzip.compress(b"{\n")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(StageError, match=r"delete .*`attar fetch RECIPE`"):
            snapshot.read_texts(tmp_path / "x")
