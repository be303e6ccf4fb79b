"""A store that machines share: a bucket holds what any of them made, a folder is its cache here.

records/KEY.json      what is said of an artifact, see ``records``
index/SHA256          many of these records in one file, see ``record_index``
objects/SHA256        the files of all artifacts, each content once
recipes/              the keys that each recipe used last, so that `attar gc` keeps them
cluster/              what a search and its nodes tell each other while it runs

In the cache, ``remote/URL-DIGEST/`` holds the publications that this machine has seen, so a run in
which nothing changed asks the server nothing. Files are fetched when a stage reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.pipeline.core.disk import encode_json, explain_disk_errors
from attar.pipeline.core.errors import CorruptArtifactError, RecipeError, UnknownKeyError
from attar.pipeline.core.signing_keys import check_is_file_name
from attar.pipeline.core.stage import A, Artifact, Facts
from attar.pipeline.shared.garbage import find_garbage, tidy_cache
from attar.pipeline.shared.objects import FETCHED, PARTS, SharedObjects
from attar.pipeline.shared.publication import Publication
from attar.pipeline.shared.record_trust import RecordTrust
from attar.pipeline.shared.records import PublishedRecords
from attar.pipeline.shared.remote_files import RemoteFiles, is_url
from attar.pipeline.store.entry import Entry
from attar.pipeline.store.format import STORE_VERSION
from attar.pipeline.store.store import Store

NO_KEYS = RecordTrust()


def open_store(
    place: str | Path,
    cache: Path | None = None,
    trusted: Path | None = None,
    private: Path | None = None,
) -> Store:
    """Open the store in a folder or, with its cache in the folder ``cache``, at a URL.

    ``trusted`` and ``private`` are files of keys, see `RecordTrust`. Raises RecipeError for a wrong
    URL or key, and for a cache or keys of a folder.
    """
    for file in (trusted, private):
        check_is_file_name(file)
    if is_url(str(place)):
        trust = RecordTrust.read(trusted, private)
        return SharedStore(cache or Path(".attar"), str(place), trust)
    given = {"--cache": cache, "--store-trusted": trusted, "--store-key": private}
    for option, value in given.items():
        if value is not None:
            raise RecipeError(
                f"{option} {value} is of use only with a store at a URL, and the store is {place}; "
                "leave it (or its variable) out, or give --store a URL"
            )
    return Store(Path(place))


class SharedStore(Store):
    """The store at ``url`` with its cache in ``root``.

    Of two machines that make the same artifact, the first to publish it wins, and the other takes
    what it published. No machine waits for another. A record that ``trust`` does not accept is as
    if it were not there.
    """

    def __init__(self, root: Path, url: str, trust: RecordTrust = NO_KEYS) -> None:
        super().__init__(root)
        self.remote, self.trust = RemoteFiles(url), trust
        self.seen = f"remote/{hashlib.sha256(self.remote.url.encode()).hexdigest()[:16]}"
        self.published = PublishedRecords(self.remote, self.root / self.seen, trust)
        self.objects = SharedObjects(self.published, deletes=trust.publishes)
        self.fetched: set[tuple[str, str, str]] = set()

    def find_published(self, key: str) -> Publication | None:
        """Return what the shared store says of an artifact, if it is accepted. Raises
        CorruptArtifactError."""
        return self.published.find_accepted(key)

    def explain_distrust(self, key: str) -> str | None:
        return self.published.explain_distrust(key)

    def find(self, kind: type[A], key: str) -> A | None:
        """Return the finished artifact of this machine or of another. The files of the latter are
        fetched by `verify`."""
        try:
            if self._has_own(key):
                return super().find(kind, key)
        except CorruptArtifactError:
            if self.find_published(key) is None:
                raise
        made = self.find_published(key)
        return None if made is None else self._point_to(kind, made)

    def _point_to(self, kind: type[A], made: Publication) -> A:
        """Return a published artifact, whose files are fetched later."""
        root = self._part(made.key) if kind.fetched_by_file else self.folder(made.key)
        return kind.create(made.key, made.digest, root, made.facts)

    def _has_own(self, key: str) -> bool:
        """Whether an artifact is here that was made here, or fetched by a record that is accepted.
        Raises CorruptArtifactError."""
        if self.trust.trusted is None or not self._mark(key).exists():
            return (self.folder(key) / "record.json").is_file()
        made, record = self.find_published(key), super().record(key)
        return made is not None and record is not None and made.digest == record["digest"]

    def _mark(self, key: str) -> Path:
        """Return the file that says that an artifact here was fetched."""
        return self.root / FETCHED / f"{key}.json"

    def record(self, key: str) -> dict[str, Any] | None:
        if self._has_own(key):
            return super().record(key)
        made = self.find_published(key)
        return None if made is None else made.record

    def read_facts(self, key: str) -> dict[str, Any]:
        made = None if self._has_own(key) else self.find_published(key)
        return super().read_facts(key) if made is None else made.facts

    def fetch(self, key: str) -> None:
        """Fetch an artifact's files unless they are here. Raises CorruptArtifactError."""
        if not self._is_here(key):
            self._download(key, anew=False)

    def _is_here(self, key: str) -> bool:
        try:
            return self._has_own(key) and super().find(Artifact, key) is not None
        except CorruptArtifactError:
            return False

    def commit(
        self, kind: type[A], payload: Path, key: str, facts: Facts, record: Mapping[str, Any]
    ) -> A:
        made = super().commit(kind, payload, key, facts, record)
        self._mark(key).unlink(missing_ok=True)
        return made

    def verify(self, artifact: Artifact) -> None:
        """Fetch files that are not here or are damaged, and compare every byte.

        Files that are fetched one by one are verified when they are read, see `fetch_files`.
        """
        if artifact.root == self._part(artifact.key):
            return
        self.fetch(artifact.key)
        try:
            super().verify(artifact)
        except CorruptArtifactError:
            made = self.find_published(artifact.key)
            if made is None or made.digest != artifact.digest:
                raise
            self._download(artifact.key, anew=True)

    def fetch_files(self, root: Path, pattern: str) -> None:
        if root != self._part(root.name):
            return
        made = self._require_published(root.name)
        wanted = made.key, made.digest, pattern
        if wanted not in self.fetched:
            with explain_disk_errors(self.root):
                self.objects.fetch(made, root, pattern)
            self.fetched.add(wanted)

    def _part(self, key: str) -> Path:
        """Return the folder of an artifact of which only some files may be here."""
        return self.root / PARTS / key

    def _require_published(self, key: str) -> Publication:
        made = self.find_published(key)
        if made is None:
            gone = f"it is gone from {self.root} and {self.remote.url}"
            raise CorruptArtifactError(f"{key[:12]}: {self.explain_distrust(key) or gone}")
        return made

    def _download(self, key: str, *, anew: bool) -> None:
        made, work = self._require_published(key), self.root / "work" / key
        with self._lock(key, lambda: None), explain_disk_errors(self.root):
            if not anew and self._is_here(key):  # another process fetched it meanwhile
                return
            folder = work / "fetched"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in made.files:
                with contextlib.suppress(OSError):  # what cannot be linked is fetched
                    os.link(self._part(key) / name, folder / name)
            self.objects.fetch(made, folder)
            (folder / "record.json").write_text(encode_json(made.record, 1), encoding="utf-8")
            self.write_note(f"{FETCHED}/{key}.json", {"url": self.remote.url})
            super().discard(key)
            self.folder(key).parent.mkdir(parents=True, exist_ok=True)
            folder.rename(self.folder(key))
            shutil.rmtree(work, ignore_errors=True)

    def share(self, kind: type[A], artifact: A) -> A:
        """Publish an artifact unless its key is published. Return the published one.

        A machine that would not take its own record publishes nothing.
        """
        key = artifact.key
        if self.published.is_noted(key):
            noted = self.published.find_sound(key)
            if noted is not None and noted.digest == artifact.digest:
                return artifact
            self.published.forget(key)  # the artifact is another, so the store may have another
        made = self.published.find_sound(key)
        if made is None:
            if not self.trust.publishes:
                return artifact
            made = self._publish(artifact)
        self.published.note(made)
        if made.digest == artifact.digest:
            return artifact
        super().discard(key)  # another machine was first
        return self._point_to(kind, made)

    def _publish(self, artifact: Artifact) -> Publication:
        super().verify(artifact)
        record, facts = self.history(artifact.key), self.read_facts(artifact.key)
        made = self.trust.sign(Publication(store=STORE_VERSION, record=record, facts=facts))
        return self.objects.publish(made, artifact.root)

    def discard(self, key: str) -> None:
        """Delete an artifact here, and ask the server anew when it is needed."""
        super().discard(key)
        self.published.forget(key)

    def write_note(self, name: str, value: Any) -> None:
        """Write a note here; the keys that a recipe used last are published too."""
        super().write_note(name, value)
        sent = f"{self.seen}/{name}"
        is_told = name.startswith("recipes/") and self.trust.publishes
        if is_told and self.read_note(sent) != value:
            self.remote.write(name, encode_json(value).encode())
            super().write_note(sent, value)

    def entries(self) -> list[Entry]:
        """Return every artifact here and in the shared store, newest first."""
        entries = {entry.key: entry for entry in self.list_local()}
        for key, made in self.published.read_all().items():
            if made is None:
                continue
            here = entries.get(key)
            if here is None:
                distrust = self.trust.explain_distrust(made)
                entries[key] = Entry(key, self.folder(key), made.record, made.signer, distrust)
            elif here.record["digest"] == made.digest:
                entries[key] = replace(here, signer=made.signer)
        return sorted(
            entries.values(), key=lambda entry: str(entry.record["made"]["date"]), reverse=True
        )

    def match(self, prefix: str) -> Entry:
        here = [entry for entry in self.list_local() if entry.key.startswith(prefix)]
        entry = here[0] if len(here) == 1 else super().match(prefix)
        if entry.distrust:
            raise UnknownKeyError(
                f"the record of {entry.record['slot']} {entry.key[:12]} in {self.remote.url} "
                f"{entry.distrust}; have it signed, or name another"
            )
        return entry

    def collect(self, *, dry_run: bool) -> Iterator[tuple[str, int]]:
        """Collect here as `Store` does. In the shared store delete what no recipe of any machine
        used last, older than a day."""
        yield from super().collect(dry_run=dry_run)
        garbage = find_garbage(self.published, self.used())
        yield from garbage.describe()
        if not dry_run:
            garbage.delete_from(self.published)
            self.published.forget_all_but(self.used())
            with self.in_use(alone=True):
                tidy_cache(self.root, self.used())
