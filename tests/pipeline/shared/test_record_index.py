"""Many records are read in few requests, and none is shown that the store does not have."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from attar.pipeline.core.errors import StoreError
from attar.pipeline.shared import record_index, remote_files
from attar.pipeline.shared.record_index import IndexedRecord, RecordIndex, decode_index, encode_index, is_content_of
from attar.pipeline.shared.remote_files import RemoteFile, RemoteFiles

MOST = 10**6


class CountedFiles(RemoteFiles):
    """Notes which files are read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []

    def read(self, path: str, most: int = remote_files.MOST_BYTES) -> bytes | None:
        self.asked.append(path)
        return super().read(path, most)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_index, "FEW", 2)


def open_index(folder: Path, name: str) -> tuple[CountedFiles, RecordIndex]:
    files = CountedFiles((folder / "bucket").as_uri())
    return files, RecordIndex(files, folder / name / "records.json")


def publish(folder: Path, *numbers: int) -> dict[str, bytes]:
    files, texts = RemoteFiles((folder / "bucket").as_uri()), {str(number): f"text {number}".encode() for number in numbers}
    for key, text in texts.items():
        files.write(f"records/{key}.json", text)
    return texts


def list_indices(folder: Path) -> list[Path]:
    return sorted((folder / "bucket" / "index").glob("*"))


def test_the_first_machine_reads_records_the_second_an_index_and_a_second_listing_nothing(tmp_path: Path) -> None:
    texts = publish(tmp_path, *range(5))
    files, index = open_index(tmp_path, "one")
    assert index.read_records() == texts
    assert len(files.asked) == 5
    (shared,) = list_indices(tmp_path)
    files, index = open_index(tmp_path, "two")
    assert index.read_records() == texts
    assert files.asked == [f"index/{shared.name}"]
    assert index.read_records() == texts
    assert len(files.asked) == 1
    assert open_index(tmp_path, "two")[1].read_records() == texts


def test_new_records_are_added_and_few_of_them_make_no_index(tmp_path: Path) -> None:
    texts = publish(tmp_path, *range(5))
    files, index = open_index(tmp_path, "one")
    index.read_records()
    files.asked.clear()
    texts |= publish(tmp_path, 5, 6)
    assert index.read_records() == texts
    assert sorted(files.asked) == ["records/5.json", "records/6.json"]
    assert len(list_indices(tmp_path)) == 1
    texts |= publish(tmp_path, 7, 8, 9)
    files, index = open_index(tmp_path, "two")
    assert index.read_records() == texts
    assert len([path for path in files.asked if path.startswith("records/")]) == 5
    assert len(list_indices(tmp_path)) == 2


def test_a_record_that_was_replaced_or_deleted_is_not_taken_from_an_index(tmp_path: Path) -> None:
    texts = publish(tmp_path, *range(5))
    _, index = open_index(tmp_path, "one")
    index.read_records()
    (tmp_path / "bucket" / "records" / "0.json").write_bytes(b"another of 17 bytes")
    (tmp_path / "bucket" / "records" / "1.json").unlink()
    expected = {**texts, "0": b"another of 17 bytes"}
    del expected["1"]
    assert index.read_records() == expected
    assert open_index(tmp_path, "two")[1].read_records() == expected


@pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: b"x" + content, lambda _: b""])
def test_a_damaged_index_is_as_if_it_were_not_there(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    texts = publish(tmp_path, *range(5))
    open_index(tmp_path, "one")[1].read_records()
    for path in (*list_indices(tmp_path), tmp_path / "one" / "records.json"):
        path.write_bytes(harm(path.read_bytes()))
    for name in ("one", "two"):
        assert open_index(tmp_path, name)[1].read_records() == texts


def test_an_index_that_invents_a_record_or_its_text_is_not_believed() -> None:
    text = '{"slot": "teacher"}'
    tag = f'"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"'
    file = RemoteFile("a.json", len(text), datetime.now(UTC), tag)
    assert is_content_of(file, IndexedRecord(tag, text))
    assert not is_content_of(file, IndexedRecord(tag, '{"slot": "student"}'))
    assert not is_content_of(replace(file, size=1), IndexedRecord(tag, text))
    assert not is_content_of(replace(file, tag='"0"'), IndexedRecord(tag, text))
    assert is_content_of(replace(file, tag='"0x8D"'), IndexedRecord('"0x8D"', text))
    assert record_index.select_current({"b": IndexedRecord(tag, text)}, {"a": file}) == {}


def test_an_index_of_another_form_has_no_records() -> None:
    records = {"a": IndexedRecord("1", "text")}
    assert decode_index(encode_index(records), MOST) == records
    for content in (b"", b"[]", zlib.compress(b"[]"), zlib.compress(b'{"a": 1}'), zlib.compress(b"\xff")):
        assert decode_index(content, MOST) == {}


def test_who_may_only_read_lists_without_adding_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = publish(tmp_path, *range(5))
    files, index = open_index(tmp_path, "one")

    def refuse(path: str, content: bytes) -> None:
        raise StoreError("the server refuses these credentials")

    monkeypatch.setattr(files, "write", refuse)
    assert index.read_records() == texts
    assert list_indices(tmp_path) == []


def test_who_publishes_nothing_adds_no_index(tmp_path: Path) -> None:
    texts = publish(tmp_path, *range(5))
    files, _ = open_index(tmp_path, "one")
    assert RecordIndex(files, tmp_path / "records.index", adds=False).read_records() == texts
    assert list_indices(tmp_path) == []


def test_of_an_index_that_is_too_large_nothing_is_unpacked_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encode_index({"a": IndexedRecord("1", "0" * 1000)})
    assert decode_index(bomb, len(bomb)) == {}
    most = record_index.TIMES * sum(map(len, publish(tmp_path, *range(5)).values())) + 10
    monkeypatch.setattr(record_index, "SPARE", 10)
    files, index = open_index(tmp_path, "one")
    for size in (most, most + 1):
        files.write(f"index/{size}", bytes(size))
    index.read_records()
    assert f"index/{most}" in files.asked
    assert f"index/{most + 1}" not in files.asked


def test_compaction_leaves_one_index_of_what_is_there(tmp_path: Path) -> None:
    publish(tmp_path, *range(5))
    open_index(tmp_path, "one")[1].read_records()
    publish(tmp_path, *range(5, 10))
    _, index = open_index(tmp_path, "two")
    index.read_records()
    (tmp_path / "bucket" / "records" / "0.json").unlink()
    index.compact()
    (shared,) = list_indices(tmp_path)
    assert decode_index(shared.read_bytes(), MOST).keys() == {str(number) for number in range(1, 10)}
    for path in (tmp_path / "bucket" / "records").iterdir():
        path.unlink()
    index.compact()
    assert list_indices(tmp_path) == []
