"""A private copy: the verified bytes of a signed bundle, where nobody else can change them before
they are opened.

It lies in the folder for temporary files (``TMPDIR``), for as long as the bundle is open, and is
locked for as long. What a process that was killed left there has no lock any more: the next copy
that is made removes it. The lock also keeps systemd-tmpfiles away, which removes old files.

A folder is taken for a copy by what is in it, never by its name alone, which anybody may give:

    attar-bundle-RANDOM/        of mode 0700
        attar-private-copy      says that it is one; written before the folder gets its name, and
                                removed after the content
        content/                all that is ever removed with it

It is read through ``/proc/PID/fd``: a descriptor stays with its folder, where a name can be given
to another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from attar.bundle import checksums
from attar.bundle.checksums import NO_FILE, Checksums
from attar.pipeline.core.errors import InvalidBundleError

PREFIX, UNLOCKED = "attar-bundle-", "attar-new-"
MARKER, CONTENT = "attar-private-copy", "content"
BLOCK_BYTES = 2**20


class PrivateFolder:
    """A new folder that this user alone may enter. It is removed when it is closed, forgotten, or
    the process ends.

    Raises OSError where it cannot be made, and InvalidBundleError where somebody put another one in
    its place.
    """

    def __init__(self) -> None:
        home = Path(tempfile.gettempdir())
        remove_abandoned(home)
        fresh = Path(tempfile.mkdtemp(prefix=UNLOCKED, dir=home))
        lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        check_private(fresh, os.fstat(lock))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkdir(CONTENT, 0o700, dir_fd=lock)
        os.close(os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=lock))
        named = fresh.rename(
            home / f"{PREFIX}{fresh.name.removeprefix(UNLOCKED)}"
        )  # what is not locked has another name
        self.path = Path(f"/proc/{os.getpid()}/fd/{lock}/{CONTENT}")
        self._remove = weakref.finalize(self, remove, named, lock, os.getpid())

    def close(self) -> None:
        self._remove()


class Copier:
    """Copies files below ``source`` to the same names below ``target``; what is there already is
    linked, not written again."""

    def __init__(self, source: Path, target: Path, seal: Checksums) -> None:
        self._source, self._target, self._sums = source, target, seal.sums
        self._copies: dict[str, Path] = {}
        target.mkdir()

    def copy(self, name: str) -> str:
        """Return the hex digest of what was read, which is what was written. As in
        ``checksums.sha256`` a link has none."""
        source, target, expected = self._source / name, self._target / name, self._sums.get(name)
        if expected is None:
            return checksums.sha256(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if twin := self._copies.get(expected):
            digest = checksums.sha256(source)
            if digest == expected:
                target.hardlink_to(twin)
            return digest
        digest = copy_file(source, target, expected)
        if digest == expected:
            self._copies[digest] = target
        return digest


def copy_verified(bundle: Path, seal: Checksums) -> tuple[PrivateFolder, Path]:
    """Return a private folder and the bundle in it, with the files that the seal lists. Raises
    InvalidBundleError for files that are not as they were sealed, and where there is no place for a
    copy."""
    with no_place(bundle):
        folder = PrivateFolder()
        try:
            copy = folder.path / (bundle.resolve().name or "bundle")
            checksums.verify_checksums(bundle, seal, Copier(bundle, copy, seal).copy)
        except BaseException:
            folder.close()
            raise
    return folder, copy


def copy_file(source: Path, target: Path, expected: str) -> str:
    """Copy a plain file of this hex digest, and return that of what was copied. Of anything else
    nothing is copied: return the digest that it has, ``NO_FILE`` if it is no plain file."""
    if source.is_symlink():
        return NO_FILE
    descriptor = os.open(
        source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    )  # a pipe does not hold it up
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return NO_FILE
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected:
            return digest
        size = file.tell()
        file.seek(0)
        return copy_bytes(file, target, size)


def copy_bytes(file: FileIO, target: Path, size: int) -> str:
    """Copy so many bytes at most, for the file may have grown, and return their hex digest."""
    digest = hashlib.sha256()
    with target.open("xb") as copy:
        while block := file.read(min(BLOCK_BYTES, size)):
            digest.update(block)
            copy.write(block)
            size -= len(block)
    return digest.hexdigest()


@contextmanager
def no_place(bundle: Path) -> Iterator[None]:
    """Raises InvalidBundleError, with what to do, for whatever the operating system refuses."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise InvalidBundleError(
            f"{bundle} cannot be copied to where nobody else can change it: "
            f"{error.strerror or error}{where}; set TMPDIR to a folder with room for the bundle"
        ) from error


def check_private(folder: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise InvalidBundleError(
            f"somebody put another folder in the place of {folder}; set TMPDIR to a folder that "
            "others cannot write"
        )


def remove_abandoned(home: Path) -> None:
    """Remove this user's copies that no process holds the lock of."""
    for folder in home.glob(f"{PREFIX}*"):
        # it is no copy or another process removes it; another process uses it
        with suppress(FileNotFoundError, BlockingIOError):
            if not may_be_copy(folder.lstat()):
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.stat(MARKER, dir_fd=lock, follow_symlinks=False)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_copy(folder, lock)
            finally:
                os.close(lock)


def may_be_copy(found: os.stat_result) -> bool:
    mine = found.st_uid == os.geteuid()
    return mine and stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700


def remove_copy(folder: Path, lock: int) -> None:
    """Remove what ``PrivateFolder`` made in the folder that the lock is of, and the folder if that
    was all of it. Its name may be another folder's by now, which is left alone."""
    with suppress(FileNotFoundError):  # who removed it before was killed
        shutil.rmtree(CONTENT, dir_fd=lock)
    os.unlink(MARKER, dir_fd=lock)
    with suppress(OSError):  # not empty: it, or its name, is somebody's
        folder.rmdir()


def remove(folder: Path, lock: int, owner: int) -> None:
    """Remove a copy under its lock; in a child that was forked off, only let go of the lock."""
    try:
        if os.getpid() == owner:
            with suppress(FileNotFoundError):
                remove_copy(folder, lock)
    finally:
        os.close(lock)
