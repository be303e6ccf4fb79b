"""Generation: a sequence of tokens from the graphs `start` and `step` of a network.

`start` reads the inputs and returns what does not change (`memory_0`, ...) and the state before the
first token (`state_0`, ...). `step` reads one token of each sample, its place, memory and state,
and returns the logits of the next token and the state after it (`next_state_0`, ...). The first
axis of all of them but `place` is the batch, so samples can be selected and repeated.

A predictor may also generate (`model`) or read a whole path (`follow`) in one call, which is then
what is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from attar.models.largest import find_largest
from attar.models.task import Array, Arrays, Output, Predict, Task

START, STEP, MODEL, FOLLOW = "start", "step", "model", "follow"
PATH = "path"
"""The input of `follow` besides the task's: int64 ``[N, T]``, the tokens whose logits are asked."""
KEEP_ABOVE = (3, 4)
"""A batch goes on with the samples that it has while more than 3 of 4 go on. Otherwise those that
have ended are left out, which costs a copy of memory and state, and makes every later step cheaper.
"""
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vocabulary:
    """The size of a vocabulary, and its special tokens."""

    size: int
    begin: int
    end: int
    pad: int


@dataclass(frozen=True)
class Decoding:
    """What generation has to know of a task: the vocabulary and the limit of the length."""

    output: str
    """The name of the output."""
    vocabulary: Vocabulary
    longest: int
    """The largest number of tokens, the end token included."""
    source: str | None
    """The input whose length limits the output; None if there is none with padding."""
    source_pad: int
    growth: tuple[int, int]
    """Slope and offset: a source of S tokens gets at most ``slope * S + offset`` tokens."""

    def limit_lengths(self, inputs: Arrays) -> Integers:
        """Return the largest number of tokens of each sample, ``[N]``, from 1 to ``longest``."""
        samples = len(next(iter(inputs.values())))
        if self.source is None:
            return np.full(samples, self.longest, np.int64)
        tokens = (np.asarray(inputs[self.source]) != self.source_pad).sum(1)
        slope, offset = self.growth
        limits: Integers = np.clip(slope * tokens + offset, 1, self.longest).astype(np.int64)
        return limits


def find_decoding(task: Task) -> Decoding | None:
    """Return how the task's tokens are generated; None if no output holds tokens."""
    for name, output in task.outputs.items():
        if output.kind == "tokens":
            return describe_decoding(task, name, output)
    return None


def require_decoding(task: Task) -> Decoding:
    """Return how the task's tokens are generated. Raises ValueError if no output holds tokens."""
    decoding = find_decoding(task)
    if decoding is None:
        raise ValueError(f"{type(task).__name__} has no output of tokens")
    return decoding


def describe_decoding(task: Task, name: str, output: Output) -> Decoding:
    padded = [
        (source, tensor.pad)
        for source, tensor in task.inputs.items()
        if tensor.pad is not None and len(tensor.axes) == 2
    ]
    source, pad = padded[0] if padded else (None, 0)
    return Decoding(
        name,
        Vocabulary(output.size, output.begin, output.end, output.pad),
        int(output.axes[1]),
        source,
        pad,
        output.growth,
    )


def generate(graphs: Mapping[str, Predict], inputs: Arrays, decoding: Decoding) -> Integers:
    """Return the most likely token of each step, ``[N, longest]``.

    A sample ends with its end token, or without it at its limit; behind it is padding.
    """
    if MODEL in graphs:
        tokens = graphs[MODEL](inputs)[decoding.output]
        return np.asarray(tokens, np.int64)
    return generate_greedily(graphs, inputs, decoding)


