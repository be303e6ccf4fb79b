"""Load: what it counts and how long it says that answers took, against servers whose answers are known."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from attar.pipeline.core.errors import AttarError
from attar.serving.load.client import Address, build_request
from attar.serving.load.load_http import HttpLoad, ResponseHead, parse_head
from attar.serving.load.schedule import Poisson
from tests.support.serving.costly import bundle_of_large_requests
from tests.support.serving.serving_parts import Running, running, slow

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POINT = {"x": np.array([[1, 2]], np.float32)}


@pytest.fixture(scope="module")
def server(points_bundle: Path) -> Iterator[Running]:
    with running(points_bundle) as made:
        yield made


def load(server: Running, connections: int, model: str = "points", form: str = "json") -> HttpLoad:
    return HttpLoad(Address(server.host, server.port), [build_request(model, POINT, form).encode(server.url)], connections)


@contextmanager
def saying(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """The port of a server that does so with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    made, _ = listener.accept()
                except OSError:
                    return
                with closing(made):
                    answer(made)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("form", ["json", "binary"])
@pytest.mark.parametrize("connections", [1, 5])
def test_the_server_counts_as_many_as_the_generator(server: Running, form: str, connections: int) -> None:
    before = server.ask("GET", "/v2/models/points/stats")[1]["model_stats"][0]["inference_count"]
    with load(server, connections, form=form) as made:
        found = made.run_closed_loop(0.2)
    after = server.ask("GET", "/v2/models/points/stats")[1]["model_stats"][0]["inference_count"]
    assert after - before == len(found.latencies) > 10
    assert found.errors == {}
    assert found.seconds >= 0.2
    times = found.compute_quantiles()
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["p99.9"] <= found.seconds * 1e6
    assert 0 < found.busy <= 1
    assert found.cpu > 0


def test_an_open_loop_asks_as_often_as_it_should(server: Running) -> None:
    with load(server, 4) as made:
        found = made.run_open_loop(400, 0.5)
    assert len(found.latencies) == len(Poisson(0, 0.5, 400)._times)
    assert 150 < len(found.latencies) < 250  # 200 and five times its standard deviation of 14, less what it never is


