#!/usr/bin/env bash
# The default suite with the oldest versions that pyproject.toml allows, after checking that the bounds are exact.
#
#   bash tests/oldest/run.sh                      first creates .venv-oldest: some minutes, 6 GB (torch 2.11 from PyPI has CUDA)
#   TORCH=2.13.0+cpu bash tests/oldest/run.sh     another torch, such as a CPU build in PIP_FIND_LINKS
#   bash tests/oldest/run.sh tests/data/test_columnar.py   further arguments go to pytest
#
# Not part of the default suite. If it fails, raise the bound or fix the code. Delete .venv-oldest after changing a bound.
set -euo pipefail
cd "$(dirname "$0")/../.."

TORCH=${TORCH:-} # empty: the bound
python=.venv-oldest/bin/python
if ! [[ -e .venv-oldest/whole ]]; then
    python3 -m venv --clear .venv-oldest
    "$python" -m pip install --quiet uv==0.13.9 # pip cannot resolve to the lowest versions
    override=.venv-oldest/override.txt
    echo "${TORCH:+torch==$TORCH}" >"$override"
    .venv-oldest/bin/uv pip install --python "$python" --resolution lowest-direct --override "$override" \
        ${PIP_FIND_LINKS:+--find-links "$PIP_FIND_LINKS"} --requirements pyproject.toml --extra test
    touch .venv-oldest/whole
fi

"$python" - "$TORCH" <<'PY'
import sys, tomllib
from importlib.metadata import version
from packaging.requirements import Requirement
from packaging.version import Version

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wrong = []
for requirement in map(Requirement, project["dependencies"] + project["optional-dependencies"]["test"]):
    bound = next(part.version for part in requirement.specifier if part.operator == ">=")
    if requirement.name == "torch" and sys.argv[1]:
        print(f"torch {version('torch')} as set by TORCH, not its bound {bound}")
    elif Version(version(requirement.name)) != Version(bound):
        wrong.append(f"{requirement.name}>={bound}: the oldest version that works with the others is {version(requirement.name)}")
sys.exit("wrong bounds in pyproject.toml:\n" + "\n".join(wrong) if wrong else 0)
PY

export HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=true
exec "$python" -m pytest "$@"
