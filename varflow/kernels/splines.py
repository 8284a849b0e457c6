"""The splines of the coupling layers ("cells"): monotone piecewise maps of the unit interval onto itself.

A cell maps a target coordinate x to a latent coordinate z. Its network predicts P logits for each transformed
coordinate. A kind of cell X is defined by four functions and an entry in the table `CELLS`:

- `X_activate` converts logits in place to `values`, the positive numbers that the other functions use,
- `X_forward` sets z and the slope dz/dx,
- `X_backward` sets the derivatives of the loss with respect to the logits and to x, given those with respect
  to z and to log dz/dx,
- `X_inverse` sets x and the slope dz/dx.

They process m coordinates at a time, with bins in the outer loop and coordinates in the inner one, since this
order vectorizes (a GPU thread calls them with m = 1). Shapes: logits and values (P, m), scratch
(SCRATCH_ROWS, m), everything else (m,). If all logits are zero, each cell is the identity.

All arithmetic of a map is done in the precision of its coordinates, `real`. A GPU is slow in float64, and a
single constant or index that is not cast promotes every expression that contains it to float64.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from varflow.kernels.compile import device_function

__all__ = ["CELLS", "SCRATCH_ROWS", "Cell", "cell_activate", "cell_backward", "cell_forward", "cell_inverse"]

MIN_LOGIT = -80.0  # relative to the largest: exp stays a normal float32, and no slope becomes 0
MIN_SHARE = 1e-3  # share of the interval that is divided equally among bins of learned size: none vanishes
MIN_SLOPE = 1e-3  # of a rational-quadratic spline at the edges of its bins
MAX_LOG_SLOPE = 20.0  # bound on the absolute log slope at these edges, before the minimum is added
SCRATCH_ROWS = 12

PWLINEAR, PWQUAD, RQS = range(3)


class Cell(NamedTuple):
    """Properties of a kind of cell that other modules need."""

    code: int  # selects its branch in the functions cell_*
    n_logits: Callable[[int], int]  # logits per transformed coordinate, as a function of n_bins


CELLS = {
    "pwlinear": Cell(code=PWLINEAR, n_logits=lambda n_bins: n_bins),
    "pwquad": Cell(code=PWQUAD, n_logits=lambda n_bins: 2 * n_bins + 1),
    "rqs": Cell(code=RQS, n_logits=lambda n_bins: 3 * n_bins + 1),
}


def exponential(x):
    """Compute exp(x) for x between MIN_LOGIT and -MIN_LOGIT, in the precision of x and vectorizable."""
    return np.exp(x)


@overload(exponential, target="cpu", jit_options={"fastmath": {"contract"}})  # exported C rounds so, too
def _exponential(x):
    return _exponential_float32 if x == types.float32 else lambda x: math.exp(x)


def _exponential_float32(x):
    # 2^k exp(r) with |r| <= ln(2)/2, and exp(r) by the polynomial of Cephes' expf. It takes a fifth of the
    # time of libm's exp, since a loop that calls a function is not vectorized.
    k = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + (r + np.float32(1.0))
    bits = np.int32((np.int32(k) + np.int32(127)) << np.int32(23))
    return p * bits.view(np.float32)


@device_function
def exponentials(logits, largest):
    """Convert logits (P, m) to exp(logit - largest logit of the coordinate). largest: (m,), scratch."""
    floor = logits.dtype.type(MIN_LOGIT)
    n_logits, m = logits.shape
    largest[:] = -np.inf
    for j in range(n_logits):
        for i in range(m):
            largest[i] = max(largest[i], logits[j, i])
    for j in range(n_logits):
        for i in range(m):
            logits[j, i] = exponential(max(logits[j, i] - largest[i], floor))


@device_function
def exponential_slopes(logits):
    """Convert logits (P, m) to exponentials without a common factor, so that a logit of zero is a slope of 1.

    This replaces the softplus of Durkan et al.: it vectorizes, and flows train faster with it.
    """
    most = logits.dtype.type(MAX_LOG_SLOPE)
    for j in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            logits[j, i] = exponential(min(max(logits[j, i], -most), most))


@device_function
def pwlinear_activate(logits, largest):
    """Compute the values: contents of the bins, up to a common factor."""
    exponentials(logits, largest)


@device_function
def pwlinear_forward(z, slope, values, x, scratch):
    """Apply the piecewise linear map with bins of equal width in x.

    See Müller et al., arXiv 1808.03856, section 4.1.
    """
    n_bins, m = values.shape
    real = x.dtype.type
    zero, one, infinity = real(0), real(1), real(math.inf)
    total, position = scratch[0], scratch[1]
    for i in range(m):
        z[i] = zero
        total[i] = zero
        slope[i] = zero
        position[i] = x[i] * real(n_bins)
    for j in range(n_bins):
        left, right = real(j), real(j + 1) if j < n_bins - 1 else infinity
        for i in range(m):
            z[i] += values[j, i] * min(max(position[i] - left, zero), one)
            total[i] += values[j, i]
            # The product itself is compared, not its difference from an edge: a compiler may fuse product and
            # difference (fma), but not for each bin alike, and x would be in two bins, or in none.
            slope[i] += values[j, i] if left <= position[i] < right else zero
    for i in range(m):
        over_total = one / total[i]
        z[i] = min(z[i] * over_total, one)
        slope[i] *= real(n_bins) * over_total


@device_function
def pwlinear_backward(dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch):
    """Backpropagate through `pwlinear_forward`; dx and dz may be the same array."""
    n_bins, m = values.shape
    real = x.dtype.type
    zero, one, infinity = real(0), real(1), real(math.inf)
    rising, falling, position = scratch[0], scratch[1], scratch[2]
    for i in range(m):
        rising[i] = zero
        position[i] = x[i] * real(n_bins)
    for j in range(n_bins):
        for i in range(m):
            rising[i] += values[j, i]
    for i in range(m):
        over_total = one / rising[i]
        rising[i] = dz[i] * over_total
        falling[i] = (dz[i] * z[i] + dlog_slope[i]) * over_total
    for j in range(n_bins):
        left, right = real(j), real(j + 1) if j < n_bins - 1 else infinity
        for i in range(m):
            inside = min(max(position[i] - left, zero), one)
            here = dlog_slope[i] if left <= position[i] < right else zero  # see `pwlinear_forward`
            dlogits[j, i] = values[j, i] * (rising[i] * inside - falling[i]) + here
    for i in range(m):
        dx[i] = dz[i] * slope[i]


@device_function
def pwlinear_inverse(x, slope, values, z, scratch):
    """Apply the inverse of `pwlinear_forward`; x and z may be the same array."""
    n_bins, m = values.shape
    real = z.dtype.type
    zero, one, infinity = real(0), real(1), real(math.inf)
    total, k = scratch[0], scratch[1]
    for i in range(m):
        total[i] = zero
        k[i] = zero
    for j in range(n_bins):
        for i in range(m):
            total[i] += values[j, i]
    for i in range(m):
        x[i] = z[i] * total[i] if z[i] < one else infinity  # 1 maps to 1, however the sums are rounded
    for j in range(n_bins - 1):
        for i in range(m):
            is_beyond = k[i] == real(j) and x[i] >= values[j, i]
            x[i] -= values[j, i] if is_beyond else zero  # content still to be covered
            k[i] += one if is_beyond else zero  # number of the bin
    for i in range(m):
        here = values[int(k[i]), i]
        inside = min(max(x[i] / here, zero), one)  # a fused z * total - value may be below 0
        x[i] = (k[i] + inside) / real(n_bins)
        slope[i] = here * real(n_bins) / total[i]


@device_function
def pwquad_activate(logits, largest):
    """Compute the values: widths of n bins, then heights of n + 1 vertices, each up to a common factor."""
    n_bins = logits.shape[0] // 2
    exponentials(logits[:n_bins], largest)
    exponentials(logits[n_bins:], largest)


@device_function
def pwquad_part(values, factor, j, i):
    """Return the area under the polygon in bin j of coordinate i, its width, and its mean height.

    Area and mean height are up to the common factor of heights.
    """
    n_bins, real = values.shape[0] // 2, type(factor)
    height = real(0.5) * (real(values[n_bins + j, i]) + values[n_bins + j + 1, i])
    width = real(MIN_SHARE) / real(n_bins) + factor * values[j, i]
    return width * height, width, height


@device_function
def pwquad_locate(values, target, is_latent, k, left, below, factor, area, heights_below, heights):
    """Locate the bins that contain the targets: x, or z if is_latent.

    Set, all (m,): the number k of the bin; its left edge; below, the area under the polygon to the left of
    it; the factor of widths; the area of all bins; and the sum of mean heights of the bins to the left
    (heights_below) and of all bins (heights).
    """
    n_bins, m = values.shape[0] // 2, values.shape[1]
    real = target.dtype.type
    zero, one = real(0), real(1)
    least = real(MIN_SHARE) / real(n_bins)
    for i in range(m):
        k[i] = zero
        left[i] = zero
        below[i] = zero
        factor[i] = zero
        area[i] = zero
        heights_below[i] = zero
        heights[i] = zero
    for j in range(n_bins):
        for i in range(m):
            height = real(0.5) * (real(values[n_bins + j, i]) + values[n_bins + j + 1, i])
            factor[i] += values[j, i]
            area[i] += values[j, i] * height
            heights[i] += height
    for i in range(m):
        factor[i] = real(1.0 - MIN_SHARE) / factor[i]
        area[i] = least * heights[i] + factor[i] * area[i]
    for j in range(n_bins - 1):
        for i in range(m):
            part, width, height = pwquad_part(values, factor[i], j, i)
            reached = below[i] + part if is_latent else left[i] + width
            goal = target[i] * (area[i] if is_latent else one)
            is_beyond = k[i] == real(j) and goal >= reached
            k[i] += one if is_beyond else zero
            left[i] += width if is_beyond else zero
            below[i] += part if is_beyond else zero
            heights_below[i] += height if is_beyond else zero


@device_function
def pwquad_piece(values, factor, j, i):
    """Return the heights at the two edges of bin j of coordinate i, and its width."""
    n_bins, real = values.shape[0] // 2, type(factor)
    low, high = real(values[n_bins + j, i]), real(values[n_bins + j + 1, i])
    return low, high, real(MIN_SHARE) / real(n_bins) + factor * values[j, i]


@device_function
def pwquad_height(low, high, inside, outside):
    """Return the height between two vertices, which rounding could put below the lower one."""
    return max(low * outside + high * inside, min(low, high))


@device_function
def pwquad_forward(z, slope, values, x, scratch):
    """Apply the piecewise quadratic map, whose slope is piecewise linear (a polygon).

    See Müller et al., arXiv 1808.03856, section 4.2.
    """
    m = values.shape[1]
    real = x.dtype.type
    zero, half, one = real(0), real(0.5), real(1)
    k, left, below, factor, area = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    pwquad_locate(values, x, False, k, left, below, factor, area, scratch[5], scratch[6])
    for i in range(m):
        low, high, width = pwquad_piece(values, factor[i], int(k[i]), i)
        inside = min(max((x[i] - left[i]) / width, zero), one)
        height = pwquad_height(low, high, inside, one - inside)
        z[i] = min((below[i] + half * width * inside * (low + height)) / area[i], one)
        slope[i] = height / area[i]


@device_function
def pwquad_backward(dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch):
    """Backpropagate through `pwquad_forward`; dx and dz may be the same array."""
    n_bins, m = values.shape[0] // 2, values.shape[1]
    real = x.dtype.type
    zero, half, one = real(0), real(0.5), real(1)
    least = real(MIN_SHARE) / real(n_bins)
    k, left, below, factor, area = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    heights_below, heights = scratch[5], scratch[6]
    pwquad_locate(values, x, False, k, left, below, factor, area, heights_below, heights)
    # Derivatives with respect to the area to the left of x, the total area, the width of the bin, and the
    # heights at its two edges.
    dpart, darea, dwidth, dlow, dhigh = scratch[7], scratch[8], scratch[9], scratch[10], scratch[11]
    mean = scratch[1]  # mean of the derivatives in the widths, weighted by widths - least; overwrites left
    for i in range(m):
        low, high, width = pwquad_piece(values, factor[i], int(k[i]), i)
        inside = min(max((x[i] - left[i]) / width, zero), one)
        height = pwquad_height(low, high, inside, one - inside)
        dheight = dlog_slope[i] / height
        dpart[i] = dz[i] / area[i]
        darea[i] = -(dz[i] * z[i] + dlog_slope[i]) / area[i]
        dx[i] = dpart[i] * height + dheight * (high - low) / width
        dlow[i] = dpart[i] * width * inside * (one - half * inside) + dheight * (one - inside)
        dhigh[i] = dpart[i] * width * inside * half * inside + dheight * inside
        middle = half * (low + high)
        dwidth[i] = dpart[i] * half * inside * (low + height) - dx[i] * inside + darea[i] * middle
        mean[i] = (
            dpart[i] * (below[i] - least * heights_below[i])
            - dx[i] * (left[i] - least * k[i])
            + darea[i] * (area[i] - least * heights[i])
            + (dwidth[i] - darea[i] * middle) * (width - least)
        ) / real(1.0 - MIN_SHARE)
    for j in range(n_bins):
        number = real(j)
        for i in range(m):
            _, _, height = pwquad_part(values, factor[i], j, i)
            dother = darea[i] * height + (dpart[i] * height - dx[i] if number < k[i] else zero)
            here = dwidth[i] if number == k[i] else dother
            dlogits[j, i] = factor[i] * values[j, i] * (here - mean[i])
    dvertex = scratch[2]  # in the next vertex, from the bin to its left; overwrites below
    for i in range(m):
        dvertex[i] = zero
    for j in range(n_bins):
        number = real(j)
        for i in range(m):
            _, width, _ = pwquad_part(values, factor[i], j, i)
            dboth = half * width * (darea[i] + (dpart[i] if number < k[i] else zero))
            here = dvertex[i] + dboth + (dlow[i] if number == k[i] else zero)
            dlogits[n_bins + j, i] = values[n_bins + j, i] * here
            dvertex[i] = dboth + (dhigh[i] if number == k[i] else zero)
    for i in range(m):
        dlogits[2 * n_bins, i] = values[2 * n_bins, i] * dvertex[i]


@device_function
def pwquad_inverse(x, slope, values, z, scratch):
    """Apply the inverse of `pwquad_forward`; x and z may be the same array."""
    m = values.shape[1]
    real = z.dtype.type
    zero, one, two = real(0), real(1), real(2)
    k, left, below, factor, area = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    pwquad_locate(values, z, True, k, left, below, factor, area, scratch[5], scratch[6])
    last_bin = real(values.shape[0] // 2 - 1)
    for i in range(m):
        k[i] = k[i] if z[i] < one else last_bin  # however the areas' sum is rounded
    for i in range(m):
        low, high, width = pwquad_piece(values, factor[i], int(k[i]), i)
        part = max(z[i] * area[i] - below[i], zero) / width
        height = math.sqrt(max(low * low + two * (high - low) * part, zero))
        inside = two * part / (low + height)  # root of the quadratic, without cancellation
        inside = min(inside, one) if z[i] < one else one
        x[i] = min(left[i] + width * inside, one) if z[i] < one else one
        slope[i] = pwquad_height(low, high, inside, one - inside) / area[i]


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
def rqs_locate(values, target, is_latent, k, left, bottom, factor, height_factor):
    """Locate the bins that contain the targets: x, or z if is_latent.

    Set, all (m,): the number k of the bin; its left edge; bottom, its lower edge; and the factors of widths
    and heights.
    """
    n_bins, m = values.shape[0] // 3, values.shape[1]
    real = target.dtype.type
    zero, one = real(0), real(1)
    least = real(MIN_SHARE) / real(n_bins)
    for i in range(m):
        k[i] = zero
        left[i] = zero
        bottom[i] = zero
        factor[i] = zero
        height_factor[i] = zero
    for j in range(n_bins):
        for i in range(m):
            factor[i] += values[j, i]
            height_factor[i] += values[n_bins + j, i]
    for i in range(m):
        factor[i] = real(1.0 - MIN_SHARE) / factor[i]
        height_factor[i] = real(1.0 - MIN_SHARE) / height_factor[i]
    for j in range(n_bins - 1):
        for i in range(m):
            right = left[i] + (least + factor[i] * values[j, i])
            top = bottom[i] + (least + height_factor[i] * values[n_bins + j, i])
            is_beyond = k[i] == real(j) and target[i] >= (top if is_latent else right)
            k[i] += one if is_beyond else zero
            left[i] = right if is_beyond else left[i]
            bottom[i] = top if is_beyond else bottom[i]


@device_function
def rqs_piece(values, factor, height_factor, j, i):
    """Return the width and height of bin j of coordinate i, and the slopes at its two edges."""
    n_bins, real = values.shape[0] // 3, type(factor)
    least = real(MIN_SHARE) / real(n_bins)
    width = least + factor * values[j, i]
    height = least + height_factor * values[n_bins + j, i]
    first = real(MIN_SLOPE) + real(1.0 - MIN_SLOPE) * real(values[2 * n_bins + j, i])
    last = real(MIN_SLOPE) + real(1.0 - MIN_SLOPE) * real(values[2 * n_bins + j + 1, i])
    return width, height, first, last


@device_function
def rqs_top(mean, first, last, inside):
    """Return the numerator of the slope (equation 5), divided by the square of the mean slope of the bin."""
    real = type(mean)
    outside = real(1) - inside
    return last * inside * inside + real(2) * mean * inside * outside + first * outside * outside


@device_function
def rqs_forward(z, slope, values, x, scratch):
    """Apply the monotone rational-quadratic spline.

    See Durkan et al., arXiv 1906.04032, equations 4 and 5.
    """
    m = values.shape[1]
    real = x.dtype.type
    zero, one, two = real(0), real(1), real(2)
    k, left, bottom, factor, height_factor = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    rqs_locate(values, x, False, k, left, bottom, factor, height_factor)
    for i in range(m):
        width, height, first, last = rqs_piece(values, factor[i], height_factor[i], int(k[i]), i)
        mean = height / width
        inside = min(max((x[i] - left[i]) / width, zero), one)
        both = inside * (one - inside)
        denominator = mean + (first + last - two * mean) * both
        numerator = mean * inside * inside + first * both
        z[i] = min(bottom[i] + height * min(numerator / denominator, one), one)
        top = rqs_top(mean, first, last, inside)
        slope[i] = top * (mean / denominator) ** 2


@device_function
def rqs_backward(dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch):
    """Backpropagate through `rqs_forward`; dx and dz may be the same array."""
    n_bins, m = values.shape[0] // 3, values.shape[1]
    real = x.dtype.type
    zero, one, two = real(0), real(1), real(2)
    least = real(MIN_SHARE) / real(n_bins)
    k, left, bottom, factor, height_factor = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    rqs_locate(values, x, False, k, left, bottom, factor, height_factor)
    # Derivatives with respect to the lower edge, the width and the height of the bin, and the slopes at its
    # two edges; and the means of those with respect to all widths, weighted by widths - least, and to all
    # heights, weighted by heights - least.
    dbottom, dwidth, dheight, dfirst, dlast = scratch[5], scratch[6], scratch[7], scratch[8], scratch[9]
    mean_dwidth, mean_dheight = scratch[10], scratch[11]
    for i in range(m):
        width, height, first, last = rqs_piece(values, factor[i], height_factor[i], int(k[i]), i)
        mean = height / width
        inside = min(max((x[i] - left[i]) / width, zero), one)
        outside = one - inside
        both = inside * outside
        excess = first + last - two * mean
        denominator = mean + excess * both
        ratio = (mean * inside * inside + first * both) / denominator
        top = rqs_top(mean, first, last, inside)
        dlog_top, dlog_denominator = dlog_slope[i] / top, -two * dlog_slope[i] / denominator
        dratio = dz[i] * height / denominator
        dmean = (
            dratio * (inside * inside - ratio * (one - two * both))
            + two * dlog_slope[i] / mean
            + dlog_top * two * both
            + dlog_denominator * (one - two * both)
        )
        dfirst[i] = dratio * both * (one - ratio) + dlog_top * outside * outside + dlog_denominator * both
        dlast[i] = -dratio * both * ratio + dlog_top * inside * inside + dlog_denominator * both
        dinside = (
            dz[i] * slope[i] * width
            + dlog_top * two * (last * inside + mean * (outside - inside) - first * outside)
            + dlog_denominator * excess * (outside - inside)
        )
        dbottom[i] = dz[i]
        dx[i] = dinside / width
        dwidth[i] = -dx[i] * inside - dmean * mean / width
        dheight[i] = dbottom[i] * ratio + dmean / width
        mean_dwidth[i] = -dx[i] * (left[i] - least * k[i]) + dwidth[i] * (width - least)
        mean_dheight[i] = dbottom[i] * (bottom[i] - least * k[i]) + dheight[i] * (height - least)
        mean_dwidth[i] /= real(1.0 - MIN_SHARE)
        mean_dheight[i] /= real(1.0 - MIN_SHARE)
    for j in range(n_bins):
        number = real(j)
        for i in range(m):
            here = dwidth[i] if number == k[i] else (-dx[i] if number < k[i] else zero)
            dlogits[j, i] = factor[i] * values[j, i] * (here - mean_dwidth[i])
            here = dheight[i] if number == k[i] else (dbottom[i] if number < k[i] else zero)
            dlogits[n_bins + j, i] = height_factor[i] * values[n_bins + j, i] * (here - mean_dheight[i])
    for j in range(n_bins + 1):
        number = real(j)
        for i in range(m):
            here = dfirst[i] if number == k[i] else (dlast[i] if number == k[i] + one else zero)
            dlogits[2 * n_bins + j, i] = real(1.0 - MIN_SLOPE) * here * values[2 * n_bins + j, i]


@device_function
def rqs_inverse(x, slope, values, z, scratch):
    """Apply the inverse of `rqs_forward` (equations 6 to 8); x and z may be the same array."""
    m = values.shape[1]
    real = z.dtype.type
    zero, one, two, four, tiny = real(0), real(1), real(2), real(4), real(1e-30)
    k, left, bottom, factor, height_factor = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    rqs_locate(values, z, True, k, left, bottom, factor, height_factor)
    last_bin = real(values.shape[0] // 3 - 1)
    for i in range(m):
        k[i] = k[i] if z[i] < one else last_bin  # however the heights' sum is rounded
    for i in range(m):
        width, height, first, last = rqs_piece(values, factor[i], height_factor[i], int(k[i]), i)
        mean = height / width
        ratio = min(max((z[i] - bottom[i]) / height, zero), one)
        excess = first + last - two * mean
        a = mean - first + ratio * excess
        b = first - ratio * excess
        c = -mean * ratio
        root = math.sqrt(max(b * b - four * a * c, zero))
        # Avoid cancellation, and also 0 / 0 where float32 rounds a and b to 0 because slopes are steep.
        inside = -two * c / (b + root) if b > zero else (root - b) / max(two * a, tiny)
        inside = min(inside, one) if z[i] < one else one
        x[i] = min(left[i] + width * inside, one) if z[i] < one else one
        both = inside * (one - inside)
        top = rqs_top(mean, first, last, inside)
        slope[i] = top * (mean / (mean + excess * both)) ** 2


@device_function
def cell_activate(cell, logits, largest):
    """Convert logits to the values of the cell with this code; see `pwlinear_activate`."""
    if cell == PWLINEAR:
        pwlinear_activate(logits, largest)
    elif cell == PWQUAD:
        pwquad_activate(logits, largest)
    else:
        rqs_activate(logits, largest)


@device_function
def cell_forward(cell, z, slope, values, x, scratch):
    """Apply the forward map of the cell with this code; see `pwlinear_forward`."""
    if cell == PWLINEAR:
        pwlinear_forward(z, slope, values, x, scratch)
    elif cell == PWQUAD:
        pwquad_forward(z, slope, values, x, scratch)
    else:
        rqs_forward(z, slope, values, x, scratch)


@device_function
def cell_backward(cell, dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch):
    """Backpropagate through the cell with this code; see `pwlinear_backward`."""
    if cell == PWLINEAR:
        pwlinear_backward(dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch)
    elif cell == PWQUAD:
        pwquad_backward(dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch)
    else:
        rqs_backward(dlogits, dx, values, x, z, slope, dz, dlog_slope, scratch)


@device_function
def cell_inverse(cell, x, slope, values, z, scratch):
    """Apply the inverse map of the cell with this code; see `pwlinear_inverse`."""
    if cell == PWLINEAR:
        pwlinear_inverse(x, slope, values, z, scratch)
    elif cell == PWQUAD:
        pwquad_inverse(x, slope, values, z, scratch)
    else:
        rqs_inverse(x, slope, values, z, scratch)
