"""Probabilities of discrete coordinates, learnt: a table where there are few states, a network where many.

Both map a point of the unit cube with a state and a place r in [0, 1) of each coordinate, to latent points
that are uniform where states have these probabilities; and back. With P the probability of all states of a
point together, and k_j the numbers of states, the log of the density in the unit cube is

    log q = log P(s_1, ..., s_D) + sum_j log k_j.

**Table.** A logit for each of the K combinations of states; P is their softmax. The first latent coordinate
is the cumulative probability up to the combination: n points of a Sobol sequence have each of them n P times,
up to one or so. The others say where in their bins points lie, on which nothing depends.

**Network.** Autoregressive (Germain et al., MADE, arXiv 1502.03509): P is the product of the probabilities of
s_j given s_1 to s_{j-1}, each a softmax of what a network gives for its coordinate. Hidden units belong to a
coordinate j, and see those before it alone, which masks of the weights ensure; the inputs besides go straight
to the outputs. Each latent coordinate is the cumulative probability of its own state.

Probabilities are computed in float64, so that they sum to 1 to rounding, whatever the parameters are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_TABLE", "Categorical", "Network", "Table", "encoded", "make_categorical", "n_encoded"]

Array = npt.NDArray[np.float64]
States = npt.NDArray[np.int64]

MAX_TABLE = 512  # combinations of states that a table is made for
LEAST_WEIGHT = 1e-3  # of a state to begin with, in units of what it would have were all alike
MAX_NODES, MAX_WIDTH = 8, 256  # hidden units of each coordinate, and in all
MAX_ROWS = 16_384  # computed together, which bounds the memory


class Categorical(Protocol):
    """Probabilities of the states of D coordinates; parameters are a row (n_params,) that is given."""

    n_params: int

    def initial_params(self, weights: Sequence[Array], generator: np.random.Generator) -> Array:
        """Give parameters for which the coordinates are independent, with probabilities (k_j,) each."""

    def fitted_params(self, params: Array, s: States, weights: Array, flat_share: float) -> Array:
        """Give parameters of independent coordinates that follow points with states s (n, D).

        Their weights (n,) are not all zero. A table follows their combinations.
        """

    def forward(self, params: Array, s: States) -> tuple[Array, Any]:
        """Compute log P (n,) of states s (n, D) in the dtype of params, and what `backward` needs."""

    def backward(self, params: Array, s: States, kept: Any, dlog_prob: Array) -> Array:
        """Compute the gradient (n_params,) from that by log P, (n,)."""

    def to_latent(self, params: Array, s: States, r: Array) -> tuple[Array, Array]:
        """Map states and places r (n, D) in [0, 1] to latent points (n, D), and compute log P (n,)."""

    def from_latent(self, params: Array, z: Array) -> tuple[States, Array, Array]:
        """Map latent points (n, D) to states and places (n, D), and compute log P (n,)."""


def make_categorical(sizes: Sequence[int]) -> Categorical:
    """Make a table or a network for coordinates with so many states."""
    is_small = len(sizes) == 1 or np.prod(np.asarray(sizes, np.float64)) <= MAX_TABLE
    return Table(sizes) if is_small else Network(sizes)


def n_encoded(sizes: Sequence[int]) -> int:
    """Count the columns of `encoded`."""
    return sum(_n_columns(k) for k in sizes)


def _n_columns(k: int) -> int:
    return k if k > 2 else k - 1


def encoded(s: States, sizes: Sequence[int]) -> Array:
    """Encode states (n, D) as columns of 0 and 1: one for each state, a single one where there are two."""
    if max(sizes) == min(sizes) == 2:
        return s.astype(np.float64)
    columns = [s[:, [j]] == (np.arange(k) if k > 2 else np.ones(k - 1)) for j, k in enumerate(sizes)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _with_least(weights: Array) -> Array:
    """Give each state some probability."""
    raised = np.maximum(weights, LEAST_WEIGHT / len(weights))
    return raised / raised.sum()


def _log_softmax(logits: Array, axis: int = 0) -> Array:
    """Logs of probabilities along an axis; logits may be -inf, but not all of them."""
    shifted = logits - logits.max(axis=axis, keepdims=True)
    log_probs: Array = shifted - np.log(_exp(shifted).sum(axis=axis, keepdims=True))
    return log_probs


def _exp(logs: Array) -> Array:
    with np.errstate(under="ignore"):
        return np.exp(logs)


class Table:
    """A logit for each combination of states; see the module's docstring."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = np.array(sizes, np.int64)
        self.n_params = int(np.prod(self.sizes))
        self._strides = np.concatenate([np.cumprod(self.sizes[:0:-1])[::-1], [1]]).astype(np.int64)

    def initial_params(self, weights: Sequence[Array], generator: np.random.Generator) -> Array:  # noqa: D102
        total = np.zeros(())
        for one in weights:
            total = np.add.outer(total, np.log(_with_least(one)))
        return total.ravel()

    def fitted_params(self, params: Array, s: States, weights: Array, flat_share: float) -> Array:  # noqa: D102
        shares = np.bincount(self._index(s), weights, self.n_params) / weights.sum()
        return np.log((1 - flat_share) * shares + flat_share / self.n_params)

    def forward(self, params: Array, s: States) -> tuple[Array, Array]:  # noqa: D102
        log_prob = _log_softmax(params.astype(np.float64))
        return log_prob[self._index(s)], log_prob

    def backward(self, params: Array, s: States, kept: Array, dlog_prob: Array) -> Array:  # noqa: D102
        return np.bincount(self._index(s), dlog_prob, self.n_params) - _exp(kept) * dlog_prob.sum()

    def to_latent(self, params: Array, s: States, r: Array) -> tuple[Array, Array]:  # noqa: D102
        log_prob, begin = self._cumulated(params)
        index, z = self._index(s), r.copy()
        z[:, 0] = begin[index] + r[:, 0] * (begin[index + 1] - begin[index])
        return z, log_prob[index]

    def from_latent(self, params: Array, z: Array) -> tuple[States, Array, Array]:  # noqa: D102
        log_prob, begin = self._cumulated(params)
        index = np.searchsorted(begin[1:-1], z[:, 0], side="right")
        r = z.copy()
        r[:, 0] = _place(z[:, 0], begin[index], begin[index + 1])
        return index[:, None] // self._strides % self.sizes, r, log_prob[index]

    def counts(self, s: States) -> Array:
        """Count the points (n,) that have the same states as each of points with states s (n, D)."""
        index = self._index(s)
        return np.bincount(index, minlength=self.n_params)[index].astype(np.float64)

    def _index(self, s: States) -> States:
        return s @ self._strides

    def _cumulated(self, params: Array) -> tuple[Array, Array]:
        """Logs of probabilities (K,), and the sums of those before each, (K + 1,), from 0 to 1."""
        log_prob = _log_softmax(params.astype(np.float64))
        begin = np.concatenate([[0.0], np.cumsum(_exp(log_prob))])
        begin[-1] = 1.0
        return log_prob, np.minimum(begin, 1.0)


