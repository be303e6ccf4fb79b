"""Faults of a finished bundle that generates tokens, in a folder that may be written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
from safetensors.numpy import load_file, save_file

from tests.system.sabotage import loop_faults
from tests.system.sabotage.bundles import ENGINE, GOLDEN
from tests.system.sabotage.lab import Lab

TOKENIZER = Path("preprocess/digits.tokenizer.json")


def token_changed(bundle: Path, lab: Lab) -> None:
    """The first token of the first golden answer is the one after it in the vocabulary."""
    tensors = load_file(bundle / GOLDEN)
    tensors["engine.words"][0, 0] += 1
    save_file(tensors, bundle / GOLDEN)


def digit_changed(bundle: Path, lab: Lab) -> None:
    """The first digit of the first golden request is another one."""
    tensors = load_file(bundle / GOLDEN)
    tensors["raw.digits:text"][0, 0] ^= 1  # ASCII: 0 and 1 are exchanged, 2 and 3, ...
    save_file(tensors, bundle / GOLDEN)


def digits_exchanged(bundle: Path, lab: Lab) -> None:
    """The tokenizer reads each of two digits as the other one."""
    tokenizer = json.loads((bundle / TOKENIZER).read_text("utf-8"))
    words = tokenizer["model"]["vocab"]
    words["1"], words["2"] = words["2"], words["1"]
    (bundle / TOKENIZER).write_text(json.dumps(tokenizer), encoding="utf-8")


def wrong_token_back(bundle: Path, lab: Lab) -> None:
    change_engine(bundle, loop_faults.feeds_older_token_back)


def shorter_limit(bundle: Path, lab: Lab) -> None:
    change_engine(bundle, loop_faults.limit_too_short)


def longer_limit(bundle: Path, lab: Lab) -> None:
    change_engine(bundle, loop_faults.limit_too_long)


def change_engine(bundle: Path, fault: Callable[[onnx.ModelProto], None]) -> None:
    """Write a spoilt graph in place of the engine that was built from it."""
    model = onnx.load(bundle / "graphs" / "model.onnx")
    fault(model)
    onnx.save(model, bundle / ENGINE)
