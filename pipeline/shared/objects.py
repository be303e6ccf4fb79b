"""The files of the artifacts in a shared store: each content once, named by its SHA-256."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path

from attar.pipeline.core.disk import compute_digest
from attar.pipeline.core.errors import CorruptArtifactError
from attar.pipeline.shared.publication import Publication
from attar.pipeline.shared.records import PublishedRecords
from attar.pipeline.shared.remote_files import run_parallel

FETCHED = "fetched"
"""The folder of a cache that says which of its artifacts were not made here."""
PARTS = "parts"
"""The folder of a cache with artifacts of which only some files are here."""


class SharedObjects:
    """Sends files, and fetches them into folders. What is fetched is verified by its digest."""

    def __init__(self, published: PublishedRecords, *, deletes: bool) -> None:
        """``deletes``: whether a file that turns out to be damaged is deleted there."""
        self.published, self.remote, self.deletes = published, published.remote, deletes

    def publish(self, made: Publication, folder: Path) -> Publication:
        """Send the files in ``folder`` and then the record, unless one is accepted there. Return
        the published one."""
        paths = {digest: folder / name for name, digest in made.files.items()}
        sent = self._send(paths)
        first = self.published.publish(made)
        if first is made:  # until now nothing there said that the files that it had are needed
            self._send({digest: path for digest, path in paths.items() if digest not in sent})
        return first

    def _send(self, paths: Mapping[str, Path]) -> set[str]:
        """Send the files, by their digest, that are not there. Return the digests of these."""
        sent = run_parallel(lambda item: self._send_file(*item), list(paths.items()))
        return {digest for digest, is_sent in zip(paths, sent, strict=True) if is_sent}

    def _send_file(self, digest: str, path: Path) -> bool:
        if self.remote.has(object_path(digest)):
            return False
        self.remote.write(object_path(digest), path)
        return True

    def fetch(self, made: Publication, folder: Path, pattern: str = "*") -> None:
        """Fetch the files of an artifact that match ``pattern``, unless they are in ``folder``.

        Raises CorruptArtifactError for a file that is damaged or missing there.
        """
        names = fnmatch.filter(made.files, pattern)
        run_parallel(lambda name: self._fetch_file(made, folder, name), names)

    def _fetch_file(self, made: Publication, folder: Path, name: str) -> None:
        size, mtime, digest = made.record["files"][name]
        path = folder / name
        if path.is_file() and compute_digest(path) == digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            got = self.remote.download(object_path(digest), partial, size)
            if got != digest:
                state = "is missing" if got is None else f"is not the {size} bytes that it was"
                raise CorruptArtifactError(
                    f"{name} of {made.record['slot']} {made.key[:12]} {state} in "
                    f"{self.remote.url}; {self._withdraw(made, None if got is None else digest)}"
                )
            partial.chmod(0o444)
            os.utime(partial, ns=(mtime, mtime))
            partial.replace(path)
        finally:  # of a transfer that broke
            partial.unlink(missing_ok=True)

    def _withdraw(self, made: Publication, damaged: str | None) -> str:
        """Delete the record of an artifact, unless another has taken its place, and the damaged
        file, unless it is missing. Return what to do."""
        if not self.deletes:
            self.published.forget(made.key)  # it may be published anew by then
            return "have a machine that publishes read it, which deletes its record there"
        is_replaced = self.published.withdraw(made)
        if damaged is not None:
            self.remote.delete([object_path(damaged)])
        if is_replaced:
            return "another record has taken its place there: run the same command again"
        return "its record there is deleted, so a run of the recipe that made it makes it anew"


def object_path(digest: str) -> str:
    return f"objects/{digest}"
