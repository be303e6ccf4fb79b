"""The store: finished artifacts on disk, one read-only folder each, named by their key.

artifacts/KEY/   payload, facts.json (content) and record.json (its making, the only place of times)
work/KEY/        unfinished work, resumed by the same key
kept/KEY/        files that several artifacts share by links, see ``file_cache``
locks/KEY.lock   held while KEY is made, so that two processes share a store
recipes/, data/, code.json   notes of the planner
format.json      the version of this layout, see ``format``
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attar.pipeline.core.disk import (
    compute_digest,
    encode_json,
    explain_disk_errors,
    lock_folder,
    measure_size,
    read_json,
    replace_file,
)
from attar.pipeline.core.errors import CorruptArtifactError, UnknownKeyError
from attar.pipeline.core.stage import A, Artifact, Facts
from attar.pipeline.store.entry import Entry, Recorded
from attar.pipeline.store.format import FORMAT_FILE, STORE_VERSION, check_store_version
from attar.pipeline.store.used_keys import read_used_keys

NOT_PAYLOAD = ("facts.json", "record.json")
KEPT = "kept.txt"
"""A file beside an unfinished payload; it names the folder of files that stages share."""


class Store:
    """Raises StoreError if the disk fails, or if a newer attar wrote the store."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        check_store_version(self.root)

    def folder(self, key: str) -> Path:
        return self.root / "artifacts" / key

    def find(self, kind: type[A], key: str) -> A | None:
        """Return the finished artifact, or None if it was never made. Its files are checked by size
        and mtime. Raises CorruptArtifactError."""
        record = self.record(key)
        if record is None:
            return None
        root = self.folder(key)
        for name, (size, mtime, digest) in record["files"].items():
            path = root / name
            if not path.is_file():
                raise CorruptArtifactError(f"{name} is missing from {root}")
            stat = path.stat()
            if (stat.st_size, stat.st_mtime_ns) != (size, mtime) and compute_digest(path) != digest:
                raise CorruptArtifactError(f"{name} in {root} was changed after it was made")
        return kind.create(key, record["digest"], root, self.read_facts(key))

    def read_facts(self, key: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder(key) / "facts.json").read_bytes())
        return facts

    def share(self, kind: type[A], artifact: A) -> A:
        """Offer a finished artifact to other machines; a `SharedStore` does. Returns the one to go
        on with."""
        return artifact

    def explain_distrust(self, key: str) -> str | None:
        """Return why an artifact that is there is not taken; a `SharedStore` may trust nobody in
        it."""
        return None

    def fetch(self, key: str) -> None:
        """Have an artifact's files at hand; a `SharedStore` fetches them."""

    def fetch_files(self, root: Path, pattern: str) -> None:
        """Have files of the artifact in ``root`` at hand, see ``file_fetching``; a `SharedStore`
        fetches them."""

    def verify(self, artifact: Artifact) -> None:
        """Read and compare every byte. Raises CorruptArtifactError."""
        for name, (_, _, digest) in self.history(artifact.key)["files"].items():
            try:
                found = compute_digest(artifact.root / name)
            except FileNotFoundError as error:
                raise CorruptArtifactError(f"{name} is missing from {artifact.root}") from error
            if found != digest:
                raise CorruptArtifactError(
                    f"{name} in {artifact.root} was changed after it was made"
                )

    def record(self, key: str) -> dict[str, Any] | None:
        path = self.folder(key) / "record.json"
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            Recorded.model_validate(record)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise CorruptArtifactError(f"{path} is not the record of an artifact") from error
        return record

    def history(self, key: str) -> dict[str, Any]:
        """Return the record of an existing artifact. Raises CorruptArtifactError if it is gone."""
        record = self.record(key)
        if record is None:
            raise CorruptArtifactError(f"{self.folder(key)} is gone")
        return record

    @contextmanager
    def making(
        self, key: str, waiting: Callable[[], None], shared: str | None = None
    ) -> Iterator[Path]:
        """Hold the lock on ``key`` and yield an empty ``payload`` folder. Calls ``waiting`` if
        another process holds the lock.

        ``shared`` is a second key, locked too, under which the stage shares files with others (see
        ``file_cache``).
        """
        payload = self.root / "work" / key / "payload"
        with contextlib.ExitStack() as locks:
            for locked in [key, shared] if shared else [key]:
                locks.enter_context(self._lock(locked, waiting))
            try:
                with explain_disk_errors(self.root):
                    shutil.rmtree(payload, ignore_errors=True)
                    payload.mkdir(parents=True)
                    if shared:
                        (payload.parent / KEPT).write_text(
                            str(self.root / "kept" / shared), encoding="utf-8"
                        )
                yield payload
            finally:
                shutil.rmtree(payload, ignore_errors=True)

    @contextmanager
    def _lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        from filelock import FileLock, Timeout

        with explain_disk_errors(self.root):
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / "locks" / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                waiting()
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def commit(
        self, kind: type[A], payload: Path, key: str, facts: Facts, record: Mapping[str, Any]
    ) -> A:
        """Turn a payload into the artifact ``key``. An interrupted process leaves all of it or
        nothing."""
        with explain_disk_errors(self.root):
            (payload / "facts.json").write_text(encode_json(facts, indent=1), encoding="utf-8")
            files = {}
            for path in sorted(p for p in payload.rglob("*") if p.is_file()):
                path.chmod(0o444)
                stat = path.stat()
                files[path.relative_to(payload).as_posix()] = (
                    stat.st_size,
                    stat.st_mtime_ns,
                    compute_digest(path),
                )
            content = {name: digest for name, (_, _, digest) in files.items()}
            digest = hashlib.sha256(encode_json(content).encode()).hexdigest()
            whole = {"key": key, "digest": digest, "files": files, **record}
            (payload / "record.json").write_text(encode_json(whole, indent=1), encoding="utf-8")
            self.discard(key)
            self.folder(key).parent.mkdir(parents=True, exist_ok=True)
            payload.rename(self.folder(key))
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        return kind.create(key, digest, self.folder(key), json.loads(encode_json(facts)))

    def forget(self, key: str, shared: str | None) -> None:
        """Delete unfinished work and shared files, since they may come from other code or data than
        the keys say."""
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        if shared:
            shutil.rmtree(self.root / "kept" / shared, ignore_errors=True)

    def discard(self, key: str) -> None:
        """Delete an artifact: it disappears at once, its files after that."""
        folder = self.folder(key)
        if folder.exists():
            doomed = self.root / "work" / f"{key}.discarded"
            doomed.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """Return every finished artifact, newest first."""
        return self.list_local()

    def list_local(self) -> list[Entry]:
        """Return the finished artifacts in this folder, newest first."""
        entries: list[Entry] = []
        for folder in (self.root / "artifacts").glob("*"):
            with contextlib.suppress(CorruptArtifactError):  # `collect` deletes it
                entries.append(Entry(folder.name, folder, self.history(folder.name)))
        return sorted(entries, key=lambda entry: str(entry.record["made"]["date"]), reverse=True)

    def damaged(self) -> list[Path]:
        """Return the folders of artifacts that have no readable record."""
        readable = {entry.root for entry in self.list_local()}
        return sorted({*(self.root / "artifacts").glob("*")} - readable)

    @contextmanager
    def in_use(self, *, alone: bool = False) -> Iterator[None]:
        """Share the store with other runs; with ``alone``, exclude them. Raises StoreError if that
        is not possible at once."""
        with explain_disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            self.write_note(FORMAT_FILE, {"store": STORE_VERSION})
        with lock_folder(self.root, alone=alone):
            yield

    def match(self, prefix: str) -> Entry:
        """Return the one artifact whose key starts with ``prefix``. Raises UnknownKeyError for none
        and for several."""
        matches = [entry for entry in self.entries() if entry.key.startswith(prefix)]
        if len(matches) != 1:
            what = f"{len(matches)} artifacts" if matches else "no artifact"
            raise UnknownKeyError(
                f"{what} in {self.root} with a key that starts with {prefix!r}; `attar ls` lists "
                "them"
            )
        return matches[0]

    def used(self) -> set[str]:
        """Return the keys that a recipe used last. Raises StoreError if a note of them is damaged:
        here it does more than save time."""
        paths = (self.root / "recipes").glob("*.json")
        notes = {f"recipes/{path.name}": path.read_bytes() for path in paths}
        return read_used_keys(notes, str(self.root))

    def collect(self, *, dry_run: bool) -> Iterator[tuple[str, int]]:
        """Delete artifacts that no recipe used last, and damaged, shared and unfinished files that
        nothing needs. Yields a description and the bytes of each.

        Raises StoreError during a run: no recipe lists yet what it has just made. So it does where
        nothing can be deleted.
        """
        with self.in_use(alone=True), explain_disk_errors(self.root):
            used = self.used()
            for entry in self.list_local():
                if entry.key not in used:
                    yield f"{entry.record['slot']} {entry.key[:12]}", entry.bytes
                    if not dry_run:
                        self.discard(entry.key)
            for folder in [*self.damaged(), *sorted((self.root / "work").glob("*"))]:
                state = "damaged" if folder.parent.name == "artifacts" else "unfinished"
                yield f"{state} {folder.name[:12]}", measure_size(folder)
                if not dry_run:
                    shutil.rmtree(folder)
            yield from self._collect_kept(used, dry_run=dry_run)

    def _collect_kept(self, used: set[str], *, dry_run: bool) -> Iterator[tuple[str, int]]:
        """Delete shared files whose bytes are in no used artifact."""
        kept = [entry for entry in self.list_local() if entry.key in used]
        listed = [entry.record["files"].values() for entry in kept]
        needed = {digest for files in listed for _, _, digest in files}
        for folder in sorted((self.root / "kept").glob("*")):
            doomed = [
                path for path in folder.iterdir() if path.name.rpartition(".")[2] not in needed
            ]
            sizes = [size for path in doomed if (size := path.stat().st_size)]
            if sizes:  # notes are empty
                yield f"{len(sizes)} kept in {folder.name[:12]}", sum(sizes)
            if not dry_run:
                for path in doomed:
                    path.unlink()
                if not any(folder.iterdir()):
                    folder.rmdir()

    def read_note(self, name: str) -> Any:
        """Return a note of the planner; None if it is missing or damaged: notes only save time."""
        return read_json(self.root / name)

    def write_note(self, name: str, value: Any) -> None:
        if self.read_note(name) == value:
            return
        with explain_disk_errors(self.root):
            replace_file(self.root / name, encode_json(value).encode())
