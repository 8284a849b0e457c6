"""Channel weights that are learnt: a small network, trained on what surveys have seen of the integrand.

**Network.** The weights are

    a_k(x) = g_k(x) exp(s_k(u)) / sum_j g_j(x) exp(s_j(u)),

with the densities g_k of the maps (the balance heuristic, where the network gives 0), s = network(2 u - 1),
and u the place of x in the unit cube of the box: two hidden layers of tanh.

**Loss.** The error that is left once calls are shared out best is the sum of the standard deviations of all
channels; its square, the stratified variance (Heimel et al., arXiv 2311.01548, section 2.2), is to be small:

    L = (sum_k sqrt(V_k))^2,    V_k = integral of a_k^2 f^2 / q_k  -  (integral of a_k f)^2.

The flows are trained after the weights, and follow a_k |f| then. With r the share that they do not learn, for
which the densities of the maps stand,

    integral of a_k^2 f^2 / q_k = (1 - r) A_k^2 + r B_k,
    A_k = integral of a_k |f|,    B_k = integral of a_k^2 f^2 / g_k.

So the loss falls most where a channel has f of one sign: A_k^2 is then the square of its integral. Where all
maps have the same density, nothing tells the channels apart: r is 0 then, and the network first learns
clusters of the points, a channel for each.

Integrals are sums over points of the surveys, with weights w_i whose sum estimates the integral of f:
A_k = sum |w_i| a_k(x_i) and so on, in units of the integral of |f|.

**Gradient**, with S = sum_k sqrt(V_k + e^2), e = ``SOFTENING``:

    dL/da_ik = S / sqrt(V_k + e^2) (2 (1 - r) A_k |w_i| + 2 r a_ik f_i / g_k(x_i) |w_i| - 2 I_k w_i),
    dL/ds_ij = a_ij (dL/da_ij - sum_k a_ik dL/da_ik).

Points are drawn for minibatches in proportion to |w_i|, so that all count alike. A part of them is kept out
of training; the balance heuristic stays where the loss on it is no smaller.
"""

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.integration.channel_weights import ChannelWeights, renormalised
from varflow.integration.components import FloatArray
from varflow.integration.domain import Domain
from varflow.training.adam import Adam

