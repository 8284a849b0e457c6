"""Training of a flow, or of several, on a fixed set of weighted points, from the points to the figures."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from varflow.data.dataset import Dataset, permuted_rows
from varflow.flow.defaults import default_sizes
from varflow.flow.discrete_flow import DiscreteFlow, check_on_cpu
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.markup import bullets
from varflow.runtime.communicator import Communicator
from varflow.runtime.ranks import as_communicator
from varflow.training.adam import Adam
from varflow.training.data_checks import check_enough
from varflow.training.em import train_by_em
from varflow.training.evaluation import (
    Evaluation,
    check_measurable,
    evaluate,
    evaluate_density,
    figures_table,
    log_prob_of,
)
from varflow.training.location import location_and_scale
from varflow.training.losses import LOSSES
from varflow.training.record import TrainingRecord
from varflow.training.settings import TrainingConfig, TrainingSettings
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.validation import check_name, check_number, positive_int

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["TEST_SHARE", "Training", "train"]

MIXTURES = ("cross_fitting", "em")
TEST_SHARE = 0.1  # of the points, on which one flow is measured


@dataclass(frozen=True)
class Training:
    """What a training has led to.

    Parameters
    ----------
    flow : Flow or Mixture
        The density that was learnt: a flow, or a mixture where several were trained or a defensive share was
        asked for.
    records : list of TrainingRecord
        The record of each flow.
    evaluation : Evaluation
        Figures of merit on points that were held out; see `train`.
    held_out : Dataset or None
        These points, which no flow has learnt from; None where each of several flows holds out others.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.full(1000, 0.5), fx=np.exp(-5 * x.sum(axis=1)))  # p should be 1
    >>> training = vf.train(data, seed=1, n_epochs=5)
    >>> print(training.warnings[0])
    p is not normalised: the points say that its integral is 0.5...
    >>> training.records[0].epoch, training.evaluation.n
    (5, 100)
    """

    flow: Flow | Mixture
    records: list[TrainingRecord]
    evaluation: Evaluation
    held_out: Dataset | None = field(default=None, repr=False)

    def _repr_html_(self) -> str:
        """Return the figures of merit and the warnings as HTML, for notebooks."""
        return figures_table(self.evaluation) + bullets(self.warnings)

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
    mixture: str = "cross_fitting",
    callback: Callable[[int, TrainingRecord], object] | None = None,
    comm: Any = None,
    **config: "Unpack[TrainingConfig]",
) -> Training:
    """Train a flow on weighted points, with settings that follow from them, and measure it.

    One flow is measured on a tenth of the points, which are used for nothing else. Of several flows, each
    holds out another part of the points, chooses its best epoch by it, and is measured on it: each point is
    judged by the flow that has not learnt from it (cross-fitting), and all others have. The figures are then
    those of one such flow; the variance of the mixture is at most the mean of the variances of its flows.
    With ``mixture="em"``, each of several flows learns a part of f instead, as where f has peaks that one
    flow cannot follow; they are measured like a single one.

    Parameters
    ----------
    data : Dataset
        The points; at least 50, and f is not zero at 10 of them or more.
    loss : {"variance", "dkl"}
        What is made small.
    cell : {"pwquad", "pwlinear", "rqs", "realnvp"}
        Kind of cell; see `Flow`. Points without bounds need "realnvp".
    flow_options : dict, optional
        Other arguments of `Flow`: sizes that are not given follow from the points, as do location and scale.
    n_flows : int
        Number of flows, whose mixture is what is learnt.
    defensive : float
        Share of the uniform density in what is learnt, in [0, 1); it bounds the weights, see `Mixture`.
    test : float or Dataset, optional
        Share of the points, in (0, 1), that the outcome is measured on instead, or other points for that.
    threads : int, optional
        See `Flow`.
    backend : {"cpu", "cuda", "auto"}
        See `Flow`.
    control_variate : bool
        See `BasicTrainer`.
    mixture : {"cross_fitting", "em"}
        What several flows learn: all of f, or parts of it that clusters of the points and then rounds like
        those of expectation-maximisation give them.
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
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> training = vf.train(data, seed=1, n_epochs=30)
    >>> print(training.evaluation)
    on 100 points                   before (f/p)         after (f/q)
    ...
    >>> x, logqx = training.flow.sample(1000, seed=2)
    >>> weights = np.exp(-5 * x.sum(axis=1) - logqx)  # f/q, whose mean is the integral of f
    >>> round(weights.mean().item(), 3)
    0.039
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
        check_name("mixture", mixture, MIXTURES)
        is_em = mixture == "em"
        if is_em and n_flows == 1:
            raise ValueError("mixture='em' needs n_flows above 1: a single flow has nothing to share out")
        if is_em and data.n_conditions > 0:
            raise ValueError("mixture='em' knows no conditions: leave mixture out, or conditions")
        settings = TrainingSettings().replaced(**config)
        if is_em and settings.checkpoint is not None:
            raise ValueError("mixture='em' keeps no checkpoint: leave checkpoint out, or mixture")
        check_enough(data)
        learnt, tested = _divide(data, test, 1 if is_em else n_flows, settings.seed)
        check_measurable(learnt if tested is None else tested)  # before hours are spent
        sizes = default_sizes(max(1, data.d - len(data.discrete)), cell, learnt.n)
        options = {
            "seed": settings.seed,
            "bounds": data.bounds,
            "n_conditions": data.n_conditions,
            "threads": threads,
            "backend": backend,
            **sizes,
            **comm.first(lambda: location_and_scale(learnt) if cell == "realnvp" else {}),
        }

        def make_flow(k: int) -> Flow:
            seeds = {"seed": settings.seed + k} if k else {}
            if data.discrete:
                return _discrete_flow(learnt, cell, options | (flow_options or {}) | seeds)
            flow = Flow(data.d, cell, **options | (flow_options or {}) | seeds)
            flow.condition_map.learn(data.conditions)  # of the points that it is measured on, too
            return flow

        def make_trainer(k: int, flow: Flow) -> BasicStatefulTrainer:
            own = _settings_of(k, n_flows, settings)
            return BasicStatefulTrainer(flow, loss=loss, control_variate=control_variate, comm=comm, **own)

        if is_em:
            assert tested is not None
            flows = [make_flow(k) for k in range(n_flows)]
            weights, records = train_by_em(learnt, flows, make_trainer, comm, settings.seed, callback)
            em = Mixture(flows, defensive, weights)
            return Training(em, records, comm.first(lambda: evaluate(em, tested)), tested)
        parts = np.array_split(permuted_rows(learnt.n, settings.seed, comm), n_flows)
        flows, records, logqx = [], [], np.empty(learnt.n)
        for k, part in enumerate(parts):
            flow = make_flow(k)
            trainer = make_trainer(k, flow)
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
        return Training(made, records, evaluation, tested)


def _discrete_flow(data: Dataset, cell: str, options: dict[str, Any]) -> DiscreteFlow:
    """Make a flow of points of which some coordinates are discrete; a table begins with what they tell."""
    if data.n_conditions > 0:
        raise ValueError("conditions and discrete columns do not go together: leave one of them out")
    check_on_cpu(options["backend"])
    bounds = [data.discrete.get(row, pair) for row, pair in enumerate(data.bounds.tolist())]
    known = {name: one for name, one in options.items() if name not in ("bounds", "n_conditions", "backend")}
    flow = DiscreteFlow(bounds, cell, **known)
    flow.fit_table(data.x, data.logfx, data.logpx, 1.0)
    return flow


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
    return comm.fill_shared(rows.shape, lambda begin, end: log_prob_of(density, data, rows[begin:end]))


def _mixture(flows: list[Flow], defensive: float) -> Flow | Mixture:
    return flows[0] if len(flows) == 1 and defensive == 0 else Mixture(flows, defensive)
