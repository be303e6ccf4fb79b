"""Whole sentences by attar's engines and by CTranslate2, with the same weights, greedily.

``python -m benchmarks.translation ARTIFACT`` reads a student or teacher of a network of
``attar.models.networks.translation``: its folder in the store, which ``attar show RECIPE student``
names. It takes a few minutes on one quiet core. CTranslate2 is no dependency of attar:
``pip install --no-deps ctranslate2``.

All run on one thread of one core, interleaved, on the same sentences of the test split, cut to the
longest of their batch. attar's time holds everything from token ids to token ids; CTranslate2's
holds the strings that its interface reads and writes.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import onnx

from attar.engines.graphs.assembly import assemble_graph
from attar.engines.graphs.int8_dynamic import write_dynamic_int8_graph
from attar.engines.graphs.int8_weights import write_int8_weights_graph
from attar.engines.runtimes import onnxruntime
from attar.models import lengths, views
from attar.models.generation import (
    MODEL,
    START,
    STEP,
    Decoding,
    Integers,
    require_decoding,
)
from attar.models.networks.translation import Translator
from attar.models.task import Task
from attar.proof.comparison import timing
from attar.proof.estimates.statistics import bound_median
from attar.stages.artifacts import Weights
from attar.stages.export import sequences
from attar.stages.export.simplification import simplify_graph
from benchmarks.peers.ctranslate2_model import name_tokens, write_model

SENTENCES = 256
BATCHES = (1, 8, 32)
ROUNDS, SECONDS = 200, 60.0
PEERS = {"CTranslate2 fp32": "float32", "CTranslate2 int8": "int8"}
"""CTranslate2's compute types."""
Generate = Callable[[Integers], Integers]
"""Sources ``[N, S]`` to tokens ``[N, longest]``."""


@dataclass(frozen=True)
class TrainedTranslator:
    """A trained network, its task, and who translates with it."""

    task: Task
    decoding: Decoding
    network: Translator


def load_field(folder: Path) -> TrainedTranslator:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    payload = folder / "payload" if (folder / "payload").is_dir() else folder
    weights = Weights("", "", payload, facts)
    task, network = weights.load_task(), weights.load()
    if not isinstance(network, Translator):
        raise SystemExit(f"{folder} holds a {type(network).__name__}; name one of a Translator")
    return TrainedTranslator(task, require_decoding(task), network)


def build_engines(field: TrainedTranslator, folder: Path) -> dict[str, Path]:
    """Return the built graphs that generate, by their precision."""
    for name, form in sequences.describe_graphs(field.network, field.task).items():
        file = folder / f"{name}.onnx"
        sequences.export_form(form, file, 20, "dynamo")
        given = (name, field.network, field.task, field.decoding)
        onnx.save(simplify_graph(file, *given), file)
    return {
        precision: build_engine(field, folder, precision)
        for precision in ("fp32", "int8-dynamic", "int8-weights")
    }


def build_engine(field: TrainedTranslator, folder: Path, precision: str) -> Path:
    converted: dict[str, Path] = {}
    for name in (START, STEP):
        source, target = folder / f"{name}.onnx", folder / f"{precision}.{name}.onnx"
        if precision == "int8-dynamic":
            write_dynamic_int8_graph(source, target, True, ())
        elif precision == "int8-weights":
            write_int8_weights_graph(source, target, ())
        else:
            target.write_bytes(source.read_bytes())
        converted[name] = target
    graph, engine = folder / f"{precision}.graph.onnx", folder / f"{precision}.engine.onnx"
    assemble_graph(converted[START], converted[STEP], graph, field.task, field.decoding)
    onnxruntime.write_optimized(graph, engine)
    return engine


def open_peer(field: TrainedTranslator, folder: Path, compute_type: str) -> Generate:
    translator: Any = ctranslate2.Translator(
        str(folder), compute_type=compute_type, intra_threads=1, inter_threads=1
    )
    words, longest = field.decoding.vocabulary, field.decoding.longest
    names = name_tokens(words)
    numbers = {name: number for number, name in enumerate(names)}

    def generate(sources: Integers) -> Integers:
        texts = [[names[token] for token in row if token != words.pad] for row in sources.tolist()]
        results = translator.translate_batch(texts, beam_size=1, max_decoding_length=longest - 1)
        tokens = np.full((len(sources), longest), words.pad, np.int64)
        for row, result in zip(tokens, results, strict=True):
            translated = [numbers[name] for name in result.hypotheses[0]]
            row[: len(translated) + 1] = [*translated, words.end]
        return tokens

    return generate


