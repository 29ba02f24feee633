#!/usr/bin/env bash
# Only on machines where nobody is logged in: a job refuses the others by failing.
# On the practice cluster: python examples/practice_cluster.py -- examples/idle_nodes.sh
# On machines of your own: NODES=nodes.txt examples/idle_nodes.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

for i in 1 2 3; do
    echo "[ -z \"\$(users)\" ] && echo simulation $i ran on an idle machine"
done | run --job-file -
