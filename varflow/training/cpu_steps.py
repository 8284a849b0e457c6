"""Steps of Adam on a flow's loss, in threads of the processor."""

import math
from collections.abc import Sequence

import numpy as np

from varflow.errors import InvalidLossError
from varflow.flow.flow import Flow
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.adam import Adam
from varflow.training.objective import GradientBuffers, Objective
from varflow.training.sharing import Sharing
from varflow.training.steps import StepTaken, Taken

__all__ = ["CpuSteps"]


class CpuSteps:
    """Steps in threads of the processor.

    Parameters
    ----------
    flow : Flow
        The flow.
    n_batch : int
        Rows of the largest minibatch.
    comm : Communicator
        Ranks that take the same steps.
    """

    at_once: int | None = 1

    def __init__(self, flow: Flow, n_batch: int, comm: Communicator = ALONE) -> None:
        self.flow, self.n_batch = flow, n_batch
        self._buffers, self._sharing = GradientBuffers(flow, n_batch, comm), Sharing(comm)

    def take(
        self,
        objective: Objective,
        minibatches: Sequence[np.ndarray],
        optim: Adam,
        progress: Sequence[float],
        scale: float = 1.0,
        is_of_log: bool = False,
    ) -> Taken:
        """Take a step on each minibatch, up to the first whose loss or gradient is not finite.

        Parameters
        ----------
        objective : Objective
            What is to be made small.
        minibatches : sequence of ndarray of int64
            Rows of each minibatch.
        optim : Adam
            Settings and state of the optimiser.
        progress : sequence of float
            How much of the training is over at each, from 0 to 1.
        scale : float
            Factor of the learning rate besides.
        is_of_log : bool
            Whether it is the logarithm of the loss that is made small. A loss of zero ends the call then.

        Returns
        -------
        Taken
            Flow and optimiser are as they were before the step that was refused.
        """
        steps: list[StepTaken] = []
        for rows, moment in zip(minibatches, progress, strict=True):
            loss, dparams = self._gradient(objective, rows)
            if not math.isfinite(loss):
                return Taken(steps, f"the loss is {loss}")
            if is_of_log and loss == 0:
                return Taken(steps, None)
            unit = loss if is_of_log else 1.0
            try:
                rate, length = optim.step(self.flow.params, dparams, moment, scale, self.flow.threads, unit)
            except InvalidLossError as error:
                return Taken(steps, str(error))
            steps.append(StepTaken(loss, rate, length))
        return Taken(steps, None)

    def _gradient(self, objective: Objective, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute the loss and parts of its gradient, (n_lanes, n_params)."""
        with self._sharing.step(len(rows)) as self._buffers.is_shared:
            return objective.gradient(rows, self._buffers)
