"""Training of a flow, or of several, on a fixed set of weighted points, from the points to the figures."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from varflow.data.dataset import Dataset, permuted_rows
from varflow.flow.defaults import default_sizes
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.runtime.communicator import Communicator
from varflow.runtime.ranks import as_communicator
from varflow.training.adam import Adam
from varflow.training.data_checks import check_enough
from varflow.training.evaluation import Evaluation, check_measurable, evaluate, evaluate_density
from varflow.training.losses import LOSSES
from varflow.training.record import TrainingRecord
from varflow.training.settings import TrainingConfig, TrainingSettings
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.validation import check_name, check_number, positive_int

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["TEST_SHARE", "Training", "train"]

TEST_SHARE = 0.1  # of the points, on which one flow is measured


@dataclass(frozen=True)
class Training:
    """What a training has led to.

    Attributes
    ----------
    flow : Flow or Mixture
        The density that was learnt: a flow, or a mixture where several were trained or a defensive share was
        asked for.
    records : list of TrainingRecord
        The record of each flow.
    evaluation : Evaluation
        Figures of merit on points that were held out; see `train`.
    """

    flow: Flow | Mixture
    records: list[TrainingRecord]
    evaluation: Evaluation

    @property
    def warnings(self) -> list[str]:
        """What makes the outcome doubtful, and what to do, in words; each once."""
        told = [warning for record in self.records for warning in record.warnings]
        return list(dict.fromkeys(told + self.evaluation.warnings))


def train(
    data: Dataset,
    *,
    loss: str = "variance",
    cell: str = "pwquad",
    flow_options: dict[str, Any] | None = None,
    n_flows: int = 1,
    defensive: float = 0.0,
    test: float | Dataset | None = None,
    threads: int | None = None,
    backend: str = "cpu",
    control_variate: bool = True,
    callback: Callable[[int, TrainingRecord], object] | None = None,
    comm: Any = None,
    **config: "Unpack[TrainingConfig]",
) -> Training:
    """Train a flow on weighted points, with settings that follow from them, and measure it.

    One flow is measured on a tenth of the points, which are used for nothing else. Of several flows, each
    holds out another part of the points, chooses its best epoch by it, and is measured on it: each point is
    judged by the flow that has not learnt from it (cross-fitting), and all others have. The figures are then
    those of one such flow; the variance of the mixture is at most the mean of the variances of its flows.

    Parameters
    ----------
    data : Dataset
        The points; at least 50, and f is not zero at 10 of them or more.
    loss : {"variance", "dkl"}
        What is made small.
    cell : {"pwquad", "pwlinear", "rqs"}
        Kind of cell; see `Flow`.
    flow_options : dict, optional
        Other arguments of `Flow`: sizes that are not given follow from the points.
    n_flows : int
        Number of flows, whose mixture is what is learnt.
    defensive : float
        Share of the uniform density in what is learnt, in [0, 1); it bounds the weights, see `Mixture`.
    test : float or Dataset, optional
        Share of the points, in (0, 1), that the outcome is measured on instead, or other points for that.
    threads, backend
        See `Flow`.
    control_variate : bool
        See `BasicTrainer`.
    callback : callable, optional
        Called with the number of the flow, from 0, and its record, after each step and each epoch.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that train together; see `BasicStatefulTrainer`.
    **config
        Settings of `BasicStatefulTrainer`. Of several flows, the checkpoint of flow k has ``.k`` at the end
        of its name.

    Returns
    -------
    Training
        The flow, records, and figures of merit.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or there are too few points.
    TrainingInterruption
        If losses were not finite too often.

    Examples
    --------
    >>> training = train(Dataset.read("events.csv"))
    >>> print(training.evaluation)
    >>> x, logq = training.flow.sample(1000)
    """
    comm = as_communicator(comm)
    with comm.together():
        if not isinstance(data, Dataset):
            raise TypeError(
                f"data must be a Dataset, got {type(data).__name__}: make one by Dataset(x, px, fx)"
            )
        check_name("loss", loss, LOSSES)
        check_number("defensive", defensive, lambda share: 0 <= share < 1, "in [0, 1)")
        n_flows = positive_int("n_flows", n_flows)
        settings = TrainingSettings().replaced(**config)
        check_enough(data)
        learnt, tested = _divide(data, test, n_flows, settings.seed)
        check_measurable(learnt if tested is None else tested)  # before hours are spent
        sizes = default_sizes(data.d, cell, learnt.n)
        options = {
            "seed": settings.seed,
            "bounds": data.bounds,
            "threads": threads,
            "backend": backend,
            **sizes,
        }
        parts = np.array_split(permuted_rows(learnt.n, settings.seed, comm), n_flows)
        flows, records, logqx = [], [], np.empty(learnt.n)
        for k, part in enumerate(parts):
            flow = Flow(
                data.d, cell, **options | (flow_options or {}) | ({"seed": settings.seed + k} if k else {})
            )
            own = _settings_of(k, n_flows, settings)
            trainer = BasicStatefulTrainer(flow, loss=loss, control_variate=control_variate, comm=comm, **own)
            watch = None if callback is None else partial(callback, k)
            held_out = part if n_flows > 1 else None
            records.append(trainer.train_on_dataset(learnt, held_out=held_out, callback=watch))
            flows.append(flow)
            if tested is None:
                logqx[part] = _log_prob(_mixture([flow], defensive), learnt, part, comm)
        made = _mixture(flows, defensive)
        evaluation = comm.first(
            lambda: evaluate_density(logqx, learnt) if tested is None else evaluate(made, tested)
        )
        return Training(made, records, evaluation)


def _divide(
    data: Dataset, test: float | Dataset | None, n_flows: int, seed: int
) -> tuple[Dataset, Dataset | None]:
    """Give the points to learn from, and those to measure on: None where they are the same."""
    if isinstance(test, Dataset):
        return data, test
    if test is None and n_flows > 1:
        return data, None
    share = TEST_SHARE if test is None else test
    check_number("test", share, lambda share: 0 < share < 1, "between 0 and 1, or a Dataset")
    return data.split(share, seed)


def _settings_of(k: int, n_flows: int, settings: TrainingSettings) -> dict[str, Any]:
    """Give the settings of flow k: each has an order of the rows, and a checkpoint, of its own."""
    own = settings.as_dict() | {"seed": settings.seed + k}
    if settings.checkpoint is not None and n_flows > 1:
        own["checkpoint"] = f"{os.fspath(settings.checkpoint)}.{k}"
    if settings.optim is not None:
        own["optim"] = Adam(**settings.optim.settings())  # a state belongs to one flow
    return own


def _log_prob(density: Flow | Mixture, data: Dataset, rows: np.ndarray, comm: Communicator) -> np.ndarray:
    """Compute log q at some rows, (m,), which the ranks share."""
    return comm.fill_shared(rows.shape, lambda begin, end: density.log_prob(data.x[rows[begin:end]]))


def _mixture(flows: list[Flow], defensive: float) -> Flow | Mixture:
    return flows[0] if len(flows) == 1 and defensive == 0 else Mixture(flows, defensive)
