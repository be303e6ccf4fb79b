"""What one machine made is there for another, and is what was made."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.disk import encode_json
from attar.pipeline.core.errors import CorruptArtifactError, RecipeError, StoreError
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.run import Record, Run
from attar.pipeline.shared import remote_files
from attar.pipeline.shared.store import SharedStore, open_store
from attar.pipeline.store.store import Store
from tests.support.projects.shared_store_parts import age, find, make, open_machine, read
from tests.support.projects.store_parts import KEY, RECORD, fail_if_waiting
from tests.support.projects.toy import Constant, Double, Number

OTHER = "b" * 64


def run_toy(folder: Path, name: str) -> list[Record]:
    slots = {"source": SlotBinding(Constant(), {}), "double": SlotBinding(Double(), {"source": "source"})}
    return list(Run(Pipeline(slots), open_machine(folder, name), Fingerprint(folder), "recipe").walk())


def test_another_machine_finds_an_artifact_without_its_files_and_fetches_them_to_be_read(tmp_path: Path) -> None:
    made = make(open_machine(tmp_path, "one"))
    two = open_machine(tmp_path, "two")
    found = find(two)
    assert (found.key, found.digest, found.facts) == (made.key, made.digest, made.facts)
    assert not found.root.exists()
    two.verify(found)
    assert found.value() == 1.0
    assert (found.root / "value.json").stat().st_mtime_ns == (made.root / "value.json").stat().st_mtime_ns
    assert oct((found.root / "value.json").stat().st_mode & 0o777) == "0o444"
    assert two.history(KEY) == open_machine(tmp_path, "one").history(KEY)


def test_a_content_is_stored_once(tmp_path: Path) -> None:
    one = open_machine(tmp_path, "one")
    make(one, files=("value.json", "same.json"))
    make(one, OTHER)
    assert len(list((tmp_path / "bucket" / "objects").iterdir())) == 2  # that content, and the facts
    assert len(list((tmp_path / "bucket" / "records").iterdir())) == 2


def test_a_run_begun_on_one_machine_is_finished_on_another_and_makes_nothing_twice(tmp_path: Path) -> None:
    assert [record.status for record in run_toy(tmp_path, "one")] == ["made", "made"]
    assert [record.status for record in run_toy(tmp_path, "two")] == ["reused", "reused"]
    assert not (tmp_path / "two" / "artifacts").exists()


def test_a_run_in_which_nothing_changed_asks_the_server_nothing(tmp_path: Path) -> None:
    run_toy(tmp_path, "one")
    run_toy(tmp_path, "two")
    (tmp_path / "bucket").rename(tmp_path / "away")
    (tmp_path / "bucket").write_text("no folder, so every request fails")
    for name in ("one", "two"):
        assert [record.status for record in run_toy(tmp_path, name)] == ["reused", "reused"]


def test_what_was_made_without_a_server_is_published_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "bucket").write_text("no folder, so every request fails")
    broken = run_toy(tmp_path, "one")
    assert [record.status for record in broken] == ["failed", "skipped"]
    assert "bucket" in str(broken[0].error)
    (tmp_path / "bucket").unlink()
    slots = {"source": SlotBinding(Constant(), {})}
    local = Run(Pipeline(slots), Store(tmp_path / "one"), Fingerprint(tmp_path), "recipe")
    list(local.walk())
    assert [record.status for record in run_toy(tmp_path, "one")] == ["reused", "made"]
    assert [record.status for record in run_toy(tmp_path, "two")] == ["reused", "reused"]


def test_a_server_that_fails_is_no_mistake_of_a_recipe_that_pins_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = run_toy(tmp_path, "one")[0].key
    two = open_machine(tmp_path, "two")

    def fail(*_: Any) -> None:
        raise StoreError("no answer")

    monkeypatch.setattr(two.remote, "list", fail)
    slots = {"source": SlotBinding(Constant(), {}, keep=key)}
    with pytest.raises(StoreError, match=r"^no answer$") as caught:
        list(Run(Pipeline(slots), two, Fingerprint(tmp_path), "recipe").walk())
    assert caught.value.exit_code == 1


def test_what_is_damaged_before_it_is_published_is_made_anew(tmp_path: Path) -> None:
    slots = {"source": SlotBinding(Constant(), {})}
    (made,) = Run(Pipeline(slots), Store(tmp_path / "one"), Fingerprint(tmp_path), "recipe").walk()
    path = Store(tmp_path / "one").folder(str(made.key)) / "value.json"
    stamp, text = path.stat().st_mtime_ns, path.read_text()
    path.chmod(0o644)
    path.write_text("9" * len(text))
    os.utime(path, ns=(stamp, stamp))
    broken = run_toy(tmp_path, "one")
    assert [record.status for record in broken] == ["failed", "skipped"]
    assert "run the same command again" in str(broken[0].error)
    assert [record.status for record in run_toy(tmp_path, "one")] == ["made", "made"]


def test_of_two_makers_the_first_to_publish_wins_and_the_other_takes_it(tmp_path: Path) -> None:
    one, two = open_machine(tmp_path, "one"), open_machine(tmp_path, "two")
    with two.making(KEY, fail_if_waiting) as payload:  # began first, and ends last
        assert two.find(Number, KEY) is None
        make(one, value="1")
        (payload / "value.json").write_text("2")
        taken = two.share(Number, two.commit(Number, payload, KEY, {"n": 2}, RECORD))
    assert (taken.digest, taken.facts) == (find(one).digest, {"n": 1})
    assert read(two) == read(one) == 1.0


class Killed(BaseException):
    """What ends a process at some line: nothing behind it is done."""


def test_a_machine_that_is_killed_while_it_takes_another_s_artifact_takes_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(Store(tmp_path / "two"), value="2")
    make(open_machine(tmp_path, "one"), value="1")
    two = open_machine(tmp_path, "two")

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, "discard", die)
        with pytest.raises(Killed):
            two.share(Number, find(two))
    two = open_machine(tmp_path, "two")
    two.share(Number, find(two))
    assert read(two) == 1.0


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_what_was_made_anew_without_the_server_gives_way_to_what_is_still_there(tmp_path: Path, value: float) -> None:
    make(open_machine(tmp_path, "one"), value="1")
    two = open_machine(tmp_path, "two")
    two.share(Number, find(two))
    make(Store(tmp_path / "two"), value="2")
    if value == 2.0:
        (tmp_path / "bucket" / "records" / f"{KEY}.json").unlink()
    two = open_machine(tmp_path, "two")
    two.share(Number, find(two))
    assert read(two) == read(open_machine(tmp_path, "three")) == value


def test_two_records_at_once_leave_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = open_machine(tmp_path, "one"), open_machine(tmp_path, "two")
    add = two.remote.add

    def add_after_the_other(path: str, content: bytes) -> bool:
        make(one, value="1")
        return add(path, content)

    monkeypatch.setattr(two.remote, "add", add_after_the_other)
    assert make(two, value="2").digest == find(one).digest
    assert read(two) == 1.0


@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_a_damaged_object_is_found_by_its_digest_and_made_anew(tmp_path: Path, harm: str) -> None:
    digest = open_machine(tmp_path, "one").history(make(open_machine(tmp_path, "one")).key)["files"]["value.json"][2]
    damaged = tmp_path / "bucket" / "objects" / digest
    damaged.write_text("9") if harm == "flip" else damaged.unlink()
    two = open_machine(tmp_path, "two")
    with pytest.raises(CorruptArtifactError, match=r"value\.json of x aaaaaaaaaaaa"):
        two.verify(find(two))
    assert two.find(Number, KEY) is None
    assert not (tmp_path / "two" / "artifacts" / KEY).exists()
    make(two)
    assert read(open_machine(tmp_path, "three")) == 1.0


def test_an_object_larger_than_its_record_is_refused_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(open_machine(tmp_path, "one"))
    digest = open_machine(tmp_path, "one").history(made.key)["files"]["value.json"][2]
    (tmp_path / "bucket" / "objects" / digest).write_bytes(b"1" * 10**6)
    two = open_machine(tmp_path, "two")
    written = []
    download = two.remote.download

    def watch(path: str, to: Path, size: int) -> str | None:
        got = download(path, to, size)
        written.append((size, to.stat().st_size))
        return got

    monkeypatch.setattr(two.remote, "download", watch)
    with pytest.raises(CorruptArtifactError, match=r"value\.json of x aaaaaaaaaaaa is not the 1 bytes that it was"):
        two.verify(find(two))
    assert (1, 0) in written


def test_a_transfer_that_breaks_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(open_machine(tmp_path, "one"))
    two = open_machine(tmp_path, "two")

    def break_off(path: str, to: Path, size: int) -> str | None:
        to.write_bytes(b"1" * (size // 2))
        raise StoreError("no answer")

    monkeypatch.setattr(two.remote, "download", break_off)
    folder, publication = tmp_path / "parts", two.find_published(made.key)
    assert publication is not None
    with pytest.raises(StoreError, match="no answer"):
        two.objects.fetch(publication, folder)
    assert list(folder.iterdir()) == []


def test_a_record_larger_than_any_of_attar_s_is_damaged_and_not_read(tmp_path: Path) -> None:
    make(open_machine(tmp_path, "one"))
    size = remote_files.MOST_BYTES + 1
    with (tmp_path / "bucket" / "records" / f"{KEY}.json").open("wb") as record:
        record.truncate(size)
    two = open_machine(tmp_path, "two")
    with pytest.raises(CorruptArtifactError, match=rf"{KEY}\.json in .* has {size} bytes, more than any"):
        two.find(Number, KEY)
    assert two.published.read_all() == {KEY: None}


def test_a_damaged_file_of_the_cache_is_fetched_again(tmp_path: Path) -> None:
    one = open_machine(tmp_path, "one")
    path = make(one).root / "value.json"
    path.chmod(0o644)
    path.write_text("9")
    assert read(one) == 1.0


def publish(folder: Path, change: Callable[[dict[str, Any]], object]) -> SharedStore:
    """Publish an artifact, change its publication, and open the store of another machine."""
    make(open_machine(folder, "one"))
    path = folder / "bucket" / "records" / f"{KEY}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return open_machine(folder, "two")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["facts"].update(n=2),
        lambda values: values["record"].update(digest="0" * 64),
        lambda values: values["record"].update(key=OTHER),
        lambda values: values["record"].pop("made"),
        lambda values: values["record"]["files"].update({"value.json": [1, 1, "0" * 64]}),
        lambda values: values["record"]["files"]["value.json"].__setitem__(0, "1"),
        lambda values: values["record"]["files"]["value.json"].__setitem__(1, 2**63),
        lambda values: values["record"].update(files=[]),
        lambda values: values["record"].update(made=[]),
        lambda values: values["record"].update(seconds=float("nan")),
        lambda values: values.pop("facts"),
        lambda values: values.clear(),
    ],
)
def test_a_record_whose_digests_disagree_is_damaged(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    store = publish(tmp_path, change)
    with pytest.raises(CorruptArtifactError, match="aaaaaaaaaaaa"):
        store.find(Number, KEY)
    assert store.entries() == []
    make(store)
    assert read(open_machine(tmp_path, "three")) == 1.0


def test_no_file_of_a_record_lies_outside_its_artifact(tmp_path: Path) -> None:
    make(open_machine(tmp_path, "one"))
    record = open_machine(tmp_path, "one").history(KEY)
    for name in ("../escaped", "/escaped", "record.json"):
        files = {**record["files"], name: record["files"]["value.json"]}
        content = {path: digest for path, (_, _, digest) in files.items()}
        digest = hashlib.sha256(encode_json(content).encode()).hexdigest()

        def change(values: dict[str, Any], digest: str = digest, files: dict[str, Any] = files) -> None:
            values["record"].update(files=files, digest=digest)

        with pytest.raises(CorruptArtifactError):
            publish(tmp_path, change).find(Number, KEY)


def test_a_store_of_a_newer_attar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="version 99"):
        publish(tmp_path, lambda values: values.update(store=99)).find(Number, KEY)


def test_a_machine_that_is_killed_before_the_record_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path\n"
        "from tests.support.projects.shared_store_parts import make, open_machine\n"
        f"store = open_machine(Path({str(tmp_path)!r}), 'one')\n"
        "store.remote.add = lambda path, content: os.kill(os.getpid(), signal.SIGKILL)\n"
        "make(store)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == -signal.SIGKILL
    assert any((tmp_path / "bucket" / "objects").iterdir())
    two = open_machine(tmp_path, "two")
    assert two.find(Number, KEY) is None
    assert two.entries() == []
    make(two, value="2")
    one = open_machine(tmp_path, "one")
    assert one.share(Number, find(one)).digest == find(two).digest
    assert read(one) == 2.0


def test_gc_deletes_what_no_machine_used_last_and_is_older_than_a_day(tmp_path: Path) -> None:
    one, two = open_machine(tmp_path, "one"), open_machine(tmp_path, "two")
    make(one, KEY, "1")
    make(one, OTHER, "2")
    make(one, "c" * 64, "3", files=("value.json", "more.json"))
    one.write_note("recipes/one.json", {"x": KEY})
    two.write_note("recipes/two.json", {"x": OTHER})
    assert list(two.collect(dry_run=False)) == []
    age(tmp_path)
    dropped = [("shared x " + "c" * 12, 1)]  # one byte, which is stored once; the facts are needed by others
    assert list(two.collect(dry_run=True)) == dropped
    assert list(two.collect(dry_run=False)) == dropped
    assert list(two.collect(dry_run=False)) == []
    three = open_machine(tmp_path, "three")
    assert {entry.key for entry in three.entries()} == {KEY, OTHER}
    assert (read(three, KEY), read(three, OTHER)) == (1.0, 2.0)


def test_gc_deletes_objects_whose_record_was_never_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = open_machine(tmp_path, "one")

    def fail(path: str, content: bytes) -> bool:
        raise StoreError("gone")

    monkeypatch.setattr(one.remote, "add", fail)
    with pytest.raises(StoreError, match="gone"):
        make(one)
    age(tmp_path)
    ((what, size),) = open_machine(tmp_path, "two").collect(dry_run=False)
    assert (what, size) == ("2 shared files of no artifact", 12)
    assert list((tmp_path / "bucket" / "objects").iterdir()) == []


def test_gc_deletes_what_a_killed_search_left_for_its_nodes(tmp_path: Path) -> None:
    store = open_machine(tmp_path, "one")
    store.remote.write("cluster/token-v1.log", b"epoch 1")
    assert list(store.collect(dry_run=False)) == []
    age(tmp_path)
    assert list(store.collect(dry_run=False)) == [("1 files of searches that were killed", 7)]
    assert store.remote.list("cluster") == []


def test_gc_deletes_nothing_when_it_cannot_tell_what_is_used(tmp_path: Path) -> None:
    one = open_machine(tmp_path, "one")
    make(one)
    one.write_note("recipes/one.json", {"x": KEY})
    (tmp_path / "bucket" / "recipes" / "one.json").write_text("[")
    age(tmp_path)
    with pytest.raises(StoreError, match=r"one\.json"):
        list(open_machine(tmp_path, "two").collect(dry_run=False))


def test_a_recipe_whose_artifact_gc_deleted_makes_it_anew(tmp_path: Path) -> None:
    run_toy(tmp_path, "one")
    run_toy(tmp_path, "two")
    for path in [*(tmp_path / "bucket" / "objects").iterdir(), *(tmp_path / "bucket" / "records").iterdir()]:
        path.unlink()
    two = open_machine(tmp_path, "two")
    key = str(run_toy(tmp_path, "two")[0].key)
    with pytest.raises(CorruptArtifactError, match="missing"):
        two.verify(find(two, key))
    assert [record.status for record in run_toy(tmp_path, "two")] == ["made", "reused"]


def test_artifacts_here_and_there_are_listed_once_and_named_by_their_beginning(tmp_path: Path) -> None:
    one, two = open_machine(tmp_path, "one"), open_machine(tmp_path, "two")
    make(one)
    make(two, OTHER)
    assert {entry.key for entry in one.entries()} == {KEY, OTHER}
    assert one.match("bb").key == OTHER
    with pytest.raises(StoreError, match="no artifact"):
        one.match("f")


def test_a_place_is_a_folder_or_a_url(tmp_path: Path) -> None:
    assert type(open_store(tmp_path / "store")) is Store
    made = open_store((tmp_path / "bucket").as_uri(), tmp_path / "cache")
    assert isinstance(made, SharedStore)
    assert made.root == tmp_path / "cache"
    with pytest.raises(RecipeError, match="--cache"):
        open_store(tmp_path / "store", tmp_path / "cache")
