"""The version of a store's layout, written in its root."""

from __future__ import annotations

import json
from pathlib import Path

from attar.pipeline.core.errors import StoreError
from attar.pipeline.core.version import VERSION

FORMAT_FILE = "format.json"
STORE_VERSION = 1
"""The version of the layout that this code reads and writes.

Raise it when older code would misread what newer code writes. Newer code then reads a store of the
version before, or makes its artifacts again; it never guesses.
"""


def read_store_version(root: Path) -> int:
    """Return the version of the store in ``root``; 1 if none is written, as before versions were.

    Raises StoreError if the file was not written by attar.
    """
    path = root / FORMAT_FILE
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["store"]
    except (FileNotFoundError, NotADirectoryError):
        return 1
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}; choose another store with --store"
        ) from error
    except (ValueError, TypeError, LookupError) as error:
        raise StoreError(
            f"{path} does not hold the version of a store; choose another store with --store"
        ) from error
    if type(version) is not int or version < 1:
        raise StoreError(
            f"{path} holds {version!r}, not the version of a store; choose another store with "
            "--store"
        )
    return version


def check_store_version(root: Path) -> None:
    """Raises StoreError if a newer attar wrote the store in ``root``."""
    version = read_store_version(root)
    if version > STORE_VERSION:
        raise StoreError(
            f"the store {root} has version {version}, and attar {VERSION} reads stores up to "
            f"version {STORE_VERSION}: upgrade attar, or choose another store with --store"
        )
