"""Every fault of the suite, in the order of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.system.sabotage.case import Case
from tests.system.sabotage.cases import bundle, graph, kinds, learning, sequences

CASES: Mapping[str, Sequence[Case]] = {
    "Data": learning.DATA,
    "The teacher's answers": learning.ANSWERS,
    "The student": learning.STUDENT,
    "Export": graph.EXPORT,
    "Precision": graph.PRECISION,
    "Batches": graph.BATCHES,
    "The engine": graph.ENGINE,
    "Proof and packaging": bundle.PROOF,
    "A bundle, changed": bundle.BUNDLE,
    "A bundle, changed and sealed again": bundle.SEALED,
    "A signed bundle, changed and sealed again": bundle.SIGNED,
    "Several labels a sample": kinds.LABELS,
    "A class at each pixel": kinds.PIXELS,
    "Sequences, from the teacher to the engine": sequences.SEQUENCES,
    "A bundle that generates, changed": sequences.TOKEN_BUNDLES,
}
