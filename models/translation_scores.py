"""Translation scores: BLEU and chrF of texts and their references, as sums by sentence.

The score of a set of sentences is a function of the sums over it, so a bootstrap draws sentences.
Both give sacrebleu's numbers (Post 2018, arXiv:1804.08771), with its defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from attar.pipeline.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU

Floats = npt.NDArray[np.float64]
ORDERS = 4
"""Words of BLEU's longest n-grams."""
CHARACTER_ORDERS = 6
"""Characters of chrF's longest n-grams."""
RECALL_WEIGHT = 2.0
"""chrF weighs recall so many times as much as precision (beta)."""


def count_bleu(texts: Sequence[str], references: Sequence[str]) -> Floats:
    """Return BLEU's ten sums of each text (Papineni et al. 2002, ACL P02-1040), ``[N, 10]``.

    They are the n-grams found in the reference and the n-grams of the text, each for n = 1 to 4,
    and the words of the text and of the reference. Raises MissingDependencyError without sacrebleu.
    """
    metric = open_bleu()
    statistics = np.zeros((len(texts), 2 * ORDERS + 2))
    for row, text, reference in zip(statistics, texts, references, strict=True):
        score = metric.sentence_score(text, [reference])
        row[:] = [*score.counts, *score.totals, score.sys_len, score.ref_len]
    return statistics


def compute_bleu(statistics: Floats) -> float:
    """Return the BLEU of a set of sentences, 0 to 100, of their ten sums ``[N, 10]``."""
    *sums, text_length, reference_length = statistics.sum(0).astype(int).tolist()
    score = open_bleu().compute_bleu(
        sums[:ORDERS], sums[ORDERS:], text_length, reference_length, smooth_method="exp"
    )
    return float(score.score)


@cache
def open_bleu() -> BLEU:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingDependencyError(
            "translations are scored with the library sacrebleu: pip install 'attar[text]'"
        ) from error
    return BLEU(effective_order=True)  # the sums are the same, and one sentence brings no warning


def count_chrf(texts: Sequence[str], references: Sequence[str]) -> Floats:
    """Return chrF's sums of each text (Popovic 2015, ACL W15-3049), ``[N, 18]``.

    They are the character n-grams of the text, of the reference and of both, each for n = 1 to 6.
    White space is left out. An order of which the reference has none counts for neither side.
    """
    pairs = zip(texts, references, strict=True)
    return np.array([count_characters(*pair) for pair in pairs], np.float64).reshape(
        -1, 3 * CHARACTER_ORDERS
    )


def count_characters(text: str, reference: str) -> list[int]:
    """Return the n-grams of the text for n = 1 to 6, of the reference, and the shared ones."""
    text, reference = ("".join(side.split()) for side in (text, reference))
    of_text, of_reference, shared = [], [], []
    for order in range(1, CHARACTER_ORDERS + 1):
        own, expected = (count_ngrams(side, order) for side in (text, reference))
        of_text.append(own.total() if expected else 0)
        of_reference.append(expected.total())
        shared.append((own & expected).total())
    return [*of_text, *of_reference, *shared]


def count_ngrams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


def compute_chrf(statistics: Floats) -> float:
    """Return the chrF of a set of sentences, 0 to 100, of their sums ``[N, 18]``."""
    of_text, of_reference, shared = statistics.sum(0).reshape(3, CHARACTER_ORDERS)
    known = (of_text > 0) & (of_reference > 0)
    if not shared.any():
        return 0.0
    precision = float((shared[known] / of_text[known]).mean())
    recall = float((shared[known] / of_reference[known]).mean())
    weight = RECALL_WEIGHT**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall)