def generate_greedily(
    graphs: Mapping[str, Predict], inputs: Arrays, decoding: Decoding
) -> Integers:
    """As `generate`, one call of `step` for each token."""
    words, limits = decoding.vocabulary, decoding.limit_lengths(inputs)
    memory, state = start_sequence(graphs, inputs)
    paths = np.full((len(limits), decoding.longest), words.pad, np.int64)
    rows = np.arange(len(limits))
    token, done, place = np.full(len(limits), words.begin, np.int64), np.zeros(len(limits), bool), 0
    while len(rows):
        logits, state = take_step(graphs, token, place, memory, state)
        token = np.where(done, words.pad, logits.argmax(1)).astype(np.int64)
        paths[rows, place] = token
        place += 1
        done = done | (token == words.end) | (place >= limits[rows])
        if not keeps_ended_samples(done):
            stay = np.flatnonzero(~done)
            memory, state = select_rows(memory, stay), select_rows(state, stay)
            rows, token, done = rows[stay], token[stay], done[stay]
    return paths


def keeps_ended_samples(done: npt.NDArray[np.bool_]) -> bool:
    """Whether so many samples go on that those that have ended may stay."""
    part, whole = KEEP_ABOVE
    return bool((~done).sum() * whole > len(done) * part)


def generate_with_beam(
    graphs: Mapping[str, Predict],
    inputs: Arrays,
    decoding: Decoding,
    beam: int,
    length_penalty: float = 1.0,
) -> tuple[Integers, Floats]:
    """Return the ``beam`` best hypotheses of each sample, best first, and their scores.

    The score is the sum of the log-probabilities divided by ``length ** length_penalty`` (Wu et al.
    2016, "Google's Neural Machine Translation System", arXiv:1609.08144, section 7, with the
    simpler penalty of Marian). A hypothesis without an end token at its limit counts as it is.
    Returns int64 ``[N, beam, longest]`` and float32 ``[N, beam]``. Raises ValueError for a beam
    below 1 or above the number of tokens.
    """
    if not 1 <= beam <= decoding.vocabulary.size:
        raise ValueError(f"beam must be 1 to {decoding.vocabulary.size}, got {beam}")
    limits = decoding.limit_lengths(inputs)
    memory, state = start_sequence(graphs, inputs)
    search = BeamSearch(decoding.vocabulary, limits, beam, length_penalty)
    rows = np.repeat(np.arange(len(limits)), beam)
    memory, state = select_rows(memory, rows), select_rows(state, rows)
    for place in range(int(limits.max())):
        logits, state = take_step(graphs, search.tokens, place, memory, state)
        state = select_rows(state, search.advance(normalize_logits(logits)))
        if search.is_done:
            break
    paths, scores = search.collect()
    flat = pad_path(paths.reshape(-1, paths.shape[2]), decoding.vocabulary.pad, decoding.longest)
    return flat.reshape(len(limits), beam, -1), scores


class BeamSearch:
    """The hypotheses of ``N`` samples. A finished hypothesis keeps its place in the beam."""

    def __init__(self, words: Vocabulary, limits: Integers, beam: int, penalty: float) -> None:
        self.words, self.limits, self.beam, self.penalty = words, limits, beam, penalty
        samples = len(limits)
        self.sums = np.full((samples, beam), -np.inf)
        self.sums[:, 0] = 0  # the first step has one hypothesis, the others would repeat it
        self.lengths = np.zeros((samples, beam), np.int64)
        self.ended = np.zeros((samples, beam), bool)
        self.paths = np.zeros((samples, beam, 0), np.int64)

    @property
    def tokens(self) -> Integers:
        """The last token of every hypothesis, ``[N * beam]``."""
        if not self.paths.shape[2]:
            return np.full(self.sums.size, self.words.begin, np.int64)
        return self.paths[:, :, -1].ravel()

    @property
    def is_done(self) -> bool:
        return bool(self.ended.all())

    def advance(self, logs: Floats) -> Integers:
        """Add the tokens of one step.

        ``logs`` ``[N * beam, size]`` are the log-probabilities of the next token. Returns the rows
        of the states that the new hypotheses go on from, ``[N * beam]``.
        """
        samples, size = len(self.limits), self.words.size
        continued = np.array(logs, np.float64).reshape(samples, self.beam, size)
        continued[self.ended] = -np.inf
        continued[self.ended, self.words.pad] = 0  # a finished one goes on, at no cost
        sums = self.sums[:, :, None] + continued
        lengths = self.lengths[:, :, None] + ~self.ended[:, :, None]
        scores = sums / np.maximum(lengths, 1) ** self.penalty
        best = find_largest(scores.reshape(samples, -1), self.beam)
        parents, tokens = best // size, best % size
        rows = np.arange(samples)[:, None]
        self.sums = sums.reshape(samples, -1)[rows, best]
        self.lengths = lengths[rows, parents, 0]
        self.paths = np.concatenate([self.paths[rows, parents], tokens[:, :, None]], 2)
        reached_limit = self.paths.shape[2] >= self.limits[:, None]
        self.ended = self.ended[rows, parents] | (tokens == self.words.end) | reached_limit
        return (rows * self.beam + parents).ravel()

    def collect(self) -> tuple[Integers, Floats]:
        """Return the hypotheses and their scores, best first."""
        scores = self.sums / np.maximum(self.lengths, 1) ** self.penalty
        return self.paths, scores.astype(np.float32)


