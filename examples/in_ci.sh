#!/usr/bin/env bash
# In continuous integration: no terminal, every job tried at most three times, the log kept, the status by exit code.
# On the practice cluster: python examples/practice_cluster.py -- examples/in_ci.sh
# On machines of your own: NODES=nodes.txt examples/in_ci.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
status=0
run --retries 2 --timeout 10m --max-failed 5 --group --tag --csv "$report/tests.csv" --unfinished "$report/failed.txt" \
    --job 'echo suite one: ok' --job 'echo suite two: ok' --job 'echo suite three: FAILED; exit 1' \
    </dev/null || status=$?

echo "clstr exited with $status; not done:"
cat "$report/failed.txt"
[ "$status" = 1 ] # one suite is broken, which is what this example shows
