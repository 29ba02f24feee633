#!/usr/bin/env bash
# Three jobs on whatever nodes there are, their output merged.
# On the practice cluster: python examples/practice_cluster.py -- examples/one_liners.sh
# On machines of your own: NODES=nodes.txt examples/one_liners.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

run --job 'echo "Hello, world."' --job 'echo "Hello again."' --job 'echo "What do you want?"'

# What fails on one node is done on another; who runs it is $CLSTR_NODE.
run --job 'test "$CLSTR_ATTEMPT" -gt 1 || exit 1; echo "done at the second try"'
