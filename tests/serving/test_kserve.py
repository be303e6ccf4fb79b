"""KServe's own client, in an environment of its own, against a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.projects.copies import ROOT
from tests.support.proof.proof_parts import STUDENT
from tests.support.serving.serving_parts import running

VERSION = "0.21.0"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(420)
def test_kserves_client(points_bundle: Path, tmp_path: Path) -> None:
    python = tmp_path / "kserve" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "kserve"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", f"kserve=={VERSION}"], check=True, capture_output=True)
    with running(points_bundle, grpc_port=0) as server:
        command = [
            str(python),
            "-P",
            str(ROOT / "tests/support/serving/kserve_calls.py"),
            f"http://{server.url}",
            server.grpc_url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for transport in ("rest", "grpc"):
        live, ready, model, unknown, *answers = found[transport]
        assert (live, ready, model, unknown) == (True, True, True, False)
        for answer in answers:
            assert (answer["id"], answer["model"]) == ("7", "points")
            assert np.allclose(answer["logits"], [[1, 2]] @ STUDENT)
