"""Trainings, whose bits must not depend on the number of ranks; without MPI where there is an argument."""

import hashlib
import json
import sys

import numpy as np

import varflow as vf
from varflow.runtime import ranks

ranks.FILLED_AT_ONCE = 100
comm = None
if len(sys.argv) == 1:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
rank = comm.rank if comm else 0


def digest(*arrays):
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:16]


generator = np.random.default_rng(5)
x = generator.random((2000, 3))
data = vf.Dataset(x, np.ones(2000), np.exp(-20 * ((x - 0.4) ** 2).sum(axis=1)))
short = {"n_epochs": 3, "flow_options": {"n_bins": 4, "d_hidden": 16}, "comm": comm}
found, called = {}, []
training = vf.train(
    data, n_flows=2, threads=1 + rank % 2, callback=lambda *_: called.append(1), seed=3, **short
)
found["train"] = digest(*(flow.params for flow in training.flow.flows), *training.records[0].losses)
trainer = vf.StatefulTrainer(3, "dkl", minibatch_size=700, **short)
trainer.train_on_dataset(data)
found["dkl"] = digest(trainer.flow.params)
own = lambda fx, px, logqx: float(np.mean(-fx / px * logqx)), lambda fx, px, logqx: -fx / px / len(fx)
trainer = vf.StatefulTrainer(3, own, **short)
trainer.train_on_target_batch(x, np.ones(2000), data.fx)
found["own loss"] = digest(trainer.flow.params)
trainer.train_step_on_target_minibatch(x[:300], np.ones(300), data.fx[:300], optim=vf.Adam())
found["step"] = digest(trainer.flow.params)

every = comm.allgather(found) if comm else [found]
assert all(one == found for one in every), every
assert bool(called) == (rank == 0)
if rank == 0:
    print(json.dumps({"found": found}))
