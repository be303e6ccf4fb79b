"""A bundle of tokens with steps on both sides: text in, text out, over every transport; and tokens for its own graph."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from attar.bundle.card import render_card
from attar.bundle.opening import check_bundle, open_bundle
from attar.bundle.verified import read_manifest
from attar.models.postprocess.text import Detokenize
from attar.models.task import Array, Arrays
from attar.models.tasks.numbers import END, LONGEST
from attar.pipeline.core.errors import AttarError
from attar.serving.load.server import LoadSpec, bench_server
from attar.serving.models.joining import find_joining
from tests.support.bundles.spoken import make_spoken, spell, write_graph
from tests.support.processes.browser import browsing
from tests.support.serving.serving_parts import Running, running, triton_client, wait_for_compared, wait_for_status, wrapped

RAW = "/v2/models/points-raw/infer"


@pytest.fixture(scope="module")
def bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_spoken(points_bundle, tmp_path_factory.mktemp("spoken") / "spoken")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with running(bundle, grpc_port=0, shadow="fp32", shadow_rate=1.0) as made:
        yield made


def body(*texts: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "digits", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}], **more}


def ask_json(server: Running, *texts: str | bytes) -> list[str]:
    status, answer, _ = server.ask("POST", RAW, body(*[text if isinstance(text, str) else text.decode() for text in texts]))
    assert status == 200, answer
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("words", "BYTES", [len(texts)])
    return list(output["data"])


def make_input(client: Any, texts: tuple[str | bytes, ...]) -> list[Any]:
    made = client.InferInput("digits", [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array([text.encode() if isinstance(text, str) else text for text in texts], object))
    return [made]


def ask_binary(server: Running, *texts: str | bytes) -> list[str]:
    with triton_client(server.url) as client:
        answers: Array = client.infer("points-raw", make_input(http, texts)).as_numpy("words")
    return [answer.decode() for answer in answers.tolist()]


def ask_grpc(server: Running, *texts: str | bytes) -> list[str]:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        answers: Array = client.infer("points-raw", make_input(grpc, texts)).as_numpy("words")
    return [answer.decode() for answer in answers.tolist()]


@pytest.mark.parametrize("ask", [ask_json, ask_binary, ask_grpc])
def test_text_is_answered_with_text(server: Running, ask: Any) -> None:
    """Texts of different lengths share a request; ``zéro`` is no ASCII."""
    assert ask(server, "71") == ["sept un"]
    assert ask(server, "0", "123456", "40") == [spell("0"), spell("123456"), "quatre zéro"]


def test_everybody_gets_the_text_of_their_own(server: Running) -> None:
    """Many at once, of two lengths; those of one length share calls."""
    texts = [str(number) for number in range(80, 120)]
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(partial(ask_json, server), texts))
    assert answers == [[spell(text)] for text in texts]


@pytest.mark.parametrize("ask", [ask_binary, ask_grpc])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("12", "1234567"), "more than 6 tokens, number 2"),
        (("",), "an empty text, number 1"),
        (("1", " \n"), "an empty text, number 2"),
        ((b"\xff\xfe",), "'digits' holds no UTF-8"),
        (tuple("1" * 65), "batch = 65"),
    ],
)
def test_what_is_no_source(server: Running, ask: Any, texts: tuple[str | bytes, ...], message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        ask(server, *texts)
    assert ask(server, "2") == ["deux"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (body("1234567"), "more than 6 tokens"),
        (body(""), "an empty text"),
        (b'{"inputs": [{"name": "digits", "datatype": "BYTES", "shape": [1], "data": ["\xff"]}]}', "UTF-8"),
        (body("1") | {"outputs": [{"name": "words", "parameters": {"classification": 2}}]}, "axis of classes"),
        ({"inputs": [{"name": "digits", "datatype": "INT64", "shape": [1, 1], "data": [4]}]}, "expected BYTES"),
    ],
)
def test_what_is_no_question_in_json(server: Running, asked: Any, message: str) -> None:
    status, answer, _ = server.ask("POST", RAW, asked)
    assert (status, message in answer["error"]) == (400, True), answer


def test_the_graph_s_own_model_answers_tokens(server: Running) -> None:
    asked = {"inputs": [{"name": "digits", "datatype": "INT64", "shape": [1, 2], "data": [[11, 5]]}]}
    status, answer, _ = server.ask("POST", "/v2/models/points/infer", asked)
    (output,) = answer["outputs"]
    assert (status, output["datatype"], output["shape"]) == (200, "INT64", [1, LONGEST])
    assert output["data"] == [21, 15, *[END] * (LONGEST - 2)]


def test_both_models_say_what_they_take_and_give(server: Running) -> None:
    raw, graph = (server.ask("GET", f"/v2/models/{name}")[1] for name in ("points-raw", "points"))
    assert raw["inputs"] == [{"name": "digits", "datatype": "BYTES", "shape": [-1]}]
    assert raw["outputs"] == [{"name": "words", "datatype": "BYTES", "shape": [-1]}]
    assert graph["outputs"] == [{"name": "words", "datatype": "INT64", "shape": [-1, LONGEST]}]
    (output,) = server.ask("GET", "/v2/models/points-raw/config")[1]["output"]
    assert output == {"name": "words", "data_type": "TYPE_STRING", "dims": []}
    post = server.ask("GET", "/openapi.json")[1]["paths"][RAW]["post"]
    asked = post["requestBody"]["content"]["application/json"]["schema"]["properties"]
    (described,) = asked["inputs"]["items"]["oneOf"]
    assert (described["properties"]["datatype"], asked["outputs"]["items"]["properties"]["name"]) == (
        {"const": "BYTES"},
        {"enum": ["words"]},
    )


@pytest.mark.parametrize(("precision", "joins"), [("fp32", True), ("int8-weights", True), ("int8-dynamic", False)])
def test_which_precisions_share_a_call(points_bundle: Path, tmp_path: Path, precision: str, joins: bool) -> None:
    with running(make_spoken(points_bundle, tmp_path / "bundle", precision)) as server:
        (loaded,) = server.server.repository.list_loaded()
        assert loaded.batcher.limits.joining.joins == joins
        assert ask_json(server, "71") == ["sept un"]


def test_one_other_token_in_a_large_batch_is_too_many(bundle: Path) -> None:
    """8,000 and 7,999 differ by less than the tolerance of numbers."""
    manifest = read_manifest(bundle)

    def predict(inputs: Arrays) -> dict[str, Array]:
        rows = len(inputs["digits"])
        return {"words": np.full((rows, 4), 8_000 - int(rows > 1))}

    assert manifest.golden.tolerance * 8_000 > 0.5
    assert not find_joining(predict, {"digits": np.zeros((4, 2), np.int64)}, manifest, (1, 4)).joins


def count_agreement(server: Running, *texts: str) -> float:
    before = server.metric("attar_shadow_requests_total", outcome="compared")
    for text in texts:
        ask_json(server, text)
    wait_for_compared(server, int(before) + len(texts))
    assert server.metric("attar_shadow_requests_total", outcome="failed") == 0
    return server.metric("attar_shadow_agreement", output="words")


def test_a_shadow_counts_identical_tokens(bundle: Path, tmp_path: Path) -> None:
    """Another teacher says other words; tokens are no numbers, so nothing is correlated."""
    write_graph(tmp_path / "other.onnx", shift=1)
    for shadow, agreement in (("fp32", 1.0), (str(tmp_path / "other.onnx"), 0.0)):
        with running(bundle, shadow=shadow, shadow_rate=1.0, ready_correlation=0.9, ready_samples=3) as server:
            assert count_agreement(server, "71", "123", "4", "88") == agreement
            wait_for_status(server, "/v2/models/points/ready", 200 if agreement else 503)
            names = {sample.name for family in server.scrape() for sample in family.samples}
            assert not {"attar_shadow_correlation", "attar_shadow_kdl", "attar_shadow_cosine"} & names


def test_the_page_is_told_of_texts_and_answered_with_them(server: Running) -> None:
    (model,) = server.ask("GET", "/page/models")[1]["models"]
    assert (model["name"], model["kinds"]) == ("points-raw", {"words": "tokens"})
    assert model["forms"] == [{"name": "digits", "datatype": "BYTES", "kind": "text"}]
    for who in ("student", "shadow"):
        status, answer, headers = server.ask("POST", f"/page/{who}/points-raw", body("71"))
        assert (status, answer["outputs"][0]["data"]) == (200, ["sept un"])
        assert "compute;dur=" in headers["server-timing"]


@pytest.mark.slow
def test_what_is_typed_on_the_page_is_translated(server: Running, tmp_path: Path) -> None:
    with browsing(tmp_path / "profile") as browser:
        browser.go(f"http://{server.url}/")
        browser.until("!!document.querySelector('textarea')")
        browser.type("textarea", "40")
        browser.run("document.querySelector('#ask button').click()")
        assert browser.until("document.querySelector('.values.text')?.textContent") == "quatre zéro"
        assert browser.run("document.querySelectorAll('.values.text').length") == 2
        assert browser.run("document.querySelector('#answer h3 span').textContent") == "the same as the shadow's"
        browser.type("textarea", "1234567")
        browser.run("document.querySelector('#ask button').click()")
        assert "more than 6 tokens" in browser.until("document.querySelector('#problem').textContent")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_the_server_is_benched_with_tokens(server: Running, bundle: Path, scheme: str) -> None:
    url = f"http://{server.url}" if scheme == "http" else f"grpc://{server.grpc_url}"
    facts = bench_server(bundle, url, LoadSpec(batches=(1, 4), connections=(2,), seconds=0.05))
    assert {json.dumps(row["errors"]) for row in facts["rows"]} == {"{}"}


def test_a_server_with_one_other_token_is_not_benched(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(predict: Any) -> Any:
        def answer(inputs: Arrays) -> dict[str, Array]:
            words = np.array(predict(inputs)["words"])
            words[0, -1] -= 1
            return {"words": words}

        return answer

    wrapped(monkeypatch, other)
    with running(bundle) as server, pytest.raises(AttarError, match="does not give this bundle's answers"):
        bench_server(bundle, f"http://{server.url}", LoadSpec(batches=(1,), connections=(1,), seconds=0.05))


def test_steps_that_fail_are_no_fault_of_the_client(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: Detokenize, x: Array) -> Array:
        raise step.refuse("tokens", "give others")

    with running(bundle) as server:
        monkeypatch.setattr(Detokenize, "__call__", fail)
        status, answer, _ = server.ask("POST", RAW, body("71"))
        assert (status, "the outputs became no answer" in answer["error"]) == (500, True)


def test_the_card_says_who_answers_with_text(bundle: Path) -> None:
    assert check_bundle(bundle)["engine"] == "loaded"
    card = render_card(read_manifest(bundle))
    assert "model.postprocess(outputs)" in card
    assert "`points-raw` reads `digits`" in card
    assert "tokens in, tokens out" in card


def swap_words(file: Path) -> None:
    """Give the first two tokens of one character each other's number."""
    told = json.loads(file.read_text(encoding="utf-8"))
    words = told["model"]["vocab"]
    first, second = [word for word in words if word.isalnum()][:2]
    words[first], words[second] = words[second], words[first]
    file.write_text(json.dumps(told), encoding="utf-8")


def test_what_becomes_of_the_folder_changes_no_answer(bundle: Path, tmp_path: Path) -> None:
    """The tokenizers are those that were verified and replayed, as the engine is."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    texts = ["4711", "7", "012345"]
    with running(copy) as server, open_bundle(copy) as opened:

        def answer() -> tuple[list[str], list[str]]:
            tokens = opened(opened.preprocess({"digits": np.array(texts, object)}))
            return ask_json(server, *texts), opened.postprocess(tokens)["words"].tolist()

        before = answer()
        for folder in ("preprocess", "postprocess"):
            for file in (copy / folder).iterdir():
                swap_words(file)
        assert answer() == before
        shutil.rmtree(copy)
        assert answer() == before
