"""The thread of the questions to a shadow: what is given up takes no place, unless it has begun."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing

import pytest

from attar.serving.core.errors import BusyError
from attar.serving.page import questions
from attar.serving.page.questions import QuestionThread


def test_a_question_that_was_given_up_counts_until_the_thread_is_done_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "WAITING", 3)

    entered, go_on = threading.Event(), threading.Event()

    def wait() -> bool:
        entered.set()
        return go_on.wait(20)

    async def ask_and_leave() -> None:
        with closing(QuestionThread()) as thread:
            asked = [asyncio.create_task(thread.run(wait)) for _ in range(3)]
            await asyncio.to_thread(entered.wait, 10)
            with pytest.raises(BusyError, match="3 questions wait"):
                await thread.run(wait)
            for each in asked:
                each.cancel()
            await asyncio.wait(asked)
            assert all(each.cancelled() for each in asked)
            assert (thread._waiting, thread._executor._work_queue.qsize()) == (1, 0)
            go_on.set()
            assert await thread.run(wait)
            assert thread._waiting == 0

    asyncio.run(ask_and_leave())
