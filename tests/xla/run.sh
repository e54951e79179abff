#!/usr/bin/env bash
# Tests run_mlm.py on torch_xla's CPU device: same losses, static shapes, exact resume. Prints a table.
#
#   bash tests/xla/run.sh                                   first creates .venv-xla: 6.5 GB of wheels
#   XLA_PYTHON=/some/python bash tests/xla/run.sh           an environment with torch_xla and the other packages
set -euo pipefail
cd "$(dirname "$0")/../.."

python=${XLA_PYTHON:-.venv-xla/bin/python}
if [[ -z ${XLA_PYTHON:-} ]] && ! "$python" -c 'import torch_xla, transformers' 2>/dev/null; then
    python3 -m venv .venv-xla
    "$python" -m pip install --quiet torch==2.9.0 torch_xla==2.9.0
    "$python" -m pip install --quiet -r <(grep -vE '^(torch|deepspeed)==' requirements.txt)
fi
# Without optimisation a graph compiles in seconds instead of a minute, and its speed isn't tested here.
export XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
export PJRT_DEVICE=CPU PYTHONPATH=$PWD:$PWD/tests:$PWD/tests/helpers HF_HUB_OFFLINE=1
exec "$python" tests/xla/check.py
