"""Mathematics of the cells: monotone maps of the unit interval onto itself, made of pieces.

A cell maps a target coordinate x to a latent coordinate z. Its network gives P logits for each transformed
coordinate; what arrives here are `exps` = exp(logit - largest logit). Each cell is three functions and one
row of the table `CELLS`:

- `X_forward` sets z and the slope dz/dx,
- `X_backward` takes derivatives of the loss in z and in log dz/dx; it sets those in the logits and in x,
- `X_inverse` sets x and the slope dz/dx.

They take m coordinates at once, bins outside and coordinates inside, which is the order that vectorises
(a GPU thread calls them with m = 1). Shapes: exps (P, m), everything else (m,), scratch (3, m).
"""

import math
from typing import NamedTuple

from varflow.kernels.compile import device_function

__all__ = ["CELLS", "Cell", "cell_backward", "cell_forward", "cell_inverse"]

PWLINEAR = 0


class Cell(NamedTuple):
    """What the rest of the project needs to know of a cell."""

    code: int  # which branch of cell_forward, cell_backward and cell_inverse is its own
    logits_per_bin: int


CELLS = {"pwlinear": Cell(code=PWLINEAR, logits_per_bin=1)}


@device_function
def pwlinear_forward(z, slope, exps, x, scratch):
    """Piecewise-linear map, bins of equal width in x (Müller et al., arXiv 1808.03856, section 4.1)."""
    n_bins, m = exps.shape
    total, position = scratch[0], scratch[1]
    for i in range(m):
        z[i] = 0.0
        total[i] = 0.0
        slope[i] = 0.0
        position[i] = x[i] * n_bins  # rounded once: so exactly one bin finds x within its edges
    for j in range(n_bins):
        is_last = j == n_bins - 1
        for i in range(m):
            inside = position[i] - j  # of x, from the left edge of bin j
            z[i] += exps[j, i] * min(max(inside, 0.0), 1.0)
            total[i] += exps[j, i]
            slope[i] += exps[j, i] if inside >= 0.0 and (inside < 1.0 or is_last) else 0.0
    for i in range(m):
        over_total = 1.0 / total[i]
        z[i] = min(z[i] * over_total, 1.0)
        slope[i] *= n_bins * over_total


@device_function
def pwlinear_backward(dlogits, dx, exps, x, z, slope, dz, dlog_slope, scratch):
    """Derivatives through `pwlinear_forward`; dx and dz may be the same array."""
    n_bins, m = exps.shape
    rising, falling, position = scratch[0], scratch[1], scratch[2]
    for i in range(m):
        rising[i] = 0.0
        position[i] = x[i] * n_bins
    for j in range(n_bins):
        for i in range(m):
            rising[i] += exps[j, i]
    for i in range(m):
        over_total = 1.0 / rising[i]
        rising[i] = dz[i] * over_total
        falling[i] = (dz[i] * z[i] + dlog_slope[i]) * over_total
    for j in range(n_bins):
        is_last = j == n_bins - 1
        for i in range(m):
            inside = position[i] - j
            here = dlog_slope[i] if inside >= 0.0 and (inside < 1.0 or is_last) else 0.0
            dlogits[j, i] = exps[j, i] * (rising[i] * min(max(inside, 0.0), 1.0) - falling[i]) + here
    for i in range(m):
        dx[i] = dz[i] * slope[i]


@device_function
def pwlinear_inverse(x, slope, exps, z, scratch):
    """Inverse of `pwlinear_forward`; x and z may be the same array."""
    n_bins, m = exps.shape
    total, k = scratch[0], scratch[1]
    for i in range(m):
        total[i] = 0.0
        k[i] = 0.0
    for j in range(n_bins):
        for i in range(m):
            total[i] += exps[j, i]
    for i in range(m):
        x[i] = z[i] * total[i] if z[i] < 1.0 else math.inf  # 1 goes to 1, whatever the sums are rounded to
    for j in range(n_bins - 1):
        for i in range(m):
            is_beyond = k[i] == j and x[i] >= exps[j, i]
            x[i] -= exps[j, i] if is_beyond else 0.0  # what is left to cover
            k[i] += 1.0 if is_beyond else 0.0  # in which bin
    for i in range(m):
        here = exps[int(k[i]), i]
        x[i] = (k[i] + min(x[i] / here, 1.0)) / n_bins
        slope[i] = here * n_bins / total[i]


@device_function
def cell_forward(cell, z, slope, exps, x, scratch):
    """Forward map of the cell with this code; see `pwlinear_forward`."""
    pwlinear_forward(z, slope, exps, x, scratch)


@device_function
def cell_backward(cell, dlogits, dx, exps, x, z, slope, dz, dlog_slope, scratch):
    """Backward pass of the cell with this code; see `pwlinear_backward`."""
    pwlinear_backward(dlogits, dx, exps, x, z, slope, dz, dlog_slope, scratch)


@device_function
def cell_inverse(cell, x, slope, exps, z, scratch):
    """Inverse map of the cell with this code; see `pwlinear_inverse`."""
    pwlinear_inverse(x, slope, exps, z, scratch)
