"""What words alone tell of a package's topic: TF-IDF and a linear SVM, the yardstick of the recipe
``topics``.

``python -m benchmarks.topics`` after ``attar fetch topics``; a minute on one core.
"""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.svm import LinearSVC

from attar.models.task import SplitName
from attar.models.tasks.topics import Topics


def read_texts(*names: SplitName) -> tuple[list[str], list[int]]:
    """Return all texts of these splits, and the numbers of their sections."""
    task = Topics()
    taken = [split.take(np.arange(len(split))) for split in map(task.split, names)]
    return (
        [text for batch in taken for text in batch.inputs["text"].tolist()],
        [number for batch in taken for number in batch.targets["section"].tolist()],
    )


def main() -> None:
    test, expected = read_texts("test")
    words, pairs, letters = (
        TfidfVectorizer(sublinear_tf=True),
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5)),
    )
    features = {
        "words": words,
        "words and pairs": pairs,
        "and letters": FeatureUnion([("pairs", pairs), ("letters", letters)]),
    }
    majority = max(np.bincount(expected)) / len(expected)
    print(f"{len(test)} test texts, the largest section has {majority:.3f} of them")
    for which in (("train",), ("train", "validation")):
        learned, sections = read_texts(*which)
        for name, feature in features.items():
            classifier = make_pipeline(feature, LinearSVC(C=0.5)).fit(learned, sections)
            print(
                f"{len(learned)} texts of {' and '.join(which)}, {name}: "
                f"{classifier.score(test, expected):.4f}"
            )


if __name__ == "__main__":
    main()
