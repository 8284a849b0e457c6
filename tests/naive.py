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


def beside(values, given):
    """Inputs of a network: those of coordinates (*k, n, m), and of conditions (n, c), if any, in [0, 1]."""
    if given is None:
        return values
    given = np.broadcast_to(given, (*values.shape[:-1], given.shape[-1]))
    return np.concatenate([values, 2 * given - 1], axis=-1)


def network(architecture, params, cell, inputs, given=None):
    """Logits (*k, n, n_logits, n_transformed), and the activation that is nearest to its kink, (*k, n)."""
    *hidden, last = architecture.layers[cell]
    values = 2 * inputs - 1 if architecture.latent == "uniform" else 3 * inputs / np.sqrt(9 + inputs**2)
    values = beside(values, given)
    nearest = np.full(values.shape[:-1], np.inf)
    for layer in hidden:
        matrix, biases = weights(params, layer)
        values = values @ matrix + biases
        nearest = np.minimum(nearest, np.abs(values.real).min(axis=-1, initial=np.inf))
        values = np.where(values.real > 0, values, 0.01 * values)
    matrix, biases = weights(params, last, is_transposed=True)
    logits = values @ matrix + biases
    return logits.reshape(*logits.shape[:-1], architecture.n_logits, -1), nearest


def exponentials(logits):
    """Exponentials, 1 the largest along the last axis but one; no logit counts as more than 80 below it."""
    largest = np.take_along_axis(logits, logits.real.argmax(axis=-2, keepdims=True), axis=-2)
    return np.exp(np.where(logits.real - largest.real < -80, -80, logits - largest))


def normalised(values):
    """Values with sum one along the last axis but one."""
    return values / values.sum(axis=-2, keepdims=True)


def shares(values):
    """Parts of the unit interval, a thousandth of which is shared out equally."""
    return 1e-3 / values.shape[-2] + (1 - 1e-3) * normalised(values)


def edges_of(parts):
    """Edges (..., P + 1, m) of parts (..., P, m) of the unit interval."""
    edges = np.zeros((*parts.shape[:-2], parts.shape[-2] + 1, parts.shape[-1]), parts.dtype)
    edges[..., 1:, :] = np.cumsum(parts, axis=-2)
    return edges


def bin_of(edges, x):
    """Index (..., m) of the bin of each x, and the distance to the nearest edge between two bins."""
    inner = edges[..., 1:-1, :].real
    distance = np.abs(x.real[..., None, :] - inner).min(axis=-2, initial=np.inf)
    return (x.real[..., None, :] >= inner).sum(axis=-2), distance


def pick(values, index):
    """values[..., index, :] for an index (..., m) of its own in each column; values: (..., P, m)."""
    return np.take_along_axis(values, index[..., None, :], axis=-2)[..., 0, :]


class PwLinear:
    """Cumulative distribution of a histogram with bins of equal width: the logits give their contents."""

    activate = staticmethod(exponentials)

    @staticmethod
    def edges(values):
        """Edges of the bins (..., n_bins + 1, m) in x."""
        n_bins = values.shape[-2]
        return np.repeat(np.arange(n_bins + 1)[:, None] / n_bins, values.shape[-1], axis=-1)

    @staticmethod
    def forward(values, x):
        """z and slope dz/dx, both (..., m), and the distance of x to the next edge of a bin."""
        n_bins = values.shape[-2]
        contents = normalised(values)
        k, distance = bin_of(PwLinear.edges(values), x)
        z = pick(edges_of(contents), k) + (x * n_bins - k) * pick(contents, k)
        return z, n_bins * pick(contents, k), distance

    @staticmethod
    def inverse(values, z):
        """Invert `forward`: x and slope dz/dx."""
        n_bins = values.shape[-2]
        contents = normalised(values)
        left = edges_of(contents)
        k, _ = bin_of(left, z)
        return (k + (z - pick(left, k)) / pick(contents, k)) / n_bins, n_bins * pick(contents, k)


