"""Steps on raw inputs and on outputs: beside the event loop unless texts are short, and within a
request's pixels and memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from typing import Any

import numpy as np

from attar.models import preprocess
from attar.models.preprocess import DecodeImage, Resize, Step, Tokenize
from attar.models.preprocess.images import count_step_pixels
from attar.models.preprocess.text import cut_texts
from attar.models.task import Array, Arrays
from attar.pipeline.core.errors import AttarError
from attar.pipeline.keys import machine
from attar.serving.core.errors import (
    BadRequestError,
    EngineFailedError,
    RequestError,
    TooLargeError,
)
from attar.serving.core.ledger import Reservation
from attar.serving.models.engines import Engines
from attar.serving.protocol.tensors import make_object_array

PIXEL_BYTES = 11
"""Memory for a pixel while a picture is decoded and resized: Pillow's and that of the arrays.
Measured with a PNG."""
TEXT_BYTES, TOKEN_BYTES = 400, 8
"""Memory for a byte of a text while it becomes tokens, and for a token. Measured with words,
byte-level BPE, WordPiece and Unigram: 40 to 370, the most where each character is a token."""
CHARACTER_SECONDS, TOKEN_SECONDS = 2e-7, 1.2e-7
"""For a character to become tokens, and for a token to become text. Measured with byte-level BPE of
8,000 tokens and eight texts of 32 to 2,048 characters."""
TEXT_SECONDS = 4e-6
"""For a text to become tokens, however short it is. Measured with 5,000 texts of one character."""


class Preprocessor:
    """The steps of one bundle before and behind its graph, and the threads that run them."""

    def __init__(self, engines: Engines, max_pixels: int, inline_below: float) -> None:
        """``inline_below``: seconds for texts below which a thread costs more than it frees."""
        self._steps, self._max_pixels = engines.manifest.preprocess, max_pixels
        self._reads_texts = all(
            isinstance(step, Tokenize) for steps in self._steps.values() for step in steps
        )
        self._inline_below = inline_below
        self._quick_tokens = int(inline_below / TOKEN_SECONDS)
        self._output_steps = {
            name: steps for name, steps in engines.manifest.postprocess.items() if steps
        }
        self._most_running = max(machine.count_cores(), len(engines.predicts))
        self._threads = ThreadPoolExecutor(self._most_running, "prepare")
        self._jobs = 0

    @property
    def waiting(self) -> int:
        """Return the number of requests that wait for a thread."""
        return max(0, self._jobs - self._most_running)

    def check_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Raise TooLargeError for pictures, sent as arrays, that have too many pixels."""
        self._count_pixels({name: make_blank_pictures(shape) for name, shape in shapes.items()})

    async def run(self, inputs: Arrays, reservation: Reservation | None) -> dict[str, Array]:
        """Return the graph's inputs. Raises RequestError.

        Memory for pixels and long texts is reserved until the thread is done, even if the request
        of ``reservation`` was given up before.
        """
        try:
            if self._are_short_texts(inputs):
                return self._run_steps(inputs, None)
            held = reservation.ledger.open_reservation() if reservation else None
            return await self._run_in_thread(self._run_steps, inputs, held)
        except RequestError:
            raise
        except AttarError as error:
            raise BadRequestError(str(error)) from error

    async def convert_outputs(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """Return the outputs as answers, texts in UTF-8. Raises EngineFailedError."""
        if not self._output_steps:
            return outputs
        try:
            if sum(outputs[name].size for name in self._output_steps) <= self._quick_tokens:
                return self._run_output_steps(outputs)
            return await self._run_in_thread(self._run_output_steps, outputs)
        except AttarError as error:
            raise EngineFailedError(f"the outputs became no answer: {error}") from error

    def close(self) -> None:
        """Wait for the threads."""
        self._threads.shutdown()

    async def _run_in_thread(
        self, work: Callable[..., dict[str, Array]], *arguments: Any
    ) -> dict[str, Array]:
        loop = asyncio.get_running_loop()
        self._jobs += 1
        try:
            return await loop.run_in_executor(self._threads, work, *arguments)
        finally:
            self._jobs -= 1

    def _are_short_texts(self, inputs: Arrays) -> bool:
        """Whether making tokens of these costs less than a change of threads."""
        if not self._reads_texts:
            return False
        read = [inputs[name] for name, steps in self._steps.items() if steps]
        seconds = TEXT_SECONDS * sum(map(len, read))
        if seconds > self._inline_below:
            return False
        characters = sum(map(len, chain.from_iterable(read)))
        return seconds + CHARACTER_SECONDS * characters <= self._inline_below

    def _run_steps(self, inputs: Arrays, held: Reservation | None) -> dict[str, Array]:
        try:
            count = self._count_pixels(inputs)
            if held:
                held.add(count * PIXEL_BYTES + count_text_memory(self._steps, inputs))
            return preprocess.apply(self._steps, inputs)
        finally:
            if held:
                held.close()

    def _run_output_steps(self, outputs: Arrays) -> dict[str, Array]:
        answers = preprocess.apply(self._output_steps, outputs)
        for name in self._output_steps:
            answers[name] = make_object_array([text.encode() for text in answers[name].tolist()])
        return answers

    def _count_pixels(self, pictures: Mapping[str, Iterable[Any]]) -> int:
        return count_pixels(self._steps, pictures, self._max_pixels)


def count_pixels(
    preprocess: Mapping[str, Sequence[Step]], pictures: Mapping[str, Iterable[Any]], most: int
) -> int:
    """Return the pixels of all pictures, decoded or resized, by their headers and shapes.

    Raises TooLargeError if there are more than ``most``.
    """
    count = 0
    for name, steps in preprocess.items():
        if any(isinstance(step, DecodeImage | Resize) for step in steps):
            count += sum(count_step_pixels(steps, picture) for picture in pictures[name])
    if count > most:
        raise TooLargeError(
            f"the pictures have {count:,} pixels, decoded or resized; {most:,} a request are "
            "allowed, so send fewer"
        )
    return count


def count_text_memory(preprocess: Mapping[str, Sequence[Step]], inputs: Arrays) -> int:
    """Return the memory in which all texts become tokens, one piece after the other."""
    count = 0
    for name, steps in preprocess.items():
        if any(isinstance(step, Tokenize) for step in steps):
            pieces = [*map(count_text_bytes, cut_texts(inputs[name].ravel().tolist()))]
            most = max(pieces, default=0)
            count += most * TEXT_BYTES + (sum(pieces) - most) * TOKEN_BYTES
    return count


def count_text_bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode(errors="surrogatepass")) for text in texts)


def make_blank_pictures(shape: Sequence[int]) -> Iterable[Array]:
    """Return pictures for the shape ``[N, H, W, C]`` that take no memory; none for another."""
    if len(shape) != 4:
        return ()
    return repeat(np.broadcast_to(np.uint8(0), shape[1:]), shape[0])
