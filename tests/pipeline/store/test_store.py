"""Artifacts appear whole or not at all, and are found only while they are what was recorded."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attar.pipeline.core.disk import encode_json
from attar.pipeline.core.errors import CorruptArtifactError, StoreError
from attar.pipeline.core.stage import open_scratch
from attar.pipeline.store.store import Store
from tests.support.projects.store_parts import KEY, RECORD, fail_if_waiting
from tests.support.projects.toy import Number


def make(store: Store, key: str = KEY, value: str = "1") -> Number:
    with store.making(key, fail_if_waiting) as payload:
        (payload / "value.json").write_text(value)
        return store.commit(Number, payload, key, {"n": 1}, RECORD)


def test_what_was_committed_is_found_with_its_facts(tmp_path: Path) -> None:
    made = make(Store(tmp_path))
    assert (made.value(), made.facts, made.key) == (1.0, {"n": 1}, KEY)
    assert oct((made.root / "value.json").stat().st_mode & 0o777) == "0o444"


def test_the_digest_is_of_content_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two, three = make(store, "a" * 64), make(store, "b" * 64), make(store, "c" * 64, "2")
    assert one.digest == two.digest
    assert one.digest != three.digest


def test_a_file_may_be_older_than_1970(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.making(KEY, fail_if_waiting) as payload:
        (payload / "value.json").write_text("1")
        os.utime(payload / "value.json", (-1, -1))
        store.commit(Number, payload, KEY, {}, RECORD)
    assert store.find(Number, KEY) is not None


def break_down(payload: Path) -> None:
    (open_scratch(payload) / "checkpoint").write_text("kept")
    (payload / "half").write_text("gone")
    raise ZeroDivisionError


def test_a_stage_that_fails_leaves_nothing_but_its_scratch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.making(KEY, fail_if_waiting) as payload:
        break_down(payload)
    assert store.find(Number, KEY) is None
    with store.making(KEY, fail_if_waiting) as payload:
        assert list(payload.iterdir()) == []
        assert (open_scratch(payload) / "checkpoint").read_text() == "kept"
        store.commit(Number, payload, KEY, {}, RECORD)
    assert not (tmp_path / "work" / KEY).exists()


@pytest.mark.parametrize("harm", ["flip", "delete", "grow"])
def test_damage_is_found(tmp_path: Path, harm: str) -> None:
    store = Store(tmp_path)
    path = make(store).root / "value.json"
    path.chmod(0o644)
    if harm == "delete":
        path.unlink()
    else:
        path.write_text({"flip": "9", "grow": "11"}[harm])
    with pytest.raises(CorruptArtifactError, match=r"value\.json"):
        store.find(Number, KEY)


@pytest.mark.parametrize(
    "change",
    [{"files": {"value.json": 1}}, {"files": {"value.json": [1, 1, "x"]}}, {"made": {}}, {"deciders": None}, {"slot": 3}],
)
def test_a_record_of_another_shape_is_no_record(tmp_path: Path, change: dict[str, object]) -> None:
    store = Store(tmp_path)
    made = make(store)
    path = made.root / "record.json"
    path.chmod(0o644)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CorruptArtifactError, match=r"record\.json is not the record of an artifact"):
        store.find(Number, KEY)
    assert store.list_local() == []
    assert store.damaged() == [made.root]


def test_a_copy_with_other_times_is_the_same_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    os.utime(make(store).root / "value.json", ns=(5, 5))
    assert store.find(Number, KEY) is not None


def test_verify_reads_what_size_and_mtime_hide(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = make(store)
    path = made.root / "value.json"
    stat = path.stat()
    path.chmod(0o644)
    path.write_text("7")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.find(Number, KEY) is not None
    with pytest.raises(CorruptArtifactError):
        store.verify(made)


def test_verify_says_which_file_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = make(store)
    (made.root / "value.json").unlink()
    with pytest.raises(CorruptArtifactError, match=r"value\.json is missing from"):
        store.verify(made)


def test_facts_must_be_finite_json(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="finite JSON"), store.making(KEY, fail_if_waiting) as payload:
        store.commit(Number, payload, KEY, {"score": float("nan")}, RECORD)
    assert store.find(Number, KEY) is None
    with pytest.raises(StoreError, match="finite JSON"):
        encode_json({"x": object()})


def test_gc_keeps_what_a_recipe_used_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "a" * 64)
    make(store, "b" * 64)
    store.write_note("recipes/one.json", {"x": "a" * 64})
    (tmp_path / "work" / "dead" / "payload").mkdir(parents=True)
    assert [what for what, _ in store.collect(dry_run=True)] == ["x " + "b" * 12, "unfinished dead"]
    assert len(store.entries()) == 2
    list(store.collect(dry_run=False))
    assert [entry.key for entry in store.entries()] == ["a" * 64]
    assert not (tmp_path / "work" / "dead").exists()


@pytest.mark.parametrize("note", [b"", b"[1]", b'{"x": 1}'])  # empty: as a machine leaves it that lost its power
def test_gc_deletes_nothing_while_a_note_of_what_a_recipe_needs_is_damaged(tmp_path: Path, note: bytes) -> None:
    store = Store(tmp_path)
    make(store)
    store.write_note("recipes/one.json", {"x": KEY})
    (tmp_path / "recipes" / "one.json").write_bytes(note)
    with pytest.raises(StoreError, match=r"recipes/one\.json in .* is no list of keys.*run its recipe"):
        list(store.collect(dry_run=False))
    assert [entry.key for entry in store.entries()] == [KEY]


def test_a_prefix_names_one_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store, "ab" + "0" * 62)
    make(store, "ac" + "0" * 62)
    assert store.match("ab").key.startswith("ab")
    with pytest.raises(StoreError, match="2 artifacts"):
        store.match("a")
    with pytest.raises(StoreError, match="no artifact"):
        store.match("ff")


def hold(root: str, started: str) -> None:
    store = Store(Path(root))
    with store.making(KEY, fail_if_waiting) as payload:
        Path(started).touch()
        time.sleep(0.5)
        (payload / "value.json").write_text("1")
        store.commit(Number, payload, KEY, {}, RECORD)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    started = tmp_path / "started"
    other = multiprocessing.get_context("spawn").Process(target=hold, args=(str(tmp_path / "store"), str(started)))
    other.start()
    while not started.exists():
        time.sleep(0.01)
    waited: list[bool] = []
    store = Store(tmp_path / "store")
    with store.making(KEY, lambda: waited.append(True)):
        assert store.find(Number, KEY) is not None
    other.join()
    assert waited == [True]


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from attar.pipeline.store.store import Store\n"
        f"with Store(Path({str(tmp_path)!r})).making({KEY!r}, lambda: None) as payload:\n"
        "    (payload / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert make(Store(tmp_path)).value() == 1.0


def mounted(tmp_path: Path, options: str) -> Path:
    place = tmp_path / "mount"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {done.stderr.strip()}")
    return place


def test_a_full_disk_is_an_error_that_says_so_and_leaves_no_artifact(tmp_path: Path) -> None:
    place = mounted(tmp_path, "size=256k")
    try:
        store = Store(place / "store")
        make(store, "b" * 64)
        with (
            pytest.raises((StoreError, OSError), match=r"No space left|free some space"),
            store.making(KEY, fail_if_waiting) as payload,
        ):
            (payload / "value.json").write_bytes(b"0" * 10**6)
        assert store.find(Number, KEY) is None
        assert store.find(Number, "b" * 64) is not None
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_read_only_store_still_answers_and_says_why_it_cannot_make(tmp_path: Path) -> None:
    place = mounted(tmp_path, "size=1m")
    try:
        store = Store(place / "store")
        make(store)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        assert store.find(Number, KEY) is not None
        with pytest.raises(StoreError, match="Read-only file system"), store.making("b" * 64, fail_if_waiting):
            pass
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_gc_of_a_read_only_store_is_one_message(tmp_path: Path) -> None:
    place = mounted(tmp_path, "size=1m")
    try:
        store = Store(place / "store")
        make(store)
        assert list(store.collect(dry_run=True))
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        with pytest.raises(StoreError, match=r"cannot write .*Read-only file system; choose another with --store"):
            list(store.collect(dry_run=False))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_note_is_written_only_when_it_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_note("recipes/x.json", {"a": "b"})
    before = (tmp_path / "recipes/x.json").stat().st_mtime_ns
    store.write_note("recipes/x.json", {"a": "b"})
    assert (tmp_path / "recipes/x.json").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "recipes/x.json").read_text()) == {"a": "b"}