class PwQuad:
    """Cumulative distribution of a polygon: the logits give widths of bins and heights of vertices."""

    @staticmethod
    def activate(logits):
        """Widths and heights, each up to a factor."""
        n_bins = logits.shape[-2] // 2
        groups = exponentials(logits[..., :n_bins, :]), exponentials(logits[..., n_bins:, :])
        return np.concatenate(groups, axis=-2)

    @staticmethod
    def polygon(values):
        """Widths, and heights such that the area is one."""
        n_bins = values.shape[-2] // 2
        widths, heights = shares(values[..., :n_bins, :]), values[..., n_bins:, :]
        area = (widths * (heights[..., 1:, :] + heights[..., :-1, :])).sum(axis=-2, keepdims=True) / 2
        return widths, heights / area

    @staticmethod
    def edges(values):
        """Edges of the bins in x."""
        return edges_of(PwQuad.polygon(values)[0])

    @staticmethod
    def forward(values, x):
        """As `PwLinear.forward`."""
        widths, heights = PwQuad.polygon(values)
        left = edges_of(widths)
        below = edges_of(widths * (heights[..., 1:, :] + heights[..., :-1, :]) / 2)
        k, distance = bin_of(left, x)
        offset = x - pick(left, k)
        rise = (pick(heights, k + 1) - pick(heights, k)) / pick(widths, k)
        z = pick(below, k) + offset * (pick(heights, k) + rise * offset / 2)
        return z, pick(heights, k) + rise * offset, distance

    @staticmethod
    def inverse(values, z):
        """As `PwLinear.inverse`."""
        return bisected(PwQuad, values, z)


class Rqs:
    """Rational-quadratic spline: the logits give widths and heights of bins, and slopes at their edges."""

    @staticmethod
    def activate(logits):
        """Widths and heights, each up to a factor, and slopes before the least of them is added."""
        n_bins = logits.shape[-2] // 3
        groups = exponentials(logits[..., :n_bins, :]), exponentials(logits[..., n_bins : 2 * n_bins, :])
        slopes = logits[..., 2 * n_bins :, :]
        slopes = np.where(np.abs(slopes.real) > 20, 20 * np.sign(slopes.real), slopes)
        return np.concatenate([*groups, np.exp(slopes)], axis=-2)

    @staticmethod
    def bins(values):
        """Widths and heights of the bins, and slopes at their edges."""
        n_bins = values.shape[-2] // 3
        widths, heights = shares(values[..., :n_bins, :]), shares(values[..., n_bins : 2 * n_bins, :])
        return widths, heights, 1e-3 + (1 - 1e-3) * values[..., 2 * n_bins :, :]

    @staticmethod
    def edges(values):
        """Edges of the bins in x."""
        return edges_of(Rqs.bins(values)[0])

    @staticmethod
    def forward(values, x):
        """As `PwLinear.forward`."""
        widths, heights, slopes = Rqs.bins(values)
        left, bottom = edges_of(widths), edges_of(heights)
        k, distance = bin_of(left, x)
        mean = pick(heights, k) / pick(widths, k)
        first, last = pick(slopes, k), pick(slopes, k + 1)
        t = (x - pick(left, k)) / pick(widths, k)
        denominator = mean + (first + last - 2 * mean) * t * (1 - t)
        z = pick(bottom, k) + pick(heights, k) * (mean * t**2 + first * t * (1 - t)) / denominator
        slope = mean**2 * (last * t**2 + 2 * mean * t * (1 - t) + first * (1 - t) ** 2) / denominator**2
        return z, slope, distance

    @staticmethod
    def inverse(values, z):
        """As `PwLinear.inverse`."""
        return bisected(Rqs, values, z)


def bisected(cell, values, z):
    """Invert a cell without its formula: halve the interval in which x must be until it is a point."""
    low, high = np.zeros(z.shape), np.ones(z.shape)
    for _ in range(60):
        x = (low + high) / 2
        is_beyond = cell.forward(values, x)[0] <= z
        low, high = np.where(is_beyond, x, low), np.where(is_beyond, high, x)
    return low, cell.forward(values, low)[1]


class RealNvp:
    """Affine map: the logits give the log of the scale, and the shift."""

    @staticmethod
    def activate(logits):
        """Log scales, no larger than 2 either way, and shifts."""
        return np.concatenate([2 * np.tanh(logits[..., :1, :] / 2), logits[..., 1:, :]], axis=-2)

    @staticmethod
    def forward(values, x):
        """As `PwLinear.forward`."""
        slope = np.exp(values[..., 0, :])
        return x * slope + values[..., 1, :], slope, np.full(x.shape, np.inf)

    @staticmethod
    def inverse(values, z):
        """As `PwLinear.inverse`."""
        slope = np.exp(values[..., 0, :])
        return (z - values[..., 1, :]) / slope, slope


