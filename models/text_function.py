"""Text functions: a program that makes texts of texts, asked as a network that generates is.

It reads the raw texts of a task, and the tokenizer of the task's output makes tokens of what it
returns. It has no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.models import preprocess
from attar.models.generation import Integers, find_decoding, require_decoding
from attar.models.postprocess import Detokenize
from attar.models.preprocess import Tokenize
from attar.models.task import Array, Arrays, Task, Tensor
from attar.pipeline.core import error_context as blame
from attar.pipeline.core import names
from attar.pipeline.core.errors import StageError

LONGEST_QUOTE = 80
"""Characters of a text that a message quotes."""


def make_text_task(task: Task) -> Task:
    """Return the task whose input are its raw texts.

    Raises StageError for a task that does not make tokens of texts, and texts of tokens.
    """
    source, _ = find_source(task), find_detokenizer(task)
    changed = {"inputs": {source: Tensor("str", ("batch",))}, "preprocess": {}}
    made: Task = type(type(task).__name__, (type(task),), changed)()
    return made


def find_source(task: Task) -> str:
    """Return the name of the input that is made of texts. Raises StageError as `make_text_task`."""
    name, decoding = type(task).__name__, find_decoding(task)
    if decoding is None:
        raise StageError(
            f"{name} has no output of kind 'tokens', and a function of texts teaches networks that "
            "generate; name a network, huggingface or onnx in [teacher]"
        )
    first = {key: steps[0] for key, steps in task.preprocess.items() if steps}
    tokenized = [key for key, step in first.items() if isinstance(step, Tokenize)]
    if list(task.inputs) != tokenized:
        raise StageError(
            f"{name} reads {', '.join(task.inputs)}, and a function of texts needs one input, "
            "which attar.Tokenize makes of texts; name it in `preprocess`"
        )
    return tokenized[0]


def find_detokenizer(task: Task) -> Detokenize:
    """Return the step whose tokenizer makes tokens of translations. Raises StageError if there is
    none."""
    output = require_decoding(task).output
    for step in task.postprocess.get(output, ()):
        if isinstance(step, Detokenize):
            return step
    raise StageError(
        f"{type(task).__name__} has no attar.Detokenize for {output!r}, whose tokenizer makes "
        "tokens of what a function of texts returns; name it in `postprocess`"
    )


def load_text_function(name: str, task: Task) -> TextFunction:
    """Load the function that a recipe names, for a task. Raises StageError if it is none."""
    function = names.load_object(name)
    if not callable(function) or isinstance(function, type):
        raise StageError(
            f"{name} is {function!r}; it must be a function that takes a list of texts and returns "
            "their translations, a list of texts"
        )
    return TextFunction(name, function, task)


@dataclass(frozen=True)
class TextFunction:
    """``function(texts)`` as the graph `model` of a network that generates."""

    name: str
    function: Callable[[list[str]], Any]
    task: Task
    """The task with its own ``preprocess``, which tells how long a translation may be."""

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Return the tokens of the translations of raw texts ``[N]``, ``[N, longest]``.

        Raises StageError for translations that the output cannot hold.
        """
        decoding = require_decoding(self.task)
        texts = np.asarray(inputs[find_source(self.task)]).tolist()
        limits = decoding.limit_lengths(preprocess.apply(self.task.preprocess, inputs))
        return {decoding.output: self.encode(texts, self.translate(texts), limits)}

    def translate(self, texts: list[str]) -> list[str]:
        """Return a translation of each text. Raises StageError for anything else."""
        first = quote(texts[0])
        try:
            made: Any = self.function(list(texts))
        except Exception as error:  # user code may raise anything
            raise StageError(
                f"{self.name} raised {type(error).__name__}: {error} for {len(texts)} texts, the "
                f"first {first}{blame.locate_user_code(error)}"
            ) from error
        if not isinstance(made, list | tuple) or len(made) != len(texts):
            count = f" of {len(made)}" if isinstance(made, list | tuple) else ""
            raise StageError(
                f"{self.name} returned a {type(made).__name__}{count} for {len(texts)} texts, the "
                f"first {first}; it must return a list with one translation for each, in their "
                "order"
            )
        for text, translation in zip(texts, made, strict=True):
            if not isinstance(translation, str) or not translation.strip():
                raise self.refuse(text, translation, "is no text", "return at least a word")
        return list(made)

    def encode(self, texts: list[str], translations: list[str], limits: Integers) -> Integers:
        """Return tokens, an end token and padding, ``[N, longest]``.

        Raises StageError for a translation that is longer than its limit, or that the tokenizer
        cannot write.
        """
        decoding = require_decoding(self.task)
        words, step = decoding.vocabulary, find_detokenizer(self.task)
        special = {words.begin, words.end, words.pad, *step.list_unknown()}
        paths = np.full((len(texts), decoding.longest), words.pad, np.int64)
        for row, (text, said) in enumerate(zip(texts, translations, strict=True)):
            tokens, most = step.encode(said), int(limits[row])
            if not tokens or special.intersection(tokens):
                why = f"holds what {step.file.name} has no token for"
                raise self.refuse(text, said, why, "use a tokenizer that knows every text")
            if len(tokens) >= most:
                why = f"has {len(tokens)} tokens and its end, at most {most} are allowed"
                remedy = f"give {decoding.output!r} more columns, or raise its growth"
                raise self.refuse(text, said, why, remedy)
            paths[row, : len(tokens) + 1] = [*tokens, words.end]
        return paths

    def refuse(self, text: str, translation: object, why: str, remedy: str) -> StageError:
        """Return the error for a translation that cannot be learned."""
        return StageError(
            f"{self.name} translates {quote(text)} as {quote(translation)}, which {why}; {remedy}"
        )


def quote(value: object) -> str:
    """Return a value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 3]}..."
