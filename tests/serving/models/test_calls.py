"""Calls of an engine that fail: who is to blame, how many it takes to find out, and what becomes of the engine."""

from __future__ import annotations

import asyncio

from attar.serving.core.errors import BadRequestError, EngineFailedError
from attar.serving.models.batcher import Batcher, BatchLimits
from attar.serving.models.calls import EngineCall
from tests.support.serving.batcher_parts import PROBE, RecordingEngine, gather_answers, make_batcher, run_coroutine, submit


def test_a_request_that_the_engine_refuses_fails_alone() -> None:
    async def work() -> None:
        made = make_batcher(RecordingEngine(), inline=True)
        found = await gather_answers([submit(made, 1), submit(made, 13), submit(made, 2)])
        assert found[::2] == [[2], [4]]
        assert isinstance(found[1], BadRequestError)
        assert "does not take these values: 13 is out of bounds" in str(found[1])
        assert not made.has_failed

    run_coroutine(work)


def test_an_engine_that_broke_is_told_from_a_wrong_request() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine)
        engine.broken = True
        (found,) = await gather_answers([submit(made, 1)])
        assert isinstance(found, EngineFailedError)
        assert made.has_failed
        engine.broken = False
        assert await gather_answers([submit(made, 1)]) == [[2]]
        assert made.failures == 0
        made.close()

    run_coroutine(work)


def test_one_wrong_request_among_32_costs_few_calls() -> None:
    """32, 16, 8, 4, 2 and 1 fail; the other half of each answers; and a probe tells that the engine is sound."""

    async def work() -> None:
        engine = RecordingEngine()
        calls: list[EngineCall] = []
        made = Batcher([engine], BatchLimits(inline=True), PROBE, calls.append)
        found = await gather_answers([submit(made, 13 if n == 5 else n + 100) for n in range(32)])
        assert [type(each) for each in found] == [BadRequestError if n == 5 else list for n in range(32)]
        assert [call.rows for call in calls] == engine.calls
        assert len(engine.calls) == 1 + 2 * 5 + 1

    run_coroutine(work)


def test_a_broken_engine_is_not_asked_by_every_request_of_a_batch() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        engine.broken = True
        made = make_batcher(engine, inline=True)
        found = await gather_answers([submit(made, n) for n in range(32)])
        assert [type(each) for each in found] == [EngineFailedError] * 32
        assert engine.calls == [32, 16, 8, 4, 2, 1, 1]
        assert (made.has_failed, made.failures) == (True, 1)

    run_coroutine(work)


def test_an_engine_that_failed_rests_until_a_probe_succeeds() -> None:
    async def work() -> None:
        broken, sound = RecordingEngine(), RecordingEngine()
        broken.broken = True
        made = make_batcher(sound, broken)
        assert isinstance((await gather_answers([submit(made, 1)]))[0], EngineFailedError)
        assert await gather_answers([submit(made, 1)]) == await gather_answers([submit(made, 1)]) == [[2]]
        assert (made.has_failed, made.failures, broken.calls) == (False, 1, [1, 1])
        made.probe_failed()
        await asyncio.sleep(0.1)
        assert made.failures == 2
        broken.broken = False
        made.probe_failed()
        await asyncio.sleep(0.1)
        assert (made.failures, len(broken.calls)) == (0, 4)
        made.close()

    run_coroutine(work)


def test_an_engine_that_runs_several_calls_at_a_time_is_sound_or_broken_as_a_whole() -> None:
    async def work() -> None:
        engine = RecordingEngine()
        made = make_batcher(engine, engine, engine, most=1)
        assert await gather_answers([submit(made, n) for n in range(6)]) == [[2 * n] for n in range(6)]
        engine.broken = True
        await gather_answers([submit(made, 1)])
        assert made.has_failed
        calls = len(engine.calls)
        made.probe_failed()
        await asyncio.sleep(0.1)
        assert len(engine.calls) == calls + 1
        engine.broken = False
        assert await gather_answers([submit(made, n) for n in range(6)]) == [[2 * n] for n in range(6)]
        assert made.failures == 0
        made.close()

    run_coroutine(work)
