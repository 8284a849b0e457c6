"""Ranks that have workers each: the bits of one process, few parts, and what a worker does to all ranks."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from mpi4py import MPI

import varflow as vf

comm = MPI.COMM_WORLD
is_last = comm.rank == comm.size - 1
case = ""


def f(x):
    if is_last and case == "raises":
        raise LookupError("in a worker")
    if is_last and case == "dies":
        os._exit(3)
    return np.exp(-40 * ((x - 0.4) ** 2).sum(axis=1))


def integral(workers, comm=None):
    settings = {"n_iter": 1, "n_points": 3000, "survey_strategy": "flat", "seed": 1}
    with vf.Integrator(f, 2, workers=workers, comm=comm, flow_options={"d_hidden": 8}, **settings) as one:
        return one.integrate().mean


def told_of(what):
    global case
    case = what
    try:
        integral(2, comm)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        case = ""
    return "nothing"


alone = integral(1)
with ThreadPoolExecutor(2) as threads:
    for workers in (2, threads, threads if is_last else 1, 2 if is_last else 1):
        assert comm.allgather(integral(workers, comm)) == [alone] * comm.size, workers

for what, words in (("raises", "LookupError: in a worker"), ("dies", "WorkerDiedError: ")):
    every = comm.allgather(told_of(what))
    assert all(told.startswith(words) for told in every), every
assert integral(2, comm) == alone  # and all go on

with vf.Integrand(f, vf.Domain(2), workers=2, comm=comm) as integrand:
    n_parts, evaluate = [], integrand._pool.evaluate
    integrand._pool.evaluate = lambda x: n_parts.append(len(x)) or evaluate(x)
    u = np.random.default_rng(1).random((20_000, 2))
    for _ in range(4):
        n_parts.clear()
        integrand(u)
assert sum(comm.allgather(sum(n_parts))) == len(u)
assert sum(comm.allgather(len(n_parts))) <= 8 * comm.size  # as sending a part takes longer than f
assert not multiprocessing.active_children()
