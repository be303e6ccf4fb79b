"""Faults of a finished bundle, in a folder that may be written: by accident, by hand, or by somebody who means it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import load_file, save_file

from attar.bundle import checksums, golden, triton
from attar.bundle.manifest import Manifest
from attar.bundle.sign import sign_bundle
from attar.engines.runtimes import onnxruntime
from tests.support.bundles.signing_parts import pair
from tests.system.sabotage.graph_faults import classes_swapped
from tests.system.sabotage.lab import Lab

ENGINE = Path("engines/onnxruntime/model.onnx")
GOLDEN = "golden.safetensors"


def edited(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest, indent=1))


def flipped(bundle: Path, lab: Lab) -> None:
    """The highest bit of the exponent of one weight of the last layer."""
    content, weight = bytearray((bundle / ENGINE).read_bytes()), last_weight(bundle / ENGINE)
    content[content.index(weight) + 3] ^= 0x40  # little-endian float32: the sign and the exponent come last
    (bundle / ENGINE).write_bytes(content)


def last_weight(path: Path) -> bytes:
    tensor = next(each for each in onnx.load(path).graph.initializer if each.name == "6.weight")
    return onnx.numpy_helper.to_array(tensor).tobytes()


def swapped(bundle: Path, lab: Lab) -> None:
    """The engine of an older student."""
    shutil.copyfile(f"{lab.made('cpu.engine', 'student.seed = 1').path}/model.onnx", bundle / ENGINE)


def swapped_with_answers(bundle: Path, lab: Lab) -> None:
    """The engine of an older student, and the golden answers that it gives."""
    swapped(bundle, lab)
    tensors = load_file(bundle / GOLDEN)
    pixels = tensors["raw.image"].astype(np.float32) / np.float32(255)
    with onnxruntime.open_session({"model": bundle / ENGINE}, 1, optimize=False) as predict:
        image = ((pixels - np.float32(0.305)) / np.float32(0.376)).astype(np.float32)
        tensors["engine.logits"] = np.asarray(predict({"image": image})["logits"])
    save_file(tensors, bundle / GOLDEN)


def swapped_throughout(bundle: Path, lab: Lab) -> None:
    """An older student wherever there is a graph."""
    swapped_with_answers(bundle, lab)
    other_graph(bundle, lab)
    shutil.copyfile(bundle / "graphs" / "model.onnx", next((bundle / "triton").rglob("*.onnx")))


def other_graph(bundle: Path, lab: Lab) -> None:
    """The portable graph of an older student."""
    shutil.copyfile(f"{lab.made('cpu.model', 'student.seed = 1').path}/model.onnx", bundle / "graphs" / "model.onnx")


def other_triton_graph(bundle: Path, lab: Lab) -> None:
    """Two classes swapped in the graph that Triton serves."""
    path = next((bundle / "triton").rglob("*.onnx"))
    model = onnx.load(path)
    classes_swapped(model)
    onnx.save(model, path)


def without_golden(bundle: Path, lab: Lab) -> None:
    (bundle / GOLDEN).unlink()


def without_engine(bundle: Path, lab: Lab) -> None:
    shutil.rmtree(bundle / "engines")


def truncated(bundle: Path, lab: Lab) -> None:
    """A copy that broke off."""
    content = (bundle / ENGINE).read_bytes()
    (bundle / ENGINE).write_bytes(content[: len(content) // 2])


def added(bundle: Path, lab: Lab) -> None:
    (bundle / "graphs" / "other.onnx").write_bytes((bundle / ENGINE).read_bytes())


def linked(bundle: Path, lab: Lab) -> None:
    """A link to a file outside, with the same content today."""
    (bundle / ENGINE).rename(bundle.with_suffix(".onnx"))
    (bundle / ENGINE).symlink_to(bundle.with_suffix(".onnx"))


def promise_loosened(bundle: Path, lab: Lab) -> None:
    edited(bundle, lambda manifest: gate(manifest, "score_drop").update(limit=0.5))


def promise_rewritten(bundle: Path, lab: Lab) -> None:
    """As ``promise_loosened``, with all that follows from it."""

    def change(manifest: dict[str, Any]) -> None:
        drop = gate(manifest, "score_drop")
        drop.update(limit=0.5, promise="at most 0.5", margin=0.5 - drop["measured"])

    edited(bundle, change)


def other_version(bundle: Path, lab: Lab) -> None:
    edited(bundle, lambda manifest: manifest["engine"].update(version="1.0.0"))


def drop_embellished(bundle: Path, lab: Lab) -> None:
    """The best that its bounds allow."""

    def change(manifest: dict[str, Any]) -> None:
        drop = gate(manifest, "score_drop")
        drop.update(measured=drop["bounds"][0])

    edited(bundle, change)


def drop_rewritten(bundle: Path, lab: Lab) -> None:
    """With the margin that follows from it."""

    def change(manifest: dict[str, Any]) -> None:
        drop = gate(manifest, "score_drop")
        drop.update(measured=drop["bounds"][0], margin=drop["limit"] - drop["bounds"][0])

    edited(bundle, change)


def agreement_embellished(bundle: Path, lab: Lab) -> None:
    """In the ledger that the card and the page show."""

    def change(manifest: dict[str, Any]) -> None:
        engine = next(hop for hop in manifest["ledger"]["hops"] if hop["hop"] == "engine")
        engine["teacher"]["agreement"] = 1.0

    edited(bundle, change)


def ungated(bundle: Path, lab: Lab) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["verdict"]["gates"] = [each for each in manifest["verdict"]["gates"] if each["against"] != "teacher"]

    edited(bundle, change)


def gate(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """The engine's promise against the teacher."""
    of = (name, "engine", "teacher")
    gates = manifest["verdict"]["gates"]
    found: dict[str, Any] = next(each for each in gates if (each["gate"], each["hop"], each["against"]) == of)
    return found


def other_preprocessing(bundle: Path, lab: Lab) -> None:
    edited(bundle, lambda manifest: manifest["preprocess"]["image"][0].update(by=1 / 16))


def labels_exchanged(bundle: Path, lab: Lab) -> None:
    edited(bundle, lambda manifest: manifest.update(labels=["0", "1", "2", "8", "4", "5", "6", "7", "3", "9"]))


def larger_batches(bundle: Path, lab: Lab) -> None:
    """Batches that were never proven."""
    edited(bundle, lambda manifest: manifest["ranges"].update(batch=[1, 4096]))


def larger_batches_throughout(bundle: Path, lab: Lab) -> None:
    """Batches that were never proven, and the models for Triton that promise them, too."""
    larger_batches(bundle, lab)
    manifest = Manifest.model_validate_json((bundle / "manifest.json").read_text())
    requests = golden.load_requests(bundle, manifest)
    shutil.rmtree(bundle / "triton")
    triton.write_repository(bundle / "triton", manifest, bundle, requests)


def signed_by_another(bundle: Path, lab: Lab) -> None:
    """Batches that were never proven, and a signature of them that is right, by a key that nobody trusts."""
    larger_batches(bundle, lab)
    checksums.write_checksums(bundle)
    sign_bundle(bundle, pair(lab.store, "stranger", seed=bytes([1] * 32)).private)


def unsigned(bundle: Path, lab: Lab) -> None:
    """Batches that were never proven, and no signature."""
    larger_batches(bundle, lab)
    (bundle / checksums.SIGNATURE).unlink()


def other_machine(bundle: Path, lab: Lab) -> None:
    edited(bundle, lambda manifest: manifest["engine"]["machine"].update(flags=["sve2"]))
