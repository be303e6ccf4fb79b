"""What makes a wrong message of a valid one: changes to its bytes, or to the JSON in it. The fuzz tests share it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

NESTED: list[Any] = []
for _ in range(500):
    NESTED = [NESTED]
VALUES: Sequence[Any] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        10**400,
        -(2**63),
        1e308,
        -0.0,
        0.5,
        "",
        "x",
        "\0",
        "..",
        "%2e",
    ),
    *("../..", "é\u202e", "a" * 5000, [], {}, [[]], [1] * 300, [2**40, 2**40], [-1, 2], [0, 2], {"a": {"b": []}}, NESTED),
    *("FP32", "FP16", "BYTES", "points", "points-raw", "logits", float("nan"), float("inf")),
)
"""What stands where something else is expected."""


def mutated(content: bytes, words: Sequence[bytes], random: Random) -> bytes:
    """One to four changes at random places; ``words`` are put in."""
    made = bytearray(content)
    for _ in range(random.randint(1, 4)):
        start = random.randrange(len(made) + 1)
        end = min(len(made), start + random.choice((1, 1, 2, 8, 64)))
        match random.randrange(7):
            case 0:
                made[start:end] = random.randbytes(end - start)
            case 1:
                del made[start:end]
            case 2:
                made[start:start] = made[start:end] * random.choice((1, 2, 50))
            case 3:
                made[start:start] = random.choice(words)
            case 4:
                made[start:end] = random.choice(words)
            case 5 if start < len(made):
                made[start] ^= 1 << random.randrange(8)
            case _:
                del made[start:]
    return bytes(made)


def changed(content: Any, random: Random) -> Any:
    """A copy of JSON in which one or two values, at any depth, are replaced, left out, or there twice."""
    made = copy.deepcopy(content)
    for _ in range(random.randint(1, 2)):
        change(made, random)
    return made


def change(inside: Any, random: Random) -> None:
    while inside:
        key = random.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if isinstance(inside[key], dict | list) and inside[key] and random.random() < 0.75:
            inside = inside[key]
            continue
        CHANGES[random.randrange(len(CHANGES))](inside, key, random)
        return


def replaced(inside: Any, key: Any, random: Random) -> None:
    inside[key] = json.loads(json.dumps(random.choice(VALUES)))  # a copy, as the next change may be inside it


def left_out(inside: Any, key: Any, random: Random) -> None:
    del inside[key]


def twice(inside: Any, key: Any, random: Random) -> None:
    if isinstance(inside, list):
        inside.append(inside[key])
    else:
        inside[random.choice(("parameters", "outputs", "inputs", "shape", "data", "id", "binary_data_size"))] = inside[key]


CHANGES: Sequence[Callable[[Any, Any, Random], None]] = (replaced, replaced, left_out, twice)


def text(content: Any) -> bytes:
    """With NaN and Infinity, which are no JSON, where they are."""
    return json.dumps(content).encode()
