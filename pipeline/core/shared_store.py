"""A store that machines share: a bucket holds what any of them made, a folder is its cache here.

records/KEY.json      what is said of an artifact, see ``published_records``
index/SHA256          many of these records in one file, see ``record_index``
objects/SHA256        the files of all artifacts, each content once
recipes/              the keys that each recipe used last, so that `attar gc` keeps them
cluster/              what a search and its nodes tell each other while it runs

In the cache, ``remote/URL-DIGEST/`` holds the publications that this machine has seen, so a run in
which nothing changed asks the server nothing. Files are fetched when a stage reads them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.pipeline.core.disk import encode_json, explain_disk_errors
from attar.pipeline.core.errors import CorruptArtifactError, RecipeError
from attar.pipeline.core.publication import Entry, Publication
from attar.pipeline.core.published_records import PublishedRecords
from attar.pipeline.core.remote_files import RemoteFiles, is_url, run_parallel
from attar.pipeline.core.shared_garbage import find_garbage, object_path
from attar.pipeline.core.stage import A, Artifact
from attar.pipeline.core.store import Store
from attar.pipeline.core.store_format import STORE_VERSION


def open_store(place: str | Path, cache: Path | None = None) -> Store:
    """Open the store in a folder or, with its cache in the folder ``cache``, at a URL.

    Raises RecipeError for a wrong URL, and for a cache of a folder.
    """
    if is_url(str(place)):
        return SharedStore(cache or Path(".attar"), str(place))
    if cache is not None:
        raise RecipeError(f"--cache {cache} is of use only with a store at a URL; got {place}")
    return Store(Path(place))


class SharedStore(Store):
    """The store at ``url`` with its cache in ``root``.

    Of two machines that make the same artifact, the first to publish it wins, and the other takes
    what it published. No machine waits for another.
    """

    def __init__(self, root: Path, url: str) -> None:
        super().__init__(root)
        self.remote = RemoteFiles(url)
        self.seen = f"remote/{hashlib.sha256(self.remote.url.encode()).hexdigest()[:16]}"
        self.published = PublishedRecords(self.remote, self.root / self.seen)

    def find(self, kind: type[A], key: str) -> A | None:
        """Return the finished artifact of this machine or of another. The files of the latter are
        fetched by `verify`."""
        try:
            if super().record(key) is not None:
                return super().find(kind, key)
        except CorruptArtifactError:
            if self.published.find(key) is None:
                raise
        made = self.published.find(key)
        if made is None:
            return None
        return kind.create(key, made.digest, self.folder(key), made.facts)

    def record(self, key: str) -> dict[str, Any] | None:
        record = super().record(key)
        if record is None and (made := self.published.find(key)) is not None:
            return made.record
        return record

    def read_facts(self, key: str) -> dict[str, Any]:
        made = None if self.folder(key).exists() else self.published.find(key)
        return super().read_facts(key) if made is None else made.facts

    def fetch(self, key: str) -> None:
        """Fetch an artifact's files unless they are here. Raises CorruptArtifactError."""
        if not self._is_here(key):
            self._download(key, anew=False)

    def _is_here(self, key: str) -> bool:
        try:
            return super().record(key) is not None and super().find(Artifact, key) is not None
        except CorruptArtifactError:
            return False

    def verify(self, artifact: Artifact) -> None:
        """Fetch files that are not here or are damaged, and compare every byte."""
        self.fetch(artifact.key)
        try:
            super().verify(artifact)
        except CorruptArtifactError:
            made = self.published.find(artifact.key)
            if made is None or made.digest != artifact.digest:
                raise
            self._download(artifact.key, anew=True)

    def _download(self, key: str, *, anew: bool) -> None:
        made = self.published.find(key)
        if made is None:
            raise CorruptArtifactError(f"{key[:12]} is gone from {self.root} and {self.remote.url}")
        work = self.root / "work" / key
        with self._lock(key, lambda: None), explain_disk_errors(self.root):
            if not anew and self._is_here(key):  # another process fetched it meanwhile
                return
            folder = work / "fetched"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            run_parallel(lambda name: self._fetch_file(key, made, folder, name), list(made.files))
            (folder / "record.json").write_text(encode_json(made.record, 1), encoding="utf-8")
            super().discard(key)
            self.folder(key).parent.mkdir(parents=True, exist_ok=True)
            folder.rename(self.folder(key))
            shutil.rmtree(work, ignore_errors=True)

    def _fetch_file(self, key: str, made: Publication, folder: Path, name: str) -> None:
        size, mtime, digest = made.record["files"][name]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        got = self.remote.download(object_path(digest), path)
        if got != digest:
            self._withdraw(key, digest)
            state = "is missing" if got is None else f"has another digest than its {size} bytes had"
            raise CorruptArtifactError(
                f"{name} of {made.record['slot']} {key[:12]} {state} in {self.remote.url}; its "
                "record there is deleted, so the same command makes it anew"
            )
        path.chmod(0o444)
        os.utime(path, ns=(mtime, mtime))

    def _withdraw(self, key: str, digest: str) -> None:
        """Delete the record of a damaged artifact, and the damaged file."""
        self.published.delete([key])
        self.remote.delete([object_path(digest)])

    def share(self, kind: type[A], artifact: A) -> A:
        """Publish an artifact unless its key is published. Return the published one."""
        key = artifact.key
        if self.published.is_noted(key):
            return artifact
        made = self.published.find_sound(key) or self._publish(artifact)
        if made.digest != artifact.digest:  # another machine was first
            super().discard(key)
        self.published.note(made)
        return kind.create(key, made.digest, self.folder(key), made.facts)

    def _publish(self, artifact: Artifact) -> Publication:
        super().verify(artifact)
        record = self.history(artifact.key)
        made = Publication(store=STORE_VERSION, record=record, facts=self.read_facts(artifact.key))
        paths = {digest: artifact.root / name for name, digest in made.files.items()}
        run_parallel(lambda digest: self._send_file(digest, paths[digest]), list(paths))
        if self.published.add(made):
            return made
        first = self.published.find_sound(artifact.key)
        if first is None:  # it is damaged
            self.published.delete([artifact.key])
            return self._publish(artifact)
        return first

    def _send_file(self, digest: str, path: Path) -> None:
        if not self.remote.has(object_path(digest)):
            self.remote.write(object_path(digest), path)

    def discard(self, key: str) -> None:
        """Delete an artifact here, and ask the server anew when it is needed."""
        super().discard(key)
        self.published.forget(key)

    def write_note(self, name: str, value: Any) -> None:
        """Write a note here; the keys that a recipe used last are published too."""
        super().write_note(name, value)
        sent = f"{self.seen}/{name}"
        if name.startswith("recipes/") and self.read_note(sent) != value:
            self.remote.write(name, encode_json(value).encode())
            super().write_note(sent, value)

    def entries(self) -> list[Entry]:
        """Return every artifact here and in the shared store, newest first."""
        entries = {entry.key: entry for entry in self.list_local()}
        for key, made in self.published.read_all().items():
            if made is not None and key not in entries:
                entries[key] = Entry(key, self.folder(key), made.record)
        return sorted(
            entries.values(), key=lambda entry: str(entry.record["made"]["date"]), reverse=True
        )

    def match(self, prefix: str) -> Entry:
        here = [entry for entry in self.list_local() if entry.key.startswith(prefix)]
        return here[0] if len(here) == 1 else super().match(prefix)

    def collect(self, *, dry_run: bool) -> Iterator[tuple[str, int]]:
        """Collect here as `Store` does. In the shared store delete what no recipe of any machine
        used last, older than a day."""
        yield from super().collect(dry_run=dry_run)
        garbage = find_garbage(self.published, self.used())
        yield from garbage.describe()
        if not dry_run:
            garbage.delete_from(self.published)
            self.published.forget_all_but(self.used())
