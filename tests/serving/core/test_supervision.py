"""What goes wrong behind the requests: folders that are away, loads that break off, tasks that end."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.core.errors import StageError
from attar.serving.core.settings import Settings
from attar.serving.models import model, watch
from attar.serving.models.engines import Engines, open_engines
from attar.serving.models.observer import ObservedBundle, Observer
from tests.support.serving.serving_parts import Running, another, asked, running, slow

INFER = "/v2/models/one/infer"
LOAD = "/v2/repository/models/points/load"
CONTROL = {"model_control": True}


@pytest.fixture
def shop(points_bundle: Path, tmp_path: Path) -> Path:
    """A folder of two bundles."""
    for name in ("one", "two"):
        another(points_bundle, tmp_path / "shop" / name)
    return tmp_path / "shop"


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def index(server: Running) -> dict[str, str]:
    status, told, _ = server.ask("POST", "/v2/repository/index")
    assert status == 200, told
    return {entry["name"]: entry["state"] for entry in told}


def renew(bundle: Path, points_bundle: Path) -> None:
    """Another version in its place."""
    another(points_bundle, bundle.with_name(".newer"))
    shutil.rmtree(bundle)
    bundle.with_name(".newer").rename(bundle)


def test_a_watched_folder_that_is_away_for_a_moment(shop: Path, points_bundle: Path) -> None:
    """What was loaded is served on, the index answers, and what changed is loaded when the folder is back."""
    with running(shop, watch=0.05) as server:
        (version,) = server.ask("GET", "/v2/models/one")[1]["versions"]
        shop.rename(shop.with_name("away"))
        time.sleep(0.5)
        assert index(server)["one"] == "READY"
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        renew(shop.with_name("away") / "one", points_bundle)
        shop.with_name("away").rename(shop)
        wait_until(lambda: server.ask("GET", "/v2/models/one")[1]["versions"] != [version])
        assert server.metric("attar_background_ends_total") == 0


def test_a_watched_bundle_that_was_removed_is_unloaded(shop: Path, points_bundle: Path) -> None:
    with running(shop, watch=0.05) as server:
        shutil.rmtree(shop / "two")
        wait_until(lambda: "two" not in index(server))
        assert server.ask("POST", "/v2/models/two/infer", asked([1, 2]))[0] == 404
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        another(points_bundle, shop / "two")
        wait_until(lambda: index(server).get("two") == "READY")


def test_a_bundle_whose_folder_is_gone_can_be_unloaded(shop: Path) -> None:
    with running(shop, **CONTROL) as server:
        shutil.rmtree(shop / "two")
        assert index(server)["two"] == "READY"
        assert server.ask("POST", "/v2/repository/models/two/unload")[0] == 200
        assert "two" not in index(server)
        assert server.ask("POST", "/v2/repository/models/two/unload")[0] == 404


def test_a_new_bundle_that_is_not_fit_makes_nothing_else_unready(shop: Path) -> None:
    """As one that is still being copied."""
    with running(shop, watch=0.05) as server:
        shutil.copytree(shop / "one", shop / "three", ignore=shutil.ignore_patterns("SHA256SUMS"))
        wait_until(lambda: server.ask("GET", "/v2/models/three/ready")[0] == 503)
        told = server.ask("POST", "/v2/repository/index")[1]
        assert "SHA256SUMS" in told[-1]["reason"]
        assert server.ask("GET", "/v2/health/ready")[0] == 200


def test_why_newer_content_is_not_served_stands_in_the_index(points_bundle: Path, tmp_path: Path) -> None:
    bundle = another(points_bundle, tmp_path / "mine")
    with running(bundle, **CONTROL) as server:
        (bundle / "SHA256SUMS").unlink()
        assert server.ask("POST", LOAD)[0] == 400
        told = server.ask("POST", "/v2/repository/index")[1][0]
        assert (told["state"], "SHA256SUMS" in told["reason"]) == ("READY", True)


def test_a_background_task_that_fails_is_counted_and_started_again(
    shop: Path, points_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running(shop, watch=0.05) as server:
        (version,) = server.ask("GET", "/v2/models/one")[1]["versions"]

        def broken(*_: Any) -> None:
            raise RuntimeError("nobody foresaw this")

        with monkeypatch.context() as patch:
            patch.setattr(watch, "read_stamps", broken)
            wait_until(lambda: server.metric("attar_background_ends_total", task="watch") >= 1)
            renew(shop / "one", points_bundle)
        wait_until(lambda: server.ask("GET", "/v2/models/one")[1]["versions"] != [version])
        assert "the background task 'watch' failed" in caplog.text
        assert server.metric("attar_background_ends_total", task="connections") == 0


class FailingObserver(Observer):
    """Does not take a second bundle."""

    def __init__(self) -> None:
        self.seen = 0

    def on_load(self, served: ObservedBundle) -> None:
        self.seen += 1
        if self.seen > 1:
            raise StageError("an observer broke")


def opened_and_closed(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> list[str]:
    """The list gets a word for each time that engines are opened or closed."""
    words: list[str] = []

    def opened(path: Path, settings: Settings) -> Engines:
        time.sleep(seconds)
        made = open_engines(path, settings)
        words.append("opened")
        made.stack.callback(words.append, "closed")
        return replace(made)

    monkeypatch.setattr(model, "open_engines", opened)
    return words


def test_a_load_that_fails_in_whatever_way_leaves_no_engine_open(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = opened_and_closed(monkeypatch)
    with running(points_bundle, observers=[FailingObserver()], **CONTROL) as server:
        assert server.ask("POST", LOAD)[0] == 500
        assert words == ["opened", "opened", "closed"]
        assert server.ask("GET", "/v2/models/points/ready")[0] == 200


def test_a_load_is_done_to_its_end_where_who_asked_for_it_is_gone(
    points_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = another(points_bundle, tmp_path / "mine")
    with running(bundle, **CONTROL) as server:
        (version,) = server.ask("GET", "/v2/models/points")[1]["versions"]
        words = opened_and_closed(monkeypatch, 0.3)
        renew(bundle, another(points_bundle, tmp_path / "newer"))
        with socket.create_connection((server.host, server.port)) as raw:
            raw.sendall(f"POST {LOAD} HTTP/1.1\r\nHost: {server.url}\r\nContent-Length: 0\r\n\r\n".encode())
            time.sleep(0.1)
        wait_until(lambda: server.ask("GET", "/v2/models/points")[1]["versions"] != [version])
        assert words == ["opened"]
    assert words == ["opened", "closed"]


def test_a_reload_waits_for_no_call_that_was_given_up(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks meanwhile is answered: engines are closed beside the event loop."""
    slow(monkeypatch, 3)
    with running(points_bundle, instances=1, **CONTROL) as server:
        assert server.ask("POST", "/v2/models/points/infer", asked([1, 2], parameters={"timeout": 100_000}))[0] == 504
        monkeypatch.setattr(model, "open_engines", open_engines)
        lags: list[float] = []
        over = threading.Event()

        def probe() -> None:
            with closing(HTTPConnection(server.host, server.port, timeout=20)) as connection:
                while not over.is_set():
                    began = time.monotonic()
                    connection.request("GET", "/v2/health/live")
                    connection.getresponse().read()
                    lags.append(time.monotonic() - began)
                    time.sleep(0.02)

        thread = threading.Thread(target=probe)
        thread.start()
        assert server.ask("POST", LOAD)[0] == 200
        assert server.ask("POST", "/v2/models/points/infer", json.dumps(asked([1, 2])).encode())[0] == 200
        time.sleep(0.5)
        over.set()
        thread.join()
        assert max(lags) < 1
