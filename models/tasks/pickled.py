"""Reads the Python pickles that some data sets are published in, without running anything that they name.

``pickle.load`` calls whatever functions a file asks for. Here ``pickletools.genops`` only splits the file into its opcodes, and
this module obeys those that Python 2 wrote for dicts, lists, tuples, strings, integers and byte arrays of numpy (protocol 2). The
three names that such an array needs are recognized, none is looked up; every other name and opcode is refused.
"""

from __future__ import annotations

import pickletools
import reprlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.pipeline.core.errors import StageError

Op = tuple[str, Any]
"""An opcode's name in ``pickletools`` and its argument, which is text for strings and for names."""


class Known(Enum):
    """What a file may name, and what calling the first and the last of them begins."""

    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    ARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"
    UNFILLED = "an array whose bytes follow"
    BYTES = "the dtype of bytes"


class Refused(StageError):
    """An opcode, a name or a call that such a file does not need."""


def read(path: Path) -> dict[str, Any]:
    """The dict that a file holds: keys and strings as text (Latin-1), arrays as read-only uint8.

    Raises StageError for a file that cannot be read, breaks off, or holds anything else.
    """
    try:
        content = path.read_bytes()
        machine = Machine(len(content))
        for name, argument in opcodes(content):
            machine.obey(name, argument)
        (made,) = machine.stack
    except OSError as error:
        raise StageError(f"{path} cannot be read: {error.strerror}; unpack it again") from error
    except Refused as error:
        raise StageError(f"{path} is not read: {error}; nothing of it was run. Get the file from its authors again") from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise StageError(f"{path} is no complete pickle of Python 2 (protocol 2): {error}; unpack it again") from error
    if not isinstance(made, dict):
        raise StageError(f"{path} holds a {type(made).__name__} where a dict is expected; unpack it again")
    return made


def opcodes(content: bytes) -> Iterator[Op]:
    """Raises ValueError where the file breaks off."""
    for opcode, argument, _ in pickletools.genops(content):
        yield opcode.name, argument


class Machine:
    """The stack and the memo of a pickle.

    Raises Refused, and IndexError, KeyError, TypeError or ValueError where the file makes no sense.
    """

    def __init__(self, size: int) -> None:
        """``size``: bytes of the file, and of all arrays in it at most: one text may be named many times over."""
        self.left = size
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def obey(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in OPERATIONS:
            OPERATIONS[name](self, argument)
        else:
            raise Refused(f"it uses the opcode {name}")

    def pop(self, count: int) -> list[Any]:
        """The last values, in the order in which they came."""
        if not 0 <= count <= len(self.stack):
            raise IndexError("a value is missing")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def marked(self) -> list[Any]:
        """Everything since the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        if self.memo[number] is Known.UNFILLED:
            raise Refused("it holds one array in two places")
        self.stack.append(self.memo[number])

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("something is appended to what is no list")
        target.extend(values)

    def store(self, values: list[Any]) -> None:
        target, keys = self.stack[-1], values[::2]
        if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
            raise TypeError("a dict with keys that are no text, or none at all")
        target.update(zip(keys, values[1::2], strict=True))

    def name(self, written: str) -> None:
        known = [each for each in (Known.RECONSTRUCT, Known.ARRAY, Known.DTYPE) if each.value == written]
        if not known:
            raise Refused(f"it names {written.replace(' ', '.')}, which is no part of a table of bytes")
        self.stack.append(known[0])

    def call(self, _: Any) -> None:
        """``_reconstruct(ndarray, (0,), "b")`` and ``dtype("u1", 0, 1)``: as numpy pickles an array of bytes."""
        function, arguments = self.pop(2)
        if function is Known.RECONSTRUCT and arguments[:1] == (Known.ARRAY,):
            self.stack.append(Known.UNFILLED)
        elif function is Known.DTYPE and arguments[:1] == ("u1",):
            self.stack.append(Known.BYTES)
        else:
            shown = function.value.replace(" ", ".") if isinstance(function, Known) else type(function).__name__
            raise Refused(f"it calls {shown} with {reprlib.repr(arguments)}")

    def build(self, _: Any) -> None:
        """An array from ``(version, shape, dtype, column by column, bytes)``; a dtype's state says nothing about bytes."""
        begun, state = self.pop(2)
        if begun is Known.UNFILLED:
            made = filled(*state)
            self.left -= made.nbytes
            if self.left < 0:
                raise Refused("its arrays are larger than it is")
            self.stack.append(made)
        elif begun is Known.BYTES:
            self.stack.append(begun)
        else:
            raise Refused(f"it sets the state of a {type(begun).__name__}")


def filled(version: int, shape: tuple[int, ...], dtype: Known, columns: bool, content: Any) -> npt.NDArray[np.uint8]:
    if version != 1 or dtype is not Known.BYTES or not isinstance(content, str):
        raise Refused("it holds an array that is not of bytes")
    return np.frombuffer(content.encode("latin-1"), np.uint8).reshape(shape, order="F" if columns else "C")


VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINSTRING", "SHORT_BINSTRING"}
"""Opcodes whose argument is the value."""
CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
OPERATIONS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, version: None,
    "STOP": lambda machine, _: None,
    "MARK": Machine.mark,
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.marked()),
    "SETITEM": lambda machine, _: machine.store(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.store(machine.marked()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.pop(3))),
    "GLOBAL": Machine.name,
    "REDUCE": Machine.call,
    "BUILD": Machine.build,
}