def _place(z: Array, begin: Array, end: Array) -> Array:
    """Tell where in [0, 1] z lies between two ends; in the middle, where these are the same."""
    width = end - begin
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.clip(np.where(width > 0, (z - begin) / width, 0.5), 0.0, 1.0)


class _Weights(NamedTuple):
    """Views of the parameters of a network, of shapes (n_in, n_out) and (n_out,)."""

    direct: Array
    first: Array
    first_bias: Array
    second: Array
    second_bias: Array
    last: Array
    bias: Array


class _Kept(NamedTuple):
    """What the backward pass of a network needs; activations are (n, ...)."""

    of: _Weights
    inputs: Array
    hidden: Array
    second: Array
    log_probs: Array


class Network:
    """Autoregressive network of D coordinates; see the module's docstring.

    Every coordinate has as many outputs as the one with most states; those that it lacks have probability 0.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        d, self.k = len(sizes), max(sizes)
        nodes = max(1, min(MAX_NODES, MAX_WIDTH // d))
        of_input = np.concatenate([np.full(_n_columns(k), j) for j, k in enumerate(sizes)])
        of_hidden, of_output = np.repeat(np.arange(1, d), nodes), np.tile(np.arange(d), self.k)
        before, up_to = np.less.outer, np.less_equal.outer
        self._masks = [before(of_input, of_output), before(of_input, of_hidden), up_to(of_hidden, of_hidden)]
        self._masks.append(up_to(of_hidden, of_output))
        n_hidden = len(of_hidden)
        direct, first, second, last = (mask.shape for mask in self._masks)
        self._shapes = _Weights(direct, first, (n_hidden,), second, (n_hidden,), last, (len(of_output),))  # type: ignore[arg-type]
        self._ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes])
        self.n_params = int(self._ends[-1])
        self._first_input = np.searchsorted(of_input, np.arange(d + 1))
        self._first_hidden = np.searchsorted(of_hidden, np.arange(d + 1))
        self._missing = np.where(np.arange(self.k)[:, None] < np.array(sizes), 0.0, -np.inf)

    def _weights(self, flat: Array) -> _Weights:
        parts = zip(np.split(flat, self._ends[:-1]), self._shapes, strict=True)
        return _Weights(*(part.reshape(shape) for part, shape in parts))

    def _masked(self, params: Array) -> _Weights:
        weights, masks = self._weights(params), self._masks
        return weights._replace(
            direct=weights.direct * masks[0],
            first=weights.first * masks[1],
            second=weights.second * masks[2],
            last=weights.last * masks[3],
        )

    def initial_params(self, weights: Sequence[Array], generator: np.random.Generator) -> Array:  # noqa: D102
        params = np.zeros(self.n_params)
        of = self._weights(params)
        for array, mask in ((of.first, self._masks[1]), (of.second, self._masks[2])):
            array[:] = (
                mask * generator.standard_normal(array.shape) / np.sqrt(np.maximum(1, mask.sum(axis=0)))
            )
        of.first_bias[:] = generator.uniform(-1, 1, of.first_bias.shape)
        self._set_marginals(of, weights)
        return params

    def fitted_params(self, params: Array, s: States, weights: Array, flat_share: float) -> Array:  # noqa: D102
        fitted = params.copy()
        shares = [
            (1 - flat_share) * np.bincount(column, weights, k) / weights.sum() + flat_share / k
            for column, k in zip(s.T, self.sizes, strict=True)
        ]
        self._set_marginals(self._weights(fitted), shares)
        return fitted

    def _set_marginals(self, of: _Weights, weights: Sequence[Array]) -> None:
        for bias, one in zip(of.bias.reshape(self.k, -1).T, weights, strict=True):
            bias[: len(one)] = np.log(_with_least(one))

    def forward(self, params: Array, s: States) -> tuple[Array, "_Kept"]:  # noqa: D102
        of = self._masked(params)
        inputs = (2 * encoded(s, self.sizes) - 1).astype(params.dtype)
        hidden = np.tanh(inputs @ of.first + of.first_bias)
        second = np.tanh(hidden @ of.second + of.second_bias)
        log_probs = self._log_probs(inputs @ of.direct + second @ of.last + of.bias)
        log_prob = np.take_along_axis(log_probs, s[:, None], 1)[:, 0].sum(axis=1)
        return log_prob, _Kept(of, inputs, hidden, second, log_probs)

    def backward(self, params: Array, s: States, kept: "_Kept", dlog_prob: Array) -> Array:  # noqa: D102
        of, inputs, hidden, second, log_probs = kept
        dlogits = (s[:, None] == np.arange(self.k)[:, None]) - _exp(log_probs)
        dlogits *= dlog_prob[:, None, None]
        dout = dlogits.reshape(len(s), -1).astype(params.dtype)
        dsecond = (dout @ of.last.T) * (1 - second**2)
        dhidden = (dsecond @ of.second.T) * (1 - hidden**2)
        gradient = np.empty_like(params)
        found, masks = self._weights(gradient), self._masks
        found.direct[:], found.bias[:] = masks[0] * (inputs.T @ dout), dout.sum(axis=0)
        found.last[:] = masks[3] * (second.T @ dout)
        found.second[:], found.second_bias[:] = masks[2] * (hidden.T @ dsecond), dsecond.sum(axis=0)
        found.first[:], found.first_bias[:] = masks[1] * (inputs.T @ dhidden), dhidden.sum(axis=0)
        return gradient

    def _log_probs(self, logits: Array) -> Array:
        """Logs of probabilities (n, k, D) of each state given those before, from logits (n, k D)."""
        by_state = logits.reshape(len(logits), self.k, -1).astype(np.float64)
        return _log_softmax(by_state + self._missing, axis=1)

    def to_latent(self, params: Array, s: States, r: Array) -> tuple[Array, Array]:  # noqa: D102
        params, z, log_prob = params.astype(np.float64), np.empty_like(r), np.empty(len(s))
        for begin in range(0, len(s), MAX_ROWS):
            part = slice(begin, begin + MAX_ROWS)
            log_prob[part], kept = self.forward(params, s[part])
            ends = _cumulated(kept.log_probs)
            lower, upper = (np.take_along_axis(ends, s[part][:, None] + k, 1)[:, 0] for k in (0, 1))
            z[part] = lower + r[part] * (upper - lower)
        return z, log_prob

    def from_latent(self, params: Array, z: Array) -> tuple[States, Array, Array]:  # noqa: D102
        of = self._masked(params.astype(np.float64))
        s, r, log_prob = np.empty(z.shape, np.int64), np.empty_like(z), np.empty(len(z))
        for begin in range(0, len(z), MAX_ROWS):
            part = slice(begin, begin + MAX_ROWS)
            s[part], r[part], log_prob[part] = self._drawn(of, z[part])
        return s, r, log_prob

    def _drawn(self, of: _Weights, z: Array) -> tuple[States, Array, Array]:
        """Draw the states of one coordinate after the other: each needs its own hidden units alone, anew."""
        (n, d), rows = z.shape, np.arange(len(z))
        s, r, log_prob = np.empty((n, d), np.int64), np.empty((n, d)), np.zeros(n)
        inputs = np.empty((n, len(of.first)))
        hidden, second = (np.empty((n, len(of.second))) for _ in range(2))
        for j in range(d):
            seen, after, known = self._first_input[j], self._first_input[j + 1], self._first_hidden[j + 1]
            own, out = slice(self._first_hidden[j], known), slice(j, None, d)
            hidden[:, own] = np.tanh(inputs[:, :seen] @ of.first[:seen, own] + of.first_bias[own])
            second[:, own] = np.tanh(hidden[:, :known] @ of.second[:known, own] + of.second_bias[own])
            logits = inputs[:, :seen] @ of.direct[:seen, out] + second[:, :known] @ of.last[:known, out]
            log_probs = _log_softmax(logits + of.bias[out] + self._missing[:, j], axis=1)
            ends = _cumulated(log_probs)
            s[:, j] = state = np.count_nonzero(z[:, [j]] >= ends[:, 1 : self.sizes[j]], axis=1)
            log_prob += log_probs[rows, state]
            r[:, j] = _place(z[:, j], ends[rows, state], ends[rows, state + 1])
            inputs[:, seen:after] = 2 * encoded(s[:, [j]], self.sizes[j : j + 1]) - 1
        return s, r, log_prob


def _cumulated(log_probs: Array) -> Array:
    """Sums (n, k + 1, ...) of the probabilities before each state, from 0 to 1, of logs (n, k, ...)."""
    n, k, *rest = log_probs.shape
    ends = np.zeros((n, k + 1, *rest))
    np.cumsum(_exp(log_probs), axis=1, out=ends[:, 1:])
    ends[:, -1] = 1.0
    return np.minimum(ends, 1.0)
