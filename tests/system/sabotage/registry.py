"""Every fault of the suite, in the order of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.system.sabotage import cases_bundle, cases_graph, cases_kinds, cases_learning, cases_sequences
from tests.system.sabotage.case import Case

CASES: Mapping[str, Sequence[Case]] = {
    "Data": cases_learning.DATA,
    "The teacher's answers": cases_learning.ANSWERS,
    "The student": cases_learning.STUDENT,
    "Export": cases_graph.EXPORT,
    "Precision": cases_graph.PRECISION,
    "Batches": cases_graph.BATCHES,
    "The engine": cases_graph.ENGINE,
    "Proof and packaging": cases_bundle.PROOF,
    "A bundle, changed": cases_bundle.BUNDLE,
    "A bundle, changed and sealed again": cases_bundle.SEALED,
    "A signed bundle, changed and sealed again": cases_bundle.SIGNED,
    "Several labels a sample": cases_kinds.LABELS,
    "A class at each pixel": cases_kinds.PIXELS,
    "Sequences, from the teacher to the engine": cases_sequences.SEQUENCES,
    "A bundle that generates, changed": cases_sequences.TOKEN_BUNDLES,
}
