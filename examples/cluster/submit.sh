#!/bin/bash
# Submit an integral for each line of integrals.txt, and a job that makes one table of them at the end.
set -euo pipefail
mkdir -p results
n=$(grep -c . integrals.txt)
job=$(sbatch --parsable --array="1-$n%${AT_ONCE:-50}" integrals.slurm)
sbatch --dependency="afterany:$job" --job-name=table --time=10 --output=table.log \
    --wrap 'varflow collect results/*.npz -o table.csv && varflow collect results/*.npz'
