"""Which requests share a call: two engines serve one batch only where that moves no answer."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.bundle.engines import EnginePair
from attar.models.task import Array, Arrays
from attar.serving.core.settings import Settings
from attar.serving.models.batcher import choose_engine
from attar.serving.models.calls import check_engine
from attar.serving.models.engines import open_engines
from attar.serving.models.joining import Joining, measure_batch_effect
from tests.support.bundles.engine_pairs import OTHERWISE, ROWS
from tests.support.bundles.packaging import edit_manifest
from tests.support.proof.proof_parts import STUDENT
from tests.support.serving.batcher_parts import RecordingEngine, gather_answers, make_batcher, run_coroutine, submit
from tests.support.serving.serving_parts import Running, running

POINT = [1.0, 2.0]
ANSWER = (np.array([POINT]) @ STUDENT)[0]


def test_alone_and_together() -> None:
    rows = {"x": np.array([[1.0], [4.0], [10.0]])}

    def shift(inputs: Arrays) -> dict[str, Array]:
        return {"x": np.asarray(inputs["x"] - np.asarray(inputs["x"], float).mean())}

    assert measure_batch_effect(dict, dict, rows, (1, 3)) == 0
    # alone each is its own mean, 0; together -4, -1, 5 of magnitude 5
    assert measure_batch_effect(shift, shift, rows, (1, 3)) == 1
    assert measure_batch_effect(dict, dict, rows, (2, 5)) == 0


def test_one_engine_in_small_calls_and_another_in_a_large_one() -> None:
    rows = {"x": np.array([[1.0], [4.0], [10.0]])}
    assert measure_batch_effect(dict, lambda inputs: {"x": np.asarray(inputs["x"], float) * 1.1}, rows, (1, 3)) == pytest.approx(
        1 / 11
    )


def test_engines_that_answer_alike_share_their_batches(pair_bundle: Path) -> None:
    engines = open_engines(pair_bundle, Settings(allow_native=True))
    assert engines.joining == Joining(joins=True)
    engines.close()


def test_engines_that_do_not_are_told_apart_by_each_request(
    differing_pair_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engines = open_engines(differing_pair_bundle, Settings(allow_native=True))
    assert engines.joining == Joining(joins=True, apart=ROWS)
    assert "a request of 3 rows or more goes to the one for batches, smaller ones never do" in caplog.text
    engines.close()


def test_where_one_rounds_by_the_whole_call_nothing_is_joined(pair_bundle: Path, tmp_path: Path) -> None:

    bundle = Path(shutil.copytree(pair_bundle, tmp_path / "mine"))
    edit_manifest(bundle, lambda manifest: manifest["engine"].update(precision="int8-dynamic"))
    engines = open_engines(bundle, Settings(allow_native=True))
    assert engines.joining == Joining(joins=False)
    engines.close()


def make_pair() -> tuple[RecordingEngine, RecordingEngine, EnginePair]:
    single, batch = RecordingEngine(), RecordingEngine()
    return single, batch, EnginePair(single, batch, 3, ("x", 0))


@pytest.mark.parametrize(
    ("joining", "single", "batch"),
    [
        # all that has come is one call, and its rows choose the engine
        (Joining(joins=True), [], [7]),
        # the requests of 1, 1 and 2 rows are one call of the engine that each would get alone
        (Joining(joins=True, apart=3), [4], [3]),
        (Joining(joins=False), [1, 1, 2], [3]),
    ],
)
def test_the_batch_that_is_formed_chooses_the_engine(joining: Joining, single: list[int], batch: list[int]) -> None:
    async def work() -> None:
        first, second, pair = make_pair()
        made = make_batcher(pair, joining=joining, inline=True)
        works = [submit(made, 1), submit(made, 2), submit(made, 3, 4, 5), submit(made, 6, 7)]
        assert await gather_answers(works) == [[2], [4], [6, 8, 10], [12, 14]]
        assert (sorted(first.calls), second.calls) == (single, batch)

    run_coroutine(work)


def test_a_request_that_was_given_up_leaves_its_own_queue() -> None:
    async def work() -> None:
        _, second, pair = make_pair()
        made = make_batcher(pair, joining=Joining(joins=True, apart=3), inline=True)
        given_up, kept = submit(made, 1, 2, 3), submit(made, 4, 5, 6)
        made.drop_request(given_up)
        assert await gather_answers([kept]) == [[8, 10, 12]]
        assert second.calls == [3]

    run_coroutine(work)


def test_a_broken_batch_engine_is_the_engine_s_fault_and_not_the_request_s() -> None:
    async def work() -> None:
        first, second, pair = make_pair()
        second.broken = True
        made = make_batcher(pair, joining=Joining(joins=True), inline=True)
        (error,) = await gather_answers([submit(made, 1, 2, 3)])
        assert "the engine failed" in str(error)
        assert made.has_failed
        assert first.calls == []

    run_coroutine(work)


def test_a_probe_asks_both() -> None:
    first, second, pair = make_pair()
    probe = {"x": np.zeros((1, 1))}
    assert not check_engine(pair, probe, []).broken
    second.broken = True
    assert check_engine(pair, probe, []).broken
    assert (first.calls, second.calls) == ([1, 1], [1, 1])


def test_a_single_engine_is_chosen_by_nothing() -> None:
    engine = RecordingEngine()
    assert choose_engine(engine, [], Joining(joins=True)) is engine


def infer(server: Running, rows: int) -> Any:
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": POINT * rows}
    status, told, _ = server.ask("POST", "/v2/models/points/infer", {"inputs": [tensor]})
    assert status == 200
    return np.array(told["outputs"][0]["data"]).reshape(rows, 3)


def test_a_server_gives_a_request_the_engine_of_its_own_rows_whoever_comes_with_it(differing_pair_bundle: Path) -> None:
    with running(differing_pair_bundle, allow_native=True, inline_below=0.0) as server:
        with ThreadPoolExecutor(8) as threads:
            sizes = [1, ROWS, 1, 2, 1, 4, 1, 1] * 4
            answers = list(threads.map(lambda rows: infer(server, rows), sizes))
        for rows, answer in zip(sizes, answers, strict=True):
            assert answer == pytest.approx(np.tile(ANSWER * (OTHERWISE if rows >= ROWS else 1), (rows, 1)), rel=1e-5)


def test_a_server_tells_of_both_engines(pair_bundle: Path) -> None:
    with running(pair_bundle, allow_native=True) as server:
        assert infer(server, 1) == pytest.approx(ANSWER[None], rel=1e-5)
        assert infer(server, 4) == pytest.approx(np.tile(ANSWER, (4, 1)), rel=1e-5)
        properties = server.ask("GET", "/v2/models/points")[1]["properties"]
        assert (properties["precision"], properties["batch_rows"]) == ("fp32", str(ROWS))
        assert (properties["batch_runtime"], properties["batch_precision"]) == ("openvino", "fp32")
        for rows, runtime in ((1, "onnxruntime"), (ROWS, "openvino")):
            assert server.metric("attar_engines", rows=str(rows), runtime=runtime, precision="fp32") == 1
        (shown,) = server.ask("GET", "/page/models")[1]["models"]
        promised = {(gate["rows"], gate["gate"]) for gate in shown["gates"] if gate["hop"] == "engine"}
        assert {(1, "correlation"), (ROWS, "correlation")} <= promised
