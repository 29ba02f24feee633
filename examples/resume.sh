#!/usr/bin/env bash
# A run that is killed and started again: the same command goes on where it was.
# On the practice cluster: python examples/practice_cluster.py -- examples/resume.sh
# On machines of your own: NODES=nodes.txt examples/resume.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
jobs() { for i in $(seq 20); do echo "sleep 0.3; echo $i"; done; }

# The machine that clstr runs on dies in the middle: kill -9, as soon as five jobs are on record.
touch "$dir/log"
(exec clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" \
    --joblog "$dir/log" --job-file <(jobs) >"$dir/first") &
until [ "$(wc -l <"$dir/log")" -gt 5 ]; do sleep 0.1; done
{ kill -9 $! && wait $! || true; } 2>/dev/null

run --joblog "$dir/log" --resume --job-file <(jobs) >"$dir/second"
awk 'NR > 1 && $7 == 0 && $8 == 0' "$dir/log" | wc -l | sed 's/$/ jobs are done/'
cut -f 9 "$dir/log" | sort | uniq -d | wc -l | sed 's/$/ of them were run again though they were on record/'
