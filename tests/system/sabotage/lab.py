"""The lab: one recipe, one store, and what a run or a bundle with a fault in it comes to."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attar.bundle import checksums
from attar.bundle.sign import sign_bundle
from attar.cli.main import main
from attar.pipeline.core.stage import Stage
from attar.pipeline.run import Record
from attar.proof.gate import Gate
from attar.proof.verdicts.gate_text import format_gate, format_metric
from attar.proof.verdicts.verdict import TargetVerdict
from attar.proof.verdicts.verdict_json import verdict_from_json
from attar.recipes.workspace import Workspace, choose_exit_code, open_workspace
from attar.stages.measure.bench import Bench
from attar.stages.slots import SLOTS
from tests.support.bundles.signing_parts import pair

RECIPE = Path(__file__).parent / "project" / "recipe.toml"
SENTENCES = Path(__file__).parent / "sentences" / "recipe.toml"
"""The recipe of a task of sequences."""
KINDS = Path(__file__).parent / "kinds" / "recipe.toml"
"""The recipe of a task of several labels a sample and a class at each pixel."""
Stages = Mapping[str, type[Stage[Any]]]


@dataclass(frozen=True)
class Found:
    """What a fault came to."""

    code: int
    """The exit code."""
    where: str
    """The hop that broke first, the slot that broke, or ``bundle``; empty when nothing noticed it."""
    evidence: str
    """The gate with its numbers, or the message."""


@dataclass(frozen=True)
class Lab:
    """``store`` is shared: what a fault does not touch is made once."""

    store: Path
    recipe: Path = RECIPE

    def workspace(self, overrides: Sequence[str] = (), stages: Stages | None = None, against: Path | None = None) -> Workspace:
        """The recipe, with other settings, with saboteurs in the places of some stages, against a bundle in production."""
        places = stages or {}
        # Any slot may be given another task here: to look at other data is a way to be wrong.
        table = [replace(slot, stage=places.get(slot.name, slot.stage), own_task=True) for slot in SLOTS]
        return open_workspace(str(self.recipe), table, self.store, overrides, against=against)

    def healthy(self) -> list[Record]:
        """The recipe as it is. What is in memory then stays there, and is not searched again by every measurement."""
        records = list(self.workspace().run.walk())
        gc.collect()
        gc.freeze()
        return records

    @property
    def of_sentences(self) -> Lab:
        """The same store, and the recipe of a task of sequences."""
        return replace(self, recipe=SENTENCES)

    @property
    def of_kinds(self) -> Lab:
        """The same store, and the recipe of several labels a sample and a class at each pixel."""
        return replace(self, recipe=KINDS)

    def made(self, slot: str, *overrides: str) -> Record:
        """One slot of another healthy run: an older student's engine, another teacher's answers."""
        workspace = self.workspace(overrides)
        return list(workspace.run.walk(workspace.recipe.pipeline.up_to({slot})))[-1]

    def copied(self, name: str) -> Path:
        """A copy of the healthy bundle, to spoil."""
        bundle = self.made("cpu.bundle").path
        assert bundle is not None
        folder = self.store / "spoilt" / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bundle, folder, copy_function=shutil.copyfile)  # writable, unlike the original
        for written in (checksums.FACTS, checksums.RECORD):
            (folder / written).unlink()
        return folder

    def signed(self, bundle: Path) -> Path:
        """The file with the public key."""
        key = pair(self.store, "trusted", seed=bytes(32))
        sign_bundle(bundle, key.private)
        return key.public


Measured = Callable[[Bench, str, Any], Any]
REMEMBERED = ("answers", "sizes", "memory")
"""What the bench measures of a model."""


def remember(measure: Measured) -> Measured:
    """Measure a model once on the same samples: of the six that a run measures, a fault changes one or a few."""
    found: dict[tuple[Any, ...], Any] = {}

    def recall(bench: Bench, hop: str, model: Any) -> Any:
        task, path = type(bench.task), bench.teacher_path
        followed = (path.tokens.tobytes(), path.describe_teacher().tobytes()) if path else ()
        key = (task.__module__, task.__qualname__, bench.name, bench.batch, hop, model.digest, *followed)
        if key not in found:
            found[key] = measure(bench, hop, model)
        return found[key]

    return recall


@contextmanager
def steady() -> Iterator[None]:
    """PyTorch on one thread, so that the same sums are added in the same order; ``healthy`` may freeze what is in memory.

    Answers, sizes and memory of a model with the same bytes are measured once; what is judged of them, each time.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in REMEMBERED:
                patch.setattr(Bench, name, remember(getattr(Bench, name)))
            yield
    finally:
        torch.set_num_threads(before)
        gc.unfreeze()


