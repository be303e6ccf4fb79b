"""Steps on text."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr

from attar.models.preprocess.step import Array, FileStep
from attar.models.tensors import describe_array
from attar.pipeline.core.errors import AttarError, MissingDependencyError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PAD_TOKENS = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>")
"""Usual names of the padding token, for a tokenizer that does not declare its own."""
PIECE_CHARACTERS = 2**16
"""Characters that become tokens at a time: until a text is cut, each may take 400 bytes."""


class Tokenize(FileStep):
    """Convert strings ``[N]`` to token ids, int64 ``[N, longest of these]``, padded on the right
    with the tokenizer's own padding.

    A text is cut to ``length`` tokens, including those that the post-processor adds, such as [CLS]
    and [SEP], which are never cut. There is at least one column, so that an empty text has a length
    too. ``file`` is a ``tokenizer.json`` of the library ``tokenizers``.
    """

    kind: ClassVar[str] = "tokenizer.json"
    step: Literal["tokenize"] = "tokenize"
    length: int = Field(ge=1)
    whole: bool = Field(False, exclude_if=operator.not_)
    """Whether a text that is empty or longer is refused, as the source of a translation should
    be."""
    _held: tuple[Tokenizer, int] | None = PrivateAttr(None)

    def __call__(self, x: Array) -> Array:
        texts = x.tolist()
        are_texts = x.dtype.kind in "UO" and all(isinstance(text, str) for text in texts)
        if x.ndim != 1 or not are_texts:
            raise self.refuse(
                describe_array(x), "it reads strings: an array [N] of dtype U, or of str objects"
            )
        encoded: list[Array] = []
        for piece in cut_texts(texts):
            encoded += self.encode_piece(piece, len(encoded) + 1)
        tokens = np.full((len(texts), max(1, *map(len, encoded), 0)), self.pad, np.int64)
        for row, ids in zip(tokens, encoded, strict=True):
            row[: len(ids)] = ids
        return tokens

    def encode_piece(self, texts: Sequence[str], first: int) -> list[Array]:
        """Return the ids of each text; ``first``: the number of the first one among all."""
        try:
            encodings = self.tokenizer.encode_batch_fast(texts)
        except TypeError as error:  # raised for half of a surrogate pair
            remedy = "it holds half of a surrogate pair; decode it with errors='replace'"
            raise self.refuse("a text that is no Unicode", remedy) from error
        if self.whole:
            self.check_whole(texts, encodings, first)
        return [np.array(encoding.ids, np.int64) for encoding in encodings]

    def check_whole(
        self, texts: Sequence[str], encodings: Sequence[Encoding], first: int = 1
    ) -> None:
        """Raises AttarError for a text that is empty, or longer than ``length`` tokens."""
        for number, (text, encoding) in enumerate(zip(texts, encodings, strict=True), start=first):
            if not text.strip() or all(encoding.special_tokens_mask):
                raise self.refuse(f"an empty text, number {number}", "give each at least a word")
            if encoding.overflowing:
                got = f"a text of more than {self.length} tokens, number {number}"
                raise self.refuse(got, "shorten it, or give it in parts")

    def hold_file(self) -> Self:
        held = self.model_copy()
        held._held = self._open
        return held

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, opened once for each content of the file. Raises AttarError if the file is
        missing or is no tokenizer."""
        return self._open[0]

    @property
    def pad(self) -> int:
        """The id of the token that fills up shorter texts."""
        return self._open[1]

    @property
    def _open(self) -> tuple[Tokenizer, int]:
        if self._held is not None:
            return self._held
        if not self.file.is_file():
            raise AttarError(
                f"the step 'tokenize' finds no file {self.file}; give it the tokenizer.json of a "
                "trained tokenizer"
            )
        stat = self.file.stat()
        return open_tokenizer(self.file.absolute(), stat.st_size, stat.st_mtime_ns, self.length)


def cut_texts(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in pieces of at most ``PIECE_CHARACTERS``; a longer text goes alone."""
    piece: list[str] = []
    size = 0
    for text in texts:
        if piece and size + len(text) > PIECE_CHARACTERS:
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += len(text)
    if piece:
        yield piece


@lru_cache(maxsize=16)
def open_tokenizer(file: Path, size: int, mtime: int, length: int) -> tuple[Tokenizer, int]:
    """Open the tokenizer of a file with this size and mtime. Returns it with the id of its padding.

    It is not changed afterwards, so threads may share it.
    """
    tokenizer = read_tokenizer(file, "tokenize")
    added = tokenizer.num_special_tokens_to_add(is_pair=False)
    if length <= added:
        raise AttarError(
            f"{file} adds {added} tokens to each text, so a length of {length} leaves no room; set "
            "a larger one"
        )
    pad = find_pad(tokenizer, file)
    tokenizer.no_padding()
    direction = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(length, direction=direction)
    return tokenizer, pad


def read_tokenizer(file: Path, step: str) -> Tokenizer:
    """Read a tokenizer. Raises AttarError, which names the step.

    It works on one thread unless TOKENIZERS_PARALLELISM is set: its threads do not survive a fork,
    and the library warns about that each time.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            f"the step {step!r} needs the library tokenizers: pip install 'attar[serve-text]'"
        ) from error
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise AttarError(
            f"{file} is no tokenizer.json that tokenizers reads ({error}); save it again with its "
            "`save`"
        ) from error


def find_pad(tokenizer: Tokenizer, file: Path) -> int:
    """Return the id of the padding token. Raises AttarError if there is none, or if the tokenizer
    pads on the left."""
    padding = tokenizer.padding
    if padding and padding["direction"] != "right":
        raise AttarError(
            f"{file} pads on the left; attar pads on the right: save it with "
            "enable_padding(direction='right')"
        )
    if padding:
        return int(padding["pad_id"])
    for token in PAD_TOKENS:
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    raise AttarError(
        f"{file} has no token to pad with (of {', '.join(PAD_TOKENS)}); save it with "
        "enable_padding(pad_id=...)"
    )
