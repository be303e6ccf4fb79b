"""Translation scores: the numbers of sacrebleu, from sums by sentence."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from attar.models import translation_scores as scores
from attar.pipeline.core.errors import MissingDependencyError

REAL = [
    ("questo pacchetto contiene i file di sviluppo.", "Questo pacchetto contiene i file di sviluppo."),
    ("libreria C++ per grafi (file di sviluppo)", "libreria per grafi in C++ - file di sviluppo"),
    ("l'interfaccia è scritta in GTK+ 3.0,e funziona", "L'interfaccia, scritta in GTK+ 3.0, funziona."),
    ("", "È un gioco di scacchi"),
    ("molto più lungo di quanto dovrebbe essere il testo &amp; altro", "breve"),
]
TEXTS = st.lists(
    st.sampled_from(["il", "Il", "file", "di", "l'uso", "C++", "3.0,", "è", "(a)", "\u00a0", "&quot;"]), max_size=9
).map(" ".join)
SENTENCES = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


def check_equal(pairs: list[tuple[str, str]]) -> None:
    texts, references = [list(side) for side in zip(*pairs, strict=True)]
    bleu = scores.compute_bleu(scores.count_bleu(texts, references))
    assert bleu == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score, abs=1e-10)
    chrf = scores.compute_chrf(scores.count_chrf(texts, references))
    assert chrf == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score, abs=1e-10)


def test_real_sentences() -> None:
    check_equal(REAL)
    for pair in REAL:
        check_equal([pair])


@given(SENTENCES)
def test_any_sentences(pairs: list[tuple[str, str]]) -> None:
    check_equal(pairs)


@given(SENTENCES, st.integers(0, 99))
def test_a_resample_has_the_score_of_its_sentences(pairs: list[tuple[str, str]], seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, len(pairs), len(pairs))
    texts, references = [list(side) for side in zip(*pairs, strict=True)]
    drawn = scores.count_bleu(texts, references)[rows]
    expected = sacrebleu.corpus_bleu([texts[row] for row in rows], [[references[row] for row in rows]]).score
    assert scores.compute_bleu(drawn) == pytest.approx(expected, abs=1e-10)


def test_no_sentence_has_no_score() -> None:
    assert scores.compute_bleu(scores.count_bleu([], [])) == 0
    assert scores.compute_chrf(scores.count_chrf([], [])) == 0


def test_without_sacrebleu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    scores.open_bleu.cache_clear()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingDependencyError, match=r"'attar\[text\]'"):
        scores.count_bleu(["a"], ["a"])