def follow(
    graphs: Mapping[str, Predict], inputs: Arrays, path: Integers, decoding: Decoding
) -> Iterator[Floats]:
    """Yield the logits of the next token ``[N, size]`` at each place of a path ``[N, T]``.

    The logits at place ``t`` are those after the tokens before ``t``: they are about
    ``path[:, t]``.
    """
    if FOLLOW in graphs:
        logits = graphs[FOLLOW]({**inputs, PATH: path})[decoding.output]  # (N, T, size)
        yield from np.asarray(logits, np.float32).transpose(1, 0, 2)
        return
    memory, state = start_sequence(graphs, inputs)
    prefix = shift_path(path, decoding.vocabulary)
    for place in range(path.shape[1]):
        logits, state = take_step(graphs, prefix[:, place], place, memory, state)
        yield logits


def shift_path(path: Integers, words: Vocabulary) -> Integers:
    """Return the tokens that a network reads to predict a path.

    These are the begin token, then all but the last. The path's end token is read as it is; what
    follows it is padding, whose logits nobody uses.
    """
    begin = np.full((len(path), 1), words.begin, np.int64)
    return np.concatenate([begin, path[:, :-1]], 1)


def start_sequence(
    graphs: Mapping[str, Predict], inputs: Arrays
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return memory and state before the first token."""
    outputs = graphs[START](inputs)
    memory = {name: array for name, array in outputs.items() if name.startswith("memory_")}
    state = {name: array for name, array in outputs.items() if name.startswith("state_")}
    return memory, state


def take_step(
    graphs: Mapping[str, Predict], token: Integers, place: int, memory: Arrays, state: Arrays
) -> tuple[Floats, dict[str, Array]]:
    """Return the logits of the next token ``[N, size]``, and the state after this one."""
    inputs = {"token": token, "place": np.array([place], np.int64), **memory, **state}
    outputs = graphs[STEP](inputs)
    return cast(Floats, outputs["logits"]), {name: outputs[f"next_{name}"] for name in state}


def select_rows(arrays: Arrays, rows: Integers) -> dict[str, Array]:
    return {name: array[rows] for name, array in arrays.items()}


def normalize_logits(logits: Floats) -> Floats:
    """Return the log-probabilities of logits, over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    normalized: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalized


def measure_lengths(tokens: Integers, words: Vocabulary) -> Integers:
    """Return the number of tokens of each sample, up to and with its end token, ``[N, T] -> [N]``.

    A sample without an end token has as many as it has before its padding.
    """
    ends = tokens == words.end
    has_end = ends.any(1)
    used = np.where(tokens != words.pad, np.arange(1, tokens.shape[1] + 1), 0).max(1, initial=0)
    lengths: Integers = np.where(has_end, ends.argmax(1) + 1, used)
    return lengths


def pad_path(path: Integers, pad: int, length: int) -> Integers:
    """Return paths ``[N, T]`` with padding up to ``length``."""
    return np.pad(path, ((0, 0), (0, length - path.shape[1])), constant_values=pad)
