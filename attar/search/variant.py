"""Variants: one value for each dimension of a search space."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit

OF_STUDENT, EPOCHS = "student.", "student.epochs"


@dataclass(frozen=True)
class Variant:
    number: int
    settings: Mapping[str, Any]
    """Values by the full names of their settings."""

    @property
    def name(self) -> str:
        return f"v{self.number}"

    @property
    def title(self) -> str:
        """Return, say, ``width 8, precision int8``."""
        return ", ".join(
            f"{key.rpartition('.')[2]} {value}" for key, value in self.settings.items()
        )

    @property
    def student(self) -> str:
        """What decides its training: variants with the same of it share one student."""
        return self._select(of_student=True)

    @property
    def conversion(self) -> str:
        """What becomes of its student: the settings of its export, calibration and target."""
        return self._select(of_student=False)

    def _select(self, *, of_student: bool) -> str:
        own = {
            key: value
            for key, value in self.settings.items()
            if key.startswith(OF_STUDENT) is of_student
        }
        return json.dumps(own, sort_keys=True)

    def get_epochs(self, usual: int) -> int:
        """Return the epochs of its whole training; ``usual`` are the recipe's."""
        return int(self.settings.get(EPOCHS, usual))

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={format_inline(value)}" for key, value in self.settings.items()]


def format_inline(value: Any) -> str:
    """Return a value as TOML on one line: tables are inline."""
    array = tomlkit.array()
    array.append(value)
    return str(array[0].as_string())
