#!/bin/sh
# Integrate the decay width of dalitz.c: varflow asks for points, and the C program gives the values.
set -eu
cc -O2 -o dalitz "$(dirname "$0")/dalitz.c" -lm
varflow start width.run --dim 5 --calls "${CALLS:-2000}"
while varflow ask width.run -n 500 -o points.csv; do # ends with a line on stderr at the end of the run
    ./dalitz - <points.csv >values.csv
    varflow tell width.run values.csv
done
varflow result width.run -o width.npz
