#!/usr/bin/env bash
# `make gpu`: the demo and the tests where there is a CUDA device. Says what was run and what was not; a machine without
# one is not an error, a torch that cannot use the one there is.
set -euo pipefail
python=${PYTHON:-python} attar=${ATTAR:-attar}

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi --list-gpus | grep -q GPU; then
  echo "not run here: no CUDA device on this machine (demo --device cuda, tests)"
  exit 0
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$python" - <<'PY'
import sys

import torch

print(f"torch {torch.__version__}")
if not torch.cuda.is_available():
    sys.exit("there is a GPU, but this torch cannot use it: install a CUDA build of torch into the environment, then run again")
PY
"$attar" fetch demo
"$attar" run demo --device cuda --store .attar-cuda
echo "run here: the demo with --device cuda (store .attar-cuda)"
"$python" -m pytest
echo "run here: every test on a machine with a CUDA device"
echo "not run here: TensorRT engines, which no recipe asks for yet"
