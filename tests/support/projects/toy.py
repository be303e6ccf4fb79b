"""A pipeline small enough to think about: numbers in, numbers out, no network anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from attar.pipeline.core.errors import GateError, UnfitSettingsError
from attar.pipeline.core.stage import Artifact, CodeName, DataFile, Device, Facts, Stage, StoredKey
from attar.pipeline.recipe.slot import Slot


class Number(Artifact):
    def value(self) -> float:
        return float(json.loads((self.root / "value.json").read_text()))


class Word(Artifact):
    pass


class Constant(Stage[Number]):
    value: float = Field(1.0, ge=0)
    file: DataFile | None = None
    device: Device = "auto"

    def run(self, out: Path) -> Facts:
        extra = float(self.file.read_text()) if self.file else 0.0
        (out / "value.json").write_text(json.dumps(self.value + extra))
        return {"value": self.value + extra}


class Double(Stage[Number]):
    seed: int = 0
    rounding: bool = False

    def run(self, out: Path, *, source: Number) -> Facts:
        value = source.value() * 2
        (out / "value.json").write_text(json.dumps(round(value) if self.rounding else value))
        return {"seed": self.seed}


class Sum(Stage[Number]):
    more: StoredKey | None = None

    def run(self, out: Path, *, source: Number, more: Number | None = None) -> Facts:
        (out / "value.json").write_text(json.dumps(source.value() + (more.value() if more else 0.0)))
        return {}


class Speak(Stage[Word]):
    def run(self, out: Path) -> Facts:
        return {}


class Check(Stage[Number]):
    bound_to_machine: ClassVar[bool] = True
    limit: float = 100.0
    fail: bool = False

    def run(self, out: Path, *, double: Number) -> Facts:
        if self.fail:
            raise ZeroDivisionError("told to")
        if double.value() > self.limit:
            raise GateError(f"{double.value()} is over {self.limit}")
        (out / "value.json").write_text(json.dumps(double.value()))
        return {}


class Unfit(Check):
    """A stage that its settings keep from ever being run."""

    def check_settings(self) -> None:
        raise UnfitSettingsError("no such limit")


class Tasked(Stage[Number]):
    task: CodeName

    def run(self, out: Path) -> Facts:
        (out / "value.json").write_text("1")
        return {}


SLOTS = (
    Slot("source", Constant),
    Slot("other", Constant),
    Slot("double", Double),
    Slot("check", Check, scope="target"),
)
