"""The model card: what a bundle holds, what was proven about it, and how it is used, in the
``README.md`` inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attar.bundle.engine_needs import explain_native_refusal
from attar.bundle.golden import find_tolerance
from attar.bundle.manifest import BatchEngine, EngineRequirements, Manifest, StoredTensor
from attar.proof.gate import Gate
from attar.proof.report import gate_formatting
from attar.proof.report.formatting import DASH


def render_card(manifest: Manifest) -> str:
    """Markdown."""
    return f"""# {manifest.name}

{format_sentence(manifest.verdict.summary)}{describe_state(manifest)}

Task: `{manifest.task}`. Engine: {describe_engine(manifest.engine)}.
{describe_machine(manifest)}

## Proof

{render_proof(manifest)}
{render_batch_engine(manifest)}
## Tensors

| name | | dtype | axes |
| --- | --- | --- | --- |
{chr(10).join(format_tensors(manifest))}

{format_sizes(manifest)}

## Use

```python
import attar

with attar.open("{manifest.name}") as model:
    outputs = model(model.preprocess(raw))  # named numpy arrays; model.labels names the classes
{format_answers(manifest)}```
{explain_texts(manifest)}{explain_trust(manifest)}
`attar check` replays the {manifest.golden.requests} golden requests. `attar bench` compares \
the engine's speed with that of the
fp32 student, which `reference/` holds. `triton/` is a model repository for Triton.
"""


def describe_engine(needs: EngineRequirements) -> str:
    versioned = " ".join(filter(None, [needs.runtime, needs.version]))
    runtime = ", ".join(filter(None, [versioned, needs.provider]))
    return f"{needs.precision}, {runtime}, threads: {needs.threads}"


def render_proof(part: Manifest | BatchEngine, batch: int = 1) -> str:
    """Return the ledger and the gates of an engine, with the latency at a batch size."""
    ledger = part.ledger
    hops = [format_hop(hop, batch) for hop in ledger["hops"]]
    gates = [format_gate(gate) for gate in part.verdict.read_gates() if gate.required]
    return f"""{ledger["samples"]:,} samples of the {ledger["split"]} split. \
Drop and correlation: against the teacher. Latency: one thread of the CPU, or the device that is \
named.

| hop | format | precision | {ledger["score_name"]} \
| drop | correlation | p50, batch {batch} (µs) | bytes |
| --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(hops)}

{gate_formatting.BOUNDS_EXPLANATION}

| gate | promise | measured | verdict |
| --- | --- | --- | --- |
{chr(10).join(gates)}"""


def render_batch_engine(manifest: Manifest) -> str:
    """Return the section about the engine for batches; empty without one."""
    batch = manifest.batch
    if batch is None:
        return ""
    return f"""
## Batches

Calls of {batch.rows} samples or more go to another engine: {describe_engine(batch.engine)}. \
{format_sentence(batch.verdict.summary)}

{render_proof(batch, batch.ledger["batch"])}
"""


def describe_state(manifest: Manifest) -> str:
    """What becomes of an engine that was not run where the bundle was packaged; empty for
    another."""
    if manifest.unfinished:
        return (
            "\n\n**Unfinished: nothing serves this bundle yet.** `attar finish BUNDLE -o DIR` on a "
            "machine that can run the engine builds it there, compares it with its graph, and "
            "writes the finished bundle to DIR."
        )
    if done := manifest.finished:
        allowed = find_tolerance(manifest.engine)
        return (
            f"\n\n**Finished by attar {done.attar} on {done.date}.** On {done.requests} golden "
            f"requests the engine is off by {done.largest_difference:.2g} of its graph, the "
            f"`model` below; up to {allowed:g} is allowed. The promises were measured on that "
            "graph; on the test split the engine itself was not."
        )
    return ""


def list_answers(manifest: Manifest) -> list[str]:
    """Return the outputs that steps turn into answers."""
    return [name for name, steps in manifest.postprocess.items() if steps]


def format_answers(manifest: Manifest) -> str:
    """Return the line of the example that makes answers of the outputs; empty without steps."""
    if not list_answers(manifest):
        return ""
    return "    answers = model.postprocess(outputs)  # the same, with text for tokens\n"


def explain_texts(manifest: Manifest) -> str:
    """Return who answers with text and who with tokens; empty without steps on outputs."""
    names = " and ".join(f"`{name}`" for name in list_answers(manifest))
    if not names:
        return ""
    raw = ", ".join(f"`{name}`" for name in manifest.inputs)
    return (
        f"\n`attar serve` has two models of this bundle: `{manifest.name}-raw` reads {raw} as they "
        f"come and answers {names}\nas text; `{manifest.name}` has the tensors above. `triton/` "
        "holds one model, with the tensors above: tokens in, tokens out.\n"
    )


def explain_trust(manifest: Manifest) -> str:
    """What opening an engine asks for that is native code; empty for another."""
    if not any(explain_native_refusal(part.engine) for part in manifest.parts):
        return ""
    return (
        "\nThe engine is native code: only `trusted=`, the public keys of who signed the bundle, "
        "or `allow_native=True`, for\nwhat you built yourself, loads it. On the command line: "
        "`--trusted FILE`, `--allow-native`.\n"
    )


def describe_machine(manifest: Manifest) -> str:
    if manifest.unfinished:
        return "`graphs/` is portable; there is no engine that was run."
    cpu = (manifest.finished.machine if manifest.finished else manifest.ledger["machine"])["cpu"]
    return f"Built on {cpu}: `graphs/` is portable, `engines/` is for such a machine only."


def format_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def format_signed(number: float) -> str:
    """To four places; what rounds to nothing has no sign."""
    text = f"{number:+.4f}"
    return text if float(text) else "0"


def format_hop(hop: Mapping[str, Any], batch: int) -> str:
    if hop["status"] != "measured":
        return (
            f"| {hop['hop']} | {hop['format']} | {hop['precision']} | not run here: {hop['why']} | "
            "| | | |"
        )
    teacher, latency = hop["teacher"], hop["latency"].get(str(batch))
    device = f" on {hop['device']}" if "device" in hop else ""
    columns = [
        *(hop["hop"], hop["format"], hop["precision"], f"{hop['score']:.4f}"),
        *(
            format_signed(teacher["score_drop"]),
            format_known(teacher["correlation"], ".4f"),
            format_known(latency and latency["p50"], ",.0f") + device,
            format_known(hop["bytes"], ","),
        ),
    ]
    return f"| {' | '.join(columns)} |"


def format_known(number: float | None, form: str) -> str:
    """Return a number, or a dash for one that was not measured."""
    return DASH if number is None else format(number, form)


def format_gate(gate: Gate) -> str:
    title = f"{gate.comparison.hop}: {gate_formatting.format_title(gate.comparison)}"
    promise = gate_formatting.format_promise(gate)
    evidence = gate_formatting.format_evidence_and_note(gate)
    return f"| {title} | {promise} | {evidence} | {gate.verdict} |"


def format_tensors(manifest: Manifest) -> list[str]:
    inputs = [format_tensor(name, "input", each) for name, each in manifest.inputs.items()]
    return inputs + [format_tensor(name, "output", each) for name, each in manifest.outputs.items()]


def format_tensor(name: str, which: str, each: StoredTensor) -> str:
    return f"| `{name}` | {which} | {each.dtype} | {', '.join(map(str, each.axes))} |"


def format_sizes(manifest: Manifest) -> str:
    return "; ".join(
        f"`{axis}` from {low} to {high}" for axis, (low, high) in manifest.ranges.items()
    )
