#!/usr/bin/env bash
# The chaos suite: kills, full disks, damaged files, unreachable servers. Prints a table and writes results/reliability.md.
#
#   bash tests/chaos/run.sh              under 30 minutes on two cores
#   KILLS=5 bash tests/chaos/run.sh      a quick check
set -euo pipefail
cd "$(dirname "$0")/../.."
export RELIABILITY_TABLE=${RELIABILITY_TABLE:-$PWD/results/reliability.md}
exec bash test.sh -m chaos tests/chaos "$@"