__all__ = ["Learned", "Seen", "WeightNetwork", "are_alike", "learn", "stratified_variance"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

WIDTH = 32  # of the hidden layers
UNLEARNT = 0.01  # r above
SOFTENING = 1e-3  # e above
N_STEPS, MINIBATCH, LEARNING_RATE = 400, 1024, 0.02
N_LABEL_STEPS = 150  # for the clusters
HELD_OUT = 0.25
ALIKE = 1e-9  # difference of logs of densities, at most, of maps that are the same
MAX_RATIO = 1e4  # of |f| / g_k to the integral of |f|, beyond which single points would have all to say
N_CLUSTERED = 4096  # points that clusters are made of
BETAS = 0.9, 0.99


class WeightNetwork:
    """Network from a point of the unit cube to a number for each channel, with its parameters in a row.

    Parameters
    ----------
    d, m : int
        Numbers of dimensions and of channels.
    """

    def __init__(self, d: int, m: int) -> None:
        sizes = [d, WIDTH, WIDTH, m]
        self.shapes = [shape for n_in, n_out in pairwise(sizes) for shape in ((n_in, n_out), (n_out,))]
        self.params: Array = np.zeros(sum(int(np.prod(shape)) for shape in self.shapes), np.float32)

    def begin(self, generator: np.random.Generator) -> None:
        """Draw hidden layers; the last one begins near 0, and with it what the network adds."""
        for array in self.arrays(self.params)[:-1]:
            if array.ndim == 2:
                array[:] = generator.standard_normal(array.shape) * np.sqrt(2 / len(array))
        self.arrays(self.params)[-2][:] *= 0.01

    def arrays(self, flat: Array) -> list[Array]:
        """Give views of the weights and biases in a row of all parameters."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        return [
            part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), self.shapes, strict=True)
        ]

    def forward(self, u: Array) -> tuple[Array, list[Array]]:
        """Compute s (n, m) at points u (n, d); and the inputs of all layers, for `backward`."""
        inputs, value = [], (2 * u - 1).astype(self.params.dtype)
        arrays = self.arrays(self.params)
        for k in range(0, len(arrays), 2):
            inputs.append(value)
            value = value @ arrays[k] + arrays[k + 1]
            if k + 2 < len(arrays):
                value = np.tanh(value)
        return value, inputs

    def backward(self, inputs: list[Array], ds: Array) -> Array:
        """Compute the gradient (n_params,) from dL/ds (n, m)."""
        gradient = np.empty_like(self.params)
        arrays, darrays = self.arrays(self.params), self.arrays(gradient)
        dvalue = ds.astype(self.params.dtype)
        for k in reversed(range(0, len(arrays), 2)):
            given = inputs[k // 2]
            darrays[k][:], darrays[k + 1][:] = given.T @ dvalue, dvalue.sum(axis=0)
            if k:
                dvalue = (dvalue @ arrays[k].T) * (1 - given**2)
        return gradient


class Learned:
    """Channel weights by a network, on top of the balance heuristic.

    Parameters
    ----------
    prior : ChannelWeights
        The balance heuristic.
    domain : Domain
        The box.
    network : WeightNetwork
        The network.
    is_wanted : bool
        Whether it is to learn in any case, or only where that promises something.
    """

    def __init__(
        self, prior: ChannelWeights, domain: Domain, network: WeightNetwork, is_wanted: bool
    ) -> None:
        self.prior, self.domain, self.network, self.is_wanted = prior, domain, network, is_wanted

    def __call__(self, x: FloatArray) -> FloatArray:  # noqa: D102 - see the protocol
        logs = self.prior(x)
        if not self.network.params.any():
            return logs
        return renormalised(logs + self.network.forward(self.domain.to_cube(x)[0])[0])


class Seen(NamedTuple):
    """Points that the weights are learnt from, in units of the integral of |f|.

    Attributes
    ----------
    u : ndarray, (n, d)
        Places in the unit cube of the box.
    log_prior : ndarray, (n, m)
        Logs of the weights that the network adds to; -inf for channels that take no part.
    w : ndarray, (n,)
        Weights, of either sign, whose sum estimates the integral of f; those of |w| sum to 1.
    ratios : ndarray, (n, m)
        |f| / g_k.
    """

    u: FloatArray
    log_prior: FloatArray
    w: FloatArray
    ratios: FloatArray

    def only(self, rows: np.ndarray) -> "Seen":
        """Give some of the points, as they are."""
        return Seen(*(part[rows] for part in self))

    def drawn(self, n: int, generator: np.random.Generator) -> "Seen":
        """Draw n of the points in proportion to |w|, which all have the same weight then."""
        size = np.abs(self.w)
        found = self.only(generator.choice(len(size), n, p=size / size.sum()))
        return found._replace(w=np.sign(found.w) / n)


def stratified_variance(seen: Seen, log_weights: FloatArray, unlearnt: float) -> tuple[float, FloatArray]:
    """Compute the loss, and its derivative by s (n, m); see the module's docstring.

    Parameters
    ----------
    seen : Seen
        The points.
    log_weights : ndarray, (n, m)
        Logs of the channel weights there.
    unlearnt : float
        The share r.
    """
    a, size = np.exp(log_weights), np.abs(seen.w)[:, None]
    all_of_it, integral = (size * a).sum(axis=0), (seen.w[:, None] * a).sum(axis=0)
    squares = (size * a**2 * seen.ratios).sum(axis=0)
    variances = (1 - unlearnt) * all_of_it**2 + unlearnt * squares - integral**2
    deviations = np.sqrt(np.maximum(variances, 0) + SOFTENING**2)
    total = deviations.sum()
    da = 2 * size * ((1 - unlearnt) * all_of_it + unlearnt * a * seen.ratios) - 2 * seen.w[:, None] * integral
    da *= total / deviations
    return float(total**2), a * (da - (a * da).sum(axis=1, keepdims=True))


def learn(network: WeightNetwork, seen: Seen, generator: np.random.Generator) -> bool:
    """Train a network; where that is no better than the balance heuristic, it is left at 0.

    Returns
    -------
    bool
        Whether it is better.
    """
    is_alike = are_alike(seen.log_prior)
    unlearnt = 0.0 if is_alike else UNLEARNT
    is_out = generator.random(len(seen.w)) < HELD_OUT
    learnt, held_out = seen.only(~is_out), seen.only(is_out)
    network.begin(generator)
    if is_alike:
        labels = _clusters(learnt, generator)
        _train(network, lambda: _label_gradient(network, *labels, generator), N_LABEL_STEPS)
    _train(network, lambda: _gradient(network, learnt.drawn(MINIBATCH, generator), unlearnt), N_STEPS)
    before, _ = stratified_variance(held_out, held_out.log_prior, unlearnt)
    after, _ = stratified_variance(held_out, _log_weights(network, held_out), unlearnt)
    is_better = after <= before + SOFTENING if is_alike else after < before
    logger.info("channel weights are learnt: the stratified variance goes from %.3g to %.3g", before, after)
    if not is_better:
        network.params[:] = 0.0
    return is_better


def are_alike(log_weights: FloatArray) -> bool:
    """Tell whether all channels that take part have the same weights (n, m), as their maps are the same."""
    active = log_weights[:, np.isfinite(log_weights).all(axis=0)]
    return active.shape[1] > 1 and bool((np.ptp(active, axis=1) < ALIKE).all())


def _log_weights(network: WeightNetwork, seen: Seen) -> FloatArray:
    return renormalised(seen.log_prior + network.forward(seen.u)[0])


def _gradient(network: WeightNetwork, seen: Seen, unlearnt: float) -> Array:
    """Gradient of the loss on some points by the parameters, (n_params,)."""
    s, inputs = network.forward(seen.u)
    _, ds = stratified_variance(seen, renormalised(seen.log_prior + s), unlearnt)
    return network.backward(inputs, ds)


def _clusters(seen: Seen, generator: np.random.Generator) -> tuple[Seen, np.ndarray]:
    """Draw points, and tell which cluster each belongs to: as many as there are channels."""
    from scipy.cluster.vq import kmeans2  # slow to import, and few integrals need it

    active = np.flatnonzero(np.isfinite(seen.log_prior).all(axis=0))
    drawn = seen.drawn(N_CLUSTERED, generator)
    features = np.column_stack([drawn.u, np.sign(drawn.w)])  # what has another sign is elsewhere
    _, labels = kmeans2(features, len(active), minit="++", rng=generator)
    return drawn, active[labels]


def _label_gradient(
    network: WeightNetwork, seen: Seen, labels: np.ndarray, generator: np.random.Generator
) -> Array:
    """Gradient of the cross entropy of labels, on a minibatch."""
    rows = generator.integers(0, len(labels), MINIBATCH)
    s, inputs = network.forward(seen.u[rows])
    ds = np.exp(renormalised(seen.log_prior[rows] + s))
    ds[np.arange(len(rows)), labels[rows]] -= 1
    return network.backward(inputs, ds / len(rows))


def _train(network: WeightNetwork, gradient: Callable[[], Array], n_steps: int) -> None:
    """Take steps with a learning rate that falls as a cosine."""
    optim = Adam(lr=LEARNING_RATE, schedule="cosine", betas=BETAS)
    for k in range(n_steps):
        optim.step(network.params, gradient()[None], k / n_steps, 1.0, 1)
