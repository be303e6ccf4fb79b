"""Control of the repository: who may load and unload models, and what that does to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from attar.pipeline.core.errors import RecipeError
from attar.serving.core.authenticator import Authenticator
from attar.serving.core.errors import ForbiddenError
from attar.serving.core.settings import Settings
from tests.support.serving.serving_parts import Running, asked, running

INFER, READY = "/v2/models/points/infer", "/v2/health/ready"
LOAD, UNLOAD = "/v2/repository/models/points/load", "/v2/repository/models/points/unload"
TOKEN, CONTROL = "a-token-for-inference", "a-token-for-control"
EVERYWHERE = "0.0.0.0"  # noqa: S104  # what is refused


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Settings."""
    (tmp_path / "tokens").write_text(TOKEN)
    (tmp_path / "control").write_text(CONTROL)
    return {"token_file": tmp_path / "tokens", "control_token_file": tmp_path / "control", "model_control": True}


def ask(server: Running, path: str, token: str = "", content: Any = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    status, told, _ = server.ask("GET" if path == READY else "POST", path, content, **headers)
    return status, told["error"] if status >= 400 and told else ""


def test_it_is_off_unless_it_is_asked_for(points_bundle: Path) -> None:
    with running(points_bundle, grpc_port=0) as server:
        for path in (LOAD, UNLOAD):
            status, told = ask(server, path)
            assert (status, "start it with --model-control" in told) == (403, True)
        with (
            triton.InferenceServerClient(server.grpc_url) as client,
            pytest.raises(InferenceServerException, match=r"PERMISSION_DENIED.*--model-control"),
        ):
            client.unload_model("points")
        assert "/v2/repository/models/{name}/load" not in server.ask("GET", "/openapi.json")[1]["paths"]
        assert ask(server, "/v2/repository/index")[0] == ask(server, INFER, "", asked([1, 2]))[0] == 200


def test_a_token_of_inference_neither_loads_nor_unloads(points_bundle: Path, files: dict[str, Any]) -> None:
    with running(points_bundle, grpc_port=0, **files) as server:
        for path in (LOAD, UNLOAD):
            assert ask(server, path)[0] == 401
            status, told = ask(server, path, TOKEN)
            assert (status, "send one of --control-token-file" in told) == (403, True)
        with triton.InferenceServerClient(server.grpc_url) as client:
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                client.unload_model("points", headers={"authorization": f"Bearer {TOKEN}"})
            client.load_model("points", headers={"authorization": f"Bearer {CONTROL}"})
        assert ask(server, INFER, TOKEN, asked([1, 2]))[0] == 200
        assert ask(server, INFER, CONTROL, asked([1, 2]))[0] == 200
        assert ask(server, UNLOAD, CONTROL)[0] == 200
        assert ask(server, INFER, TOKEN, asked([1, 2]))[0] == 503


def test_where_inference_needs_no_token_control_does(points_bundle: Path, files: dict[str, Any]) -> None:
    with running(points_bundle, **files | {"token_file": None}) as server:
        assert ask(server, INFER, "", asked([1, 2]))[0] == 200
        assert [ask(server, LOAD, token)[0] for token in ("", TOKEN, CONTROL)] == [401, 403, 200]


def test_what_was_unloaded_makes_nothing_else_unready(points_bundle: Path) -> None:
    with running(points_bundle, f"other={points_bundle}", model_control=True) as server:
        assert ask(server, UNLOAD)[0] == 200
        assert ask(server, READY)[0] == 200
        assert server.ask("GET", "/v2/models/points/ready")[0] == 503
        assert ask(server, "/v2/models/other/infer", "", asked([1, 2]))[0] == 200


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"control_token_file": None}, "say who may with --control-token-file"),
        ({"control_token_file": None, "token_file": None, "host": EVERYWHERE}, "say who may with --control-token-file"),
        ({"model_control": False}, "--control-token-file is for --model-control, which is not given"),
    ],
)
def test_settings_that_would_let_more_control_it_than_were_meant(
    files: dict[str, Any], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        Authenticator(Settings(**files | settings))


def test_a_token_that_is_in_both_files(files: dict[str, Any]) -> None:
    """It is refused at the start; one that comes later opens inference alone."""
    guard = Authenticator(Settings(**files))
    files["token_file"].write_text(f"{TOKEN}\n{CONTROL}")
    guard.reload()
    bearer = f"Bearer {CONTROL}".encode()
    assert guard.is_authorized(bearer)
    with pytest.raises(ForbiddenError, match="may not load or unload"):
        guard.check_control(bearer)
    with pytest.raises(RecipeError, match="control of the models needs one of its own"):
        Authenticator(Settings(**files))
