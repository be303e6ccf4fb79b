"""What decides a result is in its key, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.pipeline.core.errors import StageError
from attar.pipeline.core.stage import Stage
from attar.pipeline.keys import deciders as keys
from attar.pipeline.keys import fingerprint, machine
from attar.pipeline.keys.deciders import Keys
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.store.store import Store
from tests.support.projects.toy import Check, Constant, Double, Number, Sum, Tasked

FIXED = Number("k", "d" * 64, Path(), {})


def deciders(root: Path, stage: Stage[Any], **inputs: Number) -> keys.KeyInputs:
    found = Keys(Store(root / "store"), Fingerprint(root)).deciders(stage, inputs, may_import=True)
    assert found is not None
    return found


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_setting_is_in_the_key(a: float, b: float) -> None:
    one, two = (keys.compute_key(deciders(Path(), Constant(value=value))) for value in (a, b))
    assert (one == two) == (a == b)


def test_a_setting_that_does_not_decide_is_not_in_the_key(tmp_path: Path) -> None:
    assert deciders(tmp_path, Constant(device="cuda")) == deciders(tmp_path, Constant(device="cpu"))


def test_a_default_written_out_is_the_same_key(tmp_path: Path) -> None:
    assert deciders(tmp_path, Constant(value=1.0)) == deciders(tmp_path, Constant())


def test_a_file_counts_by_its_bytes_and_not_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("5")
    (tmp_path / "b.txt").write_text("5")
    one = deciders(tmp_path, Constant(file=tmp_path / "a.txt"))
    assert one == deciders(tmp_path, Constant(file=tmp_path / "b.txt"))
    (tmp_path / "b.txt").write_text("6")
    assert one != deciders(tmp_path, Constant(file=tmp_path / "b.txt"))


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "value.txt"
    file.write_text("1")
    stage = Constant(file=file)
    known = Keys(Store(tmp_path / "store"), Fingerprint(tmp_path))
    found = known.deciders(stage, {}, may_import=True)
    assert found is not None
    assert known.edited(stage, found) == []
    file.write_text("12")
    assert known.edited(stage, found) == [str(file)]
    file.unlink()
    assert known.edited(stage, found) == [str(file)]


def test_the_content_of_an_input_counts_and_not_its_key(tmp_path: Path) -> None:
    one = deciders(tmp_path, Double(), source=FIXED)
    assert one == deciders(tmp_path, Double(), source=Number("other", "d" * 64, Path(), {}))
    assert one != deciders(tmp_path, Double(), source=Number("k", "e" * 64, Path(), {}))


class Deaf(Double):
    """Looks at its source only where it is told to."""

    listens: bool = False

    def reading(self) -> Set[str]:
        return super().reading() if self.listens else set()


def test_an_input_that_is_not_looked_at_does_not_count(tmp_path: Path) -> None:
    other = Number("k", "e" * 64, Path(), {})
    assert deciders(tmp_path, Deaf(), source=FIXED) == deciders(tmp_path, Deaf(), source=other)
    assert deciders(tmp_path, Deaf(listens=True), source=FIXED) != deciders(tmp_path, Deaf(listens=True), source=other)


def test_code_that_once_made_an_optional_input_does_not_count_and_may_be_gone(tmp_path: Path) -> None:
    gone = Earlier("k", "e" * 64, Path(), {"network": "gone.py:network"})
    with_more = deciders(tmp_path, Sum(more="abc12345"), source=FIXED, more=gone)
    assert with_more["inputs"] == {"source": "d" * 64, "more": "e" * 64}
    assert not any(name.startswith("gone:") for name in with_more["code"])
    assert with_more["settings"] == {}


class Earlier(Number):
    code = ("network",)


def test_only_what_is_bound_to_the_machine_has_it_in_its_key(tmp_path: Path) -> None:
    assert deciders(tmp_path, Check(), double=FIXED)["machine"] == machine.describe_machine()
    assert "machine" not in deciders(tmp_path, Double(), source=FIXED)


def test_the_version_of_a_library_that_is_used_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user_task.py").write_text("import numpy\nclass T:\n    def data(self): return [str(numpy.pi)]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    one = deciders(tmp_path, Tasked(task="user_task:T"))
    assert "numpy" in one["libraries"]
    monkeypatch.setattr(fingerprint, "find_version", lambda name: {name: "99"} if name == "numpy" else {})
    two = deciders(tmp_path, Tasked(task="user_task:T"))
    assert list(keys.list_changes(one, two)) == [f"libraries.numpy: {one['libraries']['numpy']} -> 99"]


def test_a_byte_of_the_data_counts_and_a_touch_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"abc")
    (tmp_path / "data_task.py").write_text(
        f"from pathlib import Path\nclass T:\n    def data(self): return [Path({str(data)!r}), 'version 1']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    one = deciders(tmp_path, Tasked(task="data_task:T"))
    os.utime(data, ns=(1, 1))
    assert deciders(tmp_path, Tasked(task="data_task:T")) == one
    data.write_bytes(b"abd")
    two = deciders(tmp_path, Tasked(task="data_task:T"))
    assert [change.split(":")[0] for change in keys.list_changes(one, two)] == ["data"]


def test_a_plan_does_not_ask_a_task_that_was_never_run(tmp_path: Path) -> None:
    (tmp_path / "fresh_task.py").write_text("raise SystemExit('imported')\nclass T: ...\n")
    found = Keys(Store(tmp_path / "store"), Fingerprint(tmp_path)).deciders(Tasked(task="fresh_task:T"), {}, may_import=False)
    assert found is None


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no file .*gone\.txt"):
        keys.describe_settings(Constant(file=tmp_path / "gone.txt"))


def test_changes_are_said_from_what_to_what() -> None:
    before = {"settings": {"epochs": 6, "network": "a"}, "code": {"x:f": "0" * 32}, "data": None}
    now = {"settings": {"epochs": 8, "network": "a"}, "code": {"x:f": "1" * 32, "x:g": "2" * 32}, "data": None}
    assert list(keys.list_changes(before, now)) == [
        "code.x:f: 00000000 -> 11111111",
        "code.x:g: none -> 22222222",
        "settings.epochs: 6 -> 8",
    ]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_a_key_depends_on_values_and_not_on_their_order(value: dict[str, Any]) -> None:
    assert keys.compute_json_digest(value) == keys.compute_json_digest(dict(reversed(value.items())))
    assert len(keys.compute_json_digest(value)) == 64
