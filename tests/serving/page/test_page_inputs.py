"""The page in a real browser, for bundles that read files and texts: it shows what the server answers, errors among it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient import http

from attar.models.task import Array
from tests.support.bundles import pictures
from tests.support.bundles.pictures import encoded, inked, noise, objects
from tests.support.processes.browser import Browser, browsing
from tests.support.serving.serving_parts import Running, infer_texts, running

pytestmark = pytest.mark.slow
FILE = "input[type=file]"
PROBLEM = "!document.querySelector('#problem').hidden && document.querySelector('#problem').textContent"
SOLVED = "document.querySelector('#problem').hidden"


@pytest.fixture(scope="module")
def files_bundle(points_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.of_files(points_bundle, tmp_path_factory.mktemp("files") / "points")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browsing(tmp_path / "profile") as made:
        yield made


def opened(browser: Browser, server: Running) -> None:
    browser.go(f"http://{server.url}/")
    browser.until("document.querySelector('#inputs > div') && document.querySelectorAll('#live dd').length")


def shown(browser: Browser) -> dict[str, list[str]]:
    """Of each class its shares, the student's and the shadow's, as they stand there."""
    script = """[...document.querySelectorAll('.classes .label')].map(label => [label.textContent,
        [...label.nextElementSibling.nextElementSibling.children].map(each => each.textContent)])"""
    browser.until("!!document.querySelector('.classes')")
    return dict(browser.run(script))


def shares(*sides: Array) -> dict[str, list[str]]:
    """Of the logits of each side: what is to be shown."""
    powers = [np.exp(np.asarray(side, np.float64).ravel()) for side in sides]
    return {label: [f"{each[i] / each.sum() * 100:.1f} %" for each in powers] for i, label in enumerate(("right", "up", "other"))}


def logits(server: Running, file: bytes, path: str = "v2/models/points-raw/infer") -> Array:
    asked = http.InferInput("x", [1], "BYTES")
    asked.set_data_from_numpy(objects(file))
    wanted = http.InferRequestedOutput("logits", binary_data=False)
    body, length = http.InferenceServerClient.generate_request_body([asked], [wanted])
    status, answer, _ = server.ask("POST", f"/{path}", body, Inference_Header_Content_Length=str(length))
    assert status == 200
    return np.array(answer["outputs"][0]["data"], np.float32)


def saved(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def test_a_file_goes_to_the_model_as_it_is(files_bundle: Path, browser: Browser, tmp_path: Path) -> None:
    """Chosen, or dropped beside the canvas, too. Student and shadow stand side by side, with what each took."""
    photo, up = encoded(noise(48, 64), "JPEG"), encoded(inked("up"))
    with running(files_bundle, shadow="fp32") as server:
        opened(browser, server)
        browser.choose(FILE, saved(tmp_path / "photo.jpg", photo))
        expected = shares(logits(server, photo), logits(server, photo, "page/shadow/points-raw"))
        assert shown(browser) == expected
        times = browser.run("[...document.querySelectorAll('#timing tbody tr')].map(row => row.innerText.split('\\t').length)")
        assert times == [5, 5]
        browser.drop("#inputs label", saved(tmp_path / "up.png", up))
        assert browser.until("document.querySelector('.best').textContent == 'up'")
        assert shown(browser) == shares(logits(server, up), logits(server, up, "page/shadow/points-raw"))
        assert browser.run("location.pathname") == "/"
        assert browser.console == []


def test_a_drawing_goes_as_a_file(files_bundle: Path, browser: Browser) -> None:
    with running(files_bundle) as server:
        opened(browser, server)
        browser.draw("canvas", (0.1, 0.05), (0.9, 0.05))
        assert browser.until("document.querySelector('.best')?.textContent") == "up"
        browser.run("document.querySelector('#clear').click()")
        browser.draw("canvas", (0.95, 0.1), (0.95, 0.9))
        assert browser.until("document.querySelector('.best').textContent == 'right'")


def test_what_the_server_refuses_is_told_where_it_can_be_seen(files_bundle: Path, browser: Browser, tmp_path: Path) -> None:
    """The browser reads an ICO, the model does not. No answer to another question stays, and the next that is right solves it."""
    with running(files_bundle) as server:
        browser.call("Emulation.setDeviceMetricsOverride", width=390, height=500, deviceScaleFactor=1, mobile=False)
        opened(browser, server)
        browser.choose(FILE, saved(tmp_path / "up.png", encoded(inked("up"))))
        shown(browser)
        browser.run("document.querySelector('#ask button').scrollIntoView()")
        browser.choose(FILE, saved(tmp_path / "up.ico", encoded(inked("up"), "ICO", sizes=[(32, 32)])))
        assert "no image of JPEG, PNG, WEBP, GIF, BMP" in browser.until(PROBLEM)
        seen = browser.run("document.querySelector('#problem').getBoundingClientRect().toJSON()")
        assert 0 <= seen["top"] < seen["bottom"] <= 500
        assert browser.run("document.querySelectorAll('.classes').length") == 0
        browser.choose(FILE, tmp_path / "up.png")
        browser.until(SOLVED)
        assert shown(browser) == shares(logits(server, encoded(inked("up"))))


def test_a_text_is_typed(texts_bundle: Path, browser: Browser) -> None:
    with running(texts_bundle) as server:
        opened(browser, server)
        browser.type("textarea", "moon moon stone")
        browser.run("document.querySelector('#ask button').click()")
        assert shown(browser) == shares(infer_texts(server, "moon moon stone"))
        browser.type("textarea", "moon")
        browser.run("document.querySelector('#ask button').click()")
        assert "[batch, 2], got" in browser.until(PROBLEM)
        assert browser.run("document.querySelector('#nothing').hidden") is False


def test_an_embedding_is_shown_as_numbers(vectors_bundle: Path, browser: Browser) -> None:
    with running(vectors_bundle, shadow="fp32") as server:
        opened(browser, server)
        browser.type("textarea", "[[2, 4]]")
        browser.run("document.querySelector('#ask button').click()")
        browser.until("document.querySelectorAll('#answer .values').length == 2")
        assert browser.run("document.querySelector('#answer .values').innerText.trim()") == "2  4.5  -4"


@pytest.fixture
def port() -> Iterator[int]:
    """One that nobody else is given between a server and the next: it stays bound, and who names it may listen there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_server_that_went_is_told_and_one_that_came_back_is_seen(points_bundle: Path, browser: Browser, port: int) -> None:
    with running(points_bundle, http_port=port) as server:
        opened(browser, server)
    assert "The server does not answer" in browser.until(PROBLEM)
    assert browser.run("document.querySelector('#live').classList.contains('stale')")
    browser.run("document.querySelector('#ask button').click()")
    assert "The server does not answer" in browser.until(PROBLEM)
    with running(points_bundle, http_port=port):
        browser.until(SOLVED)
        assert not browser.run("document.querySelector('#live').classList.contains('stale')")
