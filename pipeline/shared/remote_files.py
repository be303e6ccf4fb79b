"""Files in a bucket, or in a folder, that several machines reach by a URL; obstore speaks to the
server."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from attar.pipeline.core.errors import (
    CorruptArtifactError,
    MissingDependencyError,
    RecipeError,
    StoreError,
    suggest_name,
)

if TYPE_CHECKING:
    from obstore import GetResult, UpdateVersion
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")
R = TypeVar("R")
FORMS = {
    "s3": "s3://BUCKET/PREFIX",
    "gs": "gs://BUCKET/PREFIX",
    "az": "az://CONTAINER/PREFIX",
    "file": "file:///FOLDER",
}
"""How a URL of each scheme is written."""
CLIENT: ClientConfig = {
    "allow_http": True,  # of an endpoint that says http://
    "connect_timeout": "10s",
    "read_timeout": "60s",
    "timeout": "1h",  # of one whole transfer, which may be long
}
TRANSFERS = 16
"""How many files are sent or fetched at a time."""
ASKED_OF_THE_MACHINE = ("latest/api/token", "latest/meta-data", "computeMetadata", "must be spec")
"""In errors of a library that found no credentials and asked the machine, in a cloud, for its."""
MOST_BYTES = 2**24
"""Of a record or a note, which have a hundredth of it: who may write may add anything."""
RETRY: RetryConfig = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}


@dataclass(frozen=True)
class RemoteFile:
    name: str
    """The last part of its path."""
    size: int
    """Bytes."""
    changed: datetime
    """When it was last written, by the server's clock."""
    tag: str
    """The server's name for its content; another content has another."""


class RemoteFiles:
    """Reads and writes whole files. A file appears whole or not at all.

    All methods raise StoreError if the server does not do what it is asked.
    """

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises RecipeError for a URL that is none,
        MissingDependencyError."""
        self.url = check_url(url)
        try:
            import obstore
        except ImportError as error:
            raise MissingDependencyError(
                "a store at a URL needs obstore: pip install 'attar[remote]'"
            ) from error
        self.library = obstore

    @cached_property
    def server(self) -> ObjectStore:
        from obstore.store import LocalStore, from_url

        if self.url.startswith("file:"):
            try:
                return LocalStore.from_url(self.url, mkdir=True)
            except OSError as error:
                raise self._make_error(error) from None
        return from_url(self.url, client_options=CLIENT, retry_config=RETRY)

    def read(self, path: str, most: int = MOST_BYTES) -> bytes | None:
        """Return the content of a file, or None if there is none. Raises CorruptArtifactError for
        one of more than ``most`` bytes, which is not read."""
        with self._explain_errors():
            found = self._open(path)
            if found is None:
                return None
            if (size := found.meta["size"]) > most:
                raise CorruptArtifactError(
                    f"{path} in {self.url} has {size} bytes, more than any that attar wrote; "
                    "delete it there"
                )
            return bytes(found.bytes())

    def read_all(self, paths: Sequence[str], most: int = MOST_BYTES) -> list[bytes | None]:
        """Return the content of many files as `read` does, None for each that is not there."""
        return run_parallel(partial(self.read, most=most), list(paths))

    def download(self, path: str, to: Path, size: int) -> str | None:
        """Write the content of a file of ``size`` bytes to ``to``. Return its SHA-256, or None if
        it is not there.

        Of a file of another size nothing is written, and the digest is that of nothing.
        """
        digest = hashlib.sha256()
        with self._explain_errors():
            found = self._open(path)
            if found is None:
                return None
            with to.open("wb") as file:
                for piece in found if found.meta["size"] == size else ():
                    file.write(piece)
                    digest.update(piece)
        return digest.hexdigest()

    def _open(self, path: str) -> GetResult | None:
        try:
            return self.library.get(self.server, path)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise StoreError(f"there is no bucket of this name: {self.url}") from None
            return None

    def has(self, path: str) -> bool:
        return self.find_edition(path) is not None

    def write(self, path: str, content: bytes | Path) -> None:
        with self._explain_errors():
            self.library.put(self.server, path, content)

    def add(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one. Return whether this wrote it: of several machines that
        add it at once, one does."""
        from obstore.exceptions import AlreadyExistsError

        with self._explain_errors():
            try:
                self.library.put(self.server, path, content, mode="create")
            except AlreadyExistsError:
                return False
            return True

    def find_edition(self, path: str) -> UpdateVersion | None:
        """Return the server's names for the content that a file has now; None without a file."""
        with self._explain_errors():
            try:
                found = self.library.head(self.server, path)
            except FileNotFoundError:
                return None
        edition: UpdateVersion = {}
        if found["e_tag"] is not None:
            edition["e_tag"] = found["e_tag"]
        if found["version"] is not None:
            edition["version"] = found["version"]
        return edition

    def replace(self, path: str, content: bytes, edition: UpdateVersion) -> bool:
        """Write a file if it still has the content of ``edition``. Return whether this wrote it.

        Of several machines that replace it at once, one does; a folder cannot promise that, and
        looks just before.
        """
        from obstore.exceptions import PreconditionError

        if self.url.startswith("file:"):
            if self.find_edition(path) != edition:
                return False
            self.delete([path])
            return self.add(path, content)
        with self._explain_errors():
            try:
                self.library.put(self.server, path, content, mode=edition)
            except (PreconditionError, FileNotFoundError):
                return False
            return True

    def list(self, folder: str) -> list[RemoteFile]:
        with self._explain_errors():
            found = self.library.list(self.server, folder, chunk_size=1000).collect()
        return [
            RemoteFile(
                Path(each["path"]).name, each["size"], each["last_modified"], each["e_tag"] or ""
            )
            for each in found
        ]

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files; those that are gone already are no error."""
        with self._explain_errors():
            try:
                if paths:
                    self.library.delete(self.server, paths)
            except FileNotFoundError:
                for path in paths if len(paths) > 1 else ():
                    self.delete([path])

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Raise StoreError without the library's own words, since they may hold credentials."""
        from obstore.exceptions import BaseError

        try:
            yield
        except BaseError as error:
            raise self._make_error(error) from None

    def _make_error(self, error: Exception) -> StoreError:
        return StoreError(
            f"the store {self.url} failed: {find_reason(error)}. What was made is in the cache and "
            "is published by the next run of the same command"
        )


