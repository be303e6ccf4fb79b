"""What nobody needs in a shared store, and its deletion."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attar.pipeline.shared.notes import MESSAGES, list_used
from attar.pipeline.shared.objects import FETCHED, PARTS, object_path
from attar.pipeline.shared.records import PublishedRecords
from attar.pipeline.shared.remote_files import RemoteFile

GRACE = timedelta(days=1)
"""What is younger stays: another machine may be about to publish or to use it."""


@dataclass(frozen=True)
class SharedGarbage:
    """Artifacts that no recipe of any machine used last, files of no artifact, and what killed
    searches left; all of it older than ``GRACE``."""

    doomed: Set[str]
    """The keys of those artifacts."""
    artifacts: list[tuple[str, int]]
    """What they are, and their bytes that no other artifact has."""
    objects: list[RemoteFile]
    orphans: list[RemoteFile]
    """Those of these objects that are of no artifact at all."""
    messages: list[RemoteFile]
    """What these searches and their nodes told each other."""

    def describe(self) -> Iterator[tuple[str, int]]:
        """Yield a description and the bytes of each."""
        yield from self.artifacts
        for files, what in (
            (self.orphans, "shared files of no artifact"),
            (self.messages, "files of searches that were killed"),
        ):
            if files:
                yield f"{len(files)} {what}", sum(file.size for file in files)

    def delete_from(self, published: PublishedRecords) -> None:
        published.delete(self.doomed)
        published.remote.delete([object_path(file.name) for file in self.objects])
        published.remote.delete([f"{MESSAGES}/{file.name}" for file in self.messages])
        published.index.compact()


def find_garbage(records: PublishedRecords, used_here: Set[str]) -> SharedGarbage:
    """``used_here``: the keys that a recipe of this machine used last. Raises StoreError."""
    remote, published = records.remote, records.read_all()
    doomed = {Path(file.name).stem for file in list_old(records, "records")}
    doomed -= used_here | list_used(remote)
    kept = [made for key, made in published.items() if made is not None and key not in doomed]
    needed = {digest for made in kept for digest in made.files.values()}
    objects = [file for file in list_old(records, "objects") if file.name not in needed]
    left = {file.name: file.size for file in objects}
    artifacts = []
    for key in sorted(doomed & published.keys()):
        made = published[key]
        digests = set() if made is None else {*made.files.values()}
        slot = "damaged" if made is None else made.record["slot"]
        signed = f", signed by {made.signer}" if made is not None and made.signer else ""
        size = sum(left.pop(digest, 0) for digest in digests)
        artifacts.append((f"shared {slot} {key[:12]}{signed}", size))
    orphans = [file for file in objects if file.name in left]
    return SharedGarbage(doomed, artifacts, objects, orphans, list_old(records, MESSAGES))


def list_old(records: PublishedRecords, folder: str) -> list[RemoteFile]:
    before = datetime.now(UTC) - GRACE
    return [file for file in records.remote.list(folder) if file.changed < before]


def tidy_cache(root: Path, used: Set[str]) -> None:
    """Delete what a cache notes of artifacts that are gone, and has in parts of those that no
    recipe of it used last or that it has whole."""
    whole = {folder.name for folder in (root / "artifacts").glob("*")}
    for mark in (root / FETCHED).glob("*.json"):
        if mark.stem not in whole:
            mark.unlink(missing_ok=True)
    for part in (root / PARTS).glob("*"):
        if part.name in whole or part.name not in used:
            shutil.rmtree(part, ignore_errors=True)
