"""Files that were fetched: a damaged one is told by name, whatever its bytes are."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.models.tasks.unpacking import read_unpacked
from attar.pipeline.core.errors import StageError

CONTENT = b"".join(b"line %d\n" % n for n in range(50))
PACKED = gzip.compress(CONTENT, mtime=0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fetched") / "data.gz"


def test_files_are_read_packed_or_not(file: Path) -> None:
    file.write_bytes(PACKED)
    file.with_suffix("").write_bytes(CONTENT)
    assert read_unpacked(file) == read_unpacked(file.with_suffix("")) == CONTENT


@given(st.integers(10, len(PACKED) - 1), st.integers(1, 255))
def test_a_byte_that_changed_is_told_or_changes_nothing(file: Path, place: int, change: int) -> None:
    """Behind the header. It changes nothing where bits fill up a byte, or say the same in another way."""
    damaged = bytearray(PACKED)
    damaged[place] ^= change
    file.write_bytes(damaged)
    try:
        is_right = read_unpacked(file) == CONTENT
    except StageError as error:
        is_right = "data.gz cannot be read: " in str(error) and "delete it and run" in str(error)
    assert is_right
