"""The loss of a flow on weighted points: its value, and its gradient in the parameters.

For points x ~ p, with f in units of its integral, the losses are V = E[f^2 / (q p)] and D = -E[f log q /
p].

**The control variate of the gradient.** E[q / p] is the integral of q, which is 1 for all parameters, so
its gradient E[(q / p) d log q] is zero, and adding it changes no expectation (the score function as a
control variate: Ranganath et al., arXiv 1401.0118, section 3.2; here for points from p). It requires that p
is normalised and positive on the whole box. The gradients then are

    dV + dE[q / p] = E[(q - f^2 / q) / p  d log q],        dD + dE[q / p] = E[(q - f) / p  d log q].

Where q = f, both vanish point by point, and nothing is left of the noise that keeps minibatches from the
minimum. In other words, what is minimised is the mean of (f - q)^2 / (q p), up to a constant, and of (q - f
log q) / p: both have their minimum at q = f at each point, so that a finite set of points cannot be fitted
by piling up density on each.
"""

from typing import Protocol

import numpy as np

from varflow.data.arrays import read_only
from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.kernels import cpu
from varflow.kernels.layout import aligned_zeros
from varflow.runtime.threads import run
from varflow.training.losses import Loss

__all__ = ["GradientBuffers", "LatentPrior", "Objective", "check_same_box"]

MIN_LANES = 8
MIN_TILES_A_LANE = 4  # beyond the fewest lanes: clearing and adding up a gradient costs as much as some rows
MAX_LANE_NUMBERS = 1 << 25  # of all lanes' gradients together, beyond the fewest lanes: 128 MiB in float32
VALUE_ROWS = 65_536  # rows whose log q is computed together


def check_same_box(flow: Flow, data: Dataset) -> None:
    """Raise ValueError if d or the bounds of the points are not those of the flow."""
    if data.d != flow.d:
        raise ValueError(f"the flow has d = {flow.d}, the data have d = {data.d}")
    if not np.array_equal(data.bounds, flow.bounds):
        raise ValueError(f"the flow has bounds {flow.bounds.tolist()}, the data have {data.bounds.tolist()}")


class LatentPrior(Protocol):
    """Density in latent space that takes the place of the uniform one; its support is the unit cube."""

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Compute the log of the density, (n,), at points z (n, d)."""

    def grad_log_prob(self, z: np.ndarray) -> np.ndarray:
        """Compute the derivative of `log_prob` in z, (n, d)."""

    def sample(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Draw points, (n, d)."""


