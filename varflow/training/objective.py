"""Loss of a flow on weighted points: its value, and its gradient with respect to the parameters.

**Control variate of the gradient.** Let x be points drawn from a density p, q the density of the flow with
the parameters θ, and f̂ the magnitude of the integrand in units of its integral. On a minibatch, the losses
and their gradients with respect to θ are

    L_var = mean(f̂^2 / (p q)),       ∇L_var = mean(-f̂^2 / (p q) ∇log q),
    L_dkl = mean(-(f̂ / p) log q),    ∇L_dkl = mean(-(f̂ / p) ∇log q).

As the integral of q is 1 for all θ, so is the expectation of q/p over points from p, provided that p > 0
wherever q > 0. Its gradient is therefore zero at any θ that does not depend on the points:

    E[(q / p) ∇log q] = E[∇q / p] = ∇E[q / p] = ∇1 = 0.

So the mean of (q / p) ∇log q over the minibatch can be added to either gradient without changing its
expectation: the score function as a control variate (Ranganath et al., arXiv 1401.0118, section 3.2, for
points from q; here for points from p). The gradients become

    mean((q^2 - f̂^2) / (p q) ∇log q)    and    mean((q - f̂) / p ∇log q).

Where q = f̂, they vanish at each point. Without the control variate only their expectations would, and the
noise that is left would keep minibatches away from the minimum. In other words, each point has a loss of its
own that is least at q = f̂: (f̂^2 / q + q) / p = (f̂ - q)^2 / (p q) + 2 f̂ / p, and (q - f̂ log q) / p.

The derivation needs two things of p: that it is normalised, and that its support is the box. Where p is
normalised on a part of the box only, E[q/p] is the integral of q over that part, and depends on θ; see
`varflow.training.normalization` for what is seen of this in the data.

**Control variate of the held-out loss.** For the same reason, q/p - 1 can be added to the loss of each
held-out point, which gives the estimates

    L_var = 1 + mean((f̂ - q)^2 / (p q)),    L_dkl = mean((q - f̂ log q) / p) - 1.

With f̂ in units of its integral, their expectations are those of the losses, the first estimate is at least 1,
and both are quiet where q is near f̂.

Values of losses that steps report are those of L_var and L_dkl, without a control variate.
"""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Protocol

import numpy as np

from varflow.data.arrays import read_only
from varflow.data.dataset import Dataset
from varflow.data.discrete import Discrete
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture, discrete_columns
from varflow.kernels import cpu
from varflow.kernels.adam import fold_lanes
from varflow.kernels.layout import aligned_zeros
from varflow.runtime.communicator import ALONE, Communicator
from varflow.runtime.threads import run, share
from varflow.training.losses import Loss

__all__ = ["GradientBuffers", "LatentPrior", "Objective", "check_same_box"]

MIN_LANES = 8
# Limits of the number of lanes beyond MIN_LANES:
MIN_TILES_A_LANE = 4  # clearing and adding up a lane's gradient costs as much as some rows
MAX_LANE_NUMBERS = 1 << 25  # in the gradients of all lanes together: 128 MiB in float32
VALUE_ROWS = 65_536  # rows whose log q is computed at once

Rows = Callable[[int, int], np.ndarray]  # of numbers a point: from a first one to another that ends them


def check_same_box(flow: Flow | Mixture, data: Dataset) -> None:
    """Raise ValueError unless the points have the dimension d, the bounds and the conditions of the flow."""
    if data.d != flow.d:
        raise ValueError(f"the flow has d = {flow.d}, the data have d = {data.d}")
    if not np.array_equal(data.bounds, flow.bounds):
        raise ValueError(f"the flow has bounds {flow.bounds.tolist()}, the data have {data.bounds.tolist()}")
    states = _numbers_of_states(discrete_columns(flow)), _numbers_of_states(data.discrete)
    if states[0] != states[1]:
        raise ValueError(
            f"the flow has discrete columns with numbers of states {states[0]}, the data have {states[1]}: "
            "give the same to Dataset(..., discrete=) and to DiscreteFlow"
        )
    if data.n_conditions != flow.n_conditions:
        found = f"n_conditions = {flow.n_conditions}, the data have n_conditions = {data.n_conditions}"
        raise ValueError(f"the flow has {found}")


