#!/usr/bin/env bash
# A timeline: one job of twenty-four is bad. Its first node is evicted for it, and pardoned when it has failed elsewhere.
# On the practice cluster: python examples/practice_cluster.py -- examples/timeline.sh
# On machines of your own: NODES=nodes.txt examples/timeline.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

jobs() { for i in $(seq 24); do echo "sleep 0.$((i * 7 % 5 + 2)); [ $i != 4 ]"; done; }
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT
run --retries 1 --seed 1 --job-file <(jobs) --trace "$trace" || true # that job fails, as it must
python3 "$(dirname "$0")/timeline.py" "$trace" "${1:-timeline.svg}"
