"""What goes wrong on one rank, or differs between ranks, and what all of them get."""

import json
import os
import signal
import threading
import time
from unittest import mock

import numpy as np
from mpi4py import MPI

import varflow as vf
from varflow.runtime import ranks

comm = MPI.COMM_WORLD
is_last = comm.rank == comm.size - 1
told = {}
case = ""


class OddError(Exception):
    """It cannot be pickled."""

    def __init__(self):
        super().__init__("cannot be sent")
        self.lock = threading.Lock()


def f(x):
    time.sleep(0.002)  # so that each rank gets some of the points
    if is_last:
        if case == "raises":
            return [] + 1
        if case == "odd":
            raise OddError
        if case == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    if case == "nan":
        return np.where(x[:, 0] > 0.999, np.nan, x[:, 0])
    if case == "shape" and is_last:
        return np.ones((len(x), 2))
    return np.exp(-40 * ((x - 0.4) ** 2).sum(axis=1))


def refuse(result):
    raise LookupError(f"after {result.n_calls}")


def check(name, call):
    """Note what a call raises on each rank."""
    global case
    case = name
    try:
        call()
    except BaseException as error:
        own = [type(error).__name__, str(error).splitlines()[0] if str(error) else "", repr(error.__cause__)]
    else:
        own = ["nothing", "", ""]
    case = ""
    told[name] = comm.allgather(own)


def integrator(**options):
    settings = {"n_iter": 1, "n_points": 2000, "survey_strategy": "flat", "seed": 1, "comm": comm}
    return vf.Integrator(f, 3, **settings | options)


for name in ("raises", "odd", "nan", "shape", "interrupted"):
    check(name, integrator().integrate)
check("callback", integrator(callback=refuse).integrate)
check("seed", lambda: integrator(seed=comm.rank))
check("argument", lambda: integrator(loss="nonsense" if is_last else "dkl"))
check("calls", lambda: integrator(survey_strategy="replay").integrate_to(1000 + comm.rank))
check("checkpoint", lambda: integrator(checkpoint=None if is_last else "somewhere.ckpt"))
check("no file", lambda: integrator(checkpoint="/nonexistent/x.ckpt"))
with mock.patch.dict(ranks.VERSIONS, {"varflow": "0.0.1"} if is_last else {}):
    check("version", integrator)
check("no comm", lambda: integrator(comm="world"))


def freed():
    copy = comm.Dup()
    made = integrator(comm=copy)
    copy.Free()
    made.integrate()


check("freed", freed)
again = integrator()
check("raises", again.integrate)
check("goes on", lambda: np.testing.assert_array_equal(again.integrate().mean, integrator().integrate().mean))
if comm.rank == 0:
    print(json.dumps(told))
