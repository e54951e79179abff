#!/usr/bin/env bash
# The default suite with the oldest versions that pyproject.toml allows, after a check that these are its bounds.
#
#   bash tests/oldest/run.sh                      makes .venv-oldest first: some minutes, 6 GB (torch 2.11 from PyPI has CUDA)
#   TORCH=2.13.0+cpu bash tests/oldest/run.sh     another torch, such as a CPU build that lies in PIP_FIND_LINKS
#   bash tests/oldest/run.sh tests/data/test_columnar.py   what follows goes to pytest
#
# Not part of the default suite. Where it fails, raise the bound or mend the code. Delete .venv-oldest after a bound changed.
set -euo pipefail
cd "$(dirname "$0")/../.."

TORCH=${TORCH:-} # empty: its bound, too
python=.venv-oldest/bin/python
if ! [[ -e .venv-oldest/whole ]]; then
    python3 -m venv --clear .venv-oldest
    "$python" -m pip install --quiet uv==0.13.9 # pip itself has no resolution to the lowest versions
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
untrue = []
for requirement in map(Requirement, project["dependencies"] + project["optional-dependencies"]["test"]):
    bound = next(part.version for part in requirement.specifier if part.operator == ">=")
    if requirement.name == "torch" and sys.argv[1]:
        print(f"torch {version('torch')} as TORCH asks, not its bound {bound}")
    elif Version(version(requirement.name)) != Version(bound):
        untrue.append(f"{requirement.name}>={bound}: the oldest that goes with the others is {version(requirement.name)}")
sys.exit("bounds of pyproject.toml that are not true:\n" + "\n".join(untrue) if untrue else 0)
PY

export HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=true
exec "$python" -m pytest "$@"
