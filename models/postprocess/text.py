"""Steps that make text of a network's outputs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr

from attar.models.preprocess.step import Array, FileStep
from attar.models.preprocess.text import read_tokenizer
from attar.models.tensors import describe_array
from attar.pipeline.core.errors import AttarError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Detokenize(FileStep):
    """Token ids ``[N, T]``, of any integer type, to strings, an object array ``[N]``.

    A text stops before its first ``end`` token. The tokenizer's special tokens, such as padding,
    and ids outside its vocabulary are left out; bytes that are no UTF-8 become U+FFFD. ``file`` is
    a ``tokenizer.json`` of the library ``tokenizers``, whose decoder joins the tokens.
    """

    kind: ClassVar[str] = "tokenizer.json"
    step: Literal["detokenize"] = "detokenize"
    end: int = Field(2, ge=0)
    """The id of the token that ends a text, as the output declares it."""
    _held: Tokenizer | None = PrivateAttr(None)

    def __call__(self, x: Array) -> Array:
        if x.ndim != 2 or x.dtype.kind not in "iu":
            raise self.refuse(describe_array(x), "it reads token ids: an integer array [N, T]")
        tokenizer = self.tokenizer
        size = tokenizer.get_vocab_size()
        rows = [cut_row(row, self.end, size) for row in x.tolist()]
        texts = np.empty(len(rows), object)  # an array of dtype U would lose NUL at the end
        texts[:] = tokenizer.decode_batch(rows, skip_special_tokens=True)
        return texts

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without an end. Raises AttarError for half of a surrogate
        pair."""
        try:
            return list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        except TypeError as error:  # raised for half of a surrogate pair
            remedy = "it holds half of a surrogate pair; decode it with errors='replace'"
            raise self.refuse("a text that is no Unicode", remedy) from error

    def list_unknown(self) -> list[int]:
        """Return the id of the token that stands for what has none; empty if there is no such."""
        known = self.tokenizer.token_to_id(getattr(self.tokenizer.model, "unk_token", None) or "")
        return [] if known is None else [known]

    def explain_misfit(self, kind: str, size: int, end: int) -> str | None:
        if kind != "tokens":
            return f"detokenizes an output of {kind}; it reads tokens alone"
        if self.end != end:
            return f"has end = {self.end}, and the output has end = {end}; they must be equal"
        if (own := self.tokenizer.get_vocab_size()) > size:
            return (
                f"has a tokenizer of {own} tokens, and the output has size = {size}; give it the "
                "tokenizer that encodes the targets"
            )
        return None

    def hold_file(self) -> Self:
        held = self.model_copy()
        held._held = self.tokenizer
        return held

    @property
    def tokenizer(self) -> Tokenizer:
        """Opened once for each content of the file. Raises AttarError if there is none, or it is no
        tokenizer."""
        if self._held is not None:
            return self._held
        if not self.file.is_file():
            raise AttarError(
                f"the step 'detokenize' finds no file {self.file}; give it the tokenizer.json that "
                "encodes the targets"
            )
        stat = self.file.stat()
        return open_decoder(self.file.absolute(), stat.st_size, stat.st_mtime_ns)


def cut_row(tokens: list[int], end: int, size: int) -> list[int]:
    """Return the tokens before the first ``end``, without those outside ``[0, size)``."""
    length = tokens.index(end) if end in tokens else len(tokens)
    return [token for token in tokens[:length] if 0 <= token < size]


@lru_cache(maxsize=16)
def open_decoder(file: Path, size: int, mtime: int) -> Tokenizer:
    """Return a tokenizer as its file was at this size and mtime; threads may share it.

    It neither cuts nor pads what it encodes, whatever the file says.
    """
    tokenizer = read_tokenizer(file, "detokenize")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
