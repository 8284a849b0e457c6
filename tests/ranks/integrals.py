"""Integrals, whose bits must not depend on the number of ranks; without MPI where there is an argument."""

import hashlib
import json
import sys

import numpy as np

import varflow as vf

SMALL = {"n_bins": 8, "d_hidden": 16}


def f(x):
    counted.append(len(x))
    return np.exp(-40 * ((x - 0.4) ** 2).sum(axis=1)) + 0.3 * np.exp(-60 * ((x - 0.7) ** 2).sum(axis=1))


def table(x):
    return {"one": f(x), "two": np.stack([x[:, 0], -x.prod(axis=1)], axis=1)}


def log_f(x):
    return -1e4 * ((x - 0.4) ** 2).sum(axis=1)


def digest(*arrays):
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


def of_result(result):
    history = [one.mean for one in result.history] + [one.covariance for one in result.history]
    return digest(result.flow.params, *history)


comm, counted = None, []
if len(sys.argv) == 1:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
rank, size = (comm.rank, comm.size) if comm else (0, 1)
options = {"comm": comm, "flow_options": SMALL, "threads": 1 + (rank + size) % 2}
found = {}

integrator = vf.Integrator(f, 3, n_iter=1, n_points=33_000, seed=3, **options)
found["f"] = of_result(integrator.integrate())
found["sample"] = digest(*integrator.sample(1000, seed=4), *integrator.sample(2, seed=5))
found["unweighted"] = digest(*integrator.sample(100, unweight=True, seed=4))
n_calls = integrator.integrand.n_calls
short = {"n_iter": 1, "n_points": 2000, "survey_strategy": "flat"}
found["table"] = of_result(vf.Integrator(table, 2, seed=1, **short, **options).integrate())
found["log"] = of_result(
    vf.Integrator(log_f, [(-1, 1), (0, 3)], seed=1, log=True, **short, **options).integrate()
)
random = vf.Integrator(f, 2, **short, **options)  # without a seed, but alike on all ranks
own = [found, of_result(random.integrate())]

every = comm.allgather((own, sum(counted))) if comm else [(own, sum(counted))]
assert all(one == own for one, _ in every), every
if rank == 0:
    print(json.dumps({"found": found, "counted": [n for _, n in every], "n_calls": n_calls}))