def test_waiting_for_a_connection_counts(points_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection and 20 ms a call answer 50 a second. Of 100 a second the last waits for half of the time, and says so."""
    slow(monkeypatch, 0.02)
    with running(points_bundle, instances=1) as server, load(server, 1) as made:
        found = made.run_open_loop(100, 0.5)
        alone = made.run_closed_loop(0.1)
    assert found.compute_quantiles()["p50"] > 3 * alone.compute_quantiles()["p50"]
    assert found.latencies.max() > 0.2
    assert found.seconds > 0.02 * len(found.latencies)


def test_refusals_are_errors_and_no_latencies(server: Running) -> None:
    with load(server, 2, "nobody") as made:
        found = made.run_closed_loop(0.05)
    assert found.errors.keys() == {"404"}
    assert (found.rate, found.compute_quantiles()) == (0, {})


def test_a_connection_that_is_closed_is_an_error_and_is_opened_again() -> None:
    with saying(lambda made: made.recv(100)) as port, HttpLoad(Address("127.0.0.1", port), [b"x"], 1) as made:
        found = made.run_closed_loop(0.05)
    assert found.errors["closed"] > 1
    assert not len(found.latencies)


def test_a_server_that_goes_is_counted() -> None:
    def once(made: socket.socket) -> None:
        made.recv(100)
        made.sendall(ANSWER)

    with saying(once) as port:
        made = HttpLoad(Address("127.0.0.1", port), [b"x"], 2)
        before = made.run_closed_loop(0.02)
    with made:
        gone = made.run_closed_loop(0.05)
    assert len(before.latencies) > 1
    assert gone.errors.keys() == {"closed"}
    assert (gone.errors["closed"] > 2, len(gone.latencies)) == (True, 0)


def test_a_server_that_no_longer_listens_does_not_hold_the_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue of connections is full: none is refused, none is answered."""
    monkeypatch.setattr("attar.serving.load.load_http.PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as others:
        port = listener.getsockname()[1]
        with HttpLoad(Address("127.0.0.1", port), [b"x"], 1) as made:
            listener.accept()[0].close()
            for _ in range(3):
                other = others.enter_context(closing(socket.socket()))
                other.setblocking(False)
                other.connect_ex(("127.0.0.1", port))
            start = time.perf_counter()
            found = made.run_closed_loop(0.05)
    assert time.perf_counter() - start < 1
    assert found.errors == {"closed": 1, "unanswered": 1}


def test_an_answer_may_come_in_pieces() -> None:
    def answer(made: socket.socket) -> None:
        made.recv(100)
        for piece in (ANSWER[:9], ANSWER[9:-1], ANSWER[-1:]):
            made.sendall(piece)
            time.sleep(0.01)

    with saying(answer) as port, HttpLoad(Address("127.0.0.1", port), [b"x"], 1) as made:
        found = made.run_closed_loop(0.01)
    assert len(found.latencies) == 1
    assert found.latencies[0] > 0.02


def test_a_message_that_does_not_go_out_at_once_is_sent_on(points_bundle: Path, tmp_path: Path) -> None:
    pictures = {"x": np.zeros((16, 3, 224, 224), np.float32)}  # 9.6 MB, more than a socket takes
    with running(bundle_of_large_requests(points_bundle, tmp_path / "points")) as server:
        message = build_request("points", pictures, "binary").encode(server.url)
        with HttpLoad(Address(server.host, server.port), [message], 1) as made:
            found = made.run_closed_loop(0.05)
    assert found.errors == {}
    assert len(found.latencies) >= 1


def test_an_answer_that_never_comes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.serving.load.load_http.PATIENCE", 0.1)
    done = threading.Event()
    with saying(lambda made: done.wait(5)) as port, HttpLoad(Address("127.0.0.1", port), [b"x"], 1) as made:
        found = made.run_closed_loop(0.01)
        done.set()
    assert found.errors == {"unanswered": 1}


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(AttarError, match=rf"no answer from 127\.0\.0\.1:{port}.*start `attar serve`"):
        HttpLoad(Address("127.0.0.1", port), [b"x"], 1)


def test_more_connections_than_files_may_be_open() -> None:
    """Those that were opened are closed again."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        before = len(list(Path("/proc/self/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, limits[1]))
        try:
            with pytest.raises(AttarError, match=r"no more connections to .*: .*open files; raise `ulimit -n` or give fewer"):
                HttpLoad(Address("127.0.0.1", listener.getsockname()[1]), [b"x"], 50)
            assert len(list(Path("/proc/self/fd").iterdir())) == before
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_the_head_of_an_answer() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nX: y") == ResponseHead(200, 12, True)
    assert parse_head(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: Close") == ResponseHead(503, 0, False)
    with pytest.raises(AttarError, match="without Content-Length"):
        parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")
    with pytest.raises(AttarError, match=r"no HTTP/1\.1"):
        parse_head(b"SSH-2.0-OpenSSH")


def test_poisson_arrivals() -> None:
    """Of rate 1000 over 4 s: 4000 with a standard deviation of 63; gaps of an exponential distribution, mean 1 ms."""
    made = Poisson(10.0, 4.0, 1000.0)
    assert made.take_due(10.0) is None
    times = []
    while (due := made.take_due(20.0)) is not None:
        times.append(due)
    assert made.is_over(20.0)
    assert abs(len(times) - 4000) < 320
    assert 10 < times[0] < times[-1] < 14
    gaps = np.diff(times)
    assert np.std(gaps) == pytest.approx(1e-3, rel=0.1)
    with pytest.raises(AttarError, match="measure longer"):
        Poisson(0.0, 0.001, 1.0)
