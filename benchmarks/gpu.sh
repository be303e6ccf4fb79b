#!/usr/bin/env bash
# `make gpu`: the demo, CIFAR-100 and the tests where there is a CUDA device. Says what was run and what was not; a machine
# without one, or without the data of CIFAR-100, is not an error, a torch that cannot use the device there is.
set -euo pipefail
python=${PYTHON:-python} attar=${ATTAR:-attar}

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi --list-gpus | grep -q GPU; then
  echo "not run here: no CUDA device on this machine (demo --device cuda, cifar100 --device cuda, tests)"
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
# Last, because it takes hours. Nothing is downloaded for it here: `attar fetch cifar100` does that, when asked.
if "$python" -c 'import sys; from attar.models.tasks.cifar import complete; sys.exit(complete() is None)'; then
  code=0
  "$attar" run cifar100 --device cuda --store .attar-cuda || code=$?
  [ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code" # 3: a promise was not kept, which is a result
  echo "run here: cifar100 with --device cuda (store .attar-cuda); its gates $([ "$code" -eq 0 ] && echo passed || echo did not pass)"
else
  echo "not run here: cifar100, whose data are not on this machine; 'attar fetch cifar100' gets them (161 MB)"
fi
echo "not run here: TensorRT engines, which no recipe asks for yet"
