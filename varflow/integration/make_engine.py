"""Making of the engine of an integral, and of the flow in it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.data.discrete import Discrete
from varflow.flow.conditions import check_unconditional
from varflow.flow.defaults import default_sizes
from varflow.flow.discrete_flow import DiscreteFlow, check_on_cpu
from varflow.flow.flow import Flow
from varflow.flow.make_flow import make_flow
from varflow.integration.channel_state import ChannelState
from varflow.integration.domain import Domain
from varflow.integration.engine import Engine
from varflow.integration.proposal import LATENT_POINTS
from varflow.integration.settings import SurveySettings
from varflow.integration.state import State
from varflow.kernels.splines import CELLS, SPLINES
from varflow.runtime.communicator import ALONE, Communicator
from varflow.runtime.fingerprint import digest
from varflow.training.adam import Adam
from varflow.training.settings import TrainingSettings
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.validation import positive_int

__all__ = ["check_maps_cube", "identity_of", "make_engine", "training_settings"]


def training_settings(
    survey_strategy: str, trainer_options: dict[str, Any] | None = None
) -> TrainingSettings:
    """Settings of the trainer: of a long training, or of one step where each has points of its own."""
    if survey_strategy == "fixed_sample":
        usual = TrainingSettings()
    else:
        usual = TrainingSettings(
            n_epochs=10, minibatch_size=1000, optim=Adam(), holdout=0.0, p_normalized=True
        )
    return usual.replaced(**(trainer_options or {}))


def make_engine(
    domain: Domain,
    settings: SurveySettings,
    training: TrainingSettings,
    flow: str | Flow,
    flow_options: dict[str, Any] | None,
    sample: Dataset | None,
    threads: int | None,
    backend: str | None,
    is_log: bool,
    comm: Communicator = ALONE,
) -> Engine:
    """Make an engine that has nothing to do yet.

    Parameters
    ----------
    domain : Domain
        The box of the integral; the flow is on the unit cube.
    settings : SurveySettings
        How the flow is trained, and its points drawn.
    training : TrainingSettings
        Settings of the trainer, for strategies other than "replay".
    flow, flow_options, threads, backend
        As `Integrator` has them.
    sample : Dataset or None
        Points of "fixed_sample", on the unit cube.
    is_log : bool
        Whether values of the integrand are told by their logarithms.
    comm : Communicator
        Ranks that make the same engine.

    Returns
    -------
    Engine
        The engine.
    """
    if not isinstance(flow_options, dict | None):
        raise TypeError(f"flow_options must be a dict, got {flow_options!r}")
    entropy = comm.first(lambda: np.random.SeedSequence(settings.seed).entropy)
    generator = np.random.Generator(np.random.Philox(entropy))
    n_fixed = None if sample is None else sample.n
    made = _flow_on_cube(domain, flow, flow_options, n_fixed, generator, threads, backend)
    trainer = BasicStatefulTrainer(made, loss=settings.loss, comm=comm, **training.as_dict())
    state = State(
        made,
        isinstance(flow, str),
        generator,
        LATENT_POINTS[settings.latent_points],
        settings.loss,
        settings.use_survey,
        trainer,
        is_log,
        sample,
        settings.covariance,
        settings.deterministic,
    )
    return Engine(state)


def identity_of(
    state: State | ChannelState,
    settings: SurveySettings,
    training: TrainingSettings,
    flow_options: dict[str, Any] | None,
) -> dict[str, Any]:
    """Collect what the engines of two runs must have in common for one to go on from the other's file."""
    is_start_known = settings.seed is not None or not state.is_flow_new or "seed" in (flow_options or {})
    return {
        **settings.identity(),
        "flow": state.flow.fingerprint(),
        "initial parameters": digest(state.flow.params) if is_start_known else None,
        "sample": None if state.sample is None else state.sample.digest(),
        "trainer": training.identity(),
    }


def check_maps_cube(cell: str) -> None:
    """Raise ValueError if cells of this kind map all real numbers, not the unit cube."""
    if cell in CELLS and cell not in SPLINES:
        raise ValueError(
            f"flow must have cells that map the unit cube, and {cell!r} maps all real numbers: take one of "
            f"{', '.join(map(repr, SPLINES))}, which integrals over infinite bounds have as well"
        )


def _flow_on_cube(
    domain: Domain,
    flow: str | Flow,
    flow_options: dict[str, Any] | None,
    n_fixed: int | None,
    generator: np.random.Generator,
    threads: int | None,
    backend: str | None,
) -> Flow:
    """Make the flow of an integral, or copy one that is given.

    n_fixed: number of points of a fixed sample.
    """
    d, bounds = domain.d, domain.bounds
    check_maps_cube(flow.architecture.cell if isinstance(flow, Flow) else flow)
    if isinstance(flow, str):
        seed = int(generator.integers(2**63))
        n = d - len(domain.discrete)
        # A single coordinate has nothing but its bins; two cells are too few for what two have in common.
        sizes = {"n_bins": 32 if n == 1 else 16, "d_hidden": 64, "n_hidden": 2}
        sizes["repetitions"] = {1: 4, 2: 2}.get(n, 1)
        if n_fixed is not None:
            sizes = default_sizes(max(n, 1), flow, n_fixed)
        if domain.discrete:
            return _discrete_flow(
                domain, flow, flow_options, backend, {**sizes, "seed": seed, "threads": threads}
            )
        made = make_flow(d, flow, flow_options, backend, **sizes, seed=seed, threads=threads)
        check_unconditional("an integral", made.n_conditions)
        return made
    copied, cube = make_flow(d, flow, flow_options, backend).copy(), np.tile([0.0, 1.0], (d, 1))
    check_unconditional("an integral", copied.n_conditions)
    of_flow = copied.discrete if isinstance(copied, DiscreteFlow) else {}
    if _numbers_of_states(of_flow) != _numbers_of_states(domain.discrete):
        raise ValueError(
            f"the flow has discrete coordinates {of_flow}, the integral has {domain.discrete}: they must "
            "have the same numbers of states"
        )
    if np.array_equal(copied.bounds, bounds):
        copied = copied.on_box(cube)
    if not np.array_equal(copied.bounds, cube):
        raise ValueError(
            "the flow must be on the unit cube, or on the box of the integral; it has bounds "
            f"{copied.bounds.tolist()}"
        )
    if threads is not None:
        copied.threads = positive_int("threads", threads)
    return copied


def _numbers_of_states(discrete: Mapping[int, Discrete]) -> dict[int, int]:
    return {row: one.k for row, one in discrete.items()}


def _discrete_flow(
    domain: Domain, cell: str, options: dict[str, Any] | None, backend: str | None, defaults: dict[str, Any]
) -> DiscreteFlow:
    """Make a flow on the unit cube, of coordinates of which some are discrete."""
    check_on_cpu(backend)
    cube = [domain.discrete.get(row, (0.0, 1.0)) for row in range(domain.d)]
    made = DiscreteFlow(cube, cell, **{**defaults, **(options or {})})
    return made.on_box(np.tile([0.0, 1.0], (domain.d, 1)))
