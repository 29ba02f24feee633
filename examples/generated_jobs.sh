#!/usr/bin/env bash
# Jobs that a shell makes up: read as they come, so the first runs before the last is written.
# On the practice cluster: python examples/practice_cluster.py -- examples/generated_jobs.sh
# On machines of your own: NODES=nodes.txt examples/generated_jobs.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

run --job-file <(for i in $(seq 10); do echo "echo I am job $i"; done)

# The same from a pipe; a job may hold newlines where entries end with NUL.
printf 'for word in several lines\ndo echo "$word"\ndone\0' | run --null --job-file -
