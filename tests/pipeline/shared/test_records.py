"""Records that replace each other in a shared store."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.pipeline.core.errors import StoreError
from tests.support.projects.shared_store_parts import make, open_machine, read
from tests.support.projects.store_parts import KEY


def damage(folder: Path) -> None:
    make(open_machine(folder, "one"))
    (folder / "bucket" / "records" / f"{KEY}.json").write_text("[")


def test_of_two_that_replace_a_damaged_record_the_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(tmp_path)
    two, three = open_machine(tmp_path, "two"), open_machine(tmp_path, "three")
    replace = two.remote.replace

    def replace_after_the_other(*given: object) -> bool:
        make(three, value="3")
        return replace(*given)  # type: ignore[arg-type]  # as they were given

    monkeypatch.setattr(two.remote, "replace", replace_after_the_other)
    make(two, value="2")
    assert read(two) == read(three) == read(open_machine(tmp_path, "four")) == 3.0


def test_a_record_that_can_be_neither_taken_nor_replaced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(tmp_path)
    two = open_machine(tmp_path, "two")
    monkeypatch.setattr(two.remote, "replace", lambda *_: False)
    with pytest.raises(StoreError, match=rf"records/{KEY}\.json in .* cannot be replaced; delete it there"):
        make(two)