def count_lanes(n_batch: int, n_params: int) -> int:
    """Count the lanes that a minibatch of so many rows is cut into, for a flow of so many parameters."""
    n_tiles = -(-n_batch // cpu.TILE_ROWS)
    max_lanes = min(n_tiles // MIN_TILES_A_LANE, MAX_LANE_NUMBERS // n_params)
    n_lanes = MIN_LANES
    while 2 * n_lanes <= max_lanes:
        n_lanes *= 2  # a power of two: as many for each thread, if they are equally fast
    return min(n_tiles, n_lanes)


class GradientBuffers:
    """What computing gradients needs, allocated once.

    A minibatch is cut into lanes, whose number depends on its size and that of the flow alone. Each lane adds
    up a gradient of its own, whichever thread has it, and the lanes are added in their order: the same bits
    for any number of threads.

    Parameters
    ----------
    flow : Flow
        The flow.
    n_batch : int
        Rows of the largest minibatch.
    """

    def __init__(self, flow: Flow, n_batch: int) -> None:
        architecture = flow.architecture
        self.n_batch = n_batch
        n_lanes = count_lanes(n_batch, flow.n_params)
        self.dparams = aligned_zeros((n_lanes, flow.n_params), architecture.dtype)
        self.losses = np.empty(n_lanes)
        n_threads = min(flow.threads, n_lanes)
        self.workspaces = [cpu.make_workspace(architecture.sizes, keeps_all=True) for _ in range(n_threads)]


class Objective:
    """A loss of a flow on a dataset, with f scaled such that the mean of |f|/p over all its points is one.

    So the loss has no units. The variance loss is then one plus the relative variance of f/q.

    Parameters
    ----------
    flow : Flow
        The flow; its parameters are used as they are at each call.
    data : Dataset
        The points, with the flow's bounds.
    loss : Loss
        The loss.
    prior : LatentPrior, optional
        Density in latent space; uniform if not given.

    Raises
    ------
    ValueError
        If d or the bounds of the points are not those of the flow.
    """

    def __init__(self, flow: Flow, data: Dataset, loss: Loss, prior: LatentPrior | None = None) -> None:
        check_same_box(flow, data)
        self.flow, self.x, self.loss, self.prior = flow, read_only(data.x), loss, prior
        self.device_x = data.device_x
        self.log_p = np.empty(0)
        self.is_known_to_kernels = loss.power is not None and prior is None
        if not self.is_known_to_kernels:
            self.px = data.px
            with np.errstate(over="ignore", under="ignore"):  # as in data.px
                self.fx = np.exp(data.log_weight(1) + data.logpx)
        elif loss.power == 2:
            self.weights = data.log_weight(2)  # log(f^2 / p), p being the density in the unit cube
            self.weights += flow.log_volume
        else:
            self.weights = data.log_weight(1)  # f / p
            with np.errstate(under="ignore"):
                np.exp(self.weights, out=self.weights)

    @classmethod
    def with_control_variate(
        cls, flow: Flow, x: np.ndarray, weights: np.ndarray, log_p: np.ndarray, loss: Loss
    ) -> "Objective":
        """Make a built-in loss with the control variate, from points that need no checks.

        Its gradient has a control variate; see the module.

        Parameters
        ----------
        flow : Flow
            The flow.
        x : ndarray, (n, d)
            Points in its box, C-contiguous.
        weights : ndarray, (n,)
            log(f̂^2 / p) for the variance loss, f̂ / p for the DKL loss; f̂ is in units of the integral, p the
            density in the unit cube.
        log_p : ndarray, (n,)
            Log of that density.
        loss : Loss
            Which of the two.

        Returns
        -------
        Objective
            The loss.
        """
        objective = cls.__new__(cls)
        objective.flow, objective.x, objective.loss, objective.prior = flow, read_only(x), loss, None
        objective.is_known_to_kernels, objective.device_x = True, None
        objective.weights, objective.log_p = weights, log_p
        return objective

    def value(self, rows: np.ndarray) -> float:
        """Compute the loss on some of the rows.

        Parameters
        ----------
        rows : ndarray of int64, (m,)
            Which of them.

        Returns
        -------
        float
            The loss.
        """
        blocks = range(0, len(rows), VALUE_ROWS)
        logqx = np.concatenate([self._log_q(rows[begin : begin + VALUE_ROWS])[1] for begin in blocks])
        with np.errstate(over="ignore", under="ignore"):
            if not self.is_known_to_kernels:
                return float(self.loss.value(self.fx[rows], self.px[rows], logqx))
            if self.loss.power == 2:
                return float(np.mean(np.exp(self.weights[rows] - logqx - self.flow.log_volume)))
            return float(np.mean(-self.weights[rows] * logqx))

    def gradient(self, rows: np.ndarray, buffers: GradientBuffers) -> tuple[float, np.ndarray]:
        """Compute the loss on a minibatch and its gradient.

        Parameters
        ----------
        rows : ndarray of int64, (n_batch,)
            Which rows make the minibatch.
        buffers : GradientBuffers
            Buffers for a minibatch of this size or a larger one.

        Returns
        -------
        loss : float
            The loss.
        dparams : ndarray, (n_lanes, n_params)
            The gradient in shares, whose sum it is: a view of the buffers.
        """
        if not self.is_known_to_kernels:
            return self._gradient_by_derivative(rows, buffers)
        is_variance = self.loss.power == 2
        no_dz = np.empty((0, self.flow.d))
        total, dparams = self._accumulate(self.x, rows, self.weights, self.log_p, no_dz, is_variance, buffers)
        loss = total / len(rows)
        if not is_variance and self.flow.log_volume != 0:
            loss += float(self.weights[rows].mean()) * self.flow.log_volume
        return loss, dparams

    def derivative(self, rows: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Compute a custom loss on a minibatch, and its derivatives in log q and z.

        Parameters
        ----------
        rows : ndarray of int64, (n_batch,)
            Which rows make the minibatch.

        Returns
        -------
        loss : float
            The loss.
        weights : ndarray, (n_batch,)
            Factors of -log q in a linear loss with the same derivatives.
        dz : ndarray, (n_batch, d) or (0, d)
            Derivative in z besides, where there is a latent prior.

        Raises
        ------
        ValueError
            If the loss gives derivatives of another shape.
        """
        z, logqx = self._log_q(rows)
        with np.errstate(over="ignore", under="ignore"):
            loss = float(self.loss.value(self.fx[rows], self.px[rows], logqx))
            dlogqx = np.asarray(self.loss.derivative(self.fx[rows], self.px[rows], logqx), np.float64)
        if dlogqx.shape != logqx.shape:
            raise ValueError(f"the derivative of the loss must have shape {logqx.shape}, got {dlogqx.shape}")
        dz = np.empty((0, self.flow.d))
        if self.prior is not None:
            dz = dlogqx[:, None] * np.asarray(self.prior.grad_log_prob(z), np.float64)
        return loss, -dlogqx * len(rows), dz

    def _gradient_by_derivative(self, rows: np.ndarray, buffers: GradientBuffers) -> tuple[float, np.ndarray]:
        """Evaluate log q first, which the derivative needs, then run the gradient kernel."""
        loss, weights, dz = self.derivative(rows)
        x = read_only(self.x[rows])
        _, dparams = self._accumulate(x, np.arange(len(rows)), weights, self.log_p, dz, False, buffers)
        return loss, dparams

    def _accumulate(
        self,
        x: np.ndarray,
        rows: np.ndarray,
        weights: np.ndarray,
        log_p: np.ndarray,
        dz: np.ndarray,
        is_variance: bool,
        buffers: GradientBuffers,
    ) -> tuple[float, np.ndarray]:
        """Run the gradient kernel in threads. Returns the sum of the loss over rows, and the lanes."""
        flow = self.flow
        n_lanes = count_lanes(len(rows), flow.n_params)
        n_threads = min(len(buffers.workspaces), n_lanes)
        losses, dparams = buffers.losses[:n_lanes], buffers.dparams[:n_lanes]
        next_lane = np.zeros(1, np.int64)

        def work(k: int) -> None:
            cpu.gradient(
                dparams,
                losses,
                next_lane,
                x,
                rows,
                weights,
                log_p,
                dz,
                is_variance,
                flow.params,
                flow.layout,
                buffers.workspaces[k],
            )

        run(work, n_threads)
        return float(losses.sum()), dparams

    def _log_q(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute latent points (m, d) and log q (m,) of some of the rows."""
        z, logqx = self.flow.to_latent(self.x[rows])
        if self.prior is not None:
            logqx = logqx + self.prior.log_prob(z)
        return z, logqx
