"""What compiling costs: opens the network as ``worker`` does and calls it once with each batch size
that will be timed.

``python build_torch.py KIND FILE BATCH.npz...``: the compiled code is kept beside the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.peers.worker import KINDS

if __name__ == "__main__":
    predict = KINDS[sys.argv[1]](Path(sys.argv[2]))
    for batch in sys.argv[3:]:
        predict(dict(np.load(batch)))
