"""Requests that are made of the description, as it says and otherwise: the server answers as the description says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bundles import pictures
from tests.support.serving.server_process import run_server

# Each imports `generated_requests` itself: schemathesis takes a second, and every process that collects tests would wait for it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_what_it_describes_is_answered_as_it_describes(points_bundle: Path, tmp_path: Path) -> None:
    """A request that is complete is answered with 200, and so is every page that takes no name."""
    from tests.support.serving.generated_requests import EXAMPLES, all_of

    with run_server(tmp_path, "--model-control", str(points_bundle)) as server:
        seen = all_of(server, "positive", whole=True)
    for label, statuses in seen.items():
        assert (404 if "{name}" in label else 200) in statuses, label
    assert seen["POST /v2/models/points/infer"][200] > EXAMPLES / 4


def test_what_it_excludes_is_refused_as_it_describes(points_bundle: Path, tmp_path: Path) -> None:
    from tests.support.serving.generated_requests import all_of

    with run_server(tmp_path, "--model-control", str(points_bundle)) as server:
        seen = all_of(server, "negative", whole=False)
    assert seen["POST /v2/models/points/infer"].keys() == {400}


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_a_bundle_of_pictures(points_bundle: Path, tmp_path: Path, kind: str) -> None:
    """No text is a picture, so no question is right; none is the server's fault."""
    from tests.support.serving.generated_requests import all_of

    bundle = pictures.of_files(points_bundle, tmp_path / "points")
    with run_server(tmp_path, str(bundle)) as server:
        seen = all_of(server, kind, whole=False)
    assert seen["POST /v2/models/points-raw/infer"].keys() == {400}
