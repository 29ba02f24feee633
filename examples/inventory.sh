#!/usr/bin/env bash
# What the machines of a cluster are: one command on each node, and equal answers counted.
# On the practice cluster: python examples/practice_cluster.py -- examples/inventory.sh
# On machines of your own: NODES=nodes.txt examples/inventory.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

run --on-each-node 'grep -m 1 "model name" /proc/cpuinfo || uname -m' | sort | uniq -c
run --on-each-node 'echo "$(uname -sr)"' | sort | uniq -c | sort -rn
