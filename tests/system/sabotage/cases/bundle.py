"""Faults of what is measured, judged, packaged and shipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.system.sabotage import bundles
from tests.system.sabotage.case import Case, missed
from tests.system.sabotage.lab import Found, Lab, offered, outcome, run, tampered
from tests.system.sabotage.stages import Lenient, OtherLineage, OtherPreprocessing, Promiseless, SpoiltModel

SWAPPED = 'targets.cpu.spoil = "tests.system.sabotage.graph_faults:classes_swapped"'
SIGNATURE = "who may write the bundle and its checksums may write all that is checked; only a signature shows it"


def signed(fault: str, change: Callable[[Path, Lab], object], says: str = "is signed by no key") -> Case:
    """One that only a signature shows."""
    return Case(fault, tampered(change, sealed=True, signed=True), 4, "bundle", says)


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
    Case("One flipped bit", tampered(bundles.flipped), 4, "bundle", "was changed"),
    Case("An edited manifest", tampered(bundles.promise_loosened), 4, "bundle", "manifest.json was changed"),
    Case("A swapped engine", tampered(bundles.swapped), 4, "bundle", "was changed"),
    Case("Deleted golden requests", tampered(bundles.without_golden), 4, "bundle", "golden.safetensors is missing"),
    Case("A copy that broke off", tampered(bundles.truncated), 4, "bundle", "was changed"),
    Case("An added graph", tampered(bundles.added), 4, "bundle", "was added"),
    Case("A link in place of the engine", tampered(bundles.linked), 4, "bundle", "was changed"),
)
SEALED = (
    Case("One flipped bit", tampered(bundles.flipped, sealed=True), 4, "bundle", "golden answers"),
    Case("A promise loosened", tampered(bundles.promise_loosened, sealed=True), 4, "bundle", "contradicts itself"),
    Case("A score drop embellished", tampered(bundles.drop_embellished, sealed=True), 4, "bundle", "contradicts itself"),
    Case("The gates removed", tampered(bundles.ungated, sealed=True), 4, "bundle", "ungated"),
    Case("Other preprocessing", tampered(bundles.other_preprocessing, sealed=True), 4, "bundle", "golden answers"),
    Case("Another machine named", tampered(bundles.other_machine, sealed=True), 4, "bundle", "another machine"),
    Case("A swapped engine", tampered(bundles.swapped, sealed=True), 4, "bundle", "golden answers"),
    Case("Deleted golden requests", tampered(bundles.without_golden, sealed=True), 4, "bundle", "golden.safetensors"),
    Case("A deleted engine, before it is signed", offered(bundles.without_engine), 4, "bundle", "engines/onnxruntime/model.onnx"),
    Case("Another version of the runtime named", tampered(bundles.other_version, sealed=True), 4, "bundle", "1.0.0"),
    Case(
        "A swapped engine with its own golden answers",
        tampered(bundles.swapped_with_answers, sealed=True),
        4,
        "bundle",
        "graphs/",
    ),
    missed("Another model throughout, with its own answers", tampered(bundles.swapped_throughout, sealed=True), SIGNATURE),
    missed("A promise loosened, with all that follows from it", tampered(bundles.promise_rewritten, sealed=True), SIGNATURE),
    Case("The portable graph of an older student", tampered(bundles.other_graph, sealed=True), 4, "bundle", "graphs/"),
    Case("Two classes swapped in the graph for Triton", tampered(bundles.other_triton_graph, sealed=True), 4, "bundle", "Triton"),
    Case("Two labels exchanged", tampered(bundles.labels_exchanged, sealed=True), 4, "bundle", "the labels are not"),
    missed("Larger batches promised", tampered(bundles.larger_batches, sealed=True), "the golden requests are few"),
)
SIGNED = (
    signed("Another model throughout, with its own answers", bundles.swapped_throughout),
    signed("A promise loosened, with all that follows from it", bundles.promise_rewritten),
    signed("Larger batches promised", bundles.larger_batches),
    signed("Larger batches promised, and signed by somebody else", bundles.signed_by_another),
    signed("Larger batches promised, and the signature taken away", bundles.unsigned, "is not signed"),
)
