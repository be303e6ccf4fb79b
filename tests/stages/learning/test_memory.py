"""A million samples need hardly more memory than ten thousand: nothing but their order is in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import resource, sys
from pathlib import Path

from attar.stages.artifacts import Answers, Weights
from attar.stages.distill.stage import Distill
from attar.stages.label.stage import Label
from attar.stages.teach.stage import Teach
from tests.support.stages.training import make_out
from tests.support.tasks.smoke import artifact

folder = Path(sys.argv[1])
task = "tests.support.tasks.lazy_points:LazyRing"
learn = {"task": task, "network": "tests.support.tasks.ring_task:layers", "epochs": 1, "batch": 1024}
outs = [make_out(folder, name) for name in ("teacher", "answers", "student")]
teacher = artifact(Weights, outs[0], Teach(**learn).run(outs[0]))
answers = artifact(Answers, outs[1], Label(task=task, views=1).run(outs[1], teacher=teacher))
Distill(**learn).run(outs[2], teacher=teacher, answers=answers)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(folder: Path, samples: int) -> int:
    """Return the largest resident memory of teaching, labelling and distilling, in kilobytes."""
    environment = os.environ | {"LAZY_SAMPLES": str(samples), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder / str(samples))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    assert measure(tmp_path, 1_000_000) <= 1.1 * measure(tmp_path, 10_000)
