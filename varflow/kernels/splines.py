"""The maps of the coupling layers ("cells"): splines, which map the unit interval onto itself.

The affine cell, of the same form, maps all real numbers; see `varflow.kernels.affine`.

A cell maps a target coordinate x to a latent coordinate z. Its network predicts P logits for each transformed
coordinate. A kind of cell X is defined by four functions and an entry in the table `CELLS`:

- `X_activate` converts logits in place to `values`, the positive numbers that the other functions use, in all
  columns,
- `X_forward` returns z and the slope dz/dx, and keeps what it has found for `X_backward`,
- `X_backward` sets the derivatives of the loss with respect to the logits, and returns that with respect to
  x, given those with respect to z and to log dz/dx,
- `X_inverse` returns x and the slope dz/dx.

What is kept has the shape (N_KEPT, m), of which a kind of cell may use fewer rows, or (0, m) if there is no
backward pass to come.

Logits and values have the shape (P, m), and a function has to do with column i alone: with as many columns
from there on as a vector has lanes, on a CPU (see `varflow.kernels.lanes`). The functions `all_X` do it for
all columns there; m must be a multiple of LANES. If all logits are zero, each cell is the identity.

All arithmetic of a map is done in the precision of its coordinates, in which numbers are kept, too. A GPU is
slow in float64, and a single constant or index that is not cast promotes every expression that contains it to
float64.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from varflow.kernels.affine import affine_activate, affine_backward, affine_forward, affine_inverse
from varflow.kernels.compile import device_function
from varflow.kernels.lanes import LANES, exponential, filled, load, numbers, select, store

__all__ = [
    "CELLS", "NORMAL", "N_KEPT", "SPLINES", "UNIFORM", "Cell", "all_backward", "all_forward", "all_inverse",
    "cell_activate", "cell_backward", "cell_forward", "cell_inverse",
]  # fmt: skip

N_KEPT = 10  # numbers a coordinate that a forward map may keep
MIN_LOGIT = -80.0  # relative to the largest: exp stays a normal float32, and no slope becomes 0
MIN_SHARE = 1e-3  # share of the interval that is divided equally among bins of learned size: none vanishes
MIN_SLOPE = 1e-3  # of a rational-quadratic spline at the edges of its bins
MAX_LOG_SLOPE = 20.0  # bound on the absolute log slope at these edges, before the minimum is added

PWLINEAR, PWQUAD, RQS, REALNVP = range(4)
UNIFORM, NORMAL = range(2)  # densities in latent space: of the unit cube, and of all of space


class Cell(NamedTuple):
    """Properties of a kind of cell that other modules need."""

    code: int  # selects its branch in the functions cell_*
    n_logits: Callable[[int], int]  # logits per transformed coordinate, as a function of n_bins
    latent: int = UNIFORM  # density in latent space


CELLS = {
    "pwlinear": Cell(code=PWLINEAR, n_logits=lambda n_bins: n_bins),
    "pwquad": Cell(code=PWQUAD, n_logits=lambda n_bins: 2 * n_bins + 1),
    "rqs": Cell(code=RQS, n_logits=lambda n_bins: 3 * n_bins + 1),
    "realnvp": Cell(code=REALNVP, n_logits=lambda n_bins: 2, latent=NORMAL),
}
SPLINES = tuple(name for name, cell in CELLS.items() if cell.latent == UNIFORM)


@device_function
def exponentials(logits, largest):
    """Convert logits (P, m) to exp(logit - largest logit of the coordinate). largest: (m,), scratch.

    From one row to the next, as they lie in memory: columns are farther apart than a cache is wide.
    """
    m = logits.shape[1]
    for i in range(0, m, LANES):
        store(largest, i, numbers(logits[0], i))
    for j in range(1, logits.shape[0]):
        for i in range(0, m, LANES):
            store(largest, i, max(numbers(largest, i), numbers(logits[j], i)))
    for j in range(logits.shape[0]):
        for i in range(0, m, LANES):
            logit = numbers(logits[j], i) - numbers(largest, i)
            store(logits[j], i, exponential(max(logit, filled(MIN_LOGIT, logit))))


@device_function
def exponential_slopes(logits):
    """Convert logits (P, m) to exponentials without a common factor, so that a logit of zero is a slope of 1.

    This replaces the softplus of Durkan et al.: it vectorizes, and flows train faster with it.
    """
    for j in range(logits.shape[0]):
        for i in range(0, logits.shape[1], LANES):
            logit = numbers(logits[j], i)
            most = filled(MAX_LOG_SLOPE, logit)
            store(logits[j], i, exponential(min(max(logit, -most), most)))


@device_function
def pwlinear_activate(logits, largest):
    """Compute the values: contents of the bins, up to a common factor."""
    exponentials(logits, largest)


@device_function
def pwlinear_total(values, i, x):
    """Return the sum of the contents of all bins."""
    total = filled(0.0, x)
    for j in range(values.shape[0]):
        total = total + load(values[j], i, x)
    return total


@device_function
def is_in_bin(j, n_bins, position):
    """Tell whether a position is in bin j of bins of width 1; all from 0 on are, and the last has no end.

    The position itself is compared, not its difference from an edge: a compiler may fuse product and
    difference (fma), but not for each bin alike, and x would be in two bins, or in none.
    """
    right = filled(j + 1 if j < n_bins - 1 else math.inf, position)
    return (filled(j, position) <= position) & (position < right)


@device_function
def pwlinear_forward(kept, values, i, x):
    """Apply the piecewise linear map with bins of equal width in x.

    See Müller et al., arXiv 1808.03856, section 4.1.
    """
    n_bins = values.shape[0]
    zero, one, number = filled(0.0, x), filled(1.0, x), filled(n_bins, x)
    total, z, slope, position = zero, zero, zero, x * number
    for j in range(n_bins):
        value = load(values[j], i, x)
        z = z + value * min(max(position - filled(j, x), zero), one)
        total = total + value
        slope = slope + select(is_in_bin(j, n_bins, position), value, zero)
    over_total = one / total
    if kept.shape[0] > 0:
        store(kept[0], i, over_total)
        store(kept[1], i, position)
    return min(z * over_total, one), slope * (number * over_total)


@device_function
def pwlinear_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope):
    """Backpropagate through `pwlinear_forward`."""
    n_bins = values.shape[0]
    zero, one = filled(0.0, z), filled(1.0, z)
    over_total, position = numbers(kept[0], i), numbers(kept[1], i)
    rising = dz * over_total
    falling = (dz * z + dlog_slope) * over_total
    for j in range(n_bins):
        inside = min(max(position - filled(j, z), zero), one)
        here = select(is_in_bin(j, n_bins, position), dlog_slope, zero)
        store(dlogits[j], i, load(values[j], i, z) * (rising * inside - falling) + here)
    return dz * slope


@device_function
def pwlinear_inverse(values, i, z):
    """Apply the inverse of `pwlinear_forward`."""
    n_bins = values.shape[0]
    zero, one, number, infinity = filled(0.0, z), filled(1.0, z), filled(n_bins, z), filled(math.inf, z)
    total = pwlinear_total(values, i, z)
    left = select(z < one, z * total, infinity)  # 1 maps to 1, however the sums are rounded
    k, here = zero, load(values[0], i, z)  # number of the bin, and its content
    for j in range(n_bins - 1):
        is_beyond = (k == filled(j, z)) & (left >= here)
        left = select(is_beyond, left - here, left)  # content still to be covered
        k = select(is_beyond, k + one, k)
        here = select(is_beyond, load(values[j + 1], i, z), here)
    inside = min(max(left / here, zero), one)  # a fused z * total - value may be below 0
    return (k + inside) / number, here * number / total


@device_function
def pwquad_activate(logits, largest):
    """Compute the values: widths of n bins, then heights of n + 1 vertices, each up to a common factor."""
    n_bins = logits.shape[0] // 2
    exponentials(logits[:n_bins], largest)
    exponentials(logits[n_bins:], largest)


@device_function
def pwquad_sums(values, i, target):
    """Return the factor of widths, the area under the polygon, and the sum of mean heights of all bins."""
    n_bins = values.shape[0] // 2
    half, least = filled(0.5, target), filled(MIN_SHARE, target) / filled(n_bins, target)
    widths = area = heights = filled(0.0, target)
    low = load(values[n_bins], i, target)
    for j in range(n_bins):
        high = load(values[n_bins + j + 1], i, target)
        value, height = load(values[j], i, target), half * (low + high)
        widths = widths + value
        area = area + value * height
        heights = heights + height
        low = high
    factor = filled(1.0 - MIN_SHARE, target) / widths
    return factor, least * heights + factor * area, heights


@device_function
def pwquad_locate(values, i, target, factor, area, is_latent):
    """Locate the bin that contains the target: x, or z if is_latent.

    Returns the number k of the bin; its left edge; its width; the heights at its two edges; below, the area
    under the polygon to the left of it; and the sum of mean heights of the bins there.
    """
    n_bins = values.shape[0] // 2
    zero, half = filled(0.0, target), filled(0.5, target)
    least = filled(MIN_SHARE, target) / filled(n_bins, target)
    goal = target * area if is_latent else target
    low, high = load(values[n_bins], i, target), load(values[n_bins + 1], i, target)
    width = least + factor * load(values[0], i, target)
    k = left = below = heights_below = zero  # of the bin
    first, last, last_width = low, high, width  # of bin j: heights at its edges, and its width
    edge = reached = heights = zero  # of bin j: its right edge, and sums up to there
    for j in range(n_bins - 1):
        height = half * (first + last)
        edge = edge + last_width
        reached = reached + last_width * height
        heights = heights + height
        is_beyond = goal >= (reached if is_latent else edge)
        first, last = last, load(values[n_bins + j + 2], i, target)
        last_width = least + factor * load(values[j + 1], i, target)
        k = select(is_beyond, filled(j + 1, target), k)
        left, below = select(is_beyond, edge, left), select(is_beyond, reached, below)
        heights_below = select(is_beyond, heights, heights_below)
        low, high = select(is_beyond, first, low), select(is_beyond, last, high)
        width = select(is_beyond, last_width, width)
    return k, left, width, low, high, below, heights_below


@device_function
def pwquad_height(low, high, inside, outside):
    """Return the height between two vertices, which rounding could put below the lower one."""
    return max(low * outside + high * inside, min(low, high))


@device_function
def pwquad_forward(kept, values, i, x):
    """Apply the piecewise quadratic map, whose slope is piecewise linear (a polygon).

    See Müller et al., arXiv 1808.03856, section 4.2.
    """
    zero, half, one = filled(0.0, x), filled(0.5, x), filled(1.0, x)
    factor, area, heights = pwquad_sums(values, i, x)
    k, left, width, low, high, below, heights_below = pwquad_locate(values, i, x, factor, area, False)
    inside = min(max((x - left) / width, zero), one)
    height = pwquad_height(low, high, inside, one - inside)
    if kept.shape[0] > 0:
        least = filled(MIN_SHARE, x) / filled(values.shape[0] // 2, x)
        store(kept[0], i, factor)
        store(kept[1], i, area)
        store(kept[2], i, least * heights)
        store(kept[3], i, k)
        store(kept[4], i, left - least * k)
        store(kept[5], i, width)
        store(kept[6], i, inside)
        store(kept[7], i, low)
        store(kept[8], i, high)
        store(kept[9], i, below - least * heights_below)
    return min((below + half * width * inside * (low + height)) / area, one), height / area


@device_function
def pwquad_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope):
    """Backpropagate through `pwquad_forward`."""
    n_bins = values.shape[0] // 2
    half, one = filled(0.5, z), filled(1.0, z)
    least = filled(MIN_SHARE, z) / filled(n_bins, z)
    area, width, inside = numbers(kept[1], i), numbers(kept[5], i), numbers(kept[6], i)
    low, high = numbers(kept[7], i), numbers(kept[8], i)
    over_area, over_width = one / area, one / width
    outside = one - inside
    height = pwquad_height(low, high, inside, outside)
    # Derivatives with respect to the area to the left of x, the total area, the width of the bin, and the
    # logarithms of the heights at its two edges: these are bounded, however small the heights are.
    dheight = dlog_slope / height
    dpart = dz * over_area
    dlog_area = -(dz * z + dlog_slope)
    darea = dlog_area * over_area
    dx = dpart * height + dheight * (high - low) * over_width
    dmiddle = half * dpart * width * inside
    dlog_low = low * (dmiddle * (one + outside) + dheight * outside)
    dlog_high = high * (dmiddle * inside + dheight * inside)
    dwidth = half * dpart * inside * (low + height) - dx * inside
    # Mean of the derivatives in the widths, weighted by widths - least.
    mean = (
        dpart * numbers(kept[9], i)
        - dx * numbers(kept[4], i)
        + dlog_area
        - darea * numbers(kept[2], i)
        + dwidth * (width - least)
    ) * filled(1.0 / (1.0 - MIN_SHARE), z)
    dwidth = dwidth + darea * half * (low + high)
    factor, k, dwidth = numbers(kept[0], i), numbers(kept[3], i), dwidth - mean
    first, zero = load(values[n_bins], i, z), filled(0.0, z)
    number = dbefore = dvertex = zero  # of the bin; in the left vertex, from the bin to its left
    for j in range(n_bins):
        is_left, is_here = number < k, number == k
        last, share = load(values[n_bins + j + 1], i, z), factor * load(values[j], i, z)
        dhere = darea + select(is_left, dpart, zero)
        dother = dhere * (half * (first + last)) - (mean + select(is_left, dx, zero))
        store(dlogits[j], i, share * select(is_here, dwidth, dother))
        dboth = half * (least + share) * dhere
        store(dlogits[n_bins + j], i, first * (dbefore + dboth) + dvertex + select(is_here, dlog_low, zero))
        dbefore, dvertex = dboth, select(is_here, dlog_high, zero)
        first, number = last, number + one
    store(dlogits[2 * n_bins], i, first * dbefore + dvertex)
    return dx


@device_function
def pwquad_inverse(values, i, z):
    """Apply the inverse of `pwquad_forward`."""
    zero, one, two = filled(0.0, z), filled(1.0, z), filled(2.0, z)
    factor, area, _ = pwquad_sums(values, i, z)
    # However the areas' sum is rounded, 1 is in the last bin.
    goal = select(z < one, z, filled(math.inf, z))
    _, left, width, low, high, below, _ = pwquad_locate(values, i, goal, factor, area, True)
    part = max(z * area - below, zero) / width
    height = math.sqrt(max(low * low + two * (high - low) * part, zero))
    inside = two * part / (low + height)  # root of the quadratic, without cancellation
    inside = select(z < one, min(inside, one), one)
    x = select(z < one, min(left + width * inside, one), one)
    return x, pwquad_height(low, high, inside, one - inside) / area


@device_function
def rqs_activate(logits, largest):
    """Compute the values: n widths and n heights, each up to a common factor, and n + 1 slopes.

    The minimum MIN_SLOPE has yet to be added to the slopes.
    """
    n_bins = logits.shape[0] // 3
    exponentials(logits[:n_bins], largest)
    exponentials(logits[n_bins : 2 * n_bins], largest)
    exponential_slopes(logits[2 * n_bins :])


@device_function
def rqs_factors(values, i, target):
    """Return the factors of widths and of heights."""
    n_bins = values.shape[0] // 3
    widths = heights = filled(0.0, target)
    for j in range(n_bins):
        widths = widths + load(values[j], i, target)
        heights = heights + load(values[n_bins + j], i, target)
    share = filled(1.0 - MIN_SHARE, target)
    return share / widths, share / heights


@device_function
def rqs_locate(values, i, target, factor, height_factor, is_latent):
    """Locate the bin that contains the target: x, or z if is_latent.

    Returns the number k of the bin; its left and its lower edge; its width and its height; and the slopes at
    its two edges.
    """
    n_bins = values.shape[0] // 3
    zero = filled(0.0, target)
    least = filled(MIN_SHARE, target) / filled(n_bins, target)
    width = next_width = least + factor * load(values[0], i, target)
    height = next_height = least + height_factor * load(values[n_bins], i, target)
    first, last = load(values[2 * n_bins], i, target), load(values[2 * n_bins + 1], i, target)
    next_last = last
    k = left = bottom = right = top = zero
    for j in range(n_bins - 1):
        right, top = right + next_width, top + next_height
        is_beyond = target >= (top if is_latent else right)
        next_width = least + factor * load(values[j + 1], i, target)
        next_height = least + height_factor * load(values[n_bins + j + 1], i, target)
        next_first, next_last = next_last, load(values[2 * n_bins + j + 2], i, target)
        k = select(is_beyond, filled(j + 1, target), k)
        left, bottom = select(is_beyond, right, left), select(is_beyond, top, bottom)
        width, height = select(is_beyond, next_width, width), select(is_beyond, next_height, height)
        first, last = select(is_beyond, next_first, first), select(is_beyond, next_last, last)
    least_slope, share = filled(MIN_SLOPE, target), filled(1.0 - MIN_SLOPE, target)
    return k, left, bottom, width, height, least_slope + share * first, least_slope + share * last


@device_function
def rqs_top(mean, first, last, inside):
    """Return the numerator of the slope (equation 5), divided by the square of the mean slope of the bin."""
    outside = filled(1.0, mean) - inside
    return last * inside * inside + filled(2.0, mean) * mean * inside * outside + first * outside * outside


@device_function
def rqs_forward(kept, values, i, x):
    """Apply the monotone rational-quadratic spline.

    See Durkan et al., arXiv 1906.04032, equations 4 and 5.
    """
    zero, one, two = filled(0.0, x), filled(1.0, x), filled(2.0, x)
    factor, height_factor = rqs_factors(values, i, x)
    k, left, bottom, width, height, first, last = rqs_locate(values, i, x, factor, height_factor, False)
    mean = height / width
    inside = min(max((x - left) / width, zero), one)
    both = inside * (one - inside)
    denominator = mean + (first + last - two * mean) * both
    numerator = mean * inside * inside + first * both
    z = min(bottom + height * min(numerator / denominator, one), one)
    steepness = mean / denominator
    if kept.shape[0] > 0:
        least = filled(MIN_SHARE, x) / filled(values.shape[0] // 3, x)
        store(kept[0], i, factor)
        store(kept[1], i, height_factor)
        store(kept[2], i, k)
        store(kept[3], i, left - least * k)
        store(kept[4], i, bottom - least * k)
        store(kept[5], i, width)
        store(kept[6], i, height)
        store(kept[7], i, inside)
        store(kept[8], i, first)
        store(kept[9], i, last)
    return z, rqs_top(mean, first, last, inside) * (steepness * steepness)


@device_function
def rqs_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope):
    """Backpropagate through `rqs_forward`."""
    n_bins = values.shape[0] // 3
    one, two = filled(1.0, z), filled(2.0, z)
    least = filled(MIN_SHARE, z) / filled(n_bins, z)
    width, height, inside = numbers(kept[5], i), numbers(kept[6], i), numbers(kept[7], i)
    first, last, over_width = numbers(kept[8], i), numbers(kept[9], i), one / width
    mean = height * over_width
    outside = one - inside
    both = inside * outside
    excess = first + last - two * mean
    over_denominator = one / (mean + excess * both)
    ratio = (mean * inside * inside + first * both) * over_denominator
    top = rqs_top(mean, first, last, inside)
    dlog_top, dlog_denominator = dlog_slope / top, -two * dlog_slope * over_denominator
    dratio = dz * height * over_denominator
    dmean = (
        dratio * (inside * inside - ratio * (one - two * both))
        + two * dlog_slope / mean
        + dlog_top * two * both
        + dlog_denominator * (one - two * both)
    )
    # Derivatives with respect to the slopes at the two edges of the bin, x, and its width and height; that
    # with respect to its lower edge is dz.
    dfirst = dratio * both * (one - ratio) + dlog_top * outside * outside + dlog_denominator * both
    dlast = -dratio * both * ratio + dlog_top * inside * inside + dlog_denominator * both
    dinside = (
        dz * slope * width
        + dlog_top * two * (last * inside + mean * (outside - inside) - first * outside)
        + dlog_denominator * excess * (outside - inside)
    )
    dx = dinside * over_width
    dwidth = -dx * inside - dmean * mean * over_width
    dheight = dz * ratio + dmean * over_width
    # Means of those with respect to all widths, weighted by widths - least, and to all heights, likewise.
    over_share = filled(1.0 / (1.0 - MIN_SHARE), z)
    mean_dwidth = (-dx * numbers(kept[3], i) + dwidth * (width - least)) * over_share
    mean_dheight = (dz * numbers(kept[4], i) + dheight * (height - least)) * over_share
    slope_share = filled(1.0 - MIN_SLOPE, z)
    dfirst, dlast = slope_share * dfirst, slope_share * dlast
    factor, height_factor, k = numbers(kept[0], i), numbers(kept[1], i), numbers(kept[2], i)
    zero = filled(0.0, z)
    number = dbefore = zero  # of the bin; in the slope at its left edge, from the bin to its left
    for j in range(n_bins):
        is_left, is_here = number < k, number == k
        here = select(is_here, dwidth, zero) - select(is_left, dx, zero)
        store(dlogits[j], i, factor * load(values[j], i, z) * (here - mean_dwidth))
        here = select(is_here, dheight, zero) + select(is_left, dz, zero)
        store(dlogits[n_bins + j], i, height_factor * load(values[n_bins + j], i, z) * (here - mean_dheight))
        here = select(is_here, dfirst, dbefore)
        store(dlogits[2 * n_bins + j], i, load(values[2 * n_bins + j], i, z) * here)
        dbefore, number = select(is_here, dlast, zero), number + one
    store(dlogits[3 * n_bins], i, load(values[3 * n_bins], i, z) * dbefore)
    return dx


@device_function
def rqs_inverse(values, i, z):
    """Apply the inverse of `rqs_forward` (equations 6 to 8)."""
    zero, one, two, four = filled(0.0, z), filled(1.0, z), filled(2.0, z), filled(4.0, z)
    factors = rqs_factors(values, i, z)
    # However the heights' sum is rounded, 1 is in the last bin.
    goal = select(z < one, z, filled(math.inf, z))
    _, left, bottom, width, height, first, last = rqs_locate(values, i, goal, factors[0], factors[1], True)
    mean = height / width
    ratio = min(max((z - bottom) / height, zero), one)
    excess = first + last - two * mean
    a = mean - first + ratio * excess
    b = first - ratio * excess
    c = -mean * ratio
    root = math.sqrt(max(b * b - four * a * c, zero))
    # Avoid cancellation, and also 0 / 0 where float32 rounds a and b to 0 because slopes are steep.
    inside = select(b > zero, -two * c / (b + root), (root - b) / max(two * a, filled(1e-30, z)))
    inside = select(z < one, min(inside, one), one)
    x = select(z < one, min(left + width * inside, one), one)
    both = inside * (one - inside)
    steepness = mean / (mean + excess * both)
    return x, rqs_top(mean, first, last, inside) * (steepness * steepness)


@device_function
def cell_activate(cell, logits, largest):
    """Convert logits to the values of the cell with this code; see `pwlinear_activate`."""
    if cell == PWLINEAR:
        pwlinear_activate(logits, largest)
    elif cell == PWQUAD:
        pwquad_activate(logits, largest)
    elif cell == REALNVP:
        affine_activate(logits)
    else:
        rqs_activate(logits, largest)


@device_function
def cell_forward(cell, kept, values, i, x):
    """Apply the forward map of the cell with this code; see `pwlinear_forward`."""
    if cell == PWLINEAR:
        return pwlinear_forward(kept, values, i, x)
    if cell == PWQUAD:
        return pwquad_forward(kept, values, i, x)
    if cell == REALNVP:
        return affine_forward(kept, values, i, x)
    return rqs_forward(kept, values, i, x)


@device_function
def cell_backward(cell, dlogits, kept, values, i, z, slope, dz, dlog_slope):
    """Backpropagate through the cell with this code; see `pwlinear_backward`."""
    if cell == PWLINEAR:
        return pwlinear_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope)
    if cell == PWQUAD:
        return pwquad_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope)
    if cell == REALNVP:
        return affine_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope)
    return rqs_backward(dlogits, kept, values, i, z, slope, dz, dlog_slope)


@device_function
def cell_inverse(cell, values, i, z):
    """Apply the inverse map of the cell with this code; see `pwlinear_inverse`."""
    if cell == PWLINEAR:
        return pwlinear_inverse(values, i, z)
    if cell == PWQUAD:
        return pwquad_inverse(values, i, z)
    if cell == REALNVP:
        return affine_inverse(values, i, z)
    return rqs_inverse(values, i, z)


@device_function
def all_forward(cell, z, slope, kept, values, x):
    """Set z, slope and what is kept by `cell_forward`. All (m,), but kept and values."""
    for i in range(0, x.shape[0], LANES):
        heights, slopes = cell_forward(cell, kept, values, i, numbers(x, i))
        store(z, i, heights)
        store(slope, i, slopes)


@device_function
def all_backward(cell, dlogits, dx, kept, values, z, slope, dz, dlog_slope):
    """Set dlogits (P, m), and dx by `cell_backward`; dx and dz may be the same array. The others are (m,)."""
    for i in range(0, z.shape[0], LANES):
        derivative = cell_backward(
            cell, dlogits, kept, values, i, numbers(z, i), numbers(slope, i), numbers(dz, i),
            numbers(dlog_slope, i),
        )  # fmt: skip
        store(dx, i, derivative)


@device_function
def all_inverse(cell, x, slope, values, z):
    """Set x and slope by `cell_inverse`; x and z may be the same array. All (m,), but values."""
    for i in range(0, z.shape[0], LANES):
        found, slopes = cell_inverse(cell, values, i, numbers(z, i))
        store(x, i, found)
        store(slope, i, slopes)
