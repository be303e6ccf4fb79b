"""The repository: names and versions, loading beside what is served, and what cannot be reached by any name."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from attar.pipeline.core.errors import InvalidBundleError, RecipeError
from attar.serving.core.errors import NotFoundError
from attar.serving.grpc import infer as grpc_infer
from attar.serving.models import watch
from attar.serving.models.sources import parse_sources
from tests.support.serving.serving_parts import Running, another, ask, asked, running, slow, spoil, triton_client, until

INFER = "/v2/models/points/infer"
CONTROL = {"model_control": True}


@pytest.fixture
def bundle(points_bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(points_bundle, tmp_path / "mine"))


def versions(server: Running, name: str = "points") -> list[str]:
    told: list[str] = server.ask("GET", f"/v2/models/{name}")[1]["versions"]
    return told


def test_index_load_and_unload_by_the_client(bundle: Path) -> None:
    with running(bundle, **CONTROL) as server, triton_client(server.url) as client:
        assert [(each["name"], each["state"]) for each in client.get_model_repository_index()] == [("points", "READY")]
        client.unload_model("points")
        assert client.get_model_repository_index() == [
            {"name": "points", "version": "", "state": "UNAVAILABLE", "reason": "unloaded"}
        ]
        assert server.ask("POST", "/v2/repository/index", {"ready": True})[1] == []
        assert client.is_server_ready()
        for name in ("points", "points-raw"):
            with pytest.raises(InferenceServerException, match=f"503.*{name} is not loaded: unloaded"):
                client.get_model_metadata(name)
        client.load_model("points")
        assert client.is_model_ready("points-raw")
        assert client.is_server_ready()


@pytest.mark.parametrize("change", ["load", "unload"])
def test_what_is_no_longer_served_is_freed_without_the_collector(bundle: Path, change: str) -> None:
    """It never looks through what was there when the server was ready."""
    gc.disable()
    try:
        with running(bundle, **CONTROL) as server:
            served = server.server.repository.find_model("points").served
            gone = [weakref.ref(each) for each in (served, served.engines, served.batcher, *served.engines.predicts)]
            del served
            assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
            assert server.ask("POST", f"/v2/repository/models/points/{change}")[0] == 200
            server.call(everything_retired(server))
            assert [each() for each in gone] == [None] * len(gone)
    finally:
        gc.enable()


async def everything_retired(server: Running) -> None:
    while server.server.repository._retiring:
        await asyncio.sleep(0.01)


def test_two_bundles_of_one_name_are_two_versions(bundle: Path, tmp_path: Path) -> None:
    newer = another(bundle, tmp_path / "newer")
    with running(bundle, newer, f"mine={bundle}") as server:
        old, new = versions(server)
        assert versions(server, "mine") == [old]
        for path, version in ((INFER, new), (f"/v2/models/points/versions/{old}/infer", old)):
            assert server.ask("POST", path, asked([1, 2]))[1]["model_version"] == version


def test_a_folder_of_bundles(bundle: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    another(bundle, shop / "one")
    (shop / ".hidden").mkdir()
    (shop / "notes.txt").write_text("")
    with running(shop, **CONTROL) as server:
        assert [each["name"] for each in server.ask("POST", "/v2/repository/index")[1]] == ["one"]
        another(bundle, shop / "two")
        index = server.ask("POST", "/v2/repository/index")[1]
        assert (index[-1]["name"], index[-1]["state"]) == ("two", "UNAVAILABLE")
        assert server.ask("POST", "/v2/repository/models/two/load")[0] == 200
        assert server.ask("POST", "/v2/models/two/infer", asked([1, 2]))[0] == 200


@pytest.mark.parametrize("name", ["..", ".", "../mine", "/etc", "one/../two", "", ".hidden", "one\0", "mine\n", "a" * 300])
def test_no_name_leads_out_of_the_repository(bundle: Path, tmp_path: Path, name: str) -> None:
    shop = tmp_path / "shop"
    another(bundle, shop / "one")
    another(bundle, shop / ".hidden")
    found = parse_sources([str(shop)])
    assert found.list_names() == ["one"]
    with pytest.raises(NotFoundError):
        found.find_paths(name)


def test_arguments_that_name_no_bundle(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidBundleError, match=r"nowhere is no folder; bundles are written by"):
        parse_sources([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidBundleError, match=r"has no manifest\.json: not a bundle"):
        parse_sources([str(tmp_path / "empty")])
    with pytest.raises(RecipeError, match=r"'a/b' is no name for a model"):
        parse_sources([f"a/b={bundle}"])


def test_a_name_that_another_has_with_raw_inputs(bundle: Path) -> None:
    for arguments in ((bundle, f"points-raw={bundle}"), (f"points-raw={bundle}", bundle)):
        with (
            pytest.raises(InvalidBundleError, match="points-raw is also what points is called with raw inputs"),
            running(*arguments),
        ):
            pass


def test_a_bundle_that_is_not_fit_is_not_served(bundle: Path) -> None:
    spoil(bundle)
    with pytest.raises(InvalidBundleError, match=r"model\.onnx was changed"), running(bundle):
        pass


def test_a_bad_bundle_is_refused_and_the_old_one_stays(bundle: Path) -> None:
    with running(bundle, **CONTROL) as server:
        before = versions(server)
        spoil(bundle)
        status, told, _ = server.ask("POST", "/v2/repository/models/points/load")
        assert (status, "model.onnx was changed" in told["error"]) == (400, True)
        assert versions(server) == before
        assert server.ask("POST", INFER, asked([1, 2]))[0] == 200
        assert server.ask("GET", "/v2/health/ready")[0] == 200


def test_one_bundle_twice_is_no_two_versions(bundle: Path, tmp_path: Path) -> None:
    """Prometheus takes no two samples of one metric with the same labels."""
    again = Path(shutil.copytree(bundle, tmp_path / "again"))
    with pytest.raises(InvalidBundleError, match=f"{bundle} and {again} are both version [0-9a-f]+ of points: serve one"):
        running(bundle, again).__enter__()
    with running(bundle, f"other={again}") as server:
        assert versions(server) == versions(server, "other")


def test_of_two_versions_one_of_which_is_bad_neither_is_taken(bundle: Path, tmp_path: Path) -> None:
    newer = another(bundle, tmp_path / "newer")
    with running(bundle, newer, **CONTROL) as server:
        before = versions(server)
        spoil(newer)
        assert server.ask("POST", "/v2/repository/models/points/load")[0] == 400
        assert versions(server) == before


def under_load(server: Running, change: Callable[[], None]) -> tuple[list[Any], set[str]]:
    """Failures, and the versions that answered, of four clients while something changes."""
    failures: list[Any] = []
    seen: set[str] = set()
    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            status, told, _ = server.ask("POST", INFER, asked([1, 2]))
            if status == 200:
                seen.add(told["model_version"])
            else:
                failures.append(told)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    change()
    over.set()
    for thread in threads:
        thread.join()
    return failures, seen


def replace(bundle: Path, newer: Path) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(newer, bundle)


@pytest.mark.parametrize("threaded", [False, True])
def test_under_load_a_new_bundle_takes_over_and_no_request_fails(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threaded: bool
) -> None:
    if threaded:
        slow(monkeypatch, 0.02)
    newer = another(bundle, tmp_path / "newer")
    with running(bundle, **CONTROL) as server:
        (old,) = versions(server)

        def change() -> None:
            time.sleep(0.2)
            replace(bundle, newer)
            assert server.ask("POST", "/v2/repository/models/points/load")[0] == 200
            time.sleep(0.2)

        failures, seen = under_load(server, change)
        (new,) = versions(server)
        assert not failures
        assert seen == {old, new}
        assert old != new


def ask_packed(server: Running, path: str) -> int:
    body = gzip.compress(json.dumps(asked([1, 2])).encode())
    return server.ask("POST", path, body, Content_Encoding="gzip")[0]


def ask_typed(server: Running, name: str) -> int:
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
    tensor.contents.fp32_contents.extend([1, 2])
    return len(ask(server, service_pb2.ModelInferRequest(model_name=name, inputs=[tensor])).outputs)


@pytest.mark.parametrize(
    ("send", "to", "expected"),
    [(ask_packed, INFER, 200), (ask_packed, "/page/student/points", 200), (ask_typed, "points", 1)],
)
def test_a_request_that_is_being_read_keeps_its_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, send: Callable[[Running, str], int], to: str, expected: int
) -> None:
    monkeypatch.setattr(grpc_infer, "SHORT_BYTES", 0)  # every message is read in the thread
    with running(bundle, grpc_port=0, **CONTROL) as server, ThreadPoolExecutor(1) as threads:
        served, go_on = server.server.repository.find_model("points").served, threading.Event()
        server.server.service.reader_thread._executor.submit(go_on.wait, 10)
        answer = threads.submit(send, server, to)
        until(lambda: served.active == 1)
        assert server.ask("POST", "/v2/repository/models/points/load")[0] == 200
        assert server.server.repository.find_model("points").served is not served
        time.sleep(0.1)
        go_on.set()
        assert answer.result(10) == expected
        server.call(everything_retired(server))
        assert not served.active


def test_a_changed_folder_whose_load_failed_is_loaded_later(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory may have been short at that moment alone."""
    monkeypatch.setattr(watch, "RETRY_SECONDS", 0.1)
    newer = another(bundle, tmp_path / "newer")
    with running(bundle, watch=0.05) as server:
        (old,), attempts = versions(server), list[str]()
        load = server.server.repository.load

        async def load_second_time(name: str) -> None:
            attempts.append(name)
            if len(attempts) == 1:
                raise InvalidBundleError("no memory")
            await load(name)

        monkeypatch.setattr(server.server.repository, "load", load_second_time)
        shutil.copyfile(newer / "README.md", bundle / "README.md")
        shutil.copyfile(newer / "SHA256SUMS", bundle / "SHA256SUMS")
        until(lambda: versions(server) != [old])


def test_a_changed_folder_is_loaded_when_it_is_whole(bundle: Path, tmp_path: Path) -> None:
    newer = another(bundle, tmp_path / "newer")
    with running(bundle, watch=0.05) as server:
        (old,) = versions(server)

        def change() -> None:
            shutil.copyfile(newer / "README.md", bundle / "README.md")  # not what is sealed
            time.sleep(0.5)
            assert versions(server) == [old]
            shutil.copyfile(newer / "SHA256SUMS", bundle / "SHA256SUMS")
            until(lambda: versions(server) != [old])

        failures, seen = under_load(server, change)
        (new,) = versions(server)
        assert not failures
        assert seen == {old, new}
        shutil.rmtree(bundle)
        time.sleep(0.2)
        assert versions(server) == [new]
