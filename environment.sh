# shellcheck shell=bash
# Sourced by the top-level scripts: leaves in $PYTHON an interpreter that has every package.
# One that has them already is used as it is; otherwise .venv is made with the exact pins of requirements.txt.

# Prints the modules that "$1" cannot import, nothing if it has them all. find_spec imports nothing: 0.1 s.
missing_modules() {
    "$1" - <<'PY'
from importlib.util import find_spec
names = "torch transformers datasets evaluate accelerate deepspeed wandb sklearn scipy pandas matplotlib jinja2 rich filelock pytest ruff"
print(*[name for name in names.split() if find_spec(name) is None])
PY
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 .venv/bin/python; do
        if command -v "$candidate" >/dev/null && [[ -z $(missing_modules "$candidate" 2>&1) ]]; then
            PYTHON=$candidate
            return 0
        fi
    done
    return 1
}

install_packages() {
    if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "found $(python3 --version 2>&1 || true), expected Python 3.11 or newer: install it, or set PYTHON to one that has the packages" >&2
        exit 2
    fi
    echo "The packages are not importable: installing the pins of requirements.txt into .venv (about 2 GB, once) ..." >&2
    python3 -m venv .venv
    # torch goes first and alone: no other package may choose another build of it.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' requirements.txt)" 2> >(grep -v '^WARNING: Location' >&2)
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt 2> >(grep -v '^WARNING: Location' >&2)
    echo "Installed." >&2
}

if ! find_python; then
    exec 9>.venv.lock # two scripts started together install once
    flock 9
    find_python || install_packages
    exec 9>&-
    unset PYTHON
    find_python || { echo "after installing, .venv still lacks: $(missing_modules .venv/bin/python): delete .venv and run again" >&2; exit 1; }
fi
export PYTHON
