"""Datasets that ranks read together from the files of a folder; they must be what one process reads."""

import gc
import json
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import varflow as vf
from varflow.runtime import ranks

comm, told = MPI.COMM_WORLD, {}
ranks.FILLED_AT_ONCE = 100
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        data = vf.Dataset.read(path, comm=comm)
    except Exception as error:
        told[path.name] = f"{type(error).__name__}: {error}"
        continue
    alone = vf.Dataset.read(path)
    for shared, own in ((data, alone), *zip(data.split(0.2, 3), alone.split(0.2, 3), strict=True)):
        np.testing.assert_array_equal(shared.x, own.x)
        np.testing.assert_array_equal(shared.logpx, own.logpx)
        np.testing.assert_array_equal(shared.logfx, own.logfx)
        np.testing.assert_array_equal(shared.bounds, own.bounds)
    assert comm.size == 1 or not data.x.flags.writeable
    told[path.name] = f"{data.n} points"
del data, shared
gc.collect()  # what exceptions hold
is_left = "varflow-" in Path("/proc/self/maps").read_text()  # memory that was not given back
assert not any(comm.allgather(is_left))
assert all(one == told for one in comm.allgather(told)), told
if comm.rank == 0:
    print(json.dumps(told))
