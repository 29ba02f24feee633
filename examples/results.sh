#!/usr/bin/env bash
# Collecting results: a job names what it made on a line 'RESULTS: PATH', and it is copied here.
# On the practice cluster: python examples/practice_cluster.py -- examples/results.sh
# On machines of your own: NODES=nodes.txt examples/results.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
for i in 1 2 3; do
    echo "mkdir -p run$i; echo $((i * i)) > run$i/square; echo RESULTS: run$i"
done | run --results "$results" --stdout --job-file -

# A directory for each job, named after its command, with what it named inside.
for file in "$results"/*/run*/square; do
    echo "$(basename "$(dirname "$file")"): $(cat "$file")"
done