def read_sources(field: TrainedTranslator) -> Integers:
    """Return sentences from all over the test split, ``[SENTENCES, S]``."""
    split = field.task.split("test")
    batches = views.iterate_spread(field.task, split, SENTENCES, SENTENCES)
    inputs = next(iter(batches)).inputs
    return np.asarray(inputs[str(field.decoding.source)], np.int64)


def trim_sources(field: TrainedTranslator, sources: Integers) -> Integers:
    trimmed = lengths.trim_inputs(field.task, {str(field.decoding.source): sources})
    return np.asarray(trimmed[str(field.decoding.source)], np.int64)


def compare_tokens(
    field: TrainedTranslator, contenders: Mapping[str, Generate], sources: Integers
) -> dict[str, float]:
    """Return the share of sentences that each translates as attar's fp32 engine does."""
    rows = [trim_sources(field, sources[row : row + 1]) for row in range(len(sources))]
    outputs = {
        name: np.concatenate([generate(row) for row in rows])
        for name, generate in contenders.items()
    }
    expected = outputs["attar fp32"]
    return {name: float((tokens == expected).all(1).mean()) for name, tokens in outputs.items()}


def time_batches(
    field: TrainedTranslator, contenders: Mapping[str, Generate], sources: Integers, batch: int
) -> dict[str, timing.Seconds]:
    """Time the translation of as many batches as there are, in turns."""
    samples = BATCH_SAMPLES[batch]
    blocks = [
        trim_sources(field, sources[start : start + batch]) for start in range(0, samples, batch)
    ]

    def translate(generate: Generate) -> None:
        for block in blocks:
            generate(block)

    calls = {
        name: lambda generate=generate: translate(generate) for name, generate in contenders.items()
    }
    return timing.time_interleaved(calls, ROUNDS, SECONDS)


BATCH_SAMPLES = {1: 32, 8: 64, 32: 128}
"""Sentences of one timed call, by batch size."""


def print_results(
    field: TrainedTranslator,
    same: Mapping[str, float],
    times: Mapping[int, Mapping[str, timing.Seconds]],
) -> None:
    parameters = sum(parameter.numel() for parameter in field.network.parameters())
    date = datetime.now(UTC).date()
    print(f"{type(field.task).__name__}, {parameters:,} parameters, {SENTENCES} test sentences")
    print(f"{platform.processor() or platform.machine()}, {date}, one thread of one core")
    titles = [f"ms a sentence, batch {batch} | over CTranslate2 int8" for batch in times]
    print(f"| | same as attar fp32 | {' | '.join(titles)} |")
    print(f"| --- | --- |{' --- | --- |' * len(times)}")
    for name, share in same.items():
        cells = []
        for batch, seconds in times.items():
            ratios = seconds["CTranslate2 int8"] / seconds[name]
            low, high = bound_median(ratios)
            sentence = np.median(seconds[name]) / BATCH_SAMPLES[batch] * 1e3
            cells.append(f"{sentence:.2f} | {np.median(ratios):.2f} ({low:.2f} to {high:.2f})")
        print(f"| {name} | {share:.3f} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("artifact", type=Path, help="folder of a student or teacher in the store")
    field = load_field(parser.parse_args().artifact)
    sources = read_sources(field)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        contenders: dict[str, Generate] = {}
        for precision, engine in build_engines(field, folder).items():
            opened = stack.enter_context(
                onnxruntime.open_session({MODEL: engine}, 1, optimize=False)
            )
            contenders[f"attar {precision}"] = make_generator(field, opened.graphs[MODEL])
        write_model(field.network, field.decoding.vocabulary, folder / "ctranslate2")
        for name, compute_type in PEERS.items():
            contenders[name] = open_peer(field, folder / "ctranslate2", compute_type)
        same = compare_tokens(field, contenders, sources)
        with timing.pin_to_core():
            times = {batch: time_batches(field, contenders, sources, batch) for batch in BATCHES}
        print_results(field, same, times)


def make_generator(field: TrainedTranslator, graph: Any) -> Generate:
    source, output = str(field.decoding.source), field.decoding.output

    def generate(sources: Integers) -> Integers:
        tokens: Integers = graph({source: sources})[output]
        return tokens

    return generate


if __name__ == "__main__":
    main()
