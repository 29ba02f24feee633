#!/usr/bin/env bash
# Two stages: every part is prepared, and the report waits for all of them. See pipeline.submit.
# On the practice cluster: python examples/practice_cluster.py -- examples/pipeline.sh
# On machines of your own: NODES=nodes.txt examples/pipeline.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

submit=$(dirname "$0")/pipeline.submit
PIPELINE=$(mktemp -d)
export PIPELINE
trap 'rm -rf "$PIPELINE"' EXIT
clstr --node-file "$nodes" --submit "$submit" --dry-run | grep '^#'
run --submit "$submit"
