"""The records of a shared store, and in the cache those that this machine has seen.

records/KEY.json   the `Publication` of an artifact; it is written last, and the first one stays
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from pathlib import Path

from attar.pipeline.core.disk import explain_disk_errors, read_json, replace_file
from attar.pipeline.core.errors import CorruptArtifactError, StoreError
from attar.pipeline.shared.publication import Publication, read_publication
from attar.pipeline.shared.record_index import RecordIndex
from attar.pipeline.shared.record_trust import RecordTrust
from attar.pipeline.shared.remote_files import RemoteFiles

ATTEMPTS = 5
"""To add a record or to replace one, while other machines do the same."""


class PublishedRecords:
    """``folder``, in the cache, notes the publications that this machine goes on with: of these
    the server is not asked again. ``trust`` says which are accepted."""

    def __init__(self, remote: RemoteFiles, folder: Path, trust: RecordTrust) -> None:
        self.remote, self.folder, self.trust = remote, folder, trust
        listing = folder / "listing" / "records.json"
        self.index = RecordIndex(remote, listing, adds=trust.publishes)
        self.known: dict[str, Publication] = {}

    def find(self, key: str) -> Publication | None:
        """Return what the shared store says of an artifact. Raises CorruptArtifactError."""
        if key not in self.known:
            noted = read_json(self._note(key))
            text = json.dumps(noted).encode() if noted else self.remote.read(record_path(key))
            if text is None:
                return None
            self.known[key] = read_publication(key, text, self.remote.url)
        return self.known[key]

    def find_accepted(self, key: str) -> Publication | None:
        """Return the same, if it is accepted. Raises CorruptArtifactError."""
        made = self.find(key)
        if made is None or self.trust.accepts(made):
            return made
        if not self.is_noted(key):
            return None
        self.forget(key)  # noted before keys were given: the store may have another now
        return self.find_accepted(key)

    def find_sound(self, key: str) -> Publication | None:
        """Return the same; None for a damaged record, too."""
        try:
            return self.find_accepted(key)
        except CorruptArtifactError:
            return None

    def explain_distrust(self, key: str) -> str | None:
        """Return why the record of an artifact is not accepted; None if it is, and without one."""
        if self.trust.trusted is None or self.find_sound(key) is not None:
            return None
        made = self.known.get(key)
        reason = None if made is None else self.trust.explain_distrust(made)
        return reason and f"its record in {self.remote.url} {reason}"

    def read_all(self) -> dict[str, Publication | None]:
        """Return what the shared store says now of all artifacts; None for a damaged record."""
        texts = self.index.read_records()
        found = {key: self._read_sound(key, text) for key, text in texts.items()}
        self.known |= {key: made for key, made in found.items() if made is not None}
        return found

    def _read_sound(self, key: str, text: bytes) -> Publication | None:
        try:
            return read_publication(key, text, self.remote.url)
        except CorruptArtifactError:
            return None

    def publish(self, made: Publication) -> Publication:
        """Publish a record unless one is accepted there. Return the published one.

        Of several machines that replace one that is damaged, or that nobody who is trusted signed,
        one does. Raises StoreError if it cannot be replaced.
        """
        path, text = record_path(made.key), made.encode()
        for _ in range(ATTEMPTS):
            self.forget(made.key)  # ask who was first, not what was known before
            if self.remote.add(path, text):
                break
            edition = self.remote.find_edition(path)  # before it is read: another may replace it
            first = self.find_sound(made.key)
            if first is not None:
                return first
            if edition is not None and self.remote.replace(path, text, edition):
                break
        else:
            raise StoreError(
                f"{path} in {self.remote.url} is not accepted and cannot be replaced; delete it "
                "there and run the same command again"
            )
        self.known[made.key] = made
        return made

    def withdraw(self, made: Publication) -> bool:
        """Delete a record that is still there. Return whether another has taken its place, which
        stays."""
        self.forget(made.key)  # which may be long gone there
        try:
            there = self.find(made.key)
        except CorruptArtifactError:
            return True
        if there is not None and there.digest != made.digest:
            return True
        self.delete([made.key])
        return False

    def delete(self, keys: Iterable[str]) -> None:
        self.remote.delete([record_path(key) for key in keys])
        for key in keys:
            self.forget(key)

    def is_noted(self, key: str) -> bool:
        return read_json(self._note(key)) is not None

    def note(self, made: Publication) -> None:
        with explain_disk_errors(self.folder):
            replace_file(self._note(made.key), made.encode())

    def forget(self, key: str) -> None:
        """Ask the server anew when this artifact is needed."""
        self.known.pop(key, None)
        self._note(key).unlink(missing_ok=True)

    def forget_all_but(self, used: Container[str]) -> None:
        for note in self.folder.glob("*.json"):
            if note.stem not in used:
                self.forget(note.stem)

    def _note(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def record_path(key: str) -> str:
    return f"records/{key}.json"
