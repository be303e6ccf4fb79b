"""The batcher: what goes together, who gets which answer, and who gets none."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.models.task import Array, Arrays
from attar.serving.core.errors import BusyError, DeadlineError
from attar.serving.models.batcher import cut_to_preferred
from attar.serving.models.joining import Joining
from tests.support.serving.batcher_parts import RecordingEngine, gather_answers, make_batcher, run_coroutine, submit


def test_what_arrives_in_one_turn_of_the_loop_is_one_call() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, inline=True)
        assert await gather_answers([submit(made, 1), submit(made, 2, 3), submit(made, 4)]) == [[2], [4, 6], [8]]
        assert engine.calls == [4]
        assert made.waiting == 0

    run_coroutine(work)


def test_a_lone_request_does_not_wait_for_others() -> None:
    async def work() -> None:
        made = make_batcher(RecordingEngine(), inline=True)
        (one,) = works = [submit(made, 1)]
        assert await gather_answers(works) == [[2]]
        assert one.arrived <= one.started <= one.ended
        assert one.shared == 1

    run_coroutine(work)


def test_while_the_engine_is_busy_the_next_batch_gathers() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        engine.gate.clear()
        made = make_batcher(engine)
        first = submit(made, 1)
        await asyncio.sleep(0.02)
        later = [submit(made, 2), submit(made, 3)]
        assert made.waiting == 2
        engine.gate.set()
        assert await gather_answers([first, *later]) == [[2], [4], [6]]
        assert engine.calls == [1, 2]
        made.close()

    run_coroutine(work)


def test_every_idle_engine_takes_a_batch() -> None:
    async def work() -> None:
        both = threading.Barrier(2, timeout=10)

        def meets(inputs: Arrays) -> dict[str, Array]:
            both.wait()
            return {"y": np.asarray(inputs["x"] * 2)}

        made = make_batcher(meets, meets, most=1)
        assert await gather_answers([submit(made, 1), submit(made, 2)]) == [[2], [4]]
        made.close()

    run_coroutine(work)


def test_a_batch_holds_no_more_than_its_most_but_for_one_larger_request() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, most=4, inline=True)
        sizes = [3, 2, 2, 9, 1]
        found = await gather_answers([submit(made, *range(14, 14 + size)) for size in sizes])
        assert [len(each) for each in found] == sizes
        assert engine.calls == [3, 4, 9, 1]

    run_coroutine(work)


def test_a_request_longer_than_a_batch_leaves_the_event_loop() -> None:
    async def work() -> None:
        seen: list[tuple[int, str]] = []

        def engine(inputs: Arrays) -> dict[str, Array]:
            seen.append((len(inputs["x"]), threading.current_thread().name.partition("_")[0]))
            return {"y": np.asarray(inputs["x"] * 2)}

        made = make_batcher(engine, most=4, inline=True)
        found = await gather_answers([submit(made, *range(size)) for size in (3, 9, 1)])
        assert [len(each) for each in found] == [3, 9, 1]
        assert seen == [(3, "MainThread"), (9, "engine"), (1, "MainThread")]
        made.close()

    run_coroutine(work)


def test_an_engine_that_is_asked_again_in_halves_does_not_hang() -> None:
    """Each of its calls ends in time; together they take longer than one may."""

    async def work() -> None:
        engine = RecordingEngine(0.1)
        made = make_batcher(engine)
        answers = asyncio.ensure_future(gather_answers([submit(made, value) for value in range(6, 14)]))
        looks = []
        while not answers.done():
            looks.append(made.hangs(0.5))
            await asyncio.sleep(0.02)
        assert len(engine.calls) >= 8
        assert not any(looks)
        made.close()

    run_coroutine(work)


def test_only_equal_shapes_go_together_and_the_oldest_goes_first() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, inline=True)
        works = [submit(made, 1, width=2), submit(made, 2, 3, width=5), submit(made, 4, width=2)]
        found = [(await work.future)["y"].shape for work in works]
        assert found == [(1, 2), (2, 5), (1, 2)]
        assert engine.calls == [2, 2]

    run_coroutine(work)


def test_a_model_whose_answers_depend_on_the_call_is_asked_one_request_at_a_time() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, joining=Joining(joins=False), inline=True)
        await gather_answers([submit(made, 1), submit(made, 2, 3)])
        assert engine.calls == [1, 2]

    run_coroutine(work)


@pytest.mark.parametrize(
    ("rows", "preferred", "taken"),
    [([1, 1, 1], [], 3), ([1, 1, 1], [2], 2), ([1, 1, 1], [8], 3), ([4, 4, 1], [4, 8], 2), ([3, 2], [4], 2)],
)
def test_a_longer_queue_is_cut_to_the_largest_preferred_size(rows: list[int], preferred: list[int], taken: int) -> None:
    async def work() -> None:
        made = make_batcher(RecordingEngine(), inline=True)
        assert len(cut_to_preferred([submit(made, *range(count)) for count in rows], preferred)) == taken

    run_coroutine(work)


def test_what_is_cut_off_keeps_its_place() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, preferred=[2], inline=True)
        assert await gather_answers([submit(made, n) for n in (1, 2, 3)]) == [[2], [4], [6]]
        assert engine.calls == [2, 1]

    run_coroutine(work)


def test_a_full_queue_refuses() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, queue=2, inline=True)
        works = [submit(made, 1), submit(made, 2)]
        with pytest.raises(BusyError, match="2 requests wait already"):
            submit(made, 3)
        assert await gather_answers(works) == [[2], [4]]
        assert await gather_answers([submit(made, 3)]) == [[6]]

    run_coroutine(work)


def test_who_is_late_or_gone_is_not_computed() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        engine.gate.clear()
        made = make_batcher(engine, queue=3)
        first = submit(made, 1)
        await asyncio.sleep(0.02)
        late, gone, dropped = submit(made, 2, seconds=0.01), submit(made, 3), submit(made, 4)
        gone.future.cancel()
        made.drop_request(dropped)
        assert made.waiting == 2
        last = submit(made, 5)  # the dropped one made room
        await asyncio.sleep(0.02)
        engine.gate.set()
        found = await gather_answers([first, late, gone, dropped, last])
        assert [type(each) for each in found] == [list, DeadlineError, asyncio.CancelledError, asyncio.CancelledError, list]
        assert (engine.calls, made.waiting) == ([1, 1], 0)
        made.drop_request(last)  # too late to matter
        made.close()

    run_coroutine(work)


REQUESTS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=40)
"""Rows, width, and turns of the loop before the next."""


@settings(max_examples=40, deadline=None)
@given(requests=REQUESTS, engines=st.integers(1, 3), most=st.integers(1, 8), preferred=st.lists(st.integers(1, 8), max_size=2))
@pytest.mark.parametrize("inline", [True, False])
def test_everybody_gets_the_answer_to_what_they_asked(
    requests: list[tuple[int, int, int]], engines: int, most: int, preferred: list[int], inline: bool
) -> None:
    """In whatever order and company requests come, each answer is that of asking alone."""

    async def work() -> None:
        recorders = [RecordingEngine() for _ in range(engines)]
        made = make_batcher(*recorders, most=most, preferred=preferred, inline=inline)
        works = []
        for number, (rows, width, turns) in enumerate(requests):
            works.append(submit(made, *(number * 100 + row + 0.5 for row in range(rows)), width=width))
            for _ in range(turns):
                await asyncio.sleep(0)
        for number, work in enumerate(works):
            got = (await work.future)["y"]
            assert np.array_equal(got, work.inputs["x"] * 2)
            assert got[0, 0] == number * 200 + 1
        calls = [call for recorder in recorders for call in recorder.calls]
        assert sum(calls) == sum(rows for rows, _, _ in requests)
        assert max(calls) <= max(most, 5)
        assert made.waiting == 0
        made.close()

    run_coroutine(work)


def test_the_shortest_deadline_lies_behind_the_arrival() -> None:
    async def check() -> None:
        made = make_batcher(dict)
        work = submit(made, 1.0, seconds=1e-6)
        assert work.deadline - work.arrived == 1000
        await asyncio.sleep(0.05)
        made.close()

    run_coroutine(check)
