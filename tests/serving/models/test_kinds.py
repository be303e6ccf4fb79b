"""What is served beside points and pictures: embeddings with a shadow, and texts, over every transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

import attar
from attar.models.task import Array
from attar.proof.estimates.metrics import compare_outputs
from tests.support.bundles.packaging import rename_graph_output
from tests.support.proof.proof_parts import STUDENT, TEACHER, write_graph
from tests.support.serving.serving_parts import Running, asked, infer_texts, running, triton_client, wait_for_compared

POINTS = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)


def unit(vectors: Array) -> Any:
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


def test_embeddings_are_held_against_a_shadow_by_their_cosines(vectors_bundle: Path, tmp_path: Path) -> None:
    """The numbers are those of the gates; the mean cosine is that of each sample with itself."""
    teacher = tmp_path / "teacher.onnx"
    write_graph(teacher, TEACHER)
    rename_graph_output(teacher)
    with running(vectors_bundle, shadow=str(teacher), shadow_rate=1.0) as server:
        for start in range(0, 60, 5):
            status, answer, _ = server.ask("POST", "/v2/models/points/infer", asked(*POINTS[start : start + 5].tolist()))
            assert (status, answer["outputs"][0]["name"]) == (200, "vector")
            assert np.allclose(np.reshape(answer["outputs"][0]["data"], (5, 3)), POINTS[start : start + 5] @ STUDENT, atol=1e-5)
        wait_for_compared(server, 12)
        theirs, ours = unit(POINTS @ TEACHER), unit(POINTS @ STUDENT)
        r = compare_outputs("embedding", POINTS @ TEACHER, POINTS @ STUDENT).numbers["correlation"]
        assert server.metric("attar_shadow_samples", output="vector") == 60
        assert server.metric("attar_shadow_cosine", output="vector") == pytest.approx((theirs * ours).sum(1).mean(), abs=1e-5)
        assert server.metric("attar_shadow_correlation", output="vector") == pytest.approx(r, abs=1e-5)
        names = {sample.name for family in server.scrape() for sample in family.samples}
        assert not {"attar_shadow_agreement", "attar_shadow_kdl"} & names
        (model,) = server.ask("GET", "/page/models")[1]["models"]
        assert model["kinds"] == {"vector": "embedding"}


@pytest.fixture(scope="module")
def texts(texts_bundle: Path) -> Iterator[Running]:
    with running(texts_bundle, grpc_port=0) as made:
        yield made


def expected(bundle: Path, *rows: str) -> Array:
    with attar.open(bundle) as model:
        return model(model.preprocess({"x": np.array(rows)}))["logits"]


def over_binary(server: Running, *rows: str | bytes) -> Array:
    sent = http.InferInput("x", [len(rows)], "BYTES")
    sent.set_data_from_numpy(np.array([each.encode() if isinstance(each, str) else each for each in rows], object))
    with triton_client(server.url) as client:
        made: Array = client.infer("points-raw", [sent]).as_numpy("logits")
    return made


def over_grpc(server: Running, *rows: str | bytes) -> Array:
    sent = grpc.InferInput("x", [len(rows)], "BYTES")
    sent.set_data_from_numpy(np.array([each.encode() if isinstance(each, str) else each for each in rows], object))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        made: Array = client.infer("points-raw", [sent]).as_numpy("logits")
    return made


@pytest.mark.parametrize("ask", [infer_texts, over_binary, over_grpc])
def test_texts_are_answered_as_the_bundle_answers(texts: Running, texts_bundle: Path, ask: Any) -> None:
    """Two words make a point, so that is what is asked: fewer make another length, which the graph does not take."""
    rows = ["sun wind", "moon moon stone", "月 🌙", "wind sun"]
    assert np.array_equal(ask(texts, *rows), expected(texts_bundle, *rows))
    assert np.array_equal(ask(texts, rows[3]), expected(texts_bundle, rows[3]))


@pytest.mark.parametrize("ask", [over_binary, over_grpc])
def test_what_is_no_text(texts: Running, ask: Any) -> None:
    with pytest.raises(InferenceServerException, match=r"no UTF-8 BYTES"):
        ask(texts, b"\xff\xfe")
    with pytest.raises(InferenceServerException, match=r"'x' .*\[batch, 2\], got \[1, 1\]"):
        ask(texts, "sun")
    assert ask(texts, "sun wind").shape == (1, 3)


def test_half_a_surrogate_pair_is_no_text(texts: Running) -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["\\ud83c sun"]}]}'
    status, answer, _ = texts.ask("POST", "/v2/models/points-raw/infer", body)
    assert (status, "the body is no JSON" in answer["error"]) == (400, True)


def test_it_says_that_it_takes_texts(texts: Running) -> None:
    (declared,) = texts.ask("GET", "/v2/models/points-raw")[1]["inputs"]
    assert declared == {"name": "x", "datatype": "BYTES", "shape": [-1]}
    (model,) = texts.ask("GET", "/page/models")[1]["models"]
    assert model["forms"] == [{"name": "x", "datatype": "BYTES", "kind": "text"}]
