"""The flow in plain NumPy, as slow as it gets: the oracle that every backend is measured against.

It is written from the mathematics and shares nothing with the kernels but the place of each parameter.
Parameters may be complex, with any leading axes: along an imaginary part h v, the imaginary part of a result
is h times its derivative along v, without the cancellation of a difference (complex step; Squire and Trapp,
SIAM Rev. 40, 110). So derivatives are exact to rounding, and nobody has to derive them a second time.
"""

from typing import NamedTuple

import numpy as np

STEP = 1e-30  # its square is nothing beside one
CHUNK = 64  # directions that are looked at together


class Latent(NamedTuple):
    """What `forward` finds; k stands for the leading axes of the parameters."""

    z: np.ndarray  # (*k, n, d)
    log_q: np.ndarray  # (*k, n), per volume of the box
    margin: np.ndarray  # (*k, n): how far the row is from where the flow has a jump or a kink


def weights(params, layer, is_transposed=False):
    """Weights (*k, n_in, n_out) and biases (*k, 1, n_out) of one row of `Architecture.layers`."""
    n_in, n_out, first_weight, first_bias = layer
    matrix = params[..., first_weight : first_weight + n_in * n_out]
    biases = params[..., None, first_bias : first_bias + n_out]
    if is_transposed:
        return matrix.reshape(*params.shape[:-1], n_out, n_in).swapaxes(-1, -2), biases
    return matrix.reshape(*params.shape[:-1], n_in, n_out), biases


def network(architecture, params, cell, inputs):
    """Logits (*k, n, n_logits, n_transformed), and the activation that is nearest to its kink, (*k, n)."""
    *hidden, last = architecture.layers[cell]
    values = 2 * inputs - 1
    nearest = np.full(values.shape[:-1], np.inf)
    for layer in hidden:
        matrix, biases = weights(params, layer)
        values = values @ matrix + biases
        nearest = np.minimum(nearest, np.abs(values.real).min(axis=-1, initial=np.inf))
        values = np.where(values.real > 0, values, 0.01 * values)
    matrix, biases = weights(params, last, is_transposed=True)
    logits = values @ matrix + biases
    return logits.reshape(*logits.shape[:-1], architecture.n_logits, -1), nearest


def softmax(logits):
    """Softmax over the last axis but one; no logit counts as more than 80 below the largest."""
    largest = np.take_along_axis(logits, logits.real.argmax(axis=-2, keepdims=True), axis=-2)
    exps = np.exp(np.where(logits.real - largest.real < -80, -80, logits - largest))
    return exps / exps.sum(axis=-2, keepdims=True)


def pick(values, index):
    """values[..., index, :] for an index (..., m) of its own in each column; values: (..., P, m)."""
    return np.take_along_axis(values, index[..., None, :], axis=-2)[..., 0, :]


class PwLinear:
    """Cumulative distribution of a histogram with bins of equal width: the logits give their contents."""

    @staticmethod
    def pieces(logits):
        """Contents of the bins (..., P, m), and what lies to the left of each."""
        contents = softmax(logits)
        return contents, np.cumsum(contents, axis=-2) - contents

    @staticmethod
    def forward(logits, x):
        """z and slope dz/dx, both (..., m), and the distance of x to the next jump of the slope."""
        n_bins = logits.shape[-2]
        contents, left = PwLinear.pieces(logits)
        edges = np.arange(1, n_bins) / n_bins
        k = np.searchsorted(edges, x.real, side="right")
        z = pick(left, k) + (x * n_bins - k) * pick(contents, k)
        distance = np.abs(x.real[..., None] - edges).min(axis=-1, initial=np.inf)
        return z, n_bins * pick(contents, k), distance

    @staticmethod
    def inverse(logits, z):
        """Invert `forward`: x and slope dz/dx."""
        n_bins = logits.shape[-2]
        contents, left = PwLinear.pieces(logits)
        k = (z[..., None, :] >= left[..., 1:, :]).sum(axis=-2)
        return (k + (z - pick(left, k)) / pick(contents, k)) / n_bins, n_bins * pick(contents, k)


CELLS = {"pwlinear": PwLinear}


def forward(architecture, params, bounds, x):
    """Map points (n, d) of the box to latent space."""
    lower, upper = bounds.T
    z = np.array(np.broadcast_to((x - lower) / (upper - lower), (*params.shape[:-1], *x.shape)), params.dtype)
    log_q = -np.log(upper - lower).sum() * np.ones(z.shape[:-1])
    margin = np.full(z.shape[:-1], np.inf)
    for cell, mask in enumerate(architecture.masks):
        logits, kink = network(architecture, params, cell, z[..., ~mask])
        z[..., mask], slope, jump = CELLS[architecture.cell].forward(logits, z[..., mask])
        log_q = log_q + np.log(slope).sum(axis=-1)
        margin = np.minimum(margin, np.minimum(kink, jump.min(axis=-1)))
    return Latent(z, log_q, margin)


def inverse(architecture, params, bounds, z):
    """Map latent points (n, d) to x (n, d) and log q(x) (n,)."""
    lower, upper = bounds.T
    x = z.copy()
    log_q = -np.log(upper - lower).sum() * np.ones(len(z))
    for cell, mask in reversed(list(enumerate(architecture.masks))):
        logits, _ = network(architecture, params, cell, x[:, ~mask])
        x[:, mask], slope = CELLS[architecture.cell].inverse(logits, x[:, mask])
        log_q = log_q + np.log(slope).sum(axis=-1)
    return lower + (upper - lower) * x, log_q


def variance_loss(fx, px, log_q):
    """Mean of f^2 / (p q) over the last axis."""
    return (fx**2 / px * np.exp(-log_q)).mean(axis=-1)


def dkl_loss(fx, px, log_q):
    """Mean of -|f| log(q) / p over the last axis."""
    return (-np.abs(fx) / px * log_q).mean(axis=-1)


LOSSES = {"variance": variance_loss, "dkl": dkl_loss}


def derivatives(value, architecture, params, bounds, x, directions):
    """Derivatives (k,) of value(z, log_q), analytic in both, along directions (k, n_params)."""
    found = []
    for begin in range(0, len(directions), CHUNK):
        latent = forward(architecture, params + 1j * STEP * directions[begin : begin + CHUNK], bounds, x)
        found.append(value(latent.z, latent.log_q).imag / STEP)
    return np.concatenate(found)


def gradient(value, architecture, params, bounds, x):
    """Gradient (n_params,) of value(z, log_q)."""
    return derivatives(value, architecture, params, bounds, x, np.eye(len(params)))


def blocks(architecture):
    """Slices of the flat parameters: the weights, and the biases, of each layer of each cell."""
    found = []
    for n_in, n_out, first_weight, first_bias in architecture.layers.reshape(-1, 4):
        found += [slice(first_weight, first_weight + n_in * n_out), slice(first_bias, first_bias + n_out)]
    return [block for block in found if block.stop > block.start]