def _numbers_of_states(discrete: Mapping[int, Discrete]) -> dict[int, int]:
    """Numbers of states of columns that have several."""
    return {column: one.k for column, one in discrete.items() if one.k > 1}


class LatentPrior(Protocol):
    """Density in latent space that replaces the uniform one; its support is the unit cube."""

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        """Compute the log of the density, (n,), at points z (n, d)."""

    def grad_log_prob(self, z: np.ndarray) -> np.ndarray:
        """Compute the gradient of `log_prob` with respect to z, (n, d)."""

    def sample(self, n: int, generator: np.random.Generator) -> np.ndarray:
        """Draw points, (n, d)."""


def count_lanes(n_batch: int, n_params: int) -> int:
    """Compute the number of lanes for a minibatch of `n_batch` rows and a flow of `n_params` parameters."""
    n_tiles = -(-n_batch // cpu.TILE_ROWS)
    max_lanes = min(n_tiles // MIN_TILES_A_LANE, MAX_LANE_NUMBERS // n_params)
    n_lanes = MIN_LANES
    while 2 * n_lanes <= max_lanes:
        n_lanes *= 2  # a power of two, so that equally fast threads get equally many
    return min(n_tiles, n_lanes)


class GradientBuffers:
    """Buffers for computing gradients, allocated once.

    A minibatch is divided into lanes, whose number depends only on the size of the minibatch and of the flow.
    Each lane accumulates its own gradient, no matter which thread works on it, and the lanes are added in a
    fixed order. Hence the result has the same bits for any number of threads.

    Parameters
    ----------
    flow : Flow
        The flow.
    n_batch : int
        Number of rows of the largest minibatch.
    comm : Communicator
        Ranks that may share the lanes.

    Attributes
    ----------
    is_shared : bool
        Whether they do; otherwise each has all of them.
    """

    def __init__(self, flow: Flow, n_batch: int, comm: Communicator = ALONE) -> None:
        self._comm, self.is_shared = comm, False
        architecture = flow.architecture
        self.n_batch = n_batch
        n_lanes = count_lanes(n_batch, flow.n_params)
        self.dparams = aligned_zeros((n_lanes, flow.n_params), architecture.dtype)
        self.losses = np.empty(n_lanes)
        n_threads = min(flow.threads, n_lanes)
        self.workspaces = [cpu.make_workspace(architecture.sizes, keeps_all=True) for _ in range(n_threads)]

    def own_lanes(self, n_lanes: int) -> tuple[int, int]:
        """Give the lanes of this rank, from the first to the one that ends them."""
        return share(self._comm.rank, self._comm.size, n_lanes) if self.is_shared else (0, n_lanes)

    def joined(self, n_lanes: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the losses (n_lanes,) of all lanes, and their gradients (n_lanes, n_params).

        Of lanes that were shared, the gradients are those of all together, (1, n_params).
        """
        losses, dparams = self.losses[:n_lanes], self.dparams[:n_lanes]
        if not self.is_shared:
            return losses, dparams
        begin, end = self.own_lanes(n_lanes)
        losses[:begin], losses[end:] = 0, 0
        self._comm.merge(losses)
        return losses, self._comm.reduce(dparams[begin:end], _in_order)[None]


def _mean_exp(exponents: np.ndarray, flow: Flow) -> float:
    """Average the variance losses of points, as the kernels compute them; see `variance_loss` of `cpu`."""
    if flow.latent == "uniform":
        return float(np.mean(np.exp(exponents)))
    excess = np.maximum(exponents, cpu.MAX_EXPONENT) - cpu.MAX_EXPONENT
    return float(np.mean(np.exp(np.minimum(exponents, cpu.MAX_EXPONENT)) * (1 + excess)))


def _in_order(lanes: np.ndarray) -> np.ndarray:
    """Add up lanes (n_lanes, n) as Adam does, to (n,)."""
    fold_lanes(lanes, 0, lanes.shape[1])
    return lanes[0]


class Objective:
    """Loss of a flow on a dataset, with f scaled such that the mean of |f|/p over all its points is one.

    The loss is thus free of units, and the variance loss estimates one plus the relative variance of f/q.

    Parameters
    ----------
    flow : Flow
        The flow; each call uses its current parameters.
    data : Dataset
        The points, with the bounds of the flow.
    loss : Loss
        The loss.
    prior : LatentPrior, optional
        Density in latent space; uniform if not given.
    control_variate : bool
        Whether the gradient has the control variate of the module's docstring, and the held-out loss as
        well. Losses other than the variance and the DKL loss have none.
    comm : Communicator
        Ranks that make the same objective, and the same calls. What it has of each point lies once in the
        memory of each node, and they share the points of which log q is computed.

    Attributes
    ----------
    log_ratios : ndarray, (n,)
        log(f̂/p), which is -inf where f is zero; see `learning`.
    power : int
        Power of f in the loss; 0 where it has none.
    logpx : ndarray, (n,)
        Log of the density p, in 1 / (units of x)^d.

    Raises
    ------
    ValueError
        If the points do not have the dimension d, the bounds and the number of conditions of the flow.
    """

    def __init__(
        self,
        flow: Flow,
        data: Dataset,
        loss: Loss,
        prior: LatentPrior | None = None,
        *,
        control_variate: bool = False,
        comm: Communicator = ALONE,
    ) -> None:
        check_same_box(flow, data)
        self.flow, self.loss, self.prior, self._comm = flow, loss, prior, comm
        self.x = self._columns(data)
        self.device_x = data.device_x if flow.n_conditions == 0 else None
        self.is_known_to_kernels = loss.power is not None and prior is None
        self.power = loss.power or 0
        self.has_control_variate = control_variate and loss.power is not None
        self.log_ratios = self._of_points(lambda begin, end: data.log_weight(1, slice(begin, end)))
        self.logpx = data.logpx_in_common(comm)
        is_control_in_kernels = self.has_control_variate and self.is_known_to_kernels
        self.log_p = np.empty(0)
        if is_control_in_kernels:
            self.log_p = self.logpx
            if flow.log_volume != 0:
                self.log_p = self._of_points(lambda begin, end: self.logpx[begin:end] + flow.log_volume)
        if not self.is_known_to_kernels:
            self.px = data.px
        self._weigh(lambda begin, end: self.log_ratios[begin:end].copy())

    def _columns(self, data: Dataset) -> np.ndarray:
        """Give what kernels read: points, with conditions where the flow has some; see `Flow`."""
        if self.flow.n_conditions == 0:
            return read_only(data.x)
        given = self.flow.condition_map.checked(data.conditions, data.n)

        def joined(begin: int, end: int) -> np.ndarray:
            return self.flow.condition_map.columns(data.x[begin:end], given[begin:end])

        shape = (data.n, data.d + data.n_conditions)
        return read_only(self._comm.fill_shared(shape, joined))

    def _of_points(self, fill: Rows) -> np.ndarray:
        """Compute a number for each point, (n,), where the ranks of a node have it in common."""
        return self._comm.fill_shared((len(self.x),), fill)

    def _weigh(self, log_ratios: Rows) -> None:
        """Set what is learnt, by log(f̂/p)."""
        if not self.is_known_to_kernels:
            self.fx = self._of_points(lambda begin, end: self._f_of(log_ratios(begin, end), begin, end))
        else:
            self.weights = self._of_points(
                lambda begin, end: self._weights_of(log_ratios(begin, end), begin, end)
            )

    def _f_of(self, log_ratios: np.ndarray, begin: int, end: int) -> np.ndarray:
        log_ratios += self.logpx[begin:end]
        with np.errstate(over="ignore", under="ignore"):  # as in Dataset.px
            return np.exp(log_ratios, out=log_ratios)

    def _weights_of(self, log_ratios: np.ndarray, begin: int, end: int) -> np.ndarray:
        if self.loss.power == 2:  # log(f^2 / p), p being the density in the unit cube
            log_ratios *= 2
            log_ratios += self.logpx[begin:end]
            log_ratios += self.flow.log_volume
            return log_ratios
        with np.errstate(under="ignore"):
            return np.exp(log_ratios, out=log_ratios)  # f / p

    def learning(self, log_ratios: Rows) -> "Objective":
        """Copy the objective, with another function to be learnt than f.

        Parameters
        ----------
        log_ratios : callable
            (begin, end) -> log(g/p), (end - begin,), for the function g at the points from one to another
            that ends them, in units of its integral; -inf where it is zero. Its arrays are taken over.

        Returns
        -------
        Objective
            The same loss of g on the same points.
        """
        other = copy(self)
        other._weigh(log_ratios)
        return other

    def without_control_variate(self) -> "Objective":
        """Copy the objective, without a control variate."""
        other = copy(self)
        other.has_control_variate, other.log_p = False, np.empty(0)
        return other

    @classmethod
    def with_control_variate(
        cls, flow: Flow, x: np.ndarray, weights: np.ndarray, log_p: np.ndarray, loss: Loss
    ) -> "Objective":
        """Make a variance or DKL loss whose gradient has a control variate; see the module's docstring.

        The arguments are not checked.

        Parameters
        ----------
        flow : Flow
            The flow.
        x : ndarray, (n, d + c)
            Points in the box of the flow, and conditions as its `condition_map` joins them; C-contiguous.
        weights : ndarray, (n,)
            log(f̂^2 / p) for the variance loss, f̂ / p for the DKL loss, with f̂ in units of the integral and p
            the density in the unit cube.
        log_p : ndarray, (n,)
            Log of that density.
        loss : Loss
            The variance or the DKL loss of `LOSSES`.

        Returns
        -------
        Objective
            The loss.
        """
        objective = cls.__new__(cls)
        objective.flow, objective.x, objective.loss, objective.prior = flow, read_only(x), loss, None
        objective.is_known_to_kernels = objective.has_control_variate = True
        objective.power = loss.power or 0
        objective.device_x, objective._comm = None, ALONE
        objective.weights, objective.log_p = weights, log_p
        return objective

    def value(self, rows: np.ndarray) -> float:
        """Compute the loss on some of the rows.

        Parameters
        ----------
        rows : ndarray of int64, (m,)
            Indices of the rows.

        Returns
        -------
        float
            The loss.
        """
        logqx = self._log_q_by_blocks(rows)
        with np.errstate(over="ignore", under="ignore"):
            if not self.is_known_to_kernels:
                return float(self.loss.value(self.fx[rows], self.px[rows], logqx))
            if self.loss.power == 2:
                return _mean_exp(self.weights[rows] - logqx - self.flow.log_volume, self.flow)
            return float(np.mean(-self.weights[rows] * logqx))

    def log_q_over_p(self, rows: np.ndarray) -> np.ndarray:
        """Compute log(q/p) (m,) on some of the rows (m,)."""
        return self._log_q_by_blocks(rows) - self.logpx[rows]

    def gradient(self, rows: np.ndarray, buffers: GradientBuffers) -> tuple[float, np.ndarray]:
        """Compute the loss on a minibatch and its gradient.

        Parameters
        ----------
        rows : ndarray of int64, (n_batch,)
            Indices of the rows of the minibatch.
        buffers : GradientBuffers
            Buffers for a minibatch of this size or a larger one.

        Returns
        -------
        loss : float
            The loss.
        dparams : ndarray, (n_lanes, n_params)
            Parts of the gradient, which is their sum; a view of the buffers.
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
        """Compute a loss that the kernels do not know on a minibatch, with its derivatives in log q and z.

        Parameters
        ----------
        rows : ndarray of int64, (n_batch,)
            Indices of the rows of the minibatch.

        Returns
        -------
        loss : float
            The loss.
        weights : ndarray, (n_batch,)
            Weights of -log q in a linear loss, the mean of -weight log q, with the same derivatives.
        dz : ndarray, (n_batch, d) or (0, d)
            Derivative with respect to the latent points z through the log density of the latent prior; empty
            if there is none.

        Raises
        ------
        ValueError
            If the loss returns derivatives of another shape than (n_batch,).
        """
        z, logqx = self._log_q(rows)
        with np.errstate(over="ignore", under="ignore"):
            loss = float(self.loss.value(self.fx[rows], self.px[rows], logqx))
            dlogqx = np.asarray(self.loss.derivative(self.fx[rows], self.px[rows], logqx), np.float64)
            if self.has_control_variate:
                dlogqx = dlogqx + np.exp(logqx - self.logpx[rows]) / len(rows)
        if dlogqx.shape != logqx.shape:
            raise ValueError(f"the derivative of the loss must have shape {logqx.shape}, got {dlogqx.shape}")
        dz = np.empty((0, self.flow.d))
        if self.prior is not None:
            dz = dlogqx[:, None] * np.asarray(self.prior.grad_log_prob(z), np.float64)
        return loss, -dlogqx * len(rows), dz

    def linear_weights(self, rows: np.ndarray, log_q: np.ndarray) -> tuple[float, np.ndarray]:
        """Compute the loss on a minibatch, and the linear loss with the same derivatives, from log q.

        Parameters
        ----------
        rows : ndarray of int64, (m,)
            Indices of the rows of the minibatch.
        log_q : ndarray, (m,)
            Log of the density q in the unit cube there.

        Returns
        -------
        loss : float
            The loss.
        weights : ndarray, (m,)
            Weights of -log q in the linear loss, the mean of -weight log q; the control variate is in them.
        """
        if not self.is_known_to_kernels:
            loss, weights, _ = self.derivative(rows)
            return loss, weights
        given = self.weights[rows]
        with np.errstate(over="ignore", under="ignore"):
            if self.loss.power == 2:
                weights = np.exp(given - log_q)
                loss = float(np.mean(weights))
            else:
                weights, loss = given, float(np.mean(-given * (log_q - self.flow.log_volume)))
            if self.has_control_variate:
                weights = weights - np.exp(log_q - self.log_p[rows])
        return loss, weights

    def _gradient_by_derivative(self, rows: np.ndarray, buffers: GradientBuffers) -> tuple[float, np.ndarray]:
        """Compute the gradient in two passes: one for log q and the derivative, then forward and backward."""
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
        """Run the gradient kernel in threads. Returns the loss summed over rows, and the lanes' gradients."""
        flow = self.flow
        n_lanes = count_lanes(len(rows), flow.n_params)
        begin, end = buffers.own_lanes(n_lanes)
        n_threads = max(1, min(len(buffers.workspaces), end - begin))
        losses, dparams = buffers.losses[:n_lanes], buffers.dparams[:n_lanes]
        next_lane = np.array([begin, end], np.int64)

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
        losses, dparams = buffers.joined(n_lanes)
        return float(losses.sum()), dparams

    def _log_q_by_blocks(self, rows: np.ndarray) -> np.ndarray:
        """Compute log q (m,) of any number of rows."""

        def fill(begin: int, end: int) -> np.ndarray:
            blocks = range(begin, end, VALUE_ROWS)
            return np.concatenate(
                [self._log_q(rows[first : min(first + VALUE_ROWS, end)])[1] for first in blocks]
            )

        return self._comm.fill_shared((len(rows),), fill)

    def _log_q(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the latent points (m, d) and log q (m,) of some of the rows."""
        z, logqx = self.flow.columns_to_latent(self.x[rows])
        if self.prior is not None:
            logqx = logqx + self.prior.log_prob(z)
        return z, logqx
