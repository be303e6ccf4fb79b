"""Of a shared store only what a trusted key signed is taken, if keys are given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import RecipeError, StoreError
from attar.pipeline.core.graph import Pipeline, SlotBinding
from attar.pipeline.keys.fingerprint import Fingerprint
from attar.pipeline.run import Record, Run
from attar.pipeline.shared.record_trust import RecordTrust
from attar.pipeline.shared.store import SharedStore, open_store
from attar.pipeline.store.store import Store
from tests.support.bundles.signing_parts import KeyPair, pair
from tests.support.projects.shared_store_parts import find, make, open_machine, read
from tests.support.projects.store_parts import KEY
from tests.support.projects.toy import Constant, Double, Number

OTHER = "b" * 64


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return pair(tmp_path_factory.mktemp("team"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return pair(tmp_path_factory.mktemp("stranger"))


def open_signer(folder: Path, name: str, key: KeyPair) -> SharedStore:
    """The store of a machine that trusts this key, and signs with it."""
    return SharedStore(folder / name, (folder / "bucket").as_uri(), RecordTrust.read(key.public, key.private))


def open_reader(folder: Path, name: str, key: KeyPair) -> SharedStore:
    """The store of a machine that trusts this key, and has none."""
    return SharedStore(folder / name, (folder / "bucket").as_uri(), RecordTrust.read(key.public, None))


def walk(store: Store, home: Path) -> list[Record]:
    slots = {"source": SlotBinding(Constant(), {}), "double": SlotBinding(Double(), {"source": "source"})}
    return list(Run(Pipeline(slots), store, Fingerprint(home), "recipe").walk())


def test_what_a_trusted_key_signed_is_taken_by_who_only_reads(tmp_path: Path, key: KeyPair) -> None:
    assert [record.status for record in walk(open_signer(tmp_path, "one", key), tmp_path)] == ["made", "made"]
    reader = open_reader(tmp_path, "two", key)
    assert [record.status for record in walk(reader, tmp_path)] == ["reused", "reused"]
    assert {entry.distrust for entry in reader.entries()} == {None}
    (signer,) = {entry.signer for entry in reader.entries()}
    assert signer is not None
    assert len(signer) == 16
    for entry in reader.entries():
        reader.verify(find(reader, entry.key))


def test_who_trusts_nobody_takes_signed_records_as_others(tmp_path: Path, key: KeyPair) -> None:
    make(open_signer(tmp_path, "one", key))
    assert read(open_machine(tmp_path, "two")) == 1.0


def test_an_unsigned_record_is_made_again_and_replaced_by_who_signs(tmp_path: Path, key: KeyPair) -> None:
    walk(open_machine(tmp_path, "one"), tmp_path)
    (plan, *_) = Run(
        Pipeline({"source": SlotBinding(Constant(), {})}), open_signer(tmp_path, "two", key), Fingerprint(tmp_path), "recipe"
    ).plan()
    assert plan.action == "run"
    assert "is not signed" in plan.reason
    made = walk(open_signer(tmp_path, "two", key), tmp_path)
    assert [record.status for record in made] == ["made", "made"]
    assert "is not signed" in made[0].reason
    assert [record.status for record in walk(open_reader(tmp_path, "three", key), tmp_path)] == ["reused", "reused"]


def test_who_only_reads_makes_what_is_not_signed_and_writes_nothing_there(tmp_path: Path, key: KeyPair) -> None:
    walk(open_machine(tmp_path, "one"), tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "bucket").rglob("*") if path.is_file()}
    reader = open_reader(tmp_path, "two", key)
    assert [record.status for record in walk(reader, tmp_path)] == ["made", "made"]
    assert [record.status for record in walk(open_reader(tmp_path, "two", key), tmp_path)] == ["reused", "reused"]
    assert {path: path.read_bytes() for path in (tmp_path / "bucket").rglob("*") if path.is_file()} == before


def change_record(folder: Path, change: Callable[[dict[str, Any]], object], key: str = KEY) -> None:
    path = folder / "bucket" / "records" / f"{key}.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def forge(folder: Path, stranger: KeyPair) -> None:
    """Sign the record with another key, in the name of the trusted one."""
    (entry,) = open_machine(folder, "look").entries()
    made = open_machine(folder, "look").published.find(entry.key)
    assert made is not None
    assert made.signature is not None
    signature = RecordTrust.read(None, stranger.private).sign(made).signature
    assert signature is not None
    forged = signature.model_copy(update={"key": made.signature.key})
    change_record(folder, lambda values: values.update(signature=forged.model_dump()))


def test_a_record_that_somebody_else_signed_is_not_taken(tmp_path: Path, key: KeyPair, stranger: KeyPair) -> None:
    make(open_signer(tmp_path, "one", key))
    forge(tmp_path, stranger)
    reader = open_reader(tmp_path, "two", key)
    assert reader.find(Number, KEY) is None
    assert "signed by no key that is trusted" in str(reader.explain_distrust(KEY))
    (entry,) = reader.entries()
    assert "signed by no key that is trusted" in str(entry.distrust)
    with pytest.raises(StoreError, match="signed by no key that is trusted"):
        reader.match("a")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["record"].update(slot="teacher"),
        lambda values: values["record"]["deciders"].update(code="x"),
        lambda values: values["record"]["made"].update(date="2027-01-01T00:00:00+00:00"),
        lambda values: values["signature"].update(signature="0" * 128),
        lambda values: values.update(signature=None),
    ],
)
def test_a_record_that_was_changed_after_it_was_signed_is_not_taken(
    tmp_path: Path, key: KeyPair, change: Callable[[dict[str, Any]], object]
) -> None:
    make(open_signer(tmp_path, "one", key))
    change_record(tmp_path, change)
    assert open_machine(tmp_path, "two").find(Number, KEY) is not None
    assert open_reader(tmp_path, "three", key).find(Number, KEY) is None


def test_a_signed_record_is_of_no_other_key(tmp_path: Path, key: KeyPair) -> None:
    make(open_signer(tmp_path, "one", key))
    records = tmp_path / "bucket" / "records"
    (records / f"{OTHER}.json").write_bytes((records / f"{KEY}.json").read_bytes())
    reader = open_reader(tmp_path, "two", key)
    with pytest.raises(StoreError, match="damaged"):
        reader.find(Number, OTHER)
    change_record(tmp_path, lambda values: values["record"].update(key=OTHER), OTHER)
    assert open_reader(tmp_path, "three", key).find(Number, OTHER) is None


def test_what_was_fetched_before_keys_were_given_is_not_taken(tmp_path: Path, key: KeyPair) -> None:
    make(open_machine(tmp_path, "one"))
    assert read(open_machine(tmp_path, "two")) == 1.0
    assert open_reader(tmp_path, "two", key).find(Number, KEY) is None
    signer = open_signer(tmp_path, "three", key)
    assert signer.find(Number, KEY) is None
    make(signer, value="2")
    assert read(open_reader(tmp_path, "two", key)) == 2.0


def test_what_was_made_here_before_keys_were_given_is_signed_by_the_next_run(tmp_path: Path, key: KeyPair) -> None:
    walk(open_machine(tmp_path, "one"), tmp_path)
    assert [record.status for record in walk(open_signer(tmp_path, "one", key), tmp_path)] == ["reused", "reused"]
    assert [record.status for record in walk(open_reader(tmp_path, "two", key), tmp_path)] == ["reused", "reused"]


def list_records(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "bucket" / "records").iterdir()}


def test_what_was_noted_before_keys_were_given_is_asked_for_again(tmp_path: Path, key: KeyPair) -> None:
    for name in ("reader", "signer"):
        walk(open_machine(tmp_path, name), tmp_path)
    made = walk(open_signer(tmp_path, "one", key), tmp_path)
    shutil.rmtree(tmp_path / "reader" / "artifacts")
    assert [record.status for record in walk(open_reader(tmp_path, "reader", key), tmp_path)] == ["reused", "reused"]
    before = list_records(tmp_path)
    assert before.keys() == {f"{record.key}.json" for record in made}
    walk(open_signer(tmp_path, "signer", key), tmp_path)
    assert list_records(tmp_path) == before


def test_of_two_that_sign_in_place_of_another_the_first_wins(tmp_path: Path, key: KeyPair) -> None:
    make(open_machine(tmp_path, "one"))
    two, three = open_signer(tmp_path, "two", key), open_signer(tmp_path, "three", key)
    assert (two.find(Number, KEY), three.find(Number, KEY)) == (None, None)
    make(two, value="2")
    make(three, value="3")
    assert (read(two), read(three)) == (2.0, 2.0)


def test_what_is_not_trusted_is_not_said_to_be_gone(tmp_path: Path, key: KeyPair) -> None:
    found = make(open_machine(tmp_path, "one"))
    with pytest.raises(StoreError, match="is not signed"):
        open_reader(tmp_path, "two", key).verify(found)


def test_who_only_reads_asks_for_the_record_again_after_a_file_was_missing(tmp_path: Path, key: KeyPair) -> None:
    made = str(walk(open_signer(tmp_path, "one", key), tmp_path)[0].key)
    walk(open_reader(tmp_path, "two", key), tmp_path)
    for path in (tmp_path / "bucket" / "objects").iterdir():
        path.unlink()
    (tmp_path / "bucket" / "records" / f"{made}.json").unlink()
    reader = open_reader(tmp_path, "two", key)
    with pytest.raises(StoreError, match="is missing"):
        reader.verify(find(reader, made))
    assert reader.find(Number, made) is None


def test_who_only_reads_deletes_no_record_of_a_damaged_file(tmp_path: Path, key: KeyPair) -> None:
    record = open_signer(tmp_path, "one", key).history(make(open_signer(tmp_path, "one", key)).key)
    (tmp_path / "bucket" / "objects" / record["files"]["value.json"][2]).write_text("9")
    reader = open_reader(tmp_path, "two", key)
    with pytest.raises(StoreError, match="a machine that publishes"):
        reader.verify(find(reader))
    assert (tmp_path / "bucket" / "records" / f"{KEY}.json").exists()


def test_no_private_key_is_in_what_is_written_or_shown(tmp_path: Path, key: KeyPair) -> None:
    store = open_signer(tmp_path, "one", key)
    walk(store, tmp_path)
    secret = key.private.read_text().splitlines()[1]
    assert secret not in repr(store.trust)
    written = [path for folder in ("one", "bucket") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert not [path for path in written if secret.encode() in path.read_bytes()]


def test_keys_that_cannot_be_used_are_mistakes_of_the_command(tmp_path: Path, key: KeyPair, stranger: KeyPair) -> None:
    url = (tmp_path / "bucket").as_uri()
    for trusted, private, named in (
        (key.private, None, "private key, which belongs to the signer alone"),
        (tmp_path / "none.pem", None, "cannot be read"),
        (None, key.public, "no private key"),
        (key.public, stranger.private, "would not take what it publishes itself"),
    ):
        with pytest.raises(RecipeError, match=named):
            open_store(url, tmp_path / "cache", trusted, private)
    for given in ((key.public, None), (None, key.private)):
        with pytest.raises(RecipeError, match=r"--store-.* out, or give --store a URL"):
            open_store(tmp_path / "store", None, *given)


@pytest.mark.parametrize("place", ["store", "file:///bucket"])
def test_a_key_in_the_place_of_its_file_is_not_repeated(place: str, key: KeyPair) -> None:
    for given in ((Path(key.private.read_text()), None), (None, Path(key.private.read_text()))):
        with pytest.raises(RecipeError, match="the name of its file belongs") as raised:
            open_store(place, None, *given)
        assert key.private.read_text().splitlines()[1] not in str(raised.value)