def run_parallel(work: Callable[[T], R], items: list[T]) -> list[R]:
    """Return the result for each item, in their order. Raises what the first failure raised."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return list(pool.map(work, items))


def find_reason(error: Exception) -> str:
    """Return what the user can do about an error of the library, in words of ours: the library's
    may repeat a request with its credentials."""
    text = str(error).partition("Debug source")[0]
    found = re.search(r"<Code>(\w+)</Code>", text) or re.search(r"status code: (\d+)", text)
    code = f" ({found[1]})" if found else ""
    system = re.search(r"\(os error (\d+)\)", text)
    if any(word in text for word in ASKED_OF_THE_MACHINE):
        return "no credentials were found; set them in the environment"
    if code == " (NoSuchBucket)":
        return "there is no bucket of this name"
    if re.search(r"\b40[13] (Forbidden|Unauthorized)|necessary privileges", text):
        return f"the server refuses these credentials{code}"
    if system:
        return os.strerror(int(system[1]))
    if code:
        return f"the server cannot do it{code}"
    return "no answer (is the server up, and its endpoint right?)"


def is_url(text: str) -> bool:
    """Whether a store's place looks like a URL; ``s3:/bucket`` is one with a typo."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", text) is not None


def check_url(url: str) -> str:
    """Return the URL without a slash at its end.

    Raises RecipeError, without the URL where it may hold credentials.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        known = ", ".join(FORMS.values())
        raise RecipeError(f"the store's URL cannot be read; write one like {known}") from None
    place = parts.path if parts.scheme == "file" else parts.netloc
    is_whole = place.strip("/") and url.lower().startswith(f"{parts.scheme}://")
    if "@" in (parts.netloc if is_whole else url) or parts.query or parts.fragment:
        raise RecipeError(
            "the URL of a store holds no credentials and no options, since it is shown; set them "
            "in the environment"
        )
    if parts.scheme not in FORMS:
        raise RecipeError(
            f"a store's URL begins with {parts.scheme!r}; {suggest_name(parts.scheme, FORMS)}"
        )
    if not is_whole or (parts.scheme == "file") != (not parts.netloc):
        raise RecipeError(f"the store's URL is {url!r}; write {FORMS[parts.scheme]}")
    return url.rstrip("/")
