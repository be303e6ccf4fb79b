"""The page at /: what it is told, what it may do, and in a real browser what people see and draw."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attar.models.preprocess import ChannelsFirst, DecodeImage, Scale
from attar.models.tensors import TensorSpec
from attar.serving.core.authenticator import PAGE
from attar.serving.page import forms, questions
from tests.support.bundles import pictures
from tests.support.engines.tensor_specs import make_spec
from tests.support.processes.browser import Browser, browsing
from tests.support.proof.proof_parts import STUDENT, TEACHER, write_graph
from tests.support.serving.serving_parts import Running, asked, running

TOKEN = "correct-horse-battery"  # noqa: S105  # of these tests alone
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def images_bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.of_pixels(points_bundle, tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="module")
def server(points_bundle: Path, images_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Points with a shadow that is the teacher."""
    teacher = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
    write_graph(teacher, TEACHER)
    with running(points_bundle, shadow=str(teacher), shadow_rate=1.0) as made:
        yield made


def test_its_files_are_strict_and_ask_nobody_else(server: Running) -> None:
    for path in PAGE:
        status, text, headers = server.ask("GET", path.decode())
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"""["'(]\s*(?:https?:)?//(?!www\.w3\.org/2000/svg)""", text)
        assert "innerHTML" not in text
    index = server.ask("GET", "/")[1]
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", index)
    for name in ("/page/index.html", "/page/page.svg", "/page/..%2fpage.py", "/page/icon.js"):
        assert server.ask("GET", name)[0] == 404


def test_what_it_is_told(server: Running) -> None:
    status, told, _ = server.ask("GET", "/page/models")
    (model,) = told["models"]
    assert (status, told["shadow"], model["name"], model["title"]) == (200, "teacher.onnx", "points-raw", "points")
    assert model["labels"] == ["right", "up", "other"]
    assert model["forms"] == [{"name": "x", "datatype": "FP32", "kind": "json", "shape": [1, 2]}]
    assert (model["verdict"], model["kinds"]) == ("passed", {"logits": "logits"})
    assert {gate["verdict"] for gate in model["gates"]} == {"passed"}
    assert any(gate["bounds"] for gate in model["gates"])


def test_student_and_shadow_answer_as_they_are(server: Running) -> None:
    """Raw coordinates are halved. What is asked of the shadow by hand is no request to the model, and is in no window."""
    compared, before = server.metric("attar_shadow_requests_total"), server.metric("attar_requests_total")
    for who, matrix, phases in (("student", STUDENT, "prepare queue compute"), ("shadow", TEACHER, "prepare compute")):
        status, answer, headers = server.ask("POST", f"/page/{who}/points-raw", asked([4, 2]))
        assert status == 200
        assert np.allclose(answer["outputs"][0]["data"], np.array([2, 1]) @ matrix)
        assert re.sub(r";dur=\d+\.\d+,?", "", headers["server-timing"]) == phases
    assert server.metric("attar_requests_total") == before + 1
    assert server.metric("attar_shadow_requests_total") <= compared + 1


@pytest.mark.parametrize("who", ["student", "shadow"])
def test_a_wrong_question(server: Running, who: str) -> None:
    before = server.metric("attar_requests_total")
    assert server.ask("POST", f"/page/{who}/points-raw", asked([1, 2, 3]))[0] == 400
    assert server.metric("attar_requests_total") - before == (who == "student")
    assert server.ask("POST", f"/page/{who}/nothing", asked([1, 2]))[0] == 404
    assert server.ask("GET", f"/page/{who}/points-raw")[0] == 405


def test_without_a_shadow(points_bundle: Path) -> None:
    with running(points_bundle) as server:
        assert server.ask("GET", "/page/models")[1]["shadow"] is None
        status, told, _ = server.ask("POST", "/page/shadow/points", asked([1, 2]))
        assert (status, "start the server with --shadow" in told["error"]) == (404, True)


