"""Case: one fault, how it is put in, and what has to come of it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.system.sabotage.lab import Found, Inject


@dataclass(frozen=True)
class Case:
    fault: str
    """In plain words."""
    inject: Inject
    code: int
    """The exit code: 1 a stage broke, 3 a gate refused, 4 a bundle was refused; 0: nothing noticed it."""
    where: str = ""
    """The first broken hop, the slot that broke, or ``bundle``; empty where it is missed."""
    says: str = ""
    """Part of the evidence."""
    missed: str = ""
    """Why nothing noticed it, where that is known to be so."""

    def came_true(self, found: Found) -> bool:
        return (found.code, found.where) == (self.code, self.where) and self.says in found.evidence


def missed(fault: str, inject: Inject, why: str) -> Case:
    """A fault that gets through. It is listed, and moves to the others when something is found that catches it."""
    return Case(fault, inject, 0, missed=why)


def refused(fault: str, inject: Inject, says: str) -> Case:
    """A fault for which a bundle is refused."""
    return Case(fault, inject, 4, "bundle", says)
