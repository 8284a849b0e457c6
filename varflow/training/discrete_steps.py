"""Steps of Adam on the loss of a flow with discrete coordinates.

Losses depend on the parameters through log q = log P + log q(x | s) alone. So the gradient takes two passes:
one for log q of each point, of which the derivative w of the loss by it follows, and one for the gradient of
the mean of w log q, whose two terms have parameters of their own. Where losses have a control variate, w has
it, see `varflow.training.objective`.
"""

import numpy as np

from varflow.flow.discrete_flow import DiscreteFlow
from varflow.kernels.adam import fold_lanes
from varflow.kernels.layout import aligned_zeros
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.cpu_steps import CpuSteps
from varflow.training.losses import LOSSES
from varflow.training.objective import GradientBuffers, Objective

__all__ = ["DiscreteSteps"]


class DiscreteSteps(CpuSteps):
    """Steps of a flow with discrete coordinates, in threads of the processor.

    Ranks that take the same steps do not share them: each computes all.

    Parameters
    ----------
    flow : DiscreteFlow
        The flow.
    n_batch : int
        Rows of the largest minibatch.
    comm : Communicator
        Ranks that take the same steps.
    """

    def __init__(self, flow: DiscreteFlow, n_batch: int, comm: Communicator = ALONE) -> None:
        self.flow: DiscreteFlow = flow
        self.n_batch = n_batch
        self._dparams = aligned_zeros((1, flow.n_params), flow.params.dtype)
        self._inner = None if flow.continuous is None else GradientBuffers(flow.continuous, n_batch)

    def _gradient(self, objective: Objective, rows: np.ndarray) -> tuple[float, np.ndarray]:
        flow, x = self.flow, objective.x[rows]
        states = flow.states(x)
        columns = flow.continuous_columns(x, states)
        log_prob, kept = flow.categorical.forward(flow.params_of_states, states)
        log_q = log_prob + np.log(flow.sizes).sum()
        if flow.continuous is not None:
            log_q = log_q + flow.continuous.columns_to_latent(columns)[1]
        loss, weights = objective.linear_weights(rows, log_q)
        if not np.isfinite(weights).all():
            return np.inf, self._dparams
        dlog_q = -weights / len(rows)
        of_states = self._dparams[0, flow.n_params - flow.categorical.n_params :]
        of_states[:] = flow.categorical.backward(flow.params_of_states, states, kept, dlog_q)
        if flow.continuous is not None and self._inner is not None:
            linear = Objective.with_control_variate(
                flow.continuous, columns, weights, np.empty(0), LOSSES["dkl"]
            ).without_control_variate()
            _, lanes = linear.gradient(np.arange(len(rows)), self._inner)
            fold_lanes(lanes, 0, lanes.shape[1])
            self._dparams[0, : lanes.shape[1]] = lanes[0]
        return loss, self._dparams