def outcome(records: Sequence[Record]) -> Found:
    """Of a run."""
    code = choose_exit_code(records)
    failed = next((record for record in records if record.status == "failed"), None)
    verdict = next((record.facts for record in records if record.slot == "cpu.verdict"), {})
    if failed is not None and verdict.get("verdict", "passed") == "passed":
        return Found(code, failed.slot, str(failed.error).removeprefix(f"{failed.slot}: ").splitlines()[0])
    if verdict["verdict"] == "passed":
        return Found(code, "", verdict["summary"])
    gate = find_reported_gate(verdict_from_json(verdict))
    hop = gate.comparison.hop
    return Found(code, hop, format_gate(gate).removeprefix(f"{hop}: "))


def find_reported_gate(verdict: TargetVerdict) -> Gate:
    """Return the gate in the summary, of those that were not passed at the first broken hop."""
    gates = [gate for gate in verdict.gates if gate.verdict == verdict.verdict]
    hop = verdict.first_broken_hop or gates[0].comparison.hop
    there = [gate for gate in gates if gate.comparison.hop == hop]
    names = ((gate, format_metric(gate.comparison.metric)) for gate in there)
    return next((gate for gate, name in names if name in verdict.summary), there[0])


Inject = Callable[[Lab], Found]
Setting = str | Callable[[Lab], str]


def run(*settings: Setting, against: Callable[[Lab], Path] | None = None, **stages: type[Stage[Any]]) -> Inject:
    """The recipe with these settings, and with saboteurs in these slots."""

    def inject(lab: Lab) -> Found:
        overrides = [setting if isinstance(setting, str) else setting(lab) for setting in settings]
        workspace = lab.workspace(overrides, stages, against(lab) if against else None)
        return outcome(list(workspace.run.walk()))

    return inject


def tampered(change: Callable[[Path, Lab], object], *, sealed: bool = False, signed: bool = False) -> Inject:
    """A change to a copy of the healthy bundle; ``sealed`` writes its checksums anew, as somebody does who means it. A ``signed``
    one is checked against the key that signed it before the change."""

    def inject(lab: Lab) -> Found:
        bundle = lab.copied(getattr(change, "__name__", "bundle"))
        trusted = ["--trusted", str(lab.signed(bundle))] if signed else []
        change(bundle, lab)
        if sealed:
            checksums.write_checksums(bundle)
        return given_to("check", bundle, *trusted)

    return inject


def resealed(change: Callable[[Path, Lab], object]) -> Inject:
    """A change to a copy of the healthy bundle whose checksums are written anew."""
    return tampered(change, sealed=True)


def offered(change: Callable[[Path, Lab], object]) -> Inject:
    """A change to a copy of the healthy bundle whose checksums are written anew, before it is signed."""

    def inject(lab: Lab) -> Found:
        bundle = lab.copied(getattr(change, "__name__", "bundle"))
        change(bundle, lab)
        checksums.write_checksums(bundle)
        return given_to("sign", bundle, "--key", str(pair(lab.store, "trusted", seed=bytes(32)).private))

    return inject


def given_to(command: str, bundle: Path, *options: str) -> Found:
    """What a command says of a bundle."""
    done = CliRunner().invoke(main, [command, str(bundle), *options])
    said = done.output.strip().removeprefix("error: ").replace(f"{bundle}/", "").replace(str(bundle), "the bundle")
    return Found(done.exit_code, "bundle" if done.exit_code else "", said.splitlines()[0])
