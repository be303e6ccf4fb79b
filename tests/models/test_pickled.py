"""Pickles of tables: read as ``pickle`` reads them, and whatever else a file asks for is refused by name and not run."""

from __future__ import annotations

import os
import pickle  # the reader is compared with it, on files made here
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.tasks import pickled
from attar.pipeline.core.errors import StageError
from tests.support.cifar import packed, table

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
TABLE = table(IMAGES, [99, 0, 7], "train")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train"


def read(file: Path, content: bytes) -> dict[str, Any]:
    file.write_bytes(content)
    return pickled.read(file)


def same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and bool((one == two).all())
    return type(one) is type(two) and bool(one == two)


def test_the_generated_files_are_laid_out_as_python_2_did() -> None:
    content = packed(TABLE)
    assert content.startswith(b"\x80\x02}q")
    assert b"(U\tfilenamesq" in content  # 8-bit strings, not text
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert {"BINSTRING", "SHORT_BINSTRING", "BININT1", "APPENDS", "SETITEMS"} < {
        op.name for op, _, _ in pickletools.genops(content)
    }


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated")  # a name of the format, which numpy still follows
def test_reads_what_pickle_reads(file: Path) -> None:
    content = packed(TABLE)
    expected = pickle.loads(content, encoding="latin1")  # noqa: S301  # made two lines above
    made = read(file, content)
    assert list(made) == ["filenames", "batch_label", "fine_labels", "coarse_labels", "data"]
    assert all(same(made[name], expected[name]) for name in expected)
    assert made["data"].tobytes() == IMAGES.tobytes()


LEAVES = st.none() | st.booleans() | st.integers() | st.binary(max_size=300).map(lambda content: content.decode("latin-1"))
VALUES = LEAVES | st.lists(LEAVES, max_size=4) | st.tuples(LEAVES, LEAVES) | st.dictionaries(st.text("abc"), LEAVES, max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), VALUES | st.lists(VALUES, max_size=3), max_size=3))
def test_values_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    assert read(tmp_path_factory.getbasetemp() / "values", packed(value)) == value


def test_arrays_column_by_column_and_many_appends(file: Path) -> None:
    made = read(file, packed({"data": np.asfortranarray(IMAGES), "labels": list(range(2500))}))
    assert (made["data"] == IMAGES).all()
    assert made["labels"] == list(range(2500))


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_a_hostile_file_is_refused_by_name_and_not_run(file: Path, tmp_path: Path) -> None:
    content = packed({"data": Hostile(f"touch {tmp_path / 'ran'}")})
    with pytest.raises(StageError, match=r"train is not read: it names posix\.system, .*nothing of it was run"):
        read(file, content)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"data": IMAGES.astype(np.int64)}, r"calls numpy\.dtype with \('i8'"),
        ({"data": np.array([{}], object)}, r"calls numpy\.dtype with \('O8'"),
        ({"data": [IMAGES] * 2}, "one array in two places"),
        ({"data": 0.5}, "uses the opcode BINFLOAT"),
        ({"data": {1}}, r"names __builtin__\.set|names builtins\.set"),
        ({"data": Path}, r"names pathlib\S*\.Path"),
    ],
)
def test_what_a_table_of_bytes_does_not_need_is_refused(file: Path, value: Any, why: str) -> None:
    with pytest.raises(StageError, match=why):
        read(file, packed(value))


OF_BYTES = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R("
BYTES = b"cnumpy\ndtype\nU\x02u1\x85R"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x80\x02cnumpy\nndarray\n(tR.", r"calls numpy\.ndarray with \(\)"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR.", "calls numpy.core.multiarray._reconstruct"),
        (b"\x80\x02]K\x00\x85R.", "calls list"),
        (b"\x80\x02}K\x01b.", "sets the state of a dict"),
        (b"\x80\x02cnumpy\ndtype\nU\x02u1\x85R}b.", "holds a Known where a dict is expected"),
        (b"\x80\x02]K\x01s.", "no complete pickle"),
        (b"\x80\x02}K\x01K\x02s.", "keys that are no text"),
        (b"\x80\x02}U\x01ae.", "no complete pickle"),
        (b"\x80\x02h\x05.", "no complete pickle"),
        (b"\x80\x02.", "no complete pickle"),
        (b"\x80\x02]](\x86t.", "no complete pickle"),
        (OF_BYTES + b"K\x01\x8a\x0a" + b"\xff" * 9 + b"\x7f\x85" + BYTES + b"\x89U\x01at\x62.", "no complete pickle"),
        (b"\x80\x02]N.", "no complete pickle"),
        (b"\x80\x04}\x94.", "uses the opcode MEMOIZE"),
        (b"", "no complete pickle"),
        (b"<html>", "no complete pickle"),
    ],
)
def test_files_that_make_no_sense(file: Path, content: bytes, why: str) -> None:
    with pytest.raises(StageError, match=why):
        read(file, content)


def test_one_text_is_not_many_arrays(file: Path) -> None:
    """Each array more would cost a dozen bytes of the file and as much memory as the text has."""
    array = OF_BYTES[2:] + b"K\x01M\xe8\x03\x85" + BYTES + b"\x89"
    first = b"\x80\x02](" + array + b"T\xe8\x03\x00\x00" + b"x" * 1000 + b"q\x01t\x62"
    with pytest.raises(StageError, match="its arrays are larger than it is"):
        read(file, first + (array + b"h\x01t\x62") * 20 + b"e.")


def test_a_deep_or_missing_file_is_said(file: Path) -> None:
    with pytest.raises(StageError, match="calls list"):
        read(file, b"\x80\x02]]" + b"\x85" * 100_000 + b"R.")
    with pytest.raises(StageError, match="cannot be read: No such file"):
        pickled.read(file.with_name("nowhere"))


WHOLE = packed({"data": IMAGES[:1, :8], "labels": [5, 300], "name": "test"})
PLACES = st.integers(0, len(WHOLE) - 1)


@settings(deadline=None)
@given(st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=4), PLACES)
def test_damage_is_an_error_or_another_table_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    file, said = tmp_path_factory.getbasetemp() / "damaged", list[str]()
    for damaged in (bytes(content), bytes(content[:cut])):
        try:
            assert isinstance(read(file, damaged), dict)
        except StageError as error:
            said.append(str(error))
    assert all(str(file) in each for each in said)
