#!/usr/bin/env bash
# A parameter sweep: one job line, run for every combination of the values, in the order of nested loops.
# On the practice cluster: python examples/practice_cluster.py -- examples/sweep.sh
# On machines of your own: NODES=nodes.txt examples/sweep.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

table=$(mktemp)
trap 'rm -f "$table"' EXIT
run --matrix RATE=0.1,0.01 --matrix MODEL=linear,quadratic,exotic --keep-order --csv "$table" \
    --job 'echo "{MODEL} at {RATE}: loss $(echo {MODEL}{RATE} | cksum | cut -c 1-3)"'

# Which combination ran where, and for how long: a row for each job, a column for each KEY.
cut -d , -f 1,4,6,13,14 "$table"