CELLS = {"pwlinear": PwLinear, "pwquad": PwQuad, "rqs": Rqs, "realnvp": RealNvp}


def box_of(flow):
    """Bounds of a flow, (d, 2); of one without bounds, location and location + scale."""
    if flow.latent == "uniform":
        return flow.bounds
    return np.column_stack([flow.location, flow.location + flow.scale])


def log_latent(architecture, z):
    """Log of the density in latent space."""
    if architecture.latent == "uniform":
        return np.zeros(z.shape[:-1])
    return -(z**2 + np.log(2 * np.pi)).sum(axis=-1) / 2


def forward(architecture, params, bounds, x, given=None):
    """Map points (n, d) of the box to latent space.

    bounds: those of `box_of`. given: conditions (n, c) in the unit interval.
    """
    lower, upper = bounds.T
    z = np.array(np.broadcast_to((x - lower) / (upper - lower), (*params.shape[:-1], *x.shape)), params.dtype)
    log_q = -np.log(upper - lower).sum() * np.ones(z.shape[:-1])
    margin = np.full(z.shape[:-1], np.inf)
    for cell, mask in enumerate(architecture.masks):
        logits, kink = network(architecture, params, cell, z[..., ~mask], given)
        spline = CELLS[architecture.cell]
        z[..., mask], slope, jump = spline.forward(spline.activate(logits), z[..., mask])
        log_q = log_q + np.log(slope).sum(axis=-1)
        margin = np.minimum(margin, np.minimum(kink, jump.min(axis=-1)))
    return Latent(z, log_q + log_latent(architecture, z), margin)


def inverse(architecture, params, bounds, z, given=None):
    """Map latent points (n, d) to x (n, d) and log q(x) (n,)."""
    lower, upper = bounds.T
    x = z.copy()
    log_q = log_latent(architecture, z) - np.log(upper - lower).sum()
    for cell, mask in reversed(list(enumerate(architecture.masks))):
        logits, _ = network(architecture, params, cell, x[:, ~mask], given)
        spline = CELLS[architecture.cell]
        x[:, mask], slope = spline.inverse(spline.activate(logits), x[:, mask])
        log_q = log_q + np.log(slope).sum(axis=-1)
    return lower + (upper - lower) * x, log_q


def variance_loss(fx, px, log_q):
    """Mean of f^2 / (p q) over the last axis."""
    return (fx**2 / px * np.exp(-log_q)).mean(axis=-1)


def dkl_loss(fx, px, log_q):
    """Mean of -|f| log(q) / p over the last axis."""
    return (-np.abs(fx) / px * log_q).mean(axis=-1)


LOSSES = {"variance": variance_loss, "dkl": dkl_loss}


def with_control_variate(value, px):
    """The loss value(z, log_q) with the mean of q / p besides."""
    return lambda z, log_q: value(z, log_q) + np.exp(log_q - np.log(px)).mean(axis=-1)


def derivatives(value, architecture, params, bounds, x, directions, given=None):
    """Derivatives (..., k) of value(z, log_q), analytic in both, along directions (k, n_params).

    Value: (..., k), of one loss or of several at once.
    """
    found = []
    for begin in range(0, len(directions), CHUNK):
        moved = params + 1j * STEP * directions[begin : begin + CHUNK]
        latent = forward(architecture, moved, bounds, x, given)
        found.append(value(latent.z, latent.log_q).imag / STEP)
    return np.concatenate(found, axis=-1)


def gradient(value, architecture, params, bounds, x, given=None):
    """Gradient (..., n_params) of value(z, log_q); see `derivatives`."""
    return derivatives(value, architecture, params, bounds, x, np.eye(len(params)), given)


def blocks(architecture):
    """Slices of the flat parameters: the weights, and the biases, of each layer of each cell."""
    found = []
    for n_in, n_out, first_weight, first_bias in architecture.layers.reshape(-1, 4):
        found += [slice(first_weight, first_weight + n_in * n_out), slice(first_bias, first_bias + n_out)]
    return [block for block in found if block.stop > block.start]
