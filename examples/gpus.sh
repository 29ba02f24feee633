#!/usr/bin/env bash
# One GPU for each slot: slots of a node are numbered from 1, and $CLSTR_SLOT is the number of this one.
# On the practice cluster: python examples/practice_cluster.py -- examples/gpus.sh
# On machines of your own: NODES=nodes.txt examples/gpus.sh
set -euo pipefail
nodes=${NODES:-${PRACTICE_NODES:?name a file of nodes by NODES}}
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} --node-file "$nodes" "$@"; }

with_gpus=$(mktemp)
trap 'rm -f "$with_gpus"' EXIT
sed 's/$/ slots=2/' "$nodes" >"$with_gpus" # each of these machines has two
nodes=$with_gpus

train='export CUDA_VISIBLE_DEVICES=$((CLSTR_SLOT - 1)); sleep 0.5; echo "model {MODEL}: GPU $CUDA_VISIBLE_DEVICES"'
run --matrix MODEL=1,2,3,4,5,6,7,8,9,10,11,12 --job "$train"
