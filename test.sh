#!/usr/bin/env bash
# Every check that CI runs: lint, format, types, shell scripts, tests.
#
#   bash test.sh                      the default suite, under 10 minutes on two cores
#   bash test.sh -m slow              what takes longer (more pytest flags work the same way)
#   bash test.sh tests/data/test_order.py  one file
set -euo pipefail
cd "$(dirname "$0")"
source environment.sh
export HF_HUB_OFFLINE=1 WANDB_MODE=offline TOKENIZERS_PARALLELISM=true

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
if (($# == 0)); then # types: 30 s on two idle cores, 40 s on busy ones
    if "$PYTHON" -c 'import basedpyright' 2>/dev/null; then
        "$PYTHON" -m basedpyright --pythonpath "$("$PYTHON" -c 'import sys; print(sys.executable)')"
    else
        echo "basedpyright is not installed: the types were not checked (to install: $PYTHON -m pip install '$(grep '^basedpyright==' requirements.txt)')" >&2
    fi
fi

shellcheck=$(command -v shellcheck || true)
[[ -n $shellcheck ]] || shellcheck=$(dirname "$("$PYTHON" -c 'import sys; print(sys.executable)')")/shellcheck
if [[ -x $shellcheck ]]; then
    git ls-files -z '*.sh' .ci/run | xargs -0 "$shellcheck" -x
else
    echo "shellcheck is not installed: the shell scripts were not checked" >&2
fi

# The whole suite runs in two processes where pytest-xdist is there; what is asked for by name in one.
processes=()
if (($# == 0)) && "$PYTHON" -c 'import xdist' 2>/dev/null; then
    processes=(-n 2 --dist worksteal)
fi
exec "$PYTHON" -m pytest "${processes[@]}" "$@"
