"""The affine cell of RealNVP: z = x exp(s) + t on all real numbers, s and t being predicted by the network.

See Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", arXiv 1605.08803, equation 7; ZüNIS
has the same cell (Deutschmann and Götz, arXiv 2109.12122). There s is whatever the network says, or bounded
by a tanh whose factor is learned. Here it is

    s = MAX_LOG_SCALE tanh(a / MAX_LOG_SCALE)

for the logit a, so that no cell stretches or shrinks by more than exp(MAX_LOG_SCALE), however far from the
points it has learned from: what lies out there still has a finite density. Cells in a row stretch by more.

Logits and values have the shape (2, m): a and t, of which the first becomes s. If both logits are zero, the
cell is the identity. The conventions are those of `varflow.kernels.splines`.
"""

from varflow.kernels.compile import device_function
from varflow.kernels.lanes import LANES, exponential, filled, load, numbers, store

__all__ = ["MAX_LOG_SCALE", "affine_activate", "affine_backward", "affine_forward", "affine_inverse"]

MAX_LOG_SCALE = 2.0  # bound on |s|
MAX_TANH = 20.0  # beyond it, tanh is 1 to the last bit of a float64


@device_function
def affine_activate(logits):
    """Convert the first logits a to log scales s, in place; the shifts t stay as they are."""
    row = logits[0]
    for i in range(0, row.shape[0], LANES):
        logit = numbers(row, i)
        most, bound, one = filled(MAX_TANH, logit), filled(MAX_LOG_SCALE, logit), filled(1.0, logit)
        half = min(max(logit / bound, -most), most)
        power = exponential(half + half)
        store(row, i, bound * ((power - one) / (power + one)))


@device_function
def affine_forward(kept, values, i, x):
    """Apply the affine map."""
    if kept.shape[0] > 0:
        store(kept[0], i, x)
    slope = exponential(load(values[0], i, x))
    return x * slope + load(values[1], i, x), slope


@device_function
def affine_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope):
    """Backpropagate through `affine_forward`."""
    x = numbers(kept[0], i)
    share = load(values[0], i, x) / filled(MAX_LOG_SCALE, x)  # tanh, whose derivative is 1 - tanh^2
    dlog_scale = dz * (x * slope) + dlog_slope
    store(dlogits[0], i, dlog_scale * (filled(1.0, x) - share * share))
    store(dlogits[1], i, dz)
    return dz * slope


@device_function
def affine_inverse(values, i, z):
    """Apply the inverse of `affine_forward`."""
    slope = exponential(load(values[0], i, z))
    return (z - load(values[1], i, z)) / slope, slope
