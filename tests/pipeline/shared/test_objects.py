"""Files that come and go in a shared store while machines rely on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.core.errors import CorruptArtifactError
from tests.support.projects.shared_store_parts import age, find, make, open_machine, read
from tests.support.projects.store_parts import KEY
from tests.support.projects.toy import Number

OTHER = "b" * 64


def test_a_machine_whose_note_is_old_deletes_no_record_that_another_has_made_since(tmp_path: Path) -> None:
    make(open_machine(tmp_path, "one"), value="1")
    two = open_machine(tmp_path, "two")
    two.share(Number, find(two))
    age(tmp_path)
    list(open_machine(tmp_path, "one").collect(dry_run=False))
    make(open_machine(tmp_path, "three"), value="3")
    two = open_machine(tmp_path, "two")
    with pytest.raises(CorruptArtifactError, match=r"is missing.*another record has taken its place"):
        two.verify(find(two))
    assert read(open_machine(tmp_path, "two")) == read(open_machine(tmp_path, "four")) == 3.0


def test_of_what_is_missing_it_is_said_which_recipe_makes_it_anew(tmp_path: Path) -> None:
    """The one that reads it may pin it by key, and makes it no second time."""
    make(open_machine(tmp_path, "one"))
    for path in (tmp_path / "bucket" / "objects").iterdir():
        path.unlink()
    two = open_machine(tmp_path, "two")
    with pytest.raises(CorruptArtifactError, match=r"is missing in .*so a run of the recipe that made it makes it anew"):
        two.verify(find(two))
    assert two.find(Number, KEY) is None


def test_a_damaged_record_that_has_taken_its_place_stays_until_it_is_made_anew(tmp_path: Path) -> None:
    make(open_machine(tmp_path, "one"), value="1")
    two = open_machine(tmp_path, "two")
    two.share(Number, find(two))
    for path in (tmp_path / "bucket" / "objects").iterdir():
        path.unlink()
    (tmp_path / "bucket" / "records" / f"{KEY}.json").write_text("[")
    two = open_machine(tmp_path, "two")
    with pytest.raises(CorruptArtifactError, match="another record"):
        two.verify(find(two))
    make(open_machine(tmp_path, "two"), value="2")
    assert read(open_machine(tmp_path, "three")) == 2.0


def test_a_file_that_gc_deletes_before_a_record_needs_it_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(open_machine(tmp_path, "one"), value="1")
    age(tmp_path)
    two = open_machine(tmp_path, "two")
    add = two.remote.add

    def add_after_gc(path: str, content: bytes) -> bool:
        assert list(open_machine(tmp_path, "one").collect(dry_run=False))
        return add(path, content)

    monkeypatch.setattr(two.remote, "add", add_after_gc)
    make(two, OTHER, value="1")
    assert read(open_machine(tmp_path, "three"), OTHER) == 1.0