def test_without_a_page(points_bundle: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with running(points_bundle, page=False) as server:
        assert [server.ask("GET", path.decode())[0] for path in PAGE] == [404] * len(PAGE)
        assert server.ask("GET", "/page/models")[0] == 404
    with running(points_bundle, page=False, token_file=tokens) as server:
        assert [server.ask("GET", path.decode())[0] for path in PAGE] == [401] * len(PAGE)


def test_with_tokens_only_its_empty_files_are_open(points_bundle: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    with running(points_bundle, shadow="fp32", token_file=tokens) as server:
        assert [server.ask("GET", path.decode())[0] for path in PAGE] == [200] * len(PAGE)
        for method, path in (("GET", "/page/models"), ("POST", "/page/student/points"), ("POST", "/page/shadow/points")):
            body = asked([1, 2]) if method == "POST" else None
            assert server.ask(method, path, body)[0] == 401
            assert server.ask(method, path, body, **BEARER)[0] == 200


def test_few_wait_for_a_shadow(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is asked holds the only place."""
    monkeypatch.setattr(questions, "WAITING", 1)
    asking, free = make_shadow_wait(server, monkeypatch)
    first: list[int] = []
    thread = threading.Thread(target=lambda: first.append(server.ask("POST", "/page/shadow/points", asked([1, 2]))[0]))
    thread.start()
    assert asking.wait(20)
    status, _, headers = server.ask("POST", "/page/shadow/points", asked([1, 2]))
    free.set()
    thread.join()
    assert (status, headers["retry-after"], first) == (503, "1", [200])


def make_shadow_wait(server: Running, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """The first is set when the shadow is asked; it answers once the second is."""
    shadow = server.server.shadow
    assert shadow
    mine = shadow.find_shadow(server.server.repository.find_model("points").served)
    asking, free = threading.Event(), threading.Event()
    predict = mine.predict

    def wait(inputs: Any) -> Any:
        asking.set()
        assert free.wait(20)
        return predict(inputs)

    monkeypatch.setattr(mine, "predict", wait)
    return asking, free


def test_a_shadow_that_hangs_ends_at_the_deadline_and_keeps_no_load_out(
    points_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More questions than the event loop has threads for everything else."""
    with running(points_bundle, shadow="fp32", deadline=0.3, model_control=True) as watched, ThreadPoolExecutor(8) as threads:

        def question(_: int) -> int:
            return watched.ask("POST", "/page/shadow/points", asked([1, 2]))[0]

        _, free = make_shadow_wait(watched, monkeypatch)
        assert list(threads.map(question, range(8))) == [504] * 8
        assert watched.ask("POST", "/v2/repository/models/points/load")[0] == 200
        free.set()
        assert question(8) == 200


SCALE = Scale(by=1 / 16)
PIXELS = {"name": "x", "kind": "image", "file": False}
FORMS: list[tuple[TensorSpec, Any, dict[str, Any]]] = [
    (make_spec("x", "BYTES", ("batch",), text=True), (), {"name": "x", "datatype": "BYTES", "kind": "text"}),
    (
        make_spec("x", "BYTES", ("batch",)),
        (DecodeImage(mode="L"),),
        {"name": "x", "datatype": "BYTES", "kind": "image", "file": True, **forms.describe_canvas(224, 224, 1)},
    ),
    (
        make_spec("x", "FP32", ("batch", 1, 8, 8)),
        (SCALE,),
        {**PIXELS, "datatype": "FP32", "high": 16, **forms.describe_canvas(8, 8, 1, first=True)},
    ),
    (
        make_spec("x", "UINT8", ("batch", "h", "w", 3)),
        (ChannelsFirst(),),
        {**PIXELS, "datatype": "UINT8", "high": 255, **forms.describe_canvas(224, 224, 3)},
    ),
    (
        make_spec("x", "FP32", ("batch", 3, 32, 30)),
        (),
        {**PIXELS, "datatype": "FP32", "high": 1, **forms.describe_canvas(32, 30, 3, first=True)},
    ),
    (make_spec("x", "FP32", ("batch", 2, 5, 7)), (), {"name": "x", "datatype": "FP32", "kind": "json", "shape": [1, 2, 5, 7]}),
    (make_spec("x", "INT64", ("batch", "time")), (), {"name": "x", "datatype": "INT64", "kind": "json", "shape": [1, 4]}),
]


@pytest.mark.parametrize(("declared", "steps", "expected"), FORMS)
def test_forms(declared: TensorSpec, steps: Any, expected: dict[str, Any]) -> None:
    assert forms.describe_form(declared, steps, {"batch": (1, 8), "time": (4, 9)}) == expected


# -- in a browser -------------------------------------------------------------------------------------------------------


def own_requests_alone(browser: Browser, server: Running) -> None:
    assert browser.console == []
    assert all(url.startswith(f"http://{server.url}/") for url in browser.asked if url != "about:blank"), browser.asked


@pytest.mark.slow
def test_an_image_is_drawn_and_answered(images_bundle: Path, tmp_path: Path) -> None:
    with running(images_bundle, shadow="fp32", shadow_rate=1.0) as server, browsing(tmp_path / "profile") as browser:
        browser.go(f"http://{server.url}/")
        browser.until("document.querySelector('canvas') && document.querySelectorAll('#live dd').length")
        browser.draw("canvas", (0.9, 0.3), (0.9, 0.7))
        assert browser.until("document.querySelector('.best')?.textContent") == "right"
        assert browser.run("document.querySelectorAll('.bars i').length") == 6
        assert "r " in browser.run("document.querySelector('#answer h3 span').textContent")
        shown = browser.run("document.querySelector('#timing tbody').innerText")
        assert re.search(r"student.*[µm]s.*\n.*fp32 student.*[µm]s", shown), shown
        browser.run("document.querySelector('#clear').click()")
        browser.draw("canvas", (0.3, 0.1), (0.7, 0.1))
        browser.until("document.querySelector('.best').textContent == 'up'")
        browser.until("[...document.querySelectorAll('#live div')].some(tile => /^requests\\s*2$/.test(tile.innerText))")
        assert browser.run("document.querySelectorAll('#gates tbody tr').length") > 5
        own_requests_alone(browser, server)


@pytest.mark.slow
def test_a_file_is_resized_and_answered(images_bundle: Path, tmp_path: Path) -> None:
    """White above, four times as large as the model's images; what is no image is told."""
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "up.png")
    (tmp_path / "no.png").write_text("no image")
    with running(images_bundle) as server, browsing(tmp_path / "profile") as browser:
        browser.go(f"http://{server.url}/")
        browser.until("!!document.querySelector('canvas')")
        browser.choose("input[type=file]", tmp_path / "up.png")
        assert browser.until("document.querySelector('.best')?.textContent") == "up"
        assert browser.run("document.querySelectorAll('.bars i').length") == 3
        own_requests_alone(browser, server)
        browser.choose("input[type=file]", tmp_path / "no.png")
        assert "no.png is no image" in browser.until("document.querySelector('#problem').textContent")


@pytest.mark.slow
def test_numbers_are_typed_and_what_is_wrong_is_told(server: Running, tmp_path: Path) -> None:
    with browsing(tmp_path / "profile") as browser:
        browser.go(f"http://{server.url}/")
        assert browser.until("document.querySelector('textarea')?.value") == "[[0,0]]"
        browser.run("document.querySelector('textarea').value = '[[0, 6]]'; document.querySelector('#ask button').click()")
        assert browser.until("document.querySelector('.best')?.textContent") == "up"
        own_requests_alone(browser, server)
        browser.run("document.querySelector('textarea').value = '[[0, 6, 7]]'; document.querySelector('#ask button').click()")
        assert "[batch, 2], got" in browser.until("document.querySelector('#problem').textContent")


@pytest.mark.slow
def test_the_gates_of_both_engines_are_shown(pair_bundle: Path, tmp_path: Path) -> None:
    with running(pair_bundle, allow_native=True) as server, browsing(tmp_path / "profile") as browser:
        browser.go(f"http://{server.url}/")
        browser.until("document.querySelectorAll('#gates tbody tr').length")
        shown = browser.run("document.querySelector('#gates').innerText")
        assert re.search(r"below 3 samples, engine\s+correlation.*from 3 samples, engine\s+correlation", shown, re.DOTALL), shown


@pytest.mark.slow
def test_a_token_is_asked_for_and_kept_nowhere(points_bundle: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    enter = "document.querySelector('#secret').value = '{}'; document.querySelector('#token button').click()"
    with running(points_bundle, token_file=tokens) as server, browsing(tmp_path / "profile") as browser:
        browser.go(f"http://{server.url}/")
        browser.until("!document.querySelector('#token').hidden")
        browser.run(enter.format("wrong-horse-battery"))
        assert "does not know" in browser.until("document.querySelector('#problem').textContent")
        browser.run(enter.format(TOKEN))
        assert browser.until("!document.querySelector('#model').hidden && document.querySelector('h1').textContent") == "points"
        assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        assert browser.run("document.querySelector('#secret').value") == ""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 420])
def test_it_fits_and_is_dark_where_the_browser_is(server: Running, tmp_path: Path, width: int) -> None:
    with browsing(tmp_path / "profile") as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        browser.go(f"http://{server.url}/")
        browser.until("document.querySelectorAll('#live dd').length")
        browser.run("document.querySelector('#ask button').click()")
        browser.until("!document.querySelector('#timing').hidden")
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("(card => card.scrollWidth <= card.clientWidth)(document.querySelector('#timing').parentElement)")
        background = "getComputedStyle(document.body).backgroundColor"
        light = browser.run(background)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        assert browser.run(background) != light
