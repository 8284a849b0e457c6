#!/bin/sh
#SBATCH --array=1-20 --ntasks=1 --time=1:00:00
# A task of an array job. All of them work on one run, after: varflow start width.run --dim 5 --calls 2000
# Points of a task that was killed stay out: varflow ask width.run --again, or varflow forget width.run.
set -u
task=${SLURM_ARRAY_TASK_ID:-$$}
while true; do
    varflow ask width.run -n 20 -o "points.$task.csv"
    case $? in
    0) ;;
    1) exit 0 ;;            # the run has ended
    75) sleep 1; continue ;; # all points of this round are out: others tell them
    *) exit 2 ;;
    esac
    ./dalitz - <"points.$task.csv" >"values.$task.csv" && varflow tell width.run "values.$task.csv" || exit 1
done
