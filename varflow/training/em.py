"""Training of several flows on parts of an integrand, by rounds like those of expectation-maximisation.

The mixture sum_k w_k q_k learns |f|: flow k learns r_k |f|, with responsibilities r_k(x) whose sum is 1. They
begin as clusters of the points by their weights |f| / p (Lloyd, IEEE Trans. Inf. Theory 28 (1982) 129), each
with a small share of all others. After each round they are those of the mixture as it is,

    w_k = integral of r_k |f| / integral of |f|,    r_k = w_k q_k / sum_j w_j q_j

(Dempster, Laird and Rubin, J. R. Stat. Soc. B 39 (1977) 1), and all flows go on. Where each flow has learnt
its part, so has the mixture the whole.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from varflow.data.arrays import log_sum_exp
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.runtime.communicator import Communicator
from varflow.training.record import TrainingRecord
from varflow.training.stateful_trainers import BasicStatefulTrainer

__all__ = ["begin_responsibilities", "responsibilities", "train_by_em"]

N_ROUNDS = 2
N_CLUSTERED = 4096  # points that clusters are made of
SHARED = 0.05  # of each point, that the flows of other clusters have of it at the beginning
LEAST = 1e-6  # weight of a flow in the mixture


def train_by_em(
    data: Dataset,
    flows: list[Flow],
    make_trainer: Callable[[int, Flow], BasicStatefulTrainer],
    comm: Communicator,
    seed: int,
    callback: Callable[[int, TrainingRecord], object] | None = None,
) -> tuple[np.ndarray, list[TrainingRecord]]:
    """Train flows, in place, each on its part of f.

    Parameters
    ----------
    data : Dataset
        The points.
    flows : list of Flow
        The flows.
    make_trainer : callable
        Makes the trainer of a flow, by its number.
    comm : Communicator
        Ranks that train together.
    seed : int
        Seed of the clusters.
    callback : callable, optional
        See `train`.

    Returns
    -------
    weights : ndarray, (n_flows,)
        Weights of the flows in the mixture.
    records : list of TrainingRecord
        Record of each flow, of the last round.
    """
    log_parts = begin_responsibilities(data, len(flows), seed)
    for k_round in range(N_ROUNDS):
        weights = _weights(data, log_parts)
        records = [
            _trained(k, make_trainer(k, flow), _part_of(data, log_parts[:, k]), callback)
            for k, flow in enumerate(flows)
        ]
        if k_round < N_ROUNDS - 1:
            log_parts = responsibilities(data, flows, weights, comm)
    return weights, records


def _trained(
    k: int,
    trainer: BasicStatefulTrainer,
    part: Dataset,
    callback: Callable[[int, TrainingRecord], object] | None,
) -> TrainingRecord:
    def watch(record: Any) -> object:
        return None if callback is None else callback(k, record)

    return trainer.train_on_dataset(part, callback=watch)


def begin_responsibilities(data: Dataset, n_flows: int, seed: int) -> np.ndarray:
    """Make logs of the responsibilities (n, n_flows) that flows begin with, by clusters of the points."""
    from scipy.cluster.vq import kmeans2, vq  # slow to import, and few trainings need it

    generator = np.random.default_rng(seed)
    low, high = data.bounds.T
    places = (data.x - low) / (high - low)
    log_weights = data.logfx - data.logpx
    chances = np.exp(log_weights - log_sum_exp(log_weights))
    drawn = places[generator.choice(data.n, N_CLUSTERED, p=chances / chances.sum())]
    centres, _ = kmeans2(drawn, n_flows, minit="++", rng=generator)
    nearest, _ = vq(places, centres)
    parts = np.full((data.n, n_flows), SHARED / n_flows)
    parts[np.arange(data.n), nearest] += 1 - SHARED
    logs: np.ndarray = np.log(parts)
    return logs


def responsibilities(data: Dataset, flows: list[Flow], weights: np.ndarray, comm: Communicator) -> np.ndarray:
    """Compute logs of the responsibilities (n, n_flows) of flows with these weights."""
    logs = np.stack([_log_prob(one, data, comm) for one in flows], axis=1) + np.log(weights)
    shares: np.ndarray = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return shares


def _log_prob(flow: Flow, data: Dataset, comm: Communicator) -> np.ndarray:
    """Compute log q at all points, (n,), which the ranks share."""
    return comm.fill_shared((data.n,), lambda begin, end: flow.log_prob(data.x[begin:end]))


def _weights(data: Dataset, log_parts: np.ndarray) -> np.ndarray:
    """Shares (n_flows,) of the parts in the integral of |f|."""
    log_weights = data.logfx - data.logpx
    logs = np.array([log_sum_exp(log_weights + part) for part in log_parts.T])
    weights: np.ndarray = np.maximum(np.exp(logs - np.logaddexp.reduce(logs)), LEAST)
    return weights / weights.sum()


def _part_of(data: Dataset, log_part: np.ndarray) -> Dataset:
    """Make the dataset of a part of |f|."""
    return Dataset(
        data.x, logpx=data.logpx, logfx=data.logfx + log_part, bounds=data.bounds, discrete=data.discrete
    )
