#!/usr/bin/env bash
# The nodes that a scheduler has given you: inside of a Slurm or PBS job, run the list of jobs on its nodes.
# On the practice cluster: python examples/practice_cluster.py -- examples/allocation.sh
# In an allocation of your own: sbatch -N 4 examples/allocation.sh, or qsub -l nodes=4 examples/allocation.sh
set -euo pipefail
run() { clstr ${PRACTICE_CONFIG:+-F "$PRACTICE_CONFIG"} "$@"; }

if [ -n "${PRACTICE_NODES:-}" ]; then # what the two schedulers would set
    SLURM_JOB_NODELIST='n[1-4]' SLURM_CPUS_ON_NODE=2
    PBS_NODEFILE=$(mktemp)
    trap 'rm -f "$PBS_NODEFILE"' EXIT
    printf '%s\n' n5 n5 n6 >"$PBS_NODEFILE" # PBS lists a node once for each of its slots
fi
if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    run --node "$SLURM_JOB_NODELIST slots=${SLURM_CPUS_ON_NODE:-1}" --on-each-node 'echo "slurm $CLSTR_NODE"'
fi
if [ -n "${PBS_NODEFILE:-}" ]; then
    run --node-file "$PBS_NODEFILE" --on-each-node 'echo "pbs $CLSTR_NODE"'
fi
