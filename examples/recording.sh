#!/usr/bin/env bash
# Makes recording.svg: a run with a status line, as a terminal shows it (see record.py).
# python examples/practice_cluster.py --dead 1 --broken 1 -- examples/recording.sh examples/recording.svg
set -euo pipefail
nodes=${PRACTICE_NODES:?run it on the practice cluster} config=$PRACTICE_CONFIG
jobs=$(mktemp)
trap 'rm -f "$jobs"' EXIT
for i in $(seq 14); do
    echo "sleep 0.$((i % 5 + 3)); echo frame $i: rendered on \$CLSTR_NODE"
done >"$jobs"
python3 "$(dirname "$0")/record.py" --rows 18 --columns 84 --output "${1:-recording.svg}" \
    --title 'clstr --status --node-file nodes.txt --job-file jobs.txt' -- \
    clstr --status -F "$config" --node-file "$nodes" --seed 3 --job-file "$jobs"
