#!/usr/bin/env bash
# A long run, watched: the status line, and the list of what runs where.
# On the practice cluster: python examples/practice_cluster.py -- examples/watch_a_long_run.sh
# On machines of your own: NODES=nodes.txt examples/watch_a_long_run.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

active=$(mktemp)
trap 'rm -f "$active"' EXIT
run --status --active-nodes "$active" --job-file <(for i in $(seq 12); do echo "sleep 0.$((i % 5 + 3)); echo $i"; done) &

# Meanwhile, in another terminal: head running.txt
for _ in $(seq 100); do
    if [ "$(wc -l <"$active")" -ge 3 ]; then
        head -3 "$active"
        break
    fi
    sleep 0.1
done
wait $!
