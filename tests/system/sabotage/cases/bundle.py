"""Faults of what is measured, judged, packaged and shipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.system.sabotage import bundles
from tests.system.sabotage.case import Case, missed, refused
from tests.system.sabotage.lab import Found, Lab, offered, outcome, resealed, run, tampered
from tests.system.sabotage.stages import Lenient, OtherLineage, OtherPreprocessing, Promiseless, SpoiltModel

SWAPPED = 'targets.cpu.spoil = "tests.system.sabotage.graph_faults:classes_swapped"'
SIGNATURE = "who may write the bundle and its checksums may write all that is checked; only a signature shows it"


def signed(fault: str, change: Callable[[Path, Lab], object], says: str = "is signed by no key") -> Case:
    """One that only a signature shows."""
    return refused(fault, tampered(change, sealed=True, signed=True), says)


def overwritten(lab: Lab) -> Found:
    """An engine that was measured, and is overwritten in the store before it is packaged; its size and date are kept."""
    copied = Lab(lab.store.with_name("overwritten"))
    shutil.rmtree(copied.store, ignore_errors=True)
    shutil.copytree(lab.store, copied.store, ignore=shutil.ignore_patterns("spoilt"))
    engine = copied.made("cpu.engine").path
    assert engine is not None
    rewritten(engine / "model.onnx")
    return outcome(list(copied.workspace(['targets.cpu.name = "again"']).run.walk()))


def rewritten(path: Path) -> None:
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[content.index(bundles.last_weight(path)) + 3] ^= 0x40
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def spoilt_production(lab: Lab) -> Path:
    bundle = lab.copied("production")
    bundles.flipped(bundle, lab)
    return bundle


PROOF = (
    Case("A recipe that promises nothing", run(verdict=Promiseless), 3, "cpu.bundle", "nothing is promised of the engine"),
    Case("A failed verdict that was rewritten", run(SWAPPED, model=SpoiltModel, verdict=Lenient), 1, "cpu.bundle", "contradicts"),
    Case("Evidence of another engine", run(evidence=OtherLineage), 1, "cpu.bundle", "the evidence is of another engine"),
    Case("An engine that is overwritten in the store after it was measured", overwritten, 1, "cpu.bundle", "was damaged"),
    Case("Other preprocessing shipped than trained with", run(bundle=OtherPreprocessing), 1, "cpu.bundle", "golden answers"),
    Case("A bundle in production with one flipped bit", run(against=spoilt_production), 4, "cpu.production", "was changed"),
)
BUNDLE = (
    refused("One flipped bit", tampered(bundles.flipped), "was changed"),
    refused("An edited manifest", tampered(bundles.promise_loosened), "manifest.json was changed"),
    refused("A swapped engine", tampered(bundles.swapped), "was changed"),
    refused("Deleted golden requests", tampered(bundles.without_golden), "golden.safetensors is missing"),
    refused("A copy that broke off", tampered(bundles.truncated), "was changed"),
    refused("An added graph", tampered(bundles.added), "was added"),
    refused("A link in place of the engine", tampered(bundles.linked), "was changed"),
)
SEALED = (
    refused("One flipped bit", resealed(bundles.flipped), "golden answers"),
    refused("A promise loosened", resealed(bundles.promise_loosened), "contradicts itself"),
    refused("A score drop embellished", resealed(bundles.drop_embellished), "contradicts itself"),
    refused(
        "A score drop embellished, with the margin that follows", resealed(bundles.drop_rewritten), "contradicts its verdict"
    ),
    refused("An agreement embellished in the ledger", resealed(bundles.agreement_embellished), "inside its own bounds"),
    refused("The gates removed", resealed(bundles.ungated), "ungated"),
    refused("Other preprocessing", resealed(bundles.other_preprocessing), "golden answers"),
    refused("Another machine named", resealed(bundles.other_machine), "another machine"),
    refused("A swapped engine", resealed(bundles.swapped), "golden answers"),
    refused("Deleted golden requests", resealed(bundles.without_golden), "golden.safetensors"),
    refused("A deleted engine, before it is signed", offered(bundles.without_engine), "engines/onnxruntime/model.onnx"),
    refused("Another version of the runtime named", resealed(bundles.other_version), "1.0.0"),
    refused("A swapped engine with its own golden answers", resealed(bundles.swapped_with_answers), "graphs/"),
    missed("Another model throughout, with its own answers", resealed(bundles.swapped_throughout), SIGNATURE),
    missed("A promise loosened, with all that follows from it", resealed(bundles.promise_rewritten), SIGNATURE),
    refused("The portable graph of an older student", resealed(bundles.other_graph), "graphs/"),
    refused("Two classes swapped in the graph for Triton", resealed(bundles.other_triton_graph), "Triton"),
    refused("Two labels exchanged", resealed(bundles.labels_exchanged), "the labels are not"),
    refused("Larger batches promised", resealed(bundles.larger_batches), "config.pbtxt"),
    missed("Larger batches promised, for Triton too", resealed(bundles.larger_batches_throughout), "the golden requests are few"),
)
SIGNED = (
    signed("Another model throughout, with its own answers", bundles.swapped_throughout),
    signed("A promise loosened, with all that follows from it", bundles.promise_rewritten),
    signed("Larger batches promised", bundles.larger_batches),
    signed("Larger batches promised, and signed by somebody else", bundles.signed_by_another),
    signed("Larger batches promised, and the signature taken away", bundles.unsigned, "is not signed"),
)
