#!/bin/bash
# Run a command of varflow that keeps a checkpoint, as a batch job that goes on by itself:
#     again.sh varflow integrate camel.py:f --dim 4 --checkpoint camel.ckpt -o camel.npz
# SIGUSR1 and SIGTERM, by which Slurm and PBS announce the end, are passed on. varflow then writes its checkpoint
# and ends with status 75, and the job is queued again, with the same command: it goes on from the checkpoint.
set -u

# Threads: as many as the job has cores. OMP_NUM_THREADS is what varflow, NumPy and OpenMP follow.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-${NCPUS:-1}}"
# Compiled kernels: a folder that all nodes see, filled once by `varflow warmup`. One for each kind of processor.
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$HOME/.cache/varflow}"
# Matplotlib, where f or a plot imports it, wants a folder that it can write to, and that no other job writes to.
export MPLCONFIGDIR="${MPLCONFIGDIR:-${TMPDIR:-/tmp}/matplotlib-${SLURM_JOB_ID:-$$}}"

"$@" &
command=$!
trap 'kill -USR1 "$command" 2>/dev/null' USR1
trap 'kill -TERM "$command" 2>/dev/null' TERM
while true; do
    wait "$command" # a signal that is passed on ends it early
    status=$?
    kill -0 "$command" 2>/dev/null || break
done

if [ "$status" -eq 75 ]; then
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        scontrol requeue "$SLURM_JOB_ID"
    elif [ -n "${PBS_JOBID:-}" ]; then
        qsub "${JOB_SCRIPT:?must name the script that PBS is to take again}"
    fi
fi
exit "$status"
