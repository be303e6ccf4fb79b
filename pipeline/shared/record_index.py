"""The records of a shared store, read in few requests: a listing names them, an index has their
texts.

index/SHA256          in the shared store: records, compressed; who had to read many adds one
listing/records.json  in the cache: the records that this machine listed last

An index only saves requests. What it says of a record counts if the listing names the same record:
its tag, its size and, where the server's tags are MD5 sums, as those of S3 are, its sum. All other
records are read themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from attar.pipeline.core.disk import explain_disk_errors, replace_file
from attar.pipeline.core.errors import StoreError
from attar.pipeline.shared.remote_files import MOST_BYTES, RemoteFile, RemoteFiles

FEW = 50
"""So many records are read one by one; of more, an index is looked for, and added."""
FOLDER = "index"
TIMES, SPARE = 4, 2**20
"""An index is of at most so many times the bytes of the records that are listed, and so many more.
Of a larger one nothing is read: who may write may add anything."""


@dataclass(frozen=True)
class IndexedRecord:
    tag: str
    """The server's name for this content of the record's file."""
    text: str


RECORDS = TypeAdapter(dict[str, IndexedRecord])
Records = dict[str, IndexedRecord]
"""Records by their keys."""


class RecordIndex:
    """``file`` is the index in the cache. ``adds``: whether a listing may add one to the store."""

    def __init__(self, remote: RemoteFiles, file: Path, *, adds: bool = True) -> None:
        self.remote, self.file, self.adds = remote, file, adds

    def read_records(self) -> dict[str, bytes]:
        """Return the texts of all published records, by their keys. Raises StoreError."""
        records = self._read_current()
        return {key: record.text.encode() for key, record in records.items()}

    def _read_current(self) -> Records:
        files = {Path(file.name).stem: file for file in self.remote.list("records")}
        kept = self._read_local()
        known = select_current(kept, files)
        if len(files) - len(known) > FEW:
            known |= self._read_shared(files)
        read = self._read_one_by_one({key: files[key] for key in files.keys() - known.keys()})
        if self.adds and len(read) > FEW:
            self._share(read)
        if (current := known | read) != kept:
            with explain_disk_errors(self.file.parent):
                replace_file(self.file, RECORDS.dump_json(current))
        return current

    def _read_one_by_one(self, files: Mapping[str, RemoteFile]) -> Records:
        """Read records. One that is deleted or replaced meanwhile is as if it were listed later.
        One that is larger than any of attar's is not read, and as if it were empty: damaged."""
        small = {key: file for key, file in files.items() if file.size <= MOST_BYTES}
        texts = self.remote.read_all([f"records/{key}.json" for key in small])
        read = {
            key: IndexedRecord(file.tag, text.decode(errors="replace"))
            for (key, file), text in zip(small.items(), texts, strict=True)
            if text is not None
        }
        large = files.keys() - small.keys()
        return read | {key: IndexedRecord(files[key].tag, "") for key in large}

    def _read_local(self) -> Records:
        try:
            return parse_records(self.file.read_bytes())
        except FileNotFoundError:
            return {}

    def _read_shared(self, files: Mapping[str, RemoteFile]) -> Records:
        """Return what the indices have of these files."""
        listed = sum(file.size for file in files.values() if file.size <= MOST_BYTES)
        most = TIMES * listed + SPARE
        names = [file.name for file in self.remote.list(FOLDER) if file.size <= most]
        contents = self.remote.read_all([f"{FOLDER}/{name}" for name in names], most)
        records: Records = {}
        for name, content in zip(names, contents, strict=True):
            if content is not None and hashlib.sha256(content).hexdigest() == name:
                records |= select_current(decode_index(content, most), files)
        return records

    def _share(self, records: Records) -> None:
        with contextlib.suppress(StoreError):  # who may only read goes on without
            self._add(records)

    def _add(self, records: Records) -> str:
        """Add an index to the shared store. Return its name, its content's SHA-256."""
        content = encode_index(records)
        name = hashlib.sha256(content).hexdigest()
        self.remote.write(f"{FOLDER}/{name}", content)  # in place of one that was damaged
        return name

    def compact(self) -> None:
        """Leave one index in the shared store, of the records that are there. Raises StoreError."""
        records = self._read_current()
        names = {file.name for file in self.remote.list(FOLDER)}
        kept = {self._add(records)} if len(records) > FEW else set()
        self.remote.delete([f"{FOLDER}/{name}" for name in sorted(names - kept)])


def encode_index(records: Records) -> bytes:
    return zlib.compress(RECORDS.dump_json(dict(sorted(records.items()))), 1)


def decode_index(content: bytes, most: int) -> Records:
    """Return the records of an index; none of one that is damaged, or of more than ``most`` bytes:
    it only saves requests."""
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(content, most)
    except zlib.error:
        return {}
    return parse_records(text) if unpacker.eof else {}


def parse_records(content: bytes) -> Records:
    """Return the records in JSON; none if it is damaged."""
    try:
        return RECORDS.validate_json(content)
    except ValueError:
        return {}


def select_current(records: Records, files: Mapping[str, RemoteFile]) -> Records:
    """Return the records that are those of the listed files."""
    return {
        key: record
        for key, record in records.items()
        if key in files and is_content_of(files[key], record)
    }


def is_content_of(file: RemoteFile, record: IndexedRecord) -> bool:
    """Whether the record is what the listed file holds, as far as the listing tells."""
    text, tag = record.text.encode(), file.tag.strip('"')
    if record.tag != file.tag or len(text) != file.size:
        return False
    is_sum = re.fullmatch(r"[0-9a-f]{32}", tag) is not None
    return not is_sum or hashlib.md5(text, usedforsecurity=False).hexdigest() == tag
